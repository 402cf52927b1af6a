//! How long events had waited when the dispatcher has made them visible to the workers.

use crate::metrics::{Histogram, Span, Spans};
use crate::runtime::clock::{Clock, Nanos};

/// Of each burst the first event is timed, which has waited longest: a source's batch arrives at one time, so that the others
/// would mostly say the same, and looking at when each slot arrived would cost what it adds nothing to.
pub(super) struct Waits {
    clock: Clock,
    consumed_to_dispatched: Histogram,
    /// When the burst's first event had arrived.
    first: Option<Nanos>,
}

impl Waits {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, consumed_to_dispatched: Histogram::default(), first: None }
    }

    pub(super) fn spans(&self) -> Spans {
        vec![(Span::ConsumedToDispatched, self.consumed_to_dispatched.clone())]
    }

    #[inline]
    pub(super) fn has_begun(&self) -> bool {
        self.first.is_some()
    }

    /// The burst begins with an event that arrived then.
    pub(super) fn begin(&mut self, arrived: Nanos) {
        self.first = Some(arrived);
    }

    /// The burst is visible.
    pub(super) fn publish(&mut self) {
        if let Some(arrived) = self.first.take() {
            self.consumed_to_dispatched.record(self.clock.now().saturating_sub(arrived), 1);
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
    fn a_burst_is_timed_once_when_it_ends() {
        let time = Arc::new(AtomicU64::new(100));
        let mut waits = Waits::new(Clock::manual(time.clone()));
        waits.publish();
        assert!(!waits.has_begun());
        waits.begin(40);
        assert!(waits.has_begun());
        time.store(140, Ordering::Relaxed);
        waits.publish();
        waits.publish();
        let summary = Latencies::read(&waits.spans()).consumed_to_dispatched.unwrap();
        assert_eq!((summary.count, summary.p50, summary.max), (1, 100, 100));
    }
}
