//! A record: written from its parts, and read where it lies.

use crate::frame::{Class, FrameView, LENGTH_BYTES, Shape};
use crate::memory::crc32c_append;

/// Length and checksum.
pub const PREFIX_BYTES: usize = 8;
/// Records begin at multiples of this.
pub const RECORD_ALIGN: usize = 8;

/// Behind the prefix: place, time and what the record is.
pub(in crate::storage) const HEAD_BYTES: usize = 24;
/// Where the head's last word begins: epoch, then class, kind, reason and flags.
const CLASS_AT: usize = PREFIX_BYTES + 20;
const ARRIVAL_BYTES: usize = 8;
const REFERENCE_BYTES: usize = 16;
/// The longest name of a group.
pub const CONSUMER_BYTES_MAX: usize = 64;
/// Its length, the name, and zeros up to the next record's alignment.
const CONSUMER_FIELD_MAX: usize = (1 + CONSUMER_BYTES_MAX).next_multiple_of(RECORD_ALIGN);
const _: () = assert!(8 + 8 + 4 + 1 + 1 + 1 + 1 == HEAD_BYTES);
const _: () = assert!(8 + 4 + 1 + 3 == REFERENCE_BYTES);
// Without padding between them: what has no frame ends aligned.
const _: () = assert!((PREFIX_BYTES | HEAD_BYTES | ARRIVAL_BYTES | REFERENCE_BYTES).is_multiple_of(RECORD_ALIGN));

/// The smallest record: one without a frame.
pub const RECORD_BYTES_MIN: usize = PREFIX_BYTES + HEAD_BYTES;
/// The largest: every optional field, and the longest frame that can be configured, padded.
pub const RECORD_BYTES_MAX: usize = (RECORD_BYTES_MIN
    + ARRIVAL_BYTES
    + REFERENCE_BYTES
    + CONSUMER_FIELD_MAX
    + LENGTH_BYTES
    + crate::config::FRAME_BYTES_MAX as usize)
    .next_multiple_of(RECORD_ALIGN);

const FLAG_ARRIVAL: u8 = 1;
const FLAG_REFERENCE: u8 = 2;
const FLAG_CONSUMER: u8 = 4;
const FLAGS_KNOWN: u8 = FLAG_ARRIVAL | FLAG_REFERENCE | FLAG_CONSUMER;

/// What a record tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// An event that was processed.
    Event = 1,
    /// One that could not be.
    DeadLetter = 2,
    /// The dead letter that it refers to has been replayed.
    Replayed = 3,
    /// The dead letter that it refers to has been thrown away.
    Purged = 4,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Event, Self::DeadLetter, Self::Replayed, Self::Purged];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::DeadLetter => "dead_letter",
            Self::Replayed => "replayed",
            Self::Purged => "purged",
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }
}

/// One half of the dead letter queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum LetterQueue {
    Failed = 0,
    Shed = 1,
}

impl LetterQueue {
    pub const ALL: [Self; 2] = [Self::Failed, Self::Shed];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Shed => "shed",
        }
    }
}

/// A dead letter, named from elsewhere. With its epoch: an offset alone may be that of a record that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub queue: LetterQueue,
    pub epoch: u32,
    pub offset: u64,
}

impl Reference {
    pub const fn position(&self) -> crate::storage::log::Position {
        crate::storage::log::Position { epoch: self.epoch, offset: self.offset }
    }
}

/// What is to be written.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Nanoseconds since the UNIX epoch.
    pub time_ns: u64,
    pub class: Class,
    pub kind: Kind,
    /// 0, or of a dead letter [`DeadLetterReason::code`](crate::metrics::DeadLetterReason::code).
    pub reason: u8,
    /// When a dead letter came in first.
    pub arrival_ns: Option<u64>,
    /// Of an event that was replayed: the dead letter it was. Of a removal: the dead letter that goes.
    pub reference: Option<Reference>,
    /// Of a dead letter that a group did not do: the group.
    pub consumer: Option<&'a str>,
    /// With its length field. Empty in a removal.
    pub frame: &'a [u8],
}

impl<'a> Record<'a> {
    pub const fn event(time_ns: u64, class: Class, frame: &'a [u8]) -> Self {
        let (kind, reason, arrival_ns, reference, consumer) = (Kind::Event, 0, None, None, None);
        Self { time_ns, class, kind, reason, arrival_ns, reference, consumer, frame }
    }
}

/// Bytes of a record in a segment.
pub const fn encoded_bytes(record: &Record<'_>) -> usize {
    let arrival = if record.arrival_ns.is_some() { ARRIVAL_BYTES } else { 0 };
    let reference = if record.reference.is_some() { REFERENCE_BYTES } else { 0 };
    let consumer = match record.consumer {
        Some(name) => (1 + name.len()).next_multiple_of(RECORD_ALIGN),
        None => 0,
    };
    (RECORD_BYTES_MIN + arrival + reference + consumer + record.frame.len()).next_multiple_of(RECORD_ALIGN)
}

