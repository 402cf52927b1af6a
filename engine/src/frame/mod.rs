//! The wire format: what a frame is, and how its bytes are checked where they lie.
//!
//! ```text
//!   u32 length            bytes that follow this field          all integers big-endian
//!   u8  flags|priority    low 3 bits priority, high 5 flags
//!   u16 topic length      1..=65535 bytes of UTF-8, no NUL
//!   [16 bytes event id]   if flag 0x80
//!   [u64 sent time]       if flag 0x40: ns since the UNIX epoch, sender's clock
//!   topic
//!   payload               the rest
//! ```

mod encode;
mod parse;
mod shape;
#[cfg(test)]
mod tests;
mod topic_hash;
mod view;

pub use encode::{FrameHeader, encode};
pub use parse::{Incomplete, Limits, Malformed, ParsedFrame, Parser, StreamStep, Transport};
pub use shape::Shape;
pub use view::FrameView;

/// Size of the length field.
pub const LENGTH_BYTES: usize = 4;
/// Flags and topic length: what every frame has after the length field.
pub const HEADER_BYTES: usize = 3;

pub const FLAG_ID: u8 = 0x80;
pub const FLAG_TIME: u8 = 0x40;
/// Asks for an acknowledgement; TCP only.
pub const FLAG_ACK: u8 = 0x20;
/// Reserved by the protocol: in a published frame these make it malformed.
pub const FLAGS_RESERVED: u8 = 0x18;
pub const PRIORITY_MASK: u8 = 0x07;

/// Prefix of the protocol's own topics.
pub const RESERVED_PREFIX: &[u8] = b"$esc/";

/// What is shed first, and the class of topics without an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Priority {
    Batch = 0,
    Low = 1,
    Medium = 2,
    High = 3,
    Critical = 4,
}

impl Priority {
    pub const ALL: [Self; 5] = [Self::Batch, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// 5 to 7 are taken as critical.
    #[inline]
    pub const fn from_wire(head: u8) -> Self {
        match head & PRIORITY_MASK {
            0 => Self::Batch,
            1 => Self::Low,
            2 => Self::Medium,
            3 => Self::High,
            _ => Self::Critical,
        }
    }

    /// As it is written in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The class of a topic without an entry of its own.
    #[inline]
    pub const fn class(self) -> Class {
        match self {
            Self::Critical | Self::High => Class::Realtime,
            Self::Medium | Self::Low => Class::Transactional,
            Self::Batch => Class::Batch,
        }
    }
}

/// How an event is worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    Realtime = 0,
    Transactional = 1,
    Batch = 2,
}

impl Class {
    pub const ALL: [Self; 3] = [Self::Realtime, Self::Transactional, Self::Batch];

    /// As it is written in configuration and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Realtime => "realtime",
            Self::Transactional => "transactional",
            Self::Batch => "batch",
        }
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Display for Priority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for Class {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl serde::Serialize for Priority {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
