//! How many events a worker takes at a time: few where its handler is slow.
//!
//! Who shares the core with a slow handler is stepped in between: an rx ring that nobody looks at for long overflows, and
//! what the kernel drops nobody chooses.

use super::burst::BURST;
use crate::runtime::clock::Nanos;

/// What a burst is to take at most, and after what time a duty cycle begins no other.
const BURST_NS: Nanos = 50_000;
pub const CYCLE_NS: Nanos = 2 * BURST_NS;

/// Of one worker.
#[derive(Debug)]
pub struct Pace {
    burst: usize,
    /// When the cycle's first burst began.
    began: Option<Nanos>,
}

impl Pace {
    pub const fn new() -> Self {
        Self { burst: BURST, began: None }
    }

    /// Events that the next burst may have: as many as there is room for, or fewer.
    #[inline]
    pub const fn burst(&self) -> usize {
        self.burst
    }

    /// Whether a burst may begin now, in this cycle.
    #[inline]
    pub fn begins(&mut self, now: Nanos) -> bool {
        now.saturating_sub(*self.began.get_or_insert(now)) <= CYCLE_NS
    }

    /// The cycle ends with so many events taken; the time is asked for if there were any.
    #[inline]
    pub fn end(&mut self, taken: usize, now: impl FnOnce() -> Nanos) {
        if let Some(began) = self.began.take() {
            let event_ns = now().saturating_sub(began) / taken.max(1) as u64;
            self.burst = (BURST_NS / event_ns.max(1)).clamp(1, BURST as u64) as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_shrink_with_what_an_event_takes_and_grow_again() {
        let mut pace = Pace::new();
        for (event_ns, burst) in [(100, BURST), (10_000, 5), (60_000_000, 1), (20_000, 2), (0, BURST)] {
            assert!(pace.begins(1_000));
            pace.end(10, || 1_000 + 10 * event_ns);
            assert_eq!(pace.burst(), burst, "{event_ns} ns");
        }
        pace.end(0, || unreachable!("nothing began"));
        assert_eq!(pace.burst(), BURST);
    }

    #[test]
    fn a_cycle_begins_no_burst_once_its_time_is_over() {
        let mut pace = Pace::new();
        assert!([0, 1, CYCLE_NS].into_iter().all(|now| pace.begins(now)));
        assert!(!pace.begins(CYCLE_NS + 1));
        pace.end(1, || CYCLE_NS + 1);
        assert!(pace.begins(CYCLE_NS + 1), "the next cycle");
    }
}
