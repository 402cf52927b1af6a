//! How long events had waited when the dispatcher has made them visible to the workers.

use crate::metrics::{Histogram, Span, Spans};
use crate::runtime::clock::{Clock, Nanos};

/// Different arrivals remembered until the end of a burst. A source's batch arrives at one time, so that a burst mostly has a few.
const ARRIVALS: usize = 64;

/// The slots of the burst at hand, by when they arrived.
pub(super) struct Waits {
    clock: Clock,
    consumed_to_dispatched: Histogram,
    /// When, and how many one behind the other.
    arrivals: Vec<(Nanos, u64)>,
}

impl Waits {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, consumed_to_dispatched: Histogram::default(), arrivals: Vec::with_capacity(ARRIVALS) }
    }

    pub(super) fn spans(&self) -> Spans {
        vec![(Span::ConsumedToDispatched, self.consumed_to_dispatched.clone())]
    }

    /// The burst goes on with a slot that arrived then.
    #[inline]
    pub(super) fn taken(&mut self, arrived: Nanos) {
        match self.arrivals.last_mut() {
            Some((last, count)) if *last == arrived => *count += 1,
            _ => self.next(arrived),
        }
    }

    #[inline(never)]
    fn next(&mut self, arrived: Nanos) {
        if self.arrivals.len() == ARRIVALS {
            self.publish(); // a little early for these; the list does not grow
        }
        self.arrivals.push((arrived, 1));
    }

    /// The burst is visible: one look at the clock for all of it.
    pub(super) fn publish(&mut self) {
        if self.arrivals.is_empty() {
            return;
        }
        let now = self.clock.now();
        for (arrived, count) in self.arrivals.drain(..) {
            self.consumed_to_dispatched.record(now.saturating_sub(arrived), count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Latencies;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn slots_wait_until_the_burst_ends_and_none_is_forgotten() {
        let time = Arc::new(AtomicU64::new(100));
        let mut waits = Waits::new(Clock::manual(time.clone()));
        waits.publish();
        (0..3).for_each(|_| waits.taken(40));
        waits.taken(90);
        time.store(140, Ordering::Relaxed);
        waits.publish();
        waits.publish();
        let summary = Latencies::read(&waits.spans()).consumed_to_dispatched.unwrap();
        assert_eq!((summary.count, summary.p50, summary.max), (4, 100, 100));
        let capacity = waits.arrivals.capacity();
        (0..1000).for_each(|arrived| waits.taken(arrived));
        waits.publish();
        let summary = Latencies::read(&waits.spans()).consumed_to_dispatched.unwrap();
        assert_eq!((summary.count, waits.arrivals.capacity()), (1004, capacity));
    }
}
