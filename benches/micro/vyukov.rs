//! The alternative to the engine's queue of lanes: one ring that all producers share, after Vyukov's bounded queue, with
//! batch claims.
//!
//! A producer claims `n` consecutive cells by one compare-and-swap and fills them in place; each becomes visible as its
//! sequence is stored. Unlike in the original the consumer does not write the cells it empties: producers learn about room
//! from the consumer's index, which they cache.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

struct Cell<T> {
    /// Claim position plus one once the value is whole. Starts at zero, which no published cell has.
    sequence: AtomicU64,
    value: UnsafeCell<MaybeUninit<T>>,
}

struct Shared<T> {
    cells: Box<[Cell<T>]>,
    /// Next cell to be claimed.
    producer: CachePadded<AtomicU64>,
    /// Next cell to be read; written by the consumer only.
    consumer: CachePadded<AtomicU64>,
}

// SAFETY: between claim and publication a cell belongs to the claiming producer alone; between publication and the
// consumer's release to the consumer alone. The Release/Acquire pairs on `sequence` and `consumer` order the two.
unsafe impl<T: Copy + Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    #[inline(always)]
    fn cell(&self, position: u64) -> &Cell<T> {
        let index = position as usize & (self.cells.len() - 1);
        // SAFETY: the length is a power of two (asserted in `queue`), so that the mask leaves an index below it.
        unsafe { self.cells.get_unchecked(index) }
    }
}

/// A queue of `capacity` values, a power of two. They are `Copy`: nothing is dropped.
pub fn queue<T: Copy + Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity.is_power_of_two(), "a queue of {capacity} cells, which is not a power of two");
    let cell = |_| Cell { sequence: AtomicU64::new(0), value: UnsafeCell::new(MaybeUninit::uninit()) };
    let shared = Arc::new(Shared {
        cells: (0..capacity).map(cell).collect(),
        producer: CachePadded::new(AtomicU64::new(0)),
        consumer: CachePadded::new(AtomicU64::new(0)),
    });
    (Producer { shared: shared.clone(), cached_consumer: 0 }, Consumer { shared, next: 0 })
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

impl<T: Copy + Send> Producer<T> {
    /// Claims `count` consecutive cells and fills them, or none when they do not all fit.
    #[inline]
    pub fn send(&mut self, count: u64, mut make: impl FnMut(u64) -> T) -> bool {
        let Some(start) = self.claim(count) else { return false };
        for index in 0..count {
            let cell = self.shared.cell(start + index);
            // SAFETY: the compare-and-swap in `claim` gave this position to this producer alone, and the consumer has
            // released the cell's previous value (Acquire on `consumer` there).
            let slot = unsafe { &mut *cell.value.get() };
            slot.write(make(index));
            // Release: paired with the Acquire in `take_each`.
            cell.sequence.store(start + index + 1, Ordering::Release);
        }
        true
    }

    #[inline]
    fn claim(&mut self, count: u64) -> Option<u64> {
        let capacity = self.shared.cells.len() as i64;
        let mut position = self.shared.producer.load(Ordering::Relaxed);
        loop {
            // The cached consumer may even be ahead of `position` read before: wrapping keeps that "room".
            if position.wrapping_add(count).wrapping_sub(self.cached_consumer) as i64 > capacity {
                // Acquire: paired with the Release in `Consumer::release`; values were copied out before.
                self.cached_consumer = self.shared.consumer.load(Ordering::Acquire);
                if position.wrapping_add(count).wrapping_sub(self.cached_consumer) as i64 > capacity {
                    return None;
                }
            }
            // Relaxed: a claim publishes nothing; each cell's own sequence does.
            let claimed = (Ordering::Relaxed, Ordering::Relaxed);
            match self.shared.producer.compare_exchange_weak(position, position + count, claimed.0, claimed.1) {
                Ok(_) => return Some(position),
                Err(now) => position = now,
            }
        }
    }
}

/// The reading end.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    next: u64,
}

impl<T: Copy + Send> Consumer<T> {
    /// Shows up to `limit` values, as many as are published one behind the other, takes them out, and returns how many those were.
    #[inline]
    pub fn take_each(&mut self, limit: u64, mut each: impl FnMut(&T)) -> u64 {
        let start = self.next;
        while self.next < start + limit {
            let cell = self.shared.cell(self.next);
            // Acquire: paired with the Release in `send`.
            if cell.sequence.load(Ordering::Acquire) != self.next + 1 {
                break;
            }
            self.next += 1;
            // SAFETY: no producer claims the cell again before `release`.
            let value = unsafe { &*cell.value.get() };
            // SAFETY: the sequence says that the value is whole.
            each(unsafe { value.assume_init_ref() });
        }
        self.next - start
    }

    /// Gives the cells of everything taken so far back to the producers.
    #[inline]
    pub fn release(&mut self) {
        // Release: paired with the Acquire in `claim`.
        self.shared.consumer.store(self.next, Ordering::Release);
    }
}
