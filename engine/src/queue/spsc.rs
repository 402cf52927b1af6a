//! Single-producer single-consumer ring.
//!
//! - **Threads**: one producer, one consumer; each end is `Send` and not `Clone`.
//! - **In, out**: values moved in by [`Producer::push`] become visible together at [`Producer::publish`]; values
//!   moved out by [`Consumer::take`] give their slots back together at [`Consumer::release`].
//! - **Overload**: `push` on a full ring hands the value back.
//! - **Invariant**: `consumer ≤ producer ≤ consumer + capacity`, both counted without wrapping (2^64 values).
//!
//! Each side keeps the other's index cached and reads the shared one only when the cache says full or empty
//! (Rigtorp's ring): in steady flow the two cache lines move once a batch, not once a value.

use std::mem::MaybeUninit;
use std::ops::Range;

use crossbeam_utils::CachePadded;

pub use super::cells::Taken;
use super::cells::{Cells, CellsView, Cursor};
use crate::sync::{Arc, AtomicU64, Ordering, UnsafeCell};

struct Ring<T> {
    cells: Cells<UnsafeCell<MaybeUninit<T>>>,
    /// Next value to be published; written by the producer only.
    producer: CachePadded<AtomicU64>,
    /// Next value to be taken; written by the consumer only.
    consumer: CachePadded<AtomicU64>,
}

// SAFETY: a cell is touched by the producer only while `consumer + capacity > index ≥ producer` and by the consumer
// only while `consumer ≤ index < producer`; the Release/Acquire pairs on the two indices order the two.
unsafe impl<T: Send> Sync for Ring<T> {}
// SAFETY: the ring owns its values; moving it to another thread moves them, which `T: Send` allows.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // Both ends are gone (each held an `Arc`), so the indices no longer move.
        let end = self.producer.load(Ordering::Relaxed);
        for index in self.consumer.load(Ordering::Relaxed)..end {
            self.cells.at(index).with_mut(|cell| {
                // SAFETY: `&mut self` excludes every other access to the cell.
                let value = unsafe { &mut *cell };
                // SAFETY: cells between consumer and producer hold values nobody has taken.
                unsafe { value.assume_init_drop() };
            });
        }
    }
}

/// Creates a ring of `capacity` values, a power of two.
///
/// # Panics
/// When `capacity` is not a power of two: capacities come from validated configuration.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let ring = Arc::new(Ring {
        cells: Cells::new(capacity, |_| UnsafeCell::new(MaybeUninit::uninit())),
        producer: CachePadded::new(AtomicU64::new(0)),
        consumer: CachePadded::new(AtomicU64::new(0)),
    });
    let producer =
        Producer { ring: ring.clone(), next: 0, published: 0, cached_consumer: 0, capacity: capacity as u64 };
    (producer, Consumer { ring, next: 0, released: 0, cached_producer: 0 })
}

/// Reads the ring's depth from a third thread; for gauges and the ledger.
pub struct Depth<T>(Arc<Ring<T>>);

impl<T> Depth<T> {
    /// Published and not yet released.
    pub fn len(&self) -> u64 {
        // Consumer first: read the other way round, progress between the two loads could make it negative.
        // Acquire on both: paired with `publish` and `release`, so that counters flushed before are seen too.
        let consumer = self.0.consumer.load(Ordering::Acquire);
        self.0.producer.load(Ordering::Acquire).saturating_sub(consumer)
    }

