//! Reading a frame that has been validated before.

use super::{FLAG_ID, FLAG_TIME, HEADER_BYTES, Priority, Shape};

/// A validated frame, borrowed where it lies: the bytes after the length field.
///
/// Of bytes that were not validated the parts are empty; nothing here panics.
#[derive(Clone, Copy, Debug)]
pub struct FrameView<'a> {
    bytes: &'a [u8],
    shape: Shape,
}

impl<'a> FrameView<'a> {
    /// `bytes` must have been accepted by the parser, `shape` be what it said of them.
    #[inline]
    pub const fn new(bytes: &'a [u8], shape: Shape) -> Self {
        Self { bytes, shape }
    }

    /// Where the topic begins in the bytes.
    pub const fn topic_offset(&self) -> usize {
        self.shape.topic_start()
    }

    #[inline]
    pub fn topic_bytes(&self) -> &'a [u8] {
        self.bytes.get(self.shape.topic_start()..self.shape.payload_start()).unwrap_or_default()
    }

    /// The topic as text. The parser has checked it; the second look costs little next to a handler that wants text.
    #[inline]
    pub fn topic(&self) -> &'a str {
        std::str::from_utf8(self.topic_bytes()).unwrap_or_default()
    }

    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.shape.payload_start()..).unwrap_or_default()
    }

    #[inline]
    pub fn priority(&self) -> Priority {
        self.shape.priority()
    }

    #[inline]
    pub fn id(&self) -> Option<[u8; 16]> {
        if !self.shape.has(FLAG_ID) {
            return None;
        }
        self.bytes.get(HEADER_BYTES..HEADER_BYTES + 16)?.try_into().ok()
    }

    /// Nanoseconds since the UNIX epoch by the sender's clock.
    #[inline]
    pub fn sent_time_ns(&self) -> Option<u64> {
        if !self.shape.has(FLAG_TIME) {
            return None;
        }
        // The last of the optional fields.
        Some(u64::from_be_bytes(*self.bytes.get(..self.shape.topic_start())?.last_chunk()?))
    }
}
