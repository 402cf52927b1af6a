//! What outlives its frame: dead letters in bounded memory, and what is kept on disk.
//!
//! ```text
//! byte_ring, dead_letter   the dead letter queue in memory, for who has no data directory
//! disk                     what is asked of a file system
//! format                   segments and records, byte by byte
//! topics                   filters, and what topics a segment has
//! log                      the event log of one stream: writing, reading, recovery
//! streams                  the streams of the event log, by topic
//! feed, log_agent          the way from the workers to them, and who writes
//! letters, letter_agent    dead letters on disk
//! consumer_letters         what groups did not do, on its way there
//! replay, letter_control   out of the queue and in again; what operators ask
//! directory                the data directory: who has it, how its last run ended
//! ```
#![forbid(unsafe_code)]

mod byte_ring;
mod consumer_letters;
mod dead_letter;
pub mod directory;
pub mod disk;
mod error;
mod feed;
pub mod format;
mod letter_agent;
mod letter_control;
pub mod letters;
pub mod log;
mod log_agent;
mod log_readers;
mod replay;
#[cfg(test)]
pub(crate) mod scratch;
mod streams;
pub mod topics;

use crate::frame::Class;

pub use byte_ring::ByteRing;
pub use consumer_letters::{ConsumerLetter, ConsumerLetterInlet, ConsumerLetters, Ticket, consumer_letters};
pub use dead_letter::{DeadLetter, DeadLetterAgent, DeadLetterGauges, DeadLetterSender, Refusing, Sent, ShedBudget};
pub use error::StorageError;
pub use feed::{BATCHES, Kept, LogInlet, LogSender, OUTSTANDING_MAX, Settled, feed, feed_bytes};
pub use letter_agent::{LetterAgent, LetterAgentSpec, letter_bytes, letter_options};
pub use letter_control::{HeldFor, LetterCommands, LetterControl, letter_control};
pub use log_agent::{LogAgent, LogAgentSpec};
pub use log_readers::LogReaders;
pub use replay::{Queues, REPLAYED_MAX, ReplayOrder, ReplaySource, ReplayStatus, Replays, of_other_queue};
/// Whether events of the class are kept in the event log.
pub const fn is_logged(class: Class) -> bool {
    matches!(class, Class::Transactional | Class::Batch)
}

pub use log::Position;
pub use streams::{DEFAULT_STREAM, Streams, log_options};
pub use topics::TopicFilter;