    pub fn capacity(&self) -> u64 {
        self.0.cells.count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The writing end.
pub struct Producer<T> {
    ring: Arc<Ring<T>>,
    next: u64,
    published: u64,
    cached_consumer: u64,
    capacity: u64,
}

impl<T: Send> Producer<T> {
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Moves a value in; it stays invisible until [`publish`](Self::publish). A full ring hands it back.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.is_full() {
            return Err(value);
        }
        self.push_with(|| value, |_| {});
        Ok(())
    }

    /// Moves in what `make` gives, and lets `change` have a last look at it where it lies. False, and neither is called, when the
    /// ring is full.
    ///
    /// A value made elsewhere is copied once, from there to the ring. A field changed before the move would be read back
    /// by the wider loads of the move while it is still in the store buffer, which costs more than the whole rest.
    #[inline]
    pub fn push_with(&mut self, make: impl FnOnce() -> T, change: impl FnOnce(&mut T)) -> bool {
        if self.is_full() {
            return false;
        }
        self.push_below(u64::MAX, make, change)
    }

    /// The same, if fewer than `limit` values are on the ring by the last reading of the consumer. For a producer that
    /// [refreshes](Self::refresh) that once a batch.
    #[inline]
    pub fn push_below(&mut self, limit: u64, make: impl FnOnce() -> T, change: impl FnOnce(&mut T)) -> bool {
        if self.occupied() >= limit || self.occupied() >= self.capacity {
            return false;
        }
        self.ring.cells.at(self.next).with_mut(|cell| {
            // SAFETY: `next < consumer + capacity`, so the consumer has released this cell (Acquire in `refresh`) and
            // will not look at it before `publish`; this is the only producer.
            let slot = unsafe { &mut *cell };
            change(slot.write(make()));
        });
        self.next += 1;
        true
    }

    /// Moves in `count` values, or as many as there is room for, and says how many those were; `make` is told the index of each.
    ///
    /// Room is asked for once, and the cells are written in at most two runs. A single value is not worth finding them.
    #[inline]
    pub fn push_each(&mut self, count: usize, mut make: impl FnMut(usize) -> T) -> usize {
        if count == 1 {
            return usize::from(self.push_with(|| make(0), |_| {}));
        }
        let count = self.room(count);
        let mut cursor = Cursor::new(&mut self.next);
        let start = cursor.at;
        for run in self.ring.cells.runs(start, count) {
            for cell in run {
                let value = make((cursor.at - start) as usize);
                cell.with_mut(|cell| {
                    // SAFETY: below `next + room`, so as in `push_below`.
                    let slot = unsafe { &mut *cell };
                    slot.write(value);
                });
                cursor.at += 1;
            }
        }
        count
    }

    /// How many values there is room for, up to `limit`; reads the shared index only when the cache has less.
    #[inline]
    pub fn room(&mut self, limit: usize) -> usize {
        let mut room = self.capacity - self.occupied();
        if room < limit as u64 {
            room = self.capacity - (self.next - self.refresh());
        }
        room.min(limit as u64) as usize
    }

    #[inline]
    fn is_full(&mut self) -> bool {
        self.occupied() >= self.capacity && self.next - self.refresh() >= self.capacity
    }

    /// Makes everything pushed so far visible, and says how many values that were.
    #[inline]
    pub fn publish(&mut self) -> u64 {
        let count = self.next - self.published;
        if count > 0 {
            self.published = self.next;
            // Release: paired with the Acquire in `Consumer::available`; the values are written before the index.
            self.ring.producer.store(self.next, Ordering::Release);
        }
        count
    }

    /// Count of values ever pushed: the sequence the next one will have.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.next
    }

    /// Up to which sequence the consumer has released, read afresh.
    #[inline]
    pub fn refresh(&mut self) -> u64 {
        // Acquire: paired with the Release in `Consumer::release`; what was taken is out of the cells.
        self.cached_consumer = self.ring.consumer.load(Ordering::Acquire);
        self.cached_consumer
    }

    /// Pushed and not yet released, by the last reading of the consumer.
    #[inline]
    pub fn occupied(&self) -> u64 {
        self.next - self.cached_consumer
    }

    pub fn depth(&self) -> Depth<T> {
        Depth(self.ring.clone())
    }
}

/// The reading end.
pub struct Consumer<T> {
    ring: Arc<Ring<T>>,
    next: u64,
    released: u64,
    cached_producer: u64,
}

impl<T: Send> Consumer<T> {
    /// How many values can be looked at, up to `limit`; reads the shared index only when the cache has fewer.
    #[inline]
    pub fn available(&mut self, limit: usize) -> usize {
        let mut count = self.cached_producer - self.next;
        if count < limit as u64 {
            // Acquire: paired with the Release in `Producer::publish`.
            self.cached_producer = self.ring.producer.load(Ordering::Acquire);
            count = self.cached_producer - self.next;
        }
        count.min(limit as u64) as usize
    }

