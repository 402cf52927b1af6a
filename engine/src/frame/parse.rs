//! The in-place parser: checks every byte that means something and copies none.
//!
//! - **Thread**: the ingest agent's. **In**: bytes of a datagram, or of a stream. **Out**: places of frames.
//! - **Invariant**: an accepted frame lies whole inside the bytes given, its topic is UTF-8 without NUL and wildcard
//!   level, its flags are known and its announced fields are there. Nothing here panics, whatever the bytes.

use foldhash::fast::FixedState;
use std::hash::{BuildHasher, Hasher};

use super::{FLAG_ID, FLAG_TIME, FLAGS_RESERVED, HEADER_BYTES, LENGTH_BYTES, PRIORITY_MASK, Priority, RESERVED_PREFIX};
use crate::metrics::MalformedReason;

/// Why bytes were refused, and where in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub reason: MalformedReason,
    /// Offset of the offending field in the bytes given.
    pub at_byte: usize,
}

/// Where a frame lies and what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedFrame {
    /// Offset of the byte after the length field.
    pub offset: u32,
    /// Bytes after the length field.
    pub length: u32,
    pub topic_hash: u32,
    pub topic_length: u16,
    /// Flags, and the priority capped by the listener.
    pub head: u8,
}

/// Upper bounds, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes after the length field.
    pub frame_bytes: u32,
    pub topic_bytes: u16,
}

/// What carries the frames decides which topics are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What a stream begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStep {
    /// A whole frame; the stream goes on `LENGTH_BYTES + length` further.
    Frame(ParsedFrame),
    /// A whole frame of the protocol's own: topic starts with `$esc/`.
    Control(ParsedFrame),
    /// Not whole yet: this many bytes from the frame's start are known to be needed.
    Incomplete { needed: usize },
}

/// A parser for one listener.
#[derive(Clone, Debug)]
pub struct Parser {
    limits: Limits,
    transport: Transport,
    max_priority: Priority,
    hash_state: FixedState,
}

impl Parser {
    /// `hash_seed` is the process's random seed: all parsers and the topic table must share it.
    pub fn new(limits: Limits, transport: Transport, max_priority: Priority, hash_seed: u64) -> Self {
        Self { limits, transport, max_priority, hash_state: FixedState::with_seed(hash_seed) }
    }

    /// Validates a datagram whole and lists its frames in `frames`, whose earlier content is replaced. One bad frame refuses
    /// the datagram.
    ///
    /// `frames` never grows past its capacity when that is at least [`Parser::max_frames`] of the bytes.
    pub fn datagram(&self, bytes: &[u8], frames: &mut Vec<ParsedFrame>) -> Result<(), Malformed> {
        frames.clear();
        if bytes.is_empty() {
            return Err(Malformed { reason: MalformedReason::EmptyDatagram, at_byte: 0 });
        }
        let mut start = 0;
        while start < bytes.len() {
            let rest = &bytes[start..];
            let Some((length, body)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
                return Err(Malformed { reason: MalformedReason::TrailingBytes, at_byte: start });
            };
            let length = u32::from_be_bytes(*length);
            self.check_length(length).map_err(|reason| Malformed { reason, at_byte: start })?;
            let Some(body) = body.get(..length as usize) else {
                return Err(Malformed { reason: MalformedReason::LengthBeyond, at_byte: start });
            };
            let body_start = start + LENGTH_BYTES;
            let (frame, control) = self.body(body, body_start)?;
            if control {
                return Err(Malformed { reason: MalformedReason::ReservedTopic, at_byte: body_start });
            }
            frames.push(frame);
            start = body_start + length as usize;
        }
        Ok(())
    }

    /// The most frames `bytes` can hold: the smallest frame is a header and a one-byte topic.
    pub const fn max_frames(bytes: usize) -> usize {
        bytes / (LENGTH_BYTES + HEADER_BYTES + 1)
    }

