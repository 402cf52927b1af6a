//! What outlives its frame: dead letters, for now in bounded memory.

mod byte_ring;
mod dead_letter;

pub use byte_ring::ByteRing;
pub use dead_letter::{DeadLetter, DeadLetterAgent, DeadLetterGauges, DeadLetterSender, ShedBudget};
