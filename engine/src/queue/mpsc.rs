//! Bounded multi-producer single-consumer queue with batch claim, after Vyukov's array queue.
//!
//! - **Threads**: any number of producers (each a clone of [`Producer`]), one consumer.
//! - **In**: a producer claims `n` consecutive cells by one compare-and-swap, fills them in place, and each becomes
//!   visible as its sequence is stored. **Out**: the consumer looks at and moves out values in claim order and publishes its
//!   progress once a batch.
//! - **Overload**: a claim that does not fit whole is refused; nothing waits.
//! - **Invariant**: cell `i` carries sequence `i + 1` exactly when its value may be read; claims never pass
//!   `consumer + capacity`.
//!
//! Unlike Vyukov's original the consumer does not write the cells it empties: producers learn about room from
//! the consumer's index, which they cache. The cells' lines thus travel one way only.
//!
//! A producer descheduled between claim and publication holds back everything claimed after it: the consumer sees
//! nothing past the gap, keeps its order, and takes all at once when the producer comes back. Nothing is lost.

use std::mem::MaybeUninit;

use crossbeam_utils::CachePadded;

pub use super::cells::Taken;
use super::cells::{Cells, CellsView, Cursor};
use crate::sync::{Arc, AtomicU64, Ordering, UnsafeCell};

struct Cell<T> {
    /// Claim position plus one once the value is whole. Starts at zero, which no published cell has.
    sequence: AtomicU64,
    value: UnsafeCell<MaybeUninit<T>>,
}

struct Shared<T> {
    cells: Cells<Cell<T>>,
    /// Next cell to be claimed.
    producer: CachePadded<AtomicU64>,
    /// Next cell to be read; written by the consumer only.
    consumer: CachePadded<AtomicU64>,
}

// SAFETY: between claim and publication a cell belongs to the claiming producer alone; between publication and
// the consumer's release to the consumer alone. The Release/Acquire pairs on `sequence` and `consumer` order the two.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: the queue owns its values; `T: Send` lets them move with it.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let start = self.consumer.load(Ordering::Relaxed);
        for position in start..self.producer.load(Ordering::Relaxed) {
            let cell = self.cells.at(position);
            if cell.sequence.load(Ordering::Relaxed) != position + 1 {
                continue; // claimed by a producer that panicked before it wrote
            }
            cell.value.with_mut(|value| {
                // SAFETY: `&mut self` excludes every other access.
                let value = unsafe { &mut *value };
                // SAFETY: the sequence says the value was written, and nobody has taken it.
                unsafe { value.assume_init_drop() };
            });
        }
    }
}

/// Creates a queue of `capacity` values, a power of two.
///
/// # Panics
/// When `capacity` is not a power of two: capacities come from validated configuration.
pub fn queue<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let cell = |_| Cell { sequence: AtomicU64::new(0), value: UnsafeCell::new(MaybeUninit::uninit()) };
    let shared = Arc::new(Shared {
        cells: Cells::new(capacity, cell),
        producer: CachePadded::new(AtomicU64::new(0)),
        consumer: CachePadded::new(AtomicU64::new(0)),
    });
    let producer = Producer { shared: shared.clone(), cached_consumer: 0 };
    (producer, Consumer { shared, next: 0 })
}

/// Reads the queue's depth from a third thread; for gauges and the ledger.
pub struct Depth<T>(Arc<Shared<T>>);

impl<T> Depth<T> {
    /// Claimed and not yet released.
    pub fn len(&self) -> u64 {
        // Consumer first: read the other way round, progress between the two loads could make it negative.
        // Acquire: paired with the Release in `Consumer::release`, so that what was counted of values taken is seen too.
        let consumer = self.0.consumer.load(Ordering::Acquire);
        // Relaxed: a claim publishes nothing that could be seen by this.
        self.0.producer.load(Ordering::Relaxed).saturating_sub(consumer)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn capacity(&self) -> u64 {
        self.0.cells.count()
    }
}

/// A writing end.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    cached_consumer: u64,
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), cached_consumer: self.cached_consumer }
    }
}

impl<T: Send> Producer<T> {
    /// Claims `count` consecutive cells, or none when they do not all fit.
    #[inline]
    pub fn claim(&mut self, count: usize) -> Option<Claim<'_, T>> {
        let count = count as u64;
        let capacity = self.shared.cells.count();
        let mut position = self.shared.producer.load(Ordering::Relaxed);
        loop {
            // The cached consumer may even be ahead of `position` read before: wrapping keeps that "room".
            if position.wrapping_add(count).wrapping_sub(self.cached_consumer) as i64 > capacity as i64 {
                // Acquire: paired with the Release in `Consumer::release`; values were moved out before.
                self.cached_consumer = self.shared.consumer.load(Ordering::Acquire);
                if position.wrapping_add(count).wrapping_sub(self.cached_consumer) as i64 > capacity as i64 {
                    return None;
                }
            }
            // Relaxed: a claim publishes nothing; each cell's own sequence does.
            let swap = self.shared.producer.compare_exchange_weak(
                position,
                position + count,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match swap {
                Ok(_) => break,
                Err(now) => position = now,
            }
        }
        Some(Claim { cells: self.shared.cells.view(), next: position, end: position + count })
    }

    pub fn depth(&self) -> Depth<T> {
        Depth(self.shared.clone())
    }
}

/// Cells claimed and to be filled in order.
///
/// # Panics
/// Dropping a claim that is not full would stall the queue for good: that is a defect of the caller and asserted.
pub struct Claim<'a, T> {
    cells: CellsView<'a, Cell<T>>,
    next: u64,
    end: u64,
}

