//! Deduplication by event id, and gap tracking by producer and sequence.
//!
//! Role: decide for each event that carries an id whether it is the first copy, and remember the answer for a window
//! of time.
//! Thread: any worker, through the `Claimer` it got at set-up; the table is shared and lock-free. A `GapTable` belongs
//! to one thread.
//! In: ids, and the time of the duty cycle. Out: `Claim`s, and the tokens by which their owners report the outcome.
//! Overload: a full table forgets its oldest ids before their window is over and counts them (`evicted_early`), and
//! `effective_window_ns` says how far back it still remembers. A claim still pending is never forgotten; should a
//! claimer find nothing but such cells to reuse, the event is admitted without being remembered, and counted
//! (`unremembered`). Nothing blocks, and nothing is allocated after set-up.
//! Invariant: of any number of claimers of one id, exactly one wins, and while the id is remembered no other will.
//!
//! ```text
//!     id ─ hash ─► bucket: one cache line, a ring of 8 words, inserted into by one compare-and-swap
//!                    │ word = fingerprint, cell number, lap of the cell
//!                    ▼
//!                  cell: id, state, time, older entry of the bucket   (32 bytes, in the claimer's own arena,
//!                                                                      reused in time order)
//! ```

mod bucket;
mod cell;
mod claimer;
mod gap;
mod id;
mod layout;
mod ring;
mod table;
mod types;

#[cfg(all(test, loom_model))]
mod models;
#[cfg(all(test, not(loom_model)))]
mod tests;

pub use claimer::{Claim, Claimer};
pub use gap::{GapTable, GapTotals, ProducerGaps};
pub use id::EventId;
pub use table::DedupTable;
pub use types::{ClaimState, ClaimToken, DedupConfig, DedupError, DedupStats, Outcome, PendingClaim, Settled};
