//! The way of live events from a worker to the sender: frames that somebody may want, packed into batches.
//!
//! - **Threads**: a worker owns the [`Outlet`], the sender the [`OutletEnd`].
//! - **In**: events that have ended well and are in no log. **Out**: the same, in order, copied: the frame goes home with the
//!   others, so that no subscriber holds one, and the kernel is named one piece a burst and not one an event.
//! - **Overload**: a fixed number of batches goes round; once some are on the way the next is filled before it follows. While the
//!   sender has them all, events are not offered and counted: subscribers have a gap, and nobody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::frames::{self, DELIVERY_BYTES, Made, NO_OFFSET, Origin};
use super::interest::Interest;
use crate::frame::{Class, LENGTH_BYTES};
use crate::memory::{Event, Frames};
use crate::queue::spsc;
use crate::runtime::clock::Clock;
use crate::runtime::waker::Waker;

const BATCHES: usize = 8;
/// The least a batch has room for.
const BATCH_BYTES_MIN: usize = 256 << 10;
/// With more than so many on the way, a batch is filled before it follows.
const EARLY_MAX: u64 = BATCHES as u64 / 2;

/// Memory of an outlet.
pub const fn outlet_bytes(frame_bytes_max: usize) -> usize {
    BATCHES * batch_bytes(frame_bytes_max)
}

const fn batch_bytes(frame_bytes_max: usize) -> usize {
    let largest = LENGTH_BYTES + DELIVERY_BYTES + frame_bytes_max;
    if largest < BATCH_BYTES_MIN { BATCH_BYTES_MIN } else { largest }
}

/// Events as subscribers are sent them, one behind the other, for no subscription yet.
#[derive(Debug)]
pub struct Batch(Vec<u8>);

impl Batch {
    /// The event at `at`.
    pub fn event(&self, at: usize) -> Option<Made<'_>> {
        Made::first(self.0.get(at..)?)
    }
}

/// A worker's end.
pub struct Outlet {
    class: Class,
    interest: Arc<Interest>,
    current: Option<Batch>,
    full: spsc::Producer<Batch>,
    empty: spsc::Consumer<Batch>,
    overflowed: Arc<AtomicU64>,
    is_kept_back: Arc<AtomicBool>,
    /// Wakes the sender's runner.
    waker: Option<Waker>,
    asked: Asked,
    /// Add to the clock of arrivals for nanoseconds since the UNIX epoch.
    to_unix: i64,
}

/// What was asked last, and answered: most events follow one of the same topic.
#[derive(Default)]
struct Asked {
    topic: Vec<u8>,
    /// Of the interest, when it was.
    changes: u32,
    is_wanted: bool,
}

/// The sender's end.
pub struct OutletEnd {
    pub class: Class,
    pub full: spsc::Consumer<Batch>,
    empty: spsc::Producer<Batch>,
    overflowed: Arc<AtomicU64>,
    is_kept_back: Arc<AtomicBool>,
    /// Wakes the worker's runner, before whose next sleep it hands over what it has kept back.
    worker: Option<Waker>,
}

/// Both ends, for events of one class whose frames have at most so many bytes behind their length field.
pub fn outlet(
    class: Class,
    interest: Arc<Interest>,
    frame_bytes_max: usize,
    waker: Option<Waker>,
    worker: Option<Waker>,
) -> (Outlet, OutletEnd) {
    let (full, filled) = spsc::ring(BATCHES);
    let (mut back, empty) = spsc::ring(BATCHES);
    for _ in 0..BATCHES {
        let pushed = back.push(Batch(Vec::with_capacity(batch_bytes(frame_bytes_max))));
        debug_assert!(pushed.is_ok(), "the ring has room for all");
    }
    back.publish();
    let (overflowed, is_kept_back) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let outlet = Outlet {
        class,
        interest,
        current: None,
        full,
        empty,
        overflowed: overflowed.clone(),
        is_kept_back: is_kept_back.clone(),
        waker,
        asked: Asked { topic: Vec::with_capacity(usize::from(u16::MAX)), ..Asked::default() },
        to_unix: 0,
    };
    (outlet, OutletEnd { class, full: filled, empty: back, overflowed, is_kept_back, worker })
}

impl Outlet {
    /// Whether anybody may want an event of this worker: one look at a word that is seldom written.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.interest.has(self.class)
    }

    /// Copies the event if somebody may want it.
    pub fn offer(&mut self, event: &Event, frames: &Frames) {
        if !self.wants(frames.view(event).topic_bytes()) {
            return;
        }
        let body = frames.bytes(event);
        let bytes = LENGTH_BYTES + DELIVERY_BYTES + body.len();
        let fits = |batch: &Batch| batch.0.capacity() - batch.0.len() >= bytes;
        if self.current.as_ref().is_some_and(|batch| !fits(batch)) {
            self.hand_over();
        }
        if self.current.is_none() {
            self.current = self.empty.take();
            self.empty.release();
        }
        let Some(batch) = self.current.as_mut().filter(|batch| fits(batch)) else {
            // Relaxed: a count that orders nothing.
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let received_ns = frames.arrival_ns(event).saturating_add_signed(self.to_unix);
        let origin = Origin { class: self.class, epoch: 0, offset: NO_OFFSET, received_ns };
        frames::event(&mut batch.0, 0, 1, &origin, body);
    }

    #[inline]
    fn wants(&mut self, topic: &[u8]) -> bool {
        let changes = self.interest.changes();
        if self.asked.changes != changes || self.asked.topic != topic {
            self.asked.is_wanted = self.interest.wants(topic);
            self.asked.changes = changes;
            self.asked.topic.clear();
            self.asked.topic.extend_from_slice(topic);
        }
        self.asked.is_wanted
    }

    fn hand_over(&mut self) {
        if let Some(batch) = self.current.take() {
            let pushed = self.full.push(batch);
            debug_assert!(pushed.is_ok(), "the ring has room for all");
        }
    }

    /// Hands over what there is, unless the sender has much to do as it is: many small batches would soon be all.
    #[inline]
    pub fn publish(&mut self) {
        if self.current.is_some() {
            self.full.refresh();
            if self.full.occupied() <= EARLY_MAX {
                self.hand_over();
            }
            // Release: paired with the Acquire in `release`.
            self.is_kept_back.store(self.current.is_some(), Ordering::Release);
        }
        if self.full.publish() > 0
            && let Some(waker) = &self.waker
        {
            waker.wake();
        }
    }

    /// Hands over what was kept back, if there is room now. Compares clocks.
    pub fn housekeep(&mut self, clock: &Clock) {
        if let Some(to_unix) = clock.to_unix() {
            self.to_unix = to_unix;
        }
        self.publish();
    }
}

impl OutletEnd {
    /// Gives a batch back that has been read.
    pub fn give_back(&mut self, mut batch: Batch) {
        batch.0.clear();
        let pushed = self.empty.push(batch);
        debug_assert!(pushed.is_ok(), "the ring has room for all");
    }

    /// Gives the places of what was read back. A worker that has kept something back meanwhile is asked for it.
    pub fn release(&mut self) {
        self.full.release();
        self.empty.publish();
        // Acquire: paired with the Release in `publish`.
        if self.is_kept_back.load(Ordering::Acquire)
            && let Some(worker) = &self.worker
        {
            worker.wake();
        }
    }

    /// Events that somebody may have wanted and that found no room.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }
}
