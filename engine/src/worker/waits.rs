//! How long events have waited when a worker begins with them.

use crate::frame::FLAG_TIME;
use crate::memory::{Event, EventSlot, Frames, Run};
use crate::metrics::{Histogram, Span, Spans};
use crate::runtime::clock::{Clock, Nanos};

/// A worker's histograms.
pub(super) struct Waits {
    consumed_to_handler: Histogram,
    rx_to_handler: Histogram,
    send_to_handler: Histogram,
    /// What to add to the engine's clock for the time of day.
    to_unix: i64,
}

impl Waits {
    pub(super) fn new(clock: &Clock) -> Self {
        let mut waits = Self {
            consumed_to_handler: Histogram::default(),
            rx_to_handler: Histogram::default(),
            send_to_handler: Histogram::default(),
            to_unix: 0,
        };
        waits.compare_clocks(clock);
        waits
    }

    pub(super) fn spans(&self) -> Spans {
        vec![
            (Span::ConsumedToHandler, self.consumed_to_handler.clone()),
            (Span::RxToHandler, self.rx_to_handler.clone()),
            (Span::SendToHandler, self.send_to_handler.clone()),
        ]
    }

    /// Called about every millisecond: the time of day may be set.
    pub(super) fn compare_clocks(&mut self, clock: &Clock) {
        self.to_unix = clock.to_unix().unwrap_or(self.to_unix);
    }

    /// The events of a burst that begins with one that carries its time: the first of each slot is recorded. A sender whose
    /// clock is ahead by more than the event was under way says nothing about latency.
    #[cold]
    pub(super) fn sent<'a>(&self, events: impl Iterator<Item = &'a Event>, frames: &Frames, started: Nanos) {
        let now = started.wrapping_add_signed(self.to_unix);
        let mut slot = EventSlot::NONE;
        for event in events.filter(|event| event.shape().has(FLAG_TIME)) {
            if slot.has(event) {
                continue;
            }
            slot = frames.slot(event);
            if let Some(took) = frames.view(event).sent_time_ns().and_then(|sent| now.checked_sub(sent)) {
                self.send_to_handler.record(took, 1);
            }
        }
    }

    /// A run that is over.
    #[inline(always)]
    pub(super) fn ended(&self, run: Run, started: Nanos) {
        let Run { arrived_ns, waited_ns, count } = run;
        let waited_here = started.saturating_sub(arrived_ns);
        self.consumed_to_handler.record(waited_here, count.into());
        if waited_ns > 0 {
            self.stamped(waited_here + u64::from(waited_ns), count);
        }
    }

    #[cold]
    fn stamped(&self, waited_ns: Nanos, count: u32) {
        self.rx_to_handler.record(waited_ns, count.into());
    }
}