/// Bytes of an event's record, without a reference, whose frame has `length` bytes behind its length field.
pub const fn event_bytes(length: usize) -> usize {
    (RECORD_BYTES_MIN + LENGTH_BYTES + length).next_multiple_of(RECORD_ALIGN)
}

/// Where a record is to stand, and when it was written.
#[derive(Clone, Copy, Debug)]
pub(in crate::storage) struct Place {
    pub offset: u64,
    pub epoch: u32,
    pub time_ns: u64,
    pub salt: u32,
}

/// Appends a record to `out`, [`encoded_bytes`] of it.
pub fn encode(out: &mut Vec<u8>, record: &Record<'_>, offset: u64, epoch: u32, salt: u32) {
    let start = out.len();
    let bytes = encoded_bytes(record);
    let arrival_flag = record.arrival_ns.map_or(0, |_| FLAG_ARRIVAL);
    let reference_flag = record.reference.map_or(0, |_| FLAG_REFERENCE);
    let consumer_flag = record.consumer.map_or(0, |_| FLAG_CONSUMER);
    let flags = arrival_flag | reference_flag | consumer_flag;
    push_head(out, bytes, [record.class as u8, record.kind as u8, record.reason, flags]);
    if let Some(arrival) = record.arrival_ns {
        out.extend_from_slice(&arrival.to_be_bytes());
    }
    if let Some(Reference { queue, epoch, offset }) = record.reference {
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&epoch.to_be_bytes());
        out.extend_from_slice(&[queue as u8, 0, 0, 0]);
    }
    if let Some(name) = record.consumer {
        // Names of groups are no longer than a byte can tell.
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
        out.resize(out.len() + (1 + name.len()).next_multiple_of(RECORD_ALIGN) - (1 + name.len()), 0);
    }
    out.extend_from_slice(record.frame);
    out.resize(start + bytes, 0);
    sum_up(&mut out[start..]);
    place(&mut out[start..], &Place { offset, epoch, time_ns: record.time_ns, salt });
}

/// Appends an event's record without its place and its checksum: [`event_bytes`] of it. What follows is [`sum_up`] and [`place`].
pub(in crate::storage) fn encode_unplaced(out: &mut Vec<u8>, class: Class, body: &[u8]) {
    let (start, bytes) = (out.len(), event_bytes(body.len()));
    push_head(out, bytes, [class as u8, Kind::Event as u8, 0, 0]);
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(body);
    out.resize(start + bytes, 0);
}

/// With zeros for what is not known yet.
fn push_head(out: &mut Vec<u8>, bytes: usize, [class, kind, reason, flags]: [u8; 4]) {
    let mut head = [0; RECORD_BYTES_MIN];
    head[..4].copy_from_slice(&((bytes - PREFIX_BYTES) as u32).to_be_bytes());
    head[CLASS_AT..CLASS_AT + 4].copy_from_slice(&[class, kind, reason, flags]);
    out.extend_from_slice(&head);
}

/// Puts the part of the checksum that does not depend on the record's place where [`place`] finds it. `record` is one record.
pub(in crate::storage) fn sum_up(record: &mut [u8]) {
    let sum = crc32c_append(0, &record[RECORD_BYTES_MIN..]);
    record[4..PREFIX_BYTES].copy_from_slice(&sum.to_be_bytes());
}

/// Gives a record that begins `bytes` its place, and with that its checksum. It was summed up.
pub(in crate::storage) fn place(bytes: &mut [u8], place: &Place) {
    let Some(record) = bytes.first_chunk_mut::<RECORD_BYTES_MIN>() else { return };
    record[8..16].copy_from_slice(&place.offset.to_be_bytes());
    record[16..24].copy_from_slice(&place.time_ns.to_be_bytes());
    record[24..28].copy_from_slice(&place.epoch.to_be_bytes());
    let [_, _, _, _, s0, s1, s2, s3, head @ ..] = record;
    let checksum = checksum(u32::from_be_bytes([*s0, *s1, *s2, *s3]), head, place.salt);
    record[4..PREFIX_BYTES].copy_from_slice(&checksum.to_be_bytes());
}

/// Of a record, from the CRC32C of what is behind its head. In this order, so that whoever has an event in its caches can do most
/// of it before it is known where the record will stand.
pub(in crate::storage) fn checksum(sum_behind: u32, head: &[u8; HEAD_BYTES], salt: u32) -> u32 {
    crc32c_append(sum_behind ^ salt, head)
}

