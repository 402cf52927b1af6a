//! Reading a frame that has been validated before.

use super::{FLAG_ID, FLAG_TIME, HEADER_BYTES, Priority};

/// A validated frame, borrowed where it lies: the bytes after the length field.
#[derive(Clone, Copy, Debug)]
pub struct FrameView<'a> {
    bytes: &'a [u8],
    head: u8,
    topic_start: usize,
    payload_start: usize,
}

impl<'a> FrameView<'a> {
    /// `bytes` must have been accepted by the parser; `head` is the first byte as ingest left it (capped
    /// priority). Bytes that were not validated give empty parts, never a panic.
    #[inline]
    pub fn new(bytes: &'a [u8], head: u8, topic_length: u16) -> Self {
        let id = if head & FLAG_ID != 0 { 16 } else { 0 };
        let time = if head & FLAG_TIME != 0 { 8 } else { 0 };
        let topic_start = (HEADER_BYTES + id + time).min(bytes.len());
        let payload_start = (topic_start + usize::from(topic_length)).min(bytes.len());
        Self { bytes, head, topic_start, payload_start }
    }

    /// Where the topic begins in the bytes.
    pub fn topic_offset(&self) -> usize {
        self.topic_start
    }

    #[inline]
    pub fn topic_bytes(&self) -> &'a [u8] {
        &self.bytes[self.topic_start..self.payload_start]
    }

    /// The topic as text. The parser has checked it; the second look costs little next to a handler that wants text.
    #[inline]
    pub fn topic(&self) -> &'a str {
        std::str::from_utf8(self.topic_bytes()).unwrap_or_default()
    }

    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.payload_start..]
    }

    #[inline]
    pub fn priority(&self) -> Priority {
        Priority::from_wire(self.head)
    }

    #[inline]
    pub fn id(&self) -> Option<[u8; 16]> {
        if self.head & FLAG_ID == 0 {
            return None;
        }
        self.bytes.get(HEADER_BYTES..HEADER_BYTES + 16)?.try_into().ok()
    }

    /// Nanoseconds since the UNIX epoch by the sender's clock.
    #[inline]
    pub fn sent_time_ns(&self) -> Option<u64> {
        if self.head & FLAG_TIME == 0 {
            return None;
        }
        let start = HEADER_BYTES + if self.head & FLAG_ID != 0 { 16 } else { 0 };
        Some(u64::from_be_bytes(self.bytes.get(start..start + 8)?.try_into().ok()?))
    }
}
