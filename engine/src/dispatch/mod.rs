//! From the ingest queue to the workers: which class an event belongs to, which worker takes it, and what happens when
//! there is no room.

mod dispatcher;
mod link;
mod shedding;
mod spill;
mod topic_table;
mod transition;
mod waits;
mod windows;

pub use dispatcher::{Dispatcher, DispatcherSpec, SourceAccount};
pub use link::{Link, LinkSpec};
pub use spill::SpillPool;
pub use topic_table::{TopicEntry, TopicTable, TopicTableCell};
pub use windows::{WindowLimits, WindowProfiles};

/// What the dispatcher writes over an event's topic hash for the worker.
///
/// Bits 0 to 23 are the topic's number: configured topics keep theirs over reloads; the others share
/// [`UNNAMED_TOPICS`] numbers by hash.
pub mod topic_word {
    /// The topic, or its class, asks for deduplication.
    pub const DEDUP: u32 = 1 << 31;
    /// The topic is configured.
    pub const NAMED: u32 = 1 << 30;
    /// A retry holds back the topic's later events.
    pub const STRICT: u32 = 1 << 29;
    /// Which of the [windows](super::WindowProfiles) the topic has; zero for none.
    pub const WINDOW: u32 = 0x1f << 24;
    pub const NUMBER: u32 = (1 << 24) - 1;

    /// What the events of a topic in strict order have in common; `None` for those of others.
    #[inline]
    pub fn strict_key(word: u32) -> Option<u32> {
        (word & STRICT != 0).then_some(word & NUMBER)
    }
}

/// Buckets that topics without entry share; a power of two.
pub const UNNAMED_TOPICS: u32 = 1 << 12;