/// What stands before a record: enough to tell whether the rest is worth a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) struct Prefix {
    /// Bytes of the whole record.
    pub bytes: usize,
    pub offset: u64,
    pub epoch: u32,
    pub checksum: u32,
}

impl Prefix {
    /// How many bytes it takes to tell.
    pub const BYTES: usize = PREFIX_BYTES + 8 + 8 + 4;

    /// `None` when no record has such a length.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<{ Self::BYTES }>()?;
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let whole = (word(0) as usize).checked_add(PREFIX_BYTES)?;
        let fits = (RECORD_BYTES_MIN..=RECORD_BYTES_MAX).contains(&whole) && whole.is_multiple_of(RECORD_ALIGN);
        let offset = u64::from(word(8)) << 32 | u64::from(word(12));
        fits.then(|| Self { bytes: whole, offset, epoch: word(24), checksum: word(4) })
    }
}

/// A record that is whole, borrowed where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    pub offset: u64,
    pub epoch: u32,
    pub time_ns: u64,
    pub class: Class,
    pub kind: Kind,
    pub reason: u8,
    pub arrival_ns: Option<u64>,
    pub reference: Option<Reference>,
    /// Of a dead letter that a group did not do: the group.
    pub consumer: Option<&'a str>,
    /// With its length field. Empty in a removal.
    pub frame: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Of exactly the bytes of one record, whose checksum and content are verified.
    pub fn decode(bytes: &'a [u8], salt: u32) -> Option<Self> {
        let prefix = Prefix::parse(bytes)?;
        let head = bytes.get(PREFIX_BYTES..)?.first_chunk()?;
        if prefix.bytes != bytes.len()
            || checksum(crc32c_append(0, &bytes[RECORD_BYTES_MIN..]), head, salt) != prefix.checksum
        {
            return None;
        }
        Self::parse(bytes)
    }

    /// The same of bytes that have been verified before.
    pub(in crate::storage) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (offset, rest) = bytes.get(PREFIX_BYTES..)?.split_first_chunk()?;
        let (time, rest) = rest.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let ([class, kind, reason, flags], mut rest) = rest.split_first_chunk()?;
        if flags & !FLAGS_KNOWN != 0 {
            return None;
        }
        let mut arrival_ns = None;
        if flags & FLAG_ARRIVAL != 0 {
            let (arrival, after) = rest.split_first_chunk()?;
            (arrival_ns, rest) = (Some(u64::from_be_bytes(*arrival)), after);
        }
        let mut reference = None;
        if flags & FLAG_REFERENCE != 0 {
            let (bytes, after) = rest.split_first_chunk()?;
            (reference, rest) = (Some(decode_reference(bytes)?), after);
        }
        let mut consumer = None;
        if flags & FLAG_CONSUMER != 0 {
            let (name, after) = decode_consumer(rest)?;
            (consumer, rest) = (Some(name), after);
        }
        Some(Self {
            offset: u64::from_be_bytes(*offset),
            epoch: u32::from_be_bytes(*epoch),
            time_ns: u64::from_be_bytes(*time),
            class: Class::ALL.get(usize::from(*class)).copied()?,
            kind: Kind::from_code(*kind)?,
            reason: *reason,
            arrival_ns,
            reference,
            consumer,
            frame: unpadded(rest)?,
        })
    }

    pub const fn to_record(self) -> Record<'a> {
        let Self { time_ns, class, kind, reason, arrival_ns, reference, consumer, frame, .. } = self;
        Record { time_ns, class, kind, reason, arrival_ns, reference, consumer, frame }
    }

    /// The event in it; of a record without one all parts are empty.
    pub fn event(&self) -> FrameView<'a> {
        let body = self.frame.get(LENGTH_BYTES..).unwrap_or_default();
        let shape = body.first_chunk().map_or_else(Shape::default, |header| Shape::from_header(*header));
        FrameView::new(body, shape)
    }
}

/// The topic of a frame that has been received, given with its length field.
pub(in crate::storage) fn topic_of(frame: &[u8]) -> &[u8] {
    let body = frame.get(LENGTH_BYTES..).unwrap_or_default();
    let shape = body.first_chunk().map_or_else(Shape::default, |header| Shape::from_header(*header));
    FrameView::new(body, shape).topic_bytes()
}

fn decode_reference(bytes: &[u8; REFERENCE_BYTES]) -> Option<Reference> {
    let (offset, rest) = bytes.split_first_chunk()?;
    let (epoch, rest) = rest.split_first_chunk()?;
    let queue = LetterQueue::ALL.get(usize::from(rest[0])).copied()?;
    Some(Reference { queue, epoch: u32::from_be_bytes(*epoch), offset: u64::from_be_bytes(*offset) })
}

