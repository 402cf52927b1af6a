//! Counting without sharing: each agent adds to its own block of plain integers and publishes them now and then.
//!
//! [`Counters::add`] touches memory of one thread only. [`Counters::flush`], called between duty cycles, stores what
//! changed into atomics that the control thread reads; no cache line is written by two threads.

mod counter;
mod histogram;
mod latency;
mod ledger;
mod report;

pub use counter::{Counter, DeadLetterReason, LostReason, MalformedReason};
pub use histogram::{Histogram, LatencySummary};
pub use latency::{Latencies, Rx, Span, Spans};
pub use ledger::{Acks, ByReason, Datagrams, DeadLetters, Ledger, Processed, Totals};
pub use report::{
    DedupLevels, FrameLevels, MemoryReport, NapiReport, PoolLevels, QueueReport, Rates, Report, RunnerReport,
};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

/// The published side of an agent's counters.
pub struct CounterBlock(CachePadded<[AtomicU64; Counter::COUNT]>);

impl CounterBlock {
    pub fn get(&self, counter: Counter) -> u64 {
        // Acquire: paired with the Release in `flush`; whoever sees a count sees what was counted before it.
        self.0[counter.index()].load(Ordering::Acquire)
    }
}

/// The counting side: owned by one agent.
pub struct Counters {
    local: Box<[u64; Counter::COUNT]>,
    /// One bit for each counter that may have changed since the last flush: there are many, and most never move.
    changed: [u64; Counter::COUNT.div_ceil(64)],
    block: Arc<CounterBlock>,
}

impl Default for Counters {
    fn default() -> Self {
        let block = CounterBlock(CachePadded::new(std::array::from_fn(|_| AtomicU64::new(0))));
        Self { local: Box::new([0; _]), changed: [0; _], block: Arc::new(block) }
    }
}

impl Counters {
    pub fn block(&self) -> Arc<CounterBlock> {
        self.block.clone()
    }

    #[inline]
    pub fn add(&mut self, counter: Counter, count: u64) {
        let index = counter.index();
        self.local[index] += count;
        self.changed[index / 64] |= 1 << (index % 64);
    }

    /// For counters the kernel keeps: the total, not an increment.
    #[inline]
    pub fn set(&mut self, counter: Counter, total: u64) {
        let index = counter.index();
        self.local[index] = total;
        self.changed[index / 64] |= 1 << (index % 64);
    }

    #[inline]
    pub fn get(&self, counter: Counter) -> u64 {
        self.local[counter.index()]
    }

    /// Publishes what changed since the last call.
    pub fn flush(&mut self) {
        for (word, changed) in self.changed.iter_mut().enumerate() {
            let mut left = std::mem::take(changed);
            while left != 0 {
                let index = word * 64 + left.trailing_zeros() as usize;
                left &= left - 1;
                // Release: paired with the Acquire in `CounterBlock::get`.
                self.block.0[index].store(self.local[index], Ordering::Release);
            }
        }
    }
}
