//! What outlives its frame: dead letters in bounded memory, and what is kept on disk.
//!
//! ```text
//! byte_ring, dead_letter   the dead letter queue in memory, for who has no data directory
//! disk                     what is asked of a file system
//! ```
#![forbid(unsafe_code)]

mod byte_ring;
mod dead_letter;
pub mod disk;
#[cfg(test)]
mod scratch;

pub use byte_ring::ByteRing;
pub use dead_letter::{DeadLetter, DeadLetterAgent, DeadLetterGauges, DeadLetterSender, ShedBudget};
