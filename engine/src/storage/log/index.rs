//! What is known of a segment without reading it: where offsets and times are, which topics it has, what is damaged.
//!
//! Kept in memory while a segment is written, and in a file beside it once it is closed. That file says more than what is in
//! it: it is written only after the segment's records were synced, so that a segment with an index need not be looked through
//! at the next start. One that is missing or does not verify is made anew.

use super::super::format::{HEADER_BYTES, RecordView, SegmentHeader};
use super::super::topics::TopicSet;

/// How far two entries are apart: as much as is read in one go anyway.
pub const INDEX_INTERVAL_BYTES: u64 = 64 << 10;

const MAGIC: [u8; 8] = *b"esc-idx\n";
const VERSION: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub offset: u64,
    pub position: u64,
    /// The latest time of the records before this one.
    pub time_before_ns: u64,
}

/// A part of a segment that is not what was written there. The offsets are those that are missing between the records around
/// it, from `from` on and before `until`; none where something was put in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Quarantined {
    pub position: u64,
    pub bytes: u64,
    pub from: u64,
    pub until: u64,
}

/// Records of one time, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub bytes: usize,
    pub records: u32,
    pub time_ns: u64,
}

impl Run {
    /// No longer, so that entries are not much further apart than they are meant to be.
    pub const BYTES_MAX: usize = INDEX_INTERVAL_BYTES as usize / 4;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    pub header: SegmentHeader,
    /// Where the last record ends.
    pub end: u64,
    pub next_offset: u64,
    pub records: u64,
    pub first_time_ns: u64,
    /// The latest time of a record, not that of the last one.
    pub last_time_ns: u64,
    pub entries: Vec<Entry>,
    pub quarantined: Vec<Quarantined>,
    pub topics: TopicSet,
}

impl Index {
    /// Of a segment without records, with room for the entries of one of `bytes` bytes.
    pub fn new(header: SegmentHeader, bytes: u64) -> Self {
        Self {
            end: HEADER_BYTES as u64,
            next_offset: header.name.base_offset,
            header,
            records: 0,
            first_time_ns: 0,
            last_time_ns: 0,
            entries: Vec::with_capacity((bytes / INDEX_INTERVAL_BYTES) as usize + 2),
            quarantined: Vec::new(),
            topics: TopicSet::default(),
        }
    }

    /// Notes a record, and its topic.
    pub fn add(&mut self, record: &RecordView<'_>, position: u64, bytes: usize) {
        self.end = position;
        self.next_offset = record.offset;
        self.add_run(&Run { bytes, records: 1, time_ns: record.time_ns });
        if !record.frame.is_empty() {
            self.topics.add(record.event().topic_bytes());
        }
    }

    /// Notes records that follow on the last one, but not their topics.
    pub(super) fn add_run(&mut self, run: &Run) {
        let Run { bytes, records, time_ns } = *run;
        if self.entries.last().is_none_or(|entry| self.end >= entry.position + INDEX_INTERVAL_BYTES) {
            let (offset, position) = (self.next_offset, self.end);
            self.entries.push(Entry { offset, position, time_before_ns: self.last_time_ns });
        }
        if self.records == 0 {
            self.first_time_ns = time_ns;
        }
        self.records += u64::from(records);
        self.last_time_ns = self.last_time_ns.max(time_ns);
        self.next_offset += u64::from(records);
        self.end += bytes as u64;
    }

    /// Where to begin to read in order to meet the record at `offset`, and the offset that is there.
    pub fn before_offset(&self, offset: u64) -> (u64, u64) {
        let after = self.entries.partition_point(|entry| entry.offset <= offset);
        self.place(after)
    }

    /// The same for the first record that is not older than `time_ns`.
    pub fn before_time(&self, time_ns: u64) -> (u64, u64) {
        let after = self.entries.partition_point(|entry| entry.time_before_ns < time_ns);
        self.place(after)
    }

