//! What a frame's header says, in one word.

use super::{FLAG_ID, FLAG_TIME, HEADER_BYTES, Priority};

/// The flags for optional fields, shifted right by this, are the sizes of these fields.
const FLAG_TO_BYTES: u32 = 3;
const _: () = assert!(FLAG_ID >> FLAG_TO_BYTES == 16 && FLAG_TIME >> FLAG_TO_BYTES == 8);

/// Flags, priority and topic length of a frame. They say where in its bytes everything lies.
///
/// In the order of the wire: the topic's length in the low 16 bits, the byte of flags and priority above it; the highest byte
/// is zero, for others to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape(u32);

impl Shape {
    /// Bits that a shape uses.
    pub const BITS: u32 = 24;

    #[inline]
    pub const fn new(head: u8, topic_length: u16) -> Self {
        Self((head as u32) << 16 | topic_length as u32)
    }

    /// Of the header's bytes.
    #[inline]
    pub const fn from_header(header: [u8; HEADER_BYTES]) -> Self {
        let [head, high, low] = header;
        Self::new(head, u16::from_be_bytes([high, low]))
    }

    /// The low [`BITS`](Self::BITS) of a word that has others above them.
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & ((1 << Self::BITS) - 1))
    }

    #[inline]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Flags in the high five bits, priority in the low three.
    #[inline]
    pub const fn head(self) -> u8 {
        (self.0 >> 16) as u8
    }

    #[inline]
    pub const fn topic_length(self) -> u16 {
        self.0 as u16
    }

    #[inline]
    pub const fn has(self, flag: u8) -> bool {
        self.head() & flag != 0
    }

    #[inline]
    pub const fn priority(self) -> Priority {
        Priority::from_wire(self.head())
    }

    /// Where the topic begins, counted from the byte after the length field.
    #[inline]
    pub const fn topic_start(self) -> usize {
        HEADER_BYTES + ((self.head() & (FLAG_ID | FLAG_TIME)) >> FLAG_TO_BYTES) as usize
    }

    /// Where the payload begins, counted likewise.
    #[inline]
    pub const fn payload_start(self) -> usize {
        self.topic_start() + self.topic_length() as usize
    }
}
