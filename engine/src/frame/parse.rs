//! The in-place parser: checks every byte that means something and copies none.
//!
//! - **Thread**: the ingest agent's. **In**: bytes of a datagram, or of a stream. **Out**: places of frames.
//! - **Invariant**: an accepted frame lies whole inside the bytes given, its topic is UTF-8 without NUL and wildcard
//!   level, its flags are known and its announced fields are there. Nothing here panics, whatever the bytes.

use super::topic_hash::TopicHash;
use super::{FLAGS_RESERVED, HEADER_BYTES, LENGTH_BYTES, PRIORITY_MASK, Priority, RESERVED_PREFIX, Shape};
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
    /// Its priority is capped by the listener.
    pub shape: Shape,
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
    /// The beginning of a frame, with nothing wrong in it.
    Incomplete(Incomplete),
}

/// What the beginning of a frame tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// With so many bytes from the frame's start more can be told than with those there are.
    pub needed: usize,
    /// Bytes of the whole frame, as far as it has announced them.
    pub whole: usize,
    /// The topic is there, and it is one of the protocol's own.
    pub control: bool,
}

/// A parser for one listener.
#[derive(Clone, Debug)]
pub struct Parser {
    limits: Limits,
    transport: Transport,
    max_priority: Priority,
    hash: TopicHash,
}

impl Parser {
    /// `hash_seed` is the process's random seed: all parsers and the topic table must share it.
    pub fn new(limits: Limits, transport: Transport, max_priority: Priority, hash_seed: u64) -> Self {
        Self { limits, transport, max_priority, hash: TopicHash::new(hash_seed) }
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
        let mut rest = bytes;
        while !rest.is_empty() {
            let start = bytes.len() - rest.len();
            if let Some((frame, after)) = self.plain(rest, start as u32) {
                frames.push(frame);
                rest = after;
            } else {
                rest = self.next_of_datagram(bytes, start, frames)?;
            }
        }
        Ok(())
    }