/// A name, and what is behind it.
fn decode_consumer(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let length = usize::from(*bytes.first()?);
    let (field, rest) = bytes.split_at_checked((1 + length).next_multiple_of(RECORD_ALIGN))?;
    let (name, padding) = field.get(1..)?.split_at_checked(length)?;
    let name = std::str::from_utf8(name).ok().filter(|name| (1..=CONSUMER_BYTES_MAX).contains(&name.len()))?;
    padding.iter().all(|byte| *byte == 0).then_some((name, rest))
}

/// The frame without what fills the record up: its own length field says where it ends.
fn unpadded(bytes: &[u8]) -> Option<&[u8]> {
    let Some(length) = bytes.first_chunk() else {
        return bytes.is_empty().then_some(bytes);
    };
    let whole = LENGTH_BYTES.checked_add(u32::from_be_bytes(*length) as usize)?;
    let (frame, padding) = bytes.split_at_checked(whole)?;
    (padding.len() < RECORD_ALIGN && padding.iter().all(|byte| *byte == 0)).then_some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameHeader, Priority};
    use proptest::prelude::*;

    fn frame(topic: &str, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let header = FrameHeader { id: Some([7; 16]), ..FrameHeader::new(Priority::Low) };
        crate::frame::encode(&mut frame, &header, topic.as_bytes(), payload);
        frame
    }

    proptest! {
        #[test]
        fn a_record_reads_back(
            (payload, offset, epoch, salt) in (prop::collection::vec(any::<u8>(), 0..70), any::<u64>(), any::<u32>(), any::<u32>()),
            (time_ns, kind, reason, class) in (any::<u64>(), 0..4usize, any::<u8>(), 0..3usize),
            arrival_ns in any::<Option<u64>>(),
            reference in any::<Option<(u32, u64)>>(),
            consumer in prop::option::of("[a-z.]{1,64}"),
            bare in any::<bool>(),
        ) {
            let frame = if bare { Vec::new() } else { frame("a/b", &payload) };
            let reference = reference.map(|(epoch, offset)| Reference { queue: LetterQueue::Shed, epoch, offset });
            let (class, kind) = (Class::ALL[class], Kind::ALL[kind]);
            let consumer = consumer.as_deref();
            let record = Record { time_ns, class, kind, reason, arrival_ns, reference, consumer, frame: &frame };
            let mut bytes = vec![9; 3];
            encode(&mut bytes, &record, offset, epoch, salt);
            let bytes = &bytes[3..];
            prop_assert_eq!(bytes.len(), encoded_bytes(&record));
            let view =
                RecordView { offset, epoch, time_ns, class, kind, reason, arrival_ns, reference, consumer, frame: &frame };
            prop_assert_eq!(RecordView::decode(bytes, salt), Some(view));
            prop_assert_eq!(RecordView::decode(bytes, salt.wrapping_add(1)), None);
            prop_assert_eq!(view.event().topic(), if bare { "" } else { "a/b" });
            prop_assert_eq!(view.event().payload(), if bare { &[] } else { payload.as_slice() });
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), salt in any::<u32>()) {
            let mut bytes = bytes;
            let _ = RecordView::decode(&bytes, salt);
            // With a length and a checksum that are right, the rest is looked at as well.
            bytes.resize(bytes.len().next_multiple_of(RECORD_ALIGN).max(RECORD_BYTES_MIN), 0);
            let length = (bytes.len() - PREFIX_BYTES) as u32;
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            let sum = checksum(crc32c::crc32c(&bytes[RECORD_BYTES_MIN..]), bytes[8..].first_chunk().unwrap(), salt);
            bytes[4..8].copy_from_slice(&sum.to_be_bytes());
            let _ = RecordView::decode(&bytes, salt);
        }
    }

    #[test]
    fn a_record_that_gets_its_place_later_is_the_same() {
        for payload in [&b""[..], b"p", b"1234567", &[3; 500]] {
            let frame = frame("a/b", payload);
            let (mut at_once, mut later) = (vec![7; 8], vec![7; 8]);
            encode(&mut at_once, &Record::event(11, Class::Batch, &frame), 12, 13, 14);
            encode_unplaced(&mut later, Class::Batch, &frame[LENGTH_BYTES..]);
            assert_eq!(later.len(), 8 + event_bytes(frame.len() - LENGTH_BYTES));
            sum_up(&mut later[8..]);
            place(&mut later[8..], &Place { offset: 12, epoch: 13, time_ns: 11, salt: 14 });
            assert_eq!(at_once, later);
        }
    }

    #[test]
    fn no_bit_of_a_record_may_be_wrong() {
        let frame = frame("t", b"payload");
        let mut bytes = Vec::new();
        encode(&mut bytes, &Record::event(1, Class::Batch, &frame), 2, 3, 4);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordView::decode(&bytes, 4), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(RecordView::decode(&bytes, 4).is_some());
    }
}