    fn place(&self, after: usize) -> (u64, u64) {
        let start = (HEADER_BYTES as u64, self.header.name.base_offset);
        // The first entry may stand behind damage that a reader is to be told of.
        let entry = after.checked_sub(1).filter(|index| *index > 0).and_then(|index| self.entries.get(index));
        entry.map_or(start, |entry| (entry.position, entry.offset))
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&self.header.encode());
        let counts = [self.entries.len() as u64, self.quarantined.len() as u64];
        let facts = [self.end, self.next_offset, self.records, self.first_time_ns, self.last_time_ns];
        let entries = self.entries.iter().flat_map(|entry| [entry.offset, entry.position, entry.time_before_ns]);
        let quarantined =
            self.quarantined.iter().flat_map(|range| [range.position, range.bytes, range.from, range.until]);
        for word in facts.into_iter().chain(counts).chain(entries).chain(quarantined) {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(self.topics.as_bytes());
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// `None` when a byte is not as it was written.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (checked, checksum) = bytes.split_last_chunk()?;
        if crc32c::crc32c(checked) != u32::from_be_bytes(*checksum) {
            return None;
        }
        let (magic, rest) = checked.split_first_chunk()?;
        let (version, rest) = rest.split_first_chunk()?;
        if *magic != MAGIC || u32::from_be_bytes(*version) != VERSION {
            return None;
        }
        let (header, mut rest) = rest.split_at_checked(HEADER_BYTES)?;
        let header = SegmentHeader::decode(header)?;
        let mut word = || {
            let (word, after) = rest.split_first_chunk()?;
            rest = after;
            Some(u64::from_be_bytes(*word))
        };
        let [end, next_offset, records, first_time_ns, last_time_ns] = [word()?, word()?, word()?, word()?, word()?];
        let (entry_count, quarantined_count) = (word()?, word()?);
        let mut entries = Vec::new();
        for _ in 0..entry_count {
            entries.push(Entry { offset: word()?, position: word()?, time_before_ns: word()? });
        }
        let mut quarantined = Vec::new();
        for _ in 0..quarantined_count {
            quarantined.push(Quarantined { position: word()?, bytes: word()?, from: word()?, until: word()? });
        }
        let topics = TopicSet::from_bytes(rest)?;
        Some(Self { header, end, next_offset, records, first_time_ns, last_time_ns, entries, quarantined, topics })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::format::{self, Record, SegmentName};
    use super::super::super::scratch::frame;
    use super::*;
    use crate::frame::Class;

    fn filled() -> Index {
        let name = SegmentName { number: 1, base_offset: 100, salt: 5 };
        let header = SegmentHeader { name, epoch: 2, created_ns: 3, stream: "s".into() };
        let mut index = Index::new(header, 1 << 20);
        let mut position = HEADER_BYTES as u64;
        for number in 0..100u64 {
            let frame = frame("t", &[0; 8000]);
            let mut bytes = Vec::new();
            // The clock is set back once.
            let time_ns = if number == 50 { 10 } else { 1000 + number };
            format::encode(&mut bytes, &Record::event(time_ns, Class::Batch, &frame), 100 + number, 2, 5);
            index.add(&RecordView::decode(&bytes, 5).unwrap(), position, bytes.len());
            position += bytes.len() as u64;
        }
        index.quarantined.push(Quarantined { position: 1, bytes: 2, from: 3, until: 4 });
        index
    }

    #[test]
    fn an_index_reads_back_and_no_byte_of_it_may_be_wrong() {
        let index = filled();
        let bytes = index.encode();
        let read = Index::decode(&bytes).unwrap();
        assert_eq!((&read.entries, &read.quarantined), (&index.entries, &index.quarantined));
        assert_eq!((read.end, read.next_offset, read.records), (index.end, 200, 100));
        for at in (0..bytes.len()).step_by(97) {
            let mut wrong = bytes.clone();
            wrong[at] ^= 4;
            assert!(Index::decode(&wrong).is_none(), "byte {at}");
        }
        assert!(Index::decode(&bytes[..bytes.len() - 1]).is_none() && Index::decode(&[]).is_none());
    }

    #[test]
    fn a_place_is_never_behind_what_is_looked_for() {
        let index = filled();
        assert!(index.entries.len() > 5, "{}", index.entries.len());
        for offset in 100..200 {
            let (_, at) = index.before_offset(offset);
            assert!(at <= offset && offset - at <= 20, "{offset}: {at}");
        }
        for (time, offset) in [(0, 100), (1000, 100), (1049, 149), (1050, 151), (1099, 199)] {
            let (_, at) = index.before_time(time);
            assert!(at <= offset && offset - at <= 20, "{time}: {at}");
        }
    }
}