    /// Judges the frame at `start` of a datagram, which [`plain`](Self::plain) does not know, and gives what
    /// comes behind it.
    #[cold]
    fn next_of_datagram<'a>(
        &self,
        bytes: &'a [u8],
        start: usize,
        frames: &mut Vec<ParsedFrame>,
    ) -> Result<&'a [u8], Malformed> {
        let Some((length, body)) = bytes[start..].split_first_chunk::<LENGTH_BYTES>() else {
            return Err(Malformed { reason: MalformedReason::TrailingBytes, at_byte: start });
        };
        let length = u32::from_be_bytes(*length);
        self.check_length(length).map_err(|reason| Malformed { reason, at_byte: start })?;
        let Some((body, after)) = body.split_at_checked(length as usize) else {
            return Err(Malformed { reason: MalformedReason::LengthBeyond, at_byte: start });
        };
        let body_start = start + LENGTH_BYTES;
        let (frame, control) = self.body(body, body_start)?;
        if control {
            return Err(Malformed { reason: MalformedReason::ReservedTopic, at_byte: body_start });
        }
        frames.push(frame);
        Ok(after)
    }

    /// The frame that `bytes` begin with, if it is whole, within the limits and of a topic in plain ASCII without the
    /// characters that may mean something, and the bytes behind it; `at` of the caller's bytes is where they begin.
    ///
    /// All but a few frames are such: one load has all the header, and one pass over the topic both hashes and checks it. `None`
    /// says nothing against the frame: [`body`](Self::body) looks at it rule by rule, and names the one that it breaks.
    #[inline(always)]
    fn plain<'a>(&self, bytes: &'a [u8], at: u32) -> Option<(ParsedFrame, &'a [u8])> {
        // Length, head and topic length: a frame without one byte of topic is shorter than the word that has them.
        let front = u64::from_be_bytes(*bytes.first_chunk()?);
        let (length, shape) = ((front >> 32) as u32, Shape::from_bits((front >> 8) as u32));
        let usual = !shape.has(FLAGS_RESERVED) && shape.topic_length().wrapping_sub(1) < self.limits.topic_bytes;
        if !usual || length > self.limits.frame_bytes {
            return None;
        }
        let (frame, after) = bytes.split_at_checked(LENGTH_BYTES + length as usize)?;
        let front = frame.get(..LENGTH_BYTES + shape.payload_start())?;
        // The last word of the topic ends with it. For a short one it begins in the header, which there always is.
        let last = u64::from_le_bytes(*front.last_chunk()?);
        let (topic_hash, found) = self.hash.of_words(front.get(LENGTH_BYTES + shape.topic_start()..)?, last);
        let offset = at + LENGTH_BYTES as u32;
        (!found).then(|| (ParsedFrame { offset, length, topic_hash, shape: self.capped(shape) }, after))
    }

    /// The shape with its priority capped.
    #[inline]
    pub fn capped(&self, shape: Shape) -> Shape {
        let head = shape.head();
        // The priorities above critical are critical, and the cap is no higher than that.
        let priority = (head & PRIORITY_MASK).min(self.max_priority as u8);
        Shape::new((head & !PRIORITY_MASK) | priority, shape.topic_length())
    }

    /// The most frames `bytes` can hold: the smallest frame is a header and a one-byte topic.
    pub const fn max_frames(bytes: usize) -> usize {
        bytes / (LENGTH_BYTES + HEADER_BYTES + 1)
    }

    /// Looks at what `stream` begins with. Offsets are relative to `stream`. Never waits for the rest of a frame in
    /// order to refuse its beginning: each field is judged once its own bytes are there.
    pub fn stream(&self, stream: &[u8]) -> Result<StreamStep, Malformed> {
        if let Some((frame, _)) = self.plain(stream, 0) {
            return Ok(StreamStep::Frame(frame));
        }
        let Some((length, rest)) = stream.split_first_chunk::<LENGTH_BYTES>() else {
            let (needed, whole) = (LENGTH_BYTES, LENGTH_BYTES);
            return Ok(StreamStep::Incomplete(Incomplete { needed, whole, control: false }));
        };
        let length = u32::from_be_bytes(*length);
        self.check_length(length).map_err(|reason| Malformed { reason, at_byte: 0 })?;
        let Some(body) = rest.get(..length as usize) else {
            return self.beginning(rest, length as usize).map(StreamStep::Incomplete);
        };
        let (frame, control) = self.body(body, LENGTH_BYTES)?;
        Ok(if control { StreamStep::Control(frame) } else { StreamStep::Frame(frame) })
    }

    /// Hash of a topic as [`ParsedFrame::topic_hash`] has it.
    pub fn topic_hash(&self, topic: &[u8]) -> u32 {
        self.hash.of(topic)
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
    fn body(&self, body: &[u8], at: usize) -> Result<(ParsedFrame, bool), Malformed> {
        let fail = |(reason, offset)| Malformed { reason, at_byte: at + offset };
        let Some((header, _)) = body.split_first_chunk() else {
            return Err(fail((MalformedReason::LengthShort, 0)));
        };
        let shape = self.check_header(*header, body.len()).map_err(fail)?;
        let topic_start = shape.topic_start();
        let Some(topic) = body.get(topic_start..shape.payload_start()) else {
            return Err(fail(TOPIC_BEYOND));
        };
        let control = self.check_topic(topic).map_err(|(reason, offset)| fail((reason, topic_start + offset)))?;
        let frame = ParsedFrame {
            offset: at as u32,
            length: body.len() as u32,
            topic_hash: self.topic_hash(topic),
            shape: self.capped(shape),
        };
        Ok((frame, control))
    }

    /// Checks what is there of a frame that announces `length` bytes after its length field: the same as
    /// [`body`](Self::body) in the same order, as far as it goes, so that a frame is refused for the same reason in
    /// whatever parts it comes. Rare: once a read, where that ends inside a frame.
    #[cold]
    fn beginning(&self, body: &[u8], length: usize) -> Result<Incomplete, Malformed> {
        let fail = |(reason, offset)| Malformed { reason, at_byte: LENGTH_BYTES + offset };
        let whole = LENGTH_BYTES + length;
        let until = |end: usize| Incomplete { needed: LENGTH_BYTES + end, whole, control: false };
        let Some(head) = body.first() else { return Ok(until(1)) };
        check_flags(*head).map_err(fail)?;
        let Some(header) = body.first_chunk() else { return Ok(until(HEADER_BYTES)) };
        let shape = self.check_header(*header, length).map_err(fail)?;
        let (topic_start, topic_end) = (shape.topic_start(), shape.payload_start());
        if topic_end > length {
            return Err(fail(TOPIC_BEYOND));
        }
        let Some(topic) = body.get(topic_start..topic_end) else { return Ok(until(topic_end)) };
        let control = self.check_topic(topic).map_err(|(reason, offset)| fail((reason, topic_start + offset)))?;
        Ok(Incomplete { control, ..until(length) })
    }

    /// What the header of a body of `length` bytes says. The topic may still reach beyond the body.
    fn check_header(&self, header: [u8; HEADER_BYTES], length: usize) -> Result<Shape, Fault> {
        check_flags(header[0])?;
        let shape = Shape::from_header(header);
        if shape.topic_length() == 0 {
            return Err((MalformedReason::TopicEmpty, 1));
        }
        if shape.topic_length() > self.limits.topic_bytes {
            return Err((MalformedReason::TopicLimit, 1));
        }
        if length < shape.topic_start() {
            return Err((MalformedReason::MissingField, HEADER_BYTES));
        }
        Ok(shape)
    }

    /// Whether the topic is one of the protocol's own. Offsets of faults are relative to it.
    fn check_topic(&self, topic: &[u8]) -> Result<bool, Fault> {
        check_characters(topic)?;
        let control = topic.starts_with(RESERVED_PREFIX);
        if control && self.transport == Transport::Udp {
            return Err((MalformedReason::ReservedTopic, 0));
        }
        Ok(control)
    }
}

/// A reason, and where.
type Fault = (MalformedReason, usize);

const TOPIC_BEYOND: Fault = (MalformedReason::TopicBeyond, 1);

const fn check_flags(head: u8) -> Result<(), Fault> {
    if head & FLAGS_RESERVED == 0 { Ok(()) } else { Err((MalformedReason::ReservedFlag, 0)) }
}

fn check_characters(topic: &[u8]) -> Result<(), Fault> {
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
