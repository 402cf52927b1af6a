//! A segment's header, and its name, which says the same.

use std::fmt;

/// Where the first record begins.
pub const HEADER_BYTES: usize = 128;
pub const STREAM_NAME_BYTES_MAX: usize = 79;

const MAGIC: [u8; 8] = *b"esc-seg\n";
const VERSION: u32 = 2;
const CHECKED_BYTES: usize = HEADER_BYTES - 4;
const _: () = assert!(8 + 4 + 4 + 8 + 8 + 8 + 4 + 1 + STREAM_NAME_BYTES_MAX + 4 == HEADER_BYTES);
// Records are aligned in the file only if they begin aligned.
const _: () = assert!(HEADER_BYTES.is_multiple_of(super::RECORD_ALIGN));

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub name: SegmentName,
    pub epoch: u32,
    pub created_ns: u64,
    pub stream: String,
}

/// What tells a segment from every other of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentName {
    /// Counts the stream's segments, also those that came to nothing.
    pub number: u64,
    /// Of its first record. What an earlier segment has from this offset on is superseded.
    pub base_offset: u64,
    pub salt: u32,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}-{:020}-{:08x}", self.number, self.base_offset, self.salt)
    }
}

impl SegmentName {
    pub const SEGMENT: &'static str = ".segment";
    pub const INDEX: &'static str = ".index";

    pub fn segment_file(&self) -> String {
        format!("{self}{}", Self::SEGMENT)
    }

    pub fn index_file(&self) -> String {
        format!("{self}{}", Self::INDEX)
    }

    /// Of a file's name with this ending.
    pub fn of_file(name: &str, ending: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(ending)?.splitn(3, '-');
        let (number, base, salt) = (parts.next()?, parts.next()?, parts.next()?);
        let this = Self {
            number: number.parse().ok()?,
            base_offset: base.parse().ok()?,
            salt: u32::from_str_radix(salt, 16).ok()?,
        };
        // One name for one segment: no shorter spellings.
        (this.to_string() == name.strip_suffix(ending)?).then_some(this)
    }
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let SegmentName { number, base_offset, salt } = self.name;
        let stream = &self.stream.as_bytes()[..self.stream.len().min(STREAM_NAME_BYTES_MAX)];
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&self.epoch.to_be_bytes());
        for word in [number, base_offset, self.created_ns] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(&salt.to_be_bytes());
        bytes.push(stream.len() as u8);
        bytes.extend_from_slice(stream);
        bytes.resize(CHECKED_BYTES, 0);
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&bytes);
        header
    }

    /// `None` when the bytes are not a whole header of a version that is known.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (checked, checksum) = bytes.first_chunk::<HEADER_BYTES>()?.split_at_checked(CHECKED_BYTES)?;
        if u32::from_be_bytes(checksum.try_into().ok()?) != crc32c::crc32c(checked) {
            return None;
        }
        let (magic, rest) = checked.split_first_chunk()?;
        let (version, rest) = rest.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (base_offset, rest) = rest.split_first_chunk()?;
        let (created_ns, rest) = rest.split_first_chunk()?;
        let (salt, rest) = rest.split_first_chunk()?;
        let (stream_bytes, rest) = rest.split_first()?;
        if *magic != MAGIC || u32::from_be_bytes(*version) != VERSION {
            return None;
        }
        Some(Self {
            name: SegmentName {
                number: u64::from_be_bytes(*number),
                base_offset: u64::from_be_bytes(*base_offset),
                salt: u32::from_be_bytes(*salt),
            },
            epoch: u32::from_be_bytes(*epoch),
            created_ns: u64::from_be_bytes(*created_ns),
            stream: std::str::from_utf8(rest.get(..usize::from(*stream_bytes))?).ok()?.to_owned(),
        })
    }

    /// Whether the bytes are a whole header of a version that this program does not know.
    pub fn is_of_another_version(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
            && bytes.get(8..12).is_some_and(|version| version != VERSION.to_be_bytes())
            && bytes
                .first_chunk::<HEADER_BYTES>()
                .is_some_and(|bytes| crc32c::crc32c(&bytes[..CHECKED_BYTES]).to_be_bytes() == bytes[CHECKED_BYTES..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_no_bit_of_it_may_be_wrong() {
        let name = SegmentName { number: 7, base_offset: 1 << 40, salt: 0xab };
        let header = SegmentHeader { name, epoch: 3, created_ns: 5, stream: "a".repeat(STREAM_NAME_BYTES_MAX) };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Some(header));
        for bit in 0..HEADER_BYTES * 8 {
            let mut wrong = bytes;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&wrong), None, "bit {bit}");
        }
        assert_eq!(SegmentHeader::decode(&bytes[..HEADER_BYTES - 1]), None);
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let name = SegmentName { number: 1, base_offset: 0, salt: 0 };
        let mut bytes = SegmentHeader { name, epoch: 0, created_ns: 0, stream: String::new() }.encode();
        assert!(!SegmentHeader::is_of_another_version(&bytes));
        bytes[11] = VERSION as u8 + 1;
        assert!(!SegmentHeader::is_of_another_version(&bytes));
        let checksum = crc32c::crc32c(&bytes[..CHECKED_BYTES]).to_be_bytes();
        bytes[CHECKED_BYTES..].copy_from_slice(&checksum);
        assert!(SegmentHeader::is_of_another_version(&bytes) && SegmentHeader::decode(&bytes).is_none());
    }

    #[test]
    fn a_name_is_the_file_s() {
        let name = SegmentName { number: 12, base_offset: 345, salt: 0x6f };
        assert_eq!(name.segment_file(), "00000000000000000012-00000000000000000345-0000006f.segment");
        assert_eq!(SegmentName::of_file(&name.segment_file(), SegmentName::SEGMENT), Some(name));
        for other in ["12-345-6f.segment", "lock", "x-y-z.segment", &name.index_file()] {
            assert_eq!(SegmentName::of_file(other, SegmentName::SEGMENT), None, "{other}");
        }
    }
}