    /// Looks at what `stream` begins with. Offsets are relative to `stream`. Never waits for the rest of a frame in
    /// order to refuse its beginning.
    pub fn stream(&self, stream: &[u8]) -> Result<StreamStep, Malformed> {
        let Some((length, rest)) = stream.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(StreamStep::Incomplete { needed: LENGTH_BYTES });
        };
        let length = u32::from_be_bytes(*length);
        self.check_length(length).map_err(|reason| Malformed { reason, at_byte: 0 })?;
        let Some(body) = rest.get(..length as usize) else {
            return Ok(StreamStep::Incomplete { needed: LENGTH_BYTES + length as usize });
        };
        let (frame, control) = self.body(body, LENGTH_BYTES)?;
        Ok(if control { StreamStep::Control(frame) } else { StreamStep::Frame(frame) })
    }

    /// Hash of a topic as [`ParsedFrame::topic_hash`] has it.
    #[inline]
    pub fn topic_hash(&self, topic: &[u8]) -> u32 {
        let mut hasher = self.hash_state.build_hasher();
        hasher.write(topic);
        hasher.finish() as u32
    }

    #[inline]
    fn check_length(&self, length: u32) -> Result<(), MalformedReason> {
        if (length as usize) < HEADER_BYTES {
            Err(MalformedReason::LengthShort)
        } else if length > self.limits.frame_bytes {
            Err(MalformedReason::LengthLimit)
        } else {
            Ok(())
        }
    }

    /// Checks the bytes after the length field, which start at `at` of what the caller was given. True beside the frame:
    /// it is one of the protocol's own.
    #[inline]
    fn body(&self, body: &[u8], at: usize) -> Result<(ParsedFrame, bool), Malformed> {
        let fail = |reason, offset: usize| Err(Malformed { reason, at_byte: at + offset });
        let Some((&[head, high, low], _)) = body.split_first_chunk::<HEADER_BYTES>() else {
            return fail(MalformedReason::LengthShort, 0);
        };
        if head & FLAGS_RESERVED != 0 {
            return fail(MalformedReason::ReservedFlag, 0);
        }
        let topic_length = u16::from_be_bytes([high, low]);
        if topic_length == 0 {
            return fail(MalformedReason::TopicEmpty, 1);
        }
        if topic_length > self.limits.topic_bytes {
            return fail(MalformedReason::TopicLimit, 1);
        }
        let optional = if head & FLAG_ID != 0 { 16 } else { 0 } + if head & FLAG_TIME != 0 { 8 } else { 0 };
        let topic_start = HEADER_BYTES + optional;
        if body.len() < topic_start {
            return fail(MalformedReason::MissingField, HEADER_BYTES);
        }
        let Some(topic) = body.get(topic_start..topic_start + usize::from(topic_length)) else {
            return fail(MalformedReason::TopicBeyond, 1);
        };
        if needs_closer_look(topic)
            && let Err((reason, offset)) = check_topic(topic)
        {
            return fail(reason, topic_start + offset);
        }
        let control = topic.starts_with(RESERVED_PREFIX);
        if control && self.transport == Transport::Udp {
            return fail(MalformedReason::ReservedTopic, topic_start);
        }
        let priority = Priority::from_wire(head).min(self.max_priority);
        let frame = ParsedFrame {
            offset: at as u32,
            length: body.len() as u32,
            topic_hash: self.topic_hash(topic),
            topic_length,
            head: (head & !PRIORITY_MASK) | priority as u8,
        };
        Ok((frame, control))
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// A word whose high bits mark bytes that are zero ("Bit Twiddling Hacks", S. Anderson): exact as a whole-word
/// test, and only that is asked of it.
#[inline]
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// Whether any byte is outside ASCII, NUL, `+` or `#`: eight bytes at a time, since nearly no topic has one.
#[inline]
fn needs_closer_look(topic: &[u8]) -> bool {
    let suspicious = |word: u64| {
        (word & HIGHS)
            | zero_bytes(word)
            | zero_bytes(word ^ (ONES * b'+' as u64))
            | zero_bytes(word ^ (ONES * b'#' as u64))
    };
    let mut found = 0;
    if let Some(last) = topic.last_chunk::<8>() {
        // The last word overlaps the one before instead of being padded: a byte-wise copy that is read back as a word would
        // wait for the store buffer.
        for word in topic.as_chunks::<8>().0 {
            found |= suspicious(u64::from_le_bytes(*word));
        }
        found |= suspicious(u64::from_le_bytes(*last));
    } else {
        for byte in topic {
            found |= suspicious(ONES * u64::from(*byte));
        }
    }
    found != 0
}

#[cold]
fn check_topic(topic: &[u8]) -> Result<(), (MalformedReason, usize)> {
    if let Err(error) = std::str::from_utf8(topic) {
        return Err((MalformedReason::TopicUtf8, error.valid_up_to()));
    }
    if let Some(at) = topic.iter().position(|byte| *byte == 0) {
        return Err((MalformedReason::TopicNul, at));
    }
    let mut at = 0;
    for level in topic.split(|byte| *byte == b'/') {
        if level == b"+" || level == b"#" {
            return Err((MalformedReason::TopicWildcard, at));
        }
        at += level.len() + 1;
    }
    Ok(())
}