    /// Shows values that are not yet taken, those of the given indices among them.
    ///
    /// # Panics
    /// When the indices reach beyond what [`available`](Self::available) last returned.
    #[inline]
    pub fn peek(&self, indices: Range<usize>) -> Peek<'_, T> {
        let (start, end) = (self.next + indices.start as u64, self.next + indices.end as u64);
        assert!(end <= self.cached_producer, "peeked past what is available");
        Peek { cells: self.ring.cells.view(), next: start, end }
    }

    /// Moves the next value out.
    #[inline]
    pub fn take(&mut self) -> Option<T> {
        let mut value = None;
        if self.available(1) == 1 {
            self.take_in_place(1, |taken| value = Some(taken.take()));
        }
        value
    }

    /// Moves out the next `count` values, of those that [`available`](Self::available) last returned at most. They are read in at
    /// most two runs of cells; for a few values that does not pay.
    #[inline]
    pub fn take_each(&mut self, count: usize, mut each: impl FnMut(T)) {
        let count = (self.cached_producer - self.next).min(count as u64) as usize;
        let mut cursor = Cursor::new(&mut self.next);
        for run in self.ring.cells.runs(cursor.at, count) {
            for cell in run {
                cursor.at += 1;
                // SAFETY: as in `take_in_place`.
                let value = unsafe { Taken::new(cell) };
                each(value.take());
            }
        }
    }

    /// The same, each value handed out where it lies, and found by its position.
    #[inline]
    pub fn take_in_place(&mut self, count: usize, mut each: impl FnMut(Taken<'_, T>)) {
        let cells = self.ring.cells.view();
        let end = self.cached_producer.min(self.next + count as u64);
        let mut cursor = Cursor::new(&mut self.next);
        while cursor.at < end {
            let cell = cells.at(cursor.at);
            cursor.at += 1;
            // SAFETY: published (before `cached_producer`, read with Acquire in `available`) and not yet taken: the cursor has moved
            // past it, so it is handed out once; the producer leaves it before `release`, which needs the consumer borrowed here.
            each(unsafe { Taken::new(cell) });
        }
    }

    /// Gives the cells of everything taken so far back to the producer.
    #[inline]
    pub fn release(&mut self) {
        if self.released != self.next {
            self.released = self.next;
            // Release: paired with the Acquire in `Producer::refresh`; the values are out before the index moves.
            self.ring.consumer.store(self.next, Ordering::Release);
        }
    }

    pub fn depth(&self) -> Depth<T> {
        Depth(self.ring.clone())
    }
}

/// Values on their way, shown one after the other.
pub struct Peek<'a, T> {
    cells: CellsView<'a, UnsafeCell<MaybeUninit<T>>>,
    next: u64,
    end: u64,
}

impl<'a, T> Iterator for Peek<'a, T> {
    type Item = &'a T;

    #[inline(always)]
    fn next(&mut self) -> Option<&'a T> {
        if self.next >= self.end {
            return None;
        }
        let cell = self.cells.at(self.next);
        self.next += 1;
        Some(cell.with(|cell| {
            // SAFETY: before `end`, hence before the producer (Acquire in `available`), so the value is whole; neither the producer nor
            // the consumer touches the cell before the consumer takes the value, which needs the consumer that is borrowed for `'a`.
            let value = unsafe { &*cell };
            // SAFETY: as above, published cells are initialised.
            unsafe { value.assume_init_ref() }
        }))
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        // Taken values must not be dropped again by the ring. Release: as in `release`, which may not have been called.
        self.ring.consumer.store(self.next, Ordering::Release);
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        // Values pushed but never published would be forgotten otherwise. Release: as in `publish`.
        self.ring.producer.store(self.next, Ordering::Release);
    }
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;

    #[test]
    fn values_appear_at_publish_and_leave_room_at_release() {
        let (mut producer, mut consumer) = ring::<u32>(2);
        producer.push(1).unwrap();
        assert_eq!(consumer.available(8), 0);
        assert_eq!(producer.publish(), 1);
        assert_eq!(producer.publish(), 0);
        producer.push(2).unwrap();
        producer.publish();
        assert_eq!(producer.push(3), Err(3));
        assert_eq!(consumer.available(8), 2);
        assert_eq!(consumer.peek(0..2).collect::<Vec<_>>(), [&1, &2]);
        assert_eq!(consumer.take(), Some(1));
        assert_eq!(producer.push(3), Err(3), "not released yet");
        consumer.release();
        producer.push(3).unwrap();
        assert_eq!(producer.depth().len(), 1, "3 is not published");
    }

    #[test]
    fn a_batch_is_cut_to_the_room_there_is_and_goes_round_the_end() {
        let (mut producer, mut consumer) = ring::<usize>(4);
        assert_eq!(producer.push_each(3, |index| index), 3);
        producer.publish();
        assert_eq!(consumer.available(3), 3);
        consumer.take_each(3, drop);
        assert_eq!(producer.push_each(9, |index| 10 + index), 1, "not released yet");
        consumer.release();
        assert_eq!(producer.push_each(9, |index| 20 + index), 3);
        assert_eq!((producer.push_each(2, |_| 0), producer.push_each(1, |_| 0)), (0, 0));
        producer.publish();
        let mut taken = Vec::new();
        let count = consumer.available(9);
        consumer.take_in_place(count, |value| taken.push(*value));
        assert_eq!(taken, [10, 20, 21, 22]);
    }

    #[test]
    fn dropping_the_ring_drops_each_value_once() {
        let item = Arc::new(());
        let (mut producer, mut consumer) = ring(8);
        for _ in 0..6 {
            producer.push(item.clone()).unwrap();
        }
        producer.publish();
        consumer.available(8);
        drop(consumer.take());
        assert_eq!(Arc::strong_count(&item), 6);
        producer.push(item.clone()).unwrap();
        drop((producer, consumer));
        assert_eq!(Arc::strong_count(&item), 1);
    }
}