impl<T: Send> Claim<'_, T> {
    /// Writes and publishes the next cell.
    ///
    /// # Panics
    /// When the claim is full.
    #[inline]
    pub fn write(&mut self, value: T) {
        assert!(self.next < self.end, "wrote past the claim");
        let cell = self.cells.at(self.next);
        cell.value.with_mut(|slot| {
            // SAFETY: the compare-and-swap in `claim` gave this position to this claim alone, and the consumer has
            // released the cell's previous value (Acquire on `consumer` in `claim`).
            let slot = unsafe { &mut *slot };
            slot.write(value);
        });
        self.next += 1;
        // Release: paired with the Acquire in `Consumer::take_each`.
        cell.sequence.store(self.next, Ordering::Release);
    }

    /// Fills the claim: `make` is told the index of each cell in it.
    #[inline]
    pub fn fill_with(mut self, mut make: impl FnMut(usize) -> T) {
        let start = self.next;
        while self.next < self.end {
            let value = make((self.next - start) as usize);
            self.write(value);
        }
    }
}

impl<T> Drop for Claim<'_, T> {
    fn drop(&mut self) {
        debug_assert!(self.next == self.end || std::thread::panicking(), "claim dropped before it was full");
    }
}

/// The reading end.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    next: u64,
}

impl<T: Send> Consumer<T> {
    /// Moves the next value out.
    #[inline]
    pub fn take(&mut self) -> Option<T> {
        let mut value = None;
        self.take_each(1, |taken| value = Some(taken.take()));
        value
    }

    /// Hands out up to `limit` values, as many as are published one behind the other, and returns how many those were.
    #[inline]
    pub fn take_each(&mut self, limit: usize, mut each: impl FnMut(Taken<'_, T>)) -> usize {
        let cells = self.shared.cells.view();
        let start = self.next;
        let end = start + limit as u64;
        let mut cursor = Cursor::new(&mut self.next);
        while cursor.at < end {
            let cell = cells.at(cursor.at);
            // Acquire: paired with the Release in `Claim::write`.
            if cell.sequence.load(Ordering::Acquire) != cursor.at + 1 {
                break;
            }
            cursor.at += 1;
            // SAFETY: the sequence says that the value is whole; the cursor has moved past it, so that this is the only time that it is
            // handed out; no producer claims the cell again before `release`, which needs the consumer borrowed here.
            each(unsafe { Taken::new(&cell.value) });
        }
        (cursor.at - start) as usize
    }

    /// Gives the cells of everything taken so far back to the producers.
    #[inline]
    pub fn release(&mut self) {
        // Release: paired with the Acquire in `Producer::claim`.
        self.shared.consumer.store(self.next, Ordering::Release);
    }

    pub fn depth(&self) -> Depth<T> {
        Depth(self.shared.clone())
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        // Taken values must not be dropped again by the queue. Release: as in `release`, which may not have been called.
        self.shared.consumer.store(self.next, Ordering::Release);
    }
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;

    fn fill(producer: &mut Producer<u64>, values: std::ops::Range<u64>) -> bool {
        let Some(mut claim) = producer.claim((values.end - values.start) as usize) else { return false };
        values.for_each(|value| claim.write(value));
        true
    }

    fn take(consumer: &mut Consumer<u64>, limit: usize) -> Vec<u64> {
        let mut values = Vec::new();
        let count = consumer.take_each(limit, |value| values.push(value.take()));
        assert_eq!(count, values.len());
        values
    }

    #[test]
    fn a_claim_fits_whole_or_not_at_all() {
        let (mut producer, mut consumer) = queue(4);
        assert!(fill(&mut producer, 0..3));
        assert!(!fill(&mut producer, 3..5));
        assert!(fill(&mut producer, 3..4));
        assert_eq!(consumer.take(), Some(0));
        assert_eq!(take(&mut consumer, 2), [1, 2]);
        assert_eq!(take(&mut consumer, 10), [3]);
        assert_eq!(consumer.take(), None);
        assert!(!fill(&mut producer, 4..5), "not released yet");
        consumer.release();
        assert!(fill(&mut producer, 4..8));
        assert_eq!(producer.depth().len(), 4);
    }

    #[test]
    fn a_claim_in_progress_hides_what_follows() {
        let (producer, mut consumer) = queue(8);
        let (mut slow, mut quick) = (producer.clone(), producer);
        let mut claim = slow.claim(2).unwrap();
        claim.write(1);
        quick.claim(1).unwrap().write(3);
        assert_eq!(take(&mut consumer, 8), [1]);
        claim.write(2);
        drop(claim);
        assert_eq!(take(&mut consumer, 8), [2, 3]);
    }

    #[test]
    fn a_reader_that_panics_loses_only_what_it_was_given() {
        let (mut producer, mut consumer) = queue(4);
        assert!(fill(&mut producer, 0..2));
        let panicking = std::panic::AssertUnwindSafe(|| consumer.take_each(4, |_| panic!("on purpose")));
        assert!(std::panic::catch_unwind(panicking).is_err());
        assert_eq!((consumer.take(), consumer.take()), (Some(1), None));
        consumer.release();
        assert!(fill(&mut producer, 2..6));
        assert_eq!(take(&mut consumer, 8), [2, 3, 4, 5]);
    }

    #[test]
    fn dropping_the_queue_drops_each_value_once() {
        let item = Arc::new(());
        let (mut producer, mut consumer) = queue(4);
        let mut claim = producer.claim(3).unwrap();
        (0..3).for_each(|_| claim.write(item.clone()));
        drop(claim);
        drop(consumer.take());
        assert_eq!(consumer.take_each(1, |looked_at| assert!(Arc::ptr_eq(&looked_at, &item))), 1);
        assert_eq!(Arc::strong_count(&item), 2, "what is only looked at is dropped too");
        drop((producer, consumer));
        assert_eq!(Arc::strong_count(&item), 1);
    }
}
