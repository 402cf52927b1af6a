//! What a dispatcher tells a source that can be made to wait about that source's events.
//!
//! - **Threads**: written by the dispatcher's at the end of each duty cycle, read by the source's.
//! - **Invariant**: whoever reads that so many events were dispatched reads of classes that were full with these events, or
//!   later: what is accepted beyond `dispatched` is all that can still come to a class since.

use crossbeam_utils::CachePadded;

use crate::frame::Class;
use crate::sync::{AtomicU8, AtomicU64, Ordering};

/// Some of the classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassSet(u8);

impl ClassSet {
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub const fn has(self, class: Class) -> bool {
        self.0 & 1 << class as u8 != 0
    }

    pub const fn insert(&mut self, class: Class) {
        self.0 |= 1 << class as u8;
    }
}

/// How far a source's events have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Events that the dispatcher has seen to.
    pub dispatched: u64,
    /// Of those, events that hold no credit any more.
    pub settled: u64,
    /// Classes that hold their share of the source's slots or credits: no more of theirs should be taken in.
    pub full: ClassSet,
}

/// The place where both meet. Nothing is full at first.
#[derive(Debug, Default)]
pub struct Feedback(CachePadded<Cells>);

#[derive(Debug, Default)]
struct Cells {
    dispatched: AtomicU64,
    settled: AtomicU64,
    full: AtomicU8,
}

impl Feedback {
    /// The dispatcher's.
    pub fn tell(&self, progress: Progress) {
        let Progress { dispatched, settled, full } = progress;
        self.0.full.store(full.0, Ordering::Relaxed);
        self.0.settled.store(settled, Ordering::Relaxed);
        // Release: paired with the Acquire in `read`; the events' frames were given up before, and the others are as new.
        self.0.dispatched.store(dispatched, Ordering::Release);
    }

    /// The source's.
    pub fn read(&self) -> Progress {
        // First, and Acquire: paired with the Release in `tell`.
        let dispatched = self.0.dispatched.load(Ordering::Acquire);
        let settled = self.0.settled.load(Ordering::Relaxed);
        Progress { dispatched, settled, full: ClassSet(self.0.full.load(Ordering::Relaxed)) }
    }
}
