//! Frame memory: regions cut into slots, who owns a slot when, and the events that point into them.
//!
//! A slot's life:
//!
//! ```text
//!   FramePool (owner) ──acquire──► Slot ──to the kernel──► address in fill/rx ring ──back──► Slot
//!        ▲                          │ seal(n) / open                                          │
//!        │ reclaim                  ▼                                                         ▼
//!   return stack ◄── last of n ── Event × n, moved through the queues, released by whoever ends them
//! ```
//!
//! Everything is a move-only value: a slot cannot be handed out twice, an event cannot be used after its release,
//! and code outside this folder needs no `unsafe` to read a frame. That one is lost instead of released no type prevents:
//! debug builds watch for it.

mod allocations;
mod crc;
mod event;
#[cfg(all(test, loom_model))]
mod models;
mod node;
mod peer;
mod pool;
mod prefetch;
mod region;
mod slab;
mod slot;
#[cfg_attr(not(debug_assertions), path = "watch/off.rs")]
mod watch;

pub use allocations::{data_path_allocations, off_data_path, on_data_path};
pub use crc::crc32c_append;
pub use event::{BYTES_BEFORE_COPY, Event, EventMaker, EventSlot, Frames, Releaser, Route, Run};
pub use node::{Placement, Policy, on_node};
pub use peer::Peer;
pub use pool::{FramePool, PoolGauges, PoolSpec};
pub use prefetch::{CACHE_LINE_BYTES, prefetch};
pub use region::{Backing, Region};
pub use slab::{HUGE_PAGE_BYTES, Slab};
pub use slot::{OpenSlot, Slot};
pub use watch::LostSlot;
