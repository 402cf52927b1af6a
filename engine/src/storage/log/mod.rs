//! The event log of one stream: append-only segments, written by one owner and read by any number.
//!
//! - **Thread**: that of the owner, which calls `append` for each record, `write` once a burst, and `sync` when it is `due`.
//!   `append` makes no system call; the others block for as long as the disk takes. With `sync_beside`, `begin_sync` leaves the waiting
//!   to another thread, and `end_sync` hears what came of it.
//! - **In**: records. **Out**: through [`View`] and [`Reader`], in the order of their offsets, once the policy's point has been
//!   reached: after the covering sync, or for `never` after the write.
//! - **Overload**: records stay in memory, bounded, until they are durable; beyond the bound `append` refuses. After a failed
//!   write or sync the segment is given up at its last durable record, and what is not durable is written anew to another, with
//!   pauses that grow to a second; until that works [`EventLog::writable`] is false.
//! - **Invariant**: a record keeps its offset, and an offset in an epoch is one record's for ever.

mod append;
mod files;
mod index;
mod options;
mod pending;
mod prewrite;
mod reader;
mod retention;
mod scan;
mod sums;
mod survey;
mod syncer;
mod syncing;
#[cfg(test)]
mod tests;
mod view;
mod writer;

pub use append::{Appended, Refused};
pub use index::{INDEX_INTERVAL_BYTES, Index, Quarantined};
pub use options::{Fsync, LogOptions};
pub use reader::{Gap, Item, Reader, Start, Truncated};
pub use retention::AgeClock;
pub use survey::{Cut, Damaged, Findings, Missing, Survey, Surveyed, Trust};
pub use view::{Position, Segment, View};
pub use writer::{EventLog, LogCounts, Recovery};
