//! From the ingest queue to the workers: which class an event belongs to, which worker takes it, and what happens when
//! there is no room.

mod dispatcher;
mod link;
mod shedding;
mod spill;
mod topic_table;
mod waits;

pub use dispatcher::{Dispatcher, DispatcherSpec, SourceAccount};
pub use link::{Link, LinkSpec};
pub use spill::SpillPool;
pub use topic_table::{TopicEntry, TopicTable, TopicTableCell};

/// What the dispatcher writes over an event's topic hash for the worker.
///
/// Bits 0 to 29 are the topic's number: configured topics keep theirs over reloads; the others share
/// [`UNNAMED_TOPICS`] numbers by hash.
pub mod topic_word {
    /// The topic, or its class, asks for deduplication.
    pub const DEDUP: u32 = 1 << 31;
    /// The topic is configured.
    pub const NAMED: u32 = 1 << 30;
    pub const NUMBER: u32 = NAMED - 1;
}

/// Buckets that topics without entry share; a power of two.
pub const UNNAMED_TOPICS: u32 = 1 << 12;
