//! When datagrams are due: an open-loop schedule, or as fast as they go.
//!
//! Runs on the sending thread. A paced schedule is fixed at its start: datagram `i` is due at `i` intervals, however long
//! the ones before took. A sender that was held up catches up and never silently sends less; what it could not catch up
//! with before the end is reported as [`Schedule::behind`]. Latencies counted from [`Batch::time_ns`], the intended time,
//! therefore contain every wait in the sender too.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::stop;

/// Closer than this the sender spins: sleeping overshoots by tens of microseconds, and by more on a busy machine.
const SPIN: Duration = Duration::from_micros(100);
/// The longest sleep, so that a signal is noticed.
const SLEEP_MAX: Duration = Duration::from_millis(20);
/// How long after its end a paced run may still catch up: one late wake-up must not cost it its last datagrams.
const CATCH_UP: Duration = Duration::from_millis(100);
/// Datagrams a second below which the schedule's arithmetic is exact for hours.
pub const RATE_MAX: f64 = 1e9;

/// How fast to send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    Max,
    DatagramsPerS(f64),
    /// At each tick what has become due since the last one. Sleeps in between, and leaves the core to others.
    InTicks {
        datagrams_per_s: f64,
        tick: Duration,
    },
}

/// Datagrams to send now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch {
    /// At least 1.
    pub count: usize,
    first_ns: f64,
    interval_ns: f64,
    start_unix_ns: u64,
}

impl Batch {
    /// When the batch's datagram `index` was to be sent, in nanoseconds since the UNIX epoch. Unpaced: now.
    #[inline]
    pub fn time_ns(&self, index: usize) -> u64 {
        self.start_unix_ns + (self.first_ns + index as f64 * self.interval_ns) as u64
    }
}

/// Hands out batches until time, count or a signal ends the run.
#[derive(Debug)]
pub struct Schedule {
    started: Instant,
    start_unix_ns: u64,
    end: Duration,
    /// Zero: unpaced.
    interval_ns: f64,
    /// Datagrams become due at multiples of this.
    tick: Option<Duration>,
    limit: u64,
    issued: u64,
    /// How long the run took, once it is over.
    took: Option<Duration>,
    /// When to next say how far the run is; `None` for never.
    next_progress: Option<Duration>,
}

impl Schedule {
    /// Starts the clock. `limit` is a number of datagrams, `u64::MAX` for none.
    pub fn start(rate: Rate, seconds: f64, limit: u64, shows_progress: bool) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let end = Duration::from_secs_f64(seconds);
        let paced = |rate: f64| (1e9 / rate, end + CATCH_UP, limit.min((seconds * rate).ceil() as u64));
        let ((interval_ns, end, limit), tick) = match rate {
            Rate::Max => ((0.0, end, limit), None),
            Rate::DatagramsPerS(rate) => (paced(rate), None),
            Rate::InTicks { datagrams_per_s, tick } => (paced(datagrams_per_s), Some(tick)),
        };
        Self {
            started: Instant::now(),
            start_unix_ns: since_epoch.as_nanos() as u64,
            end,
            interval_ns,
            tick,
            limit,
            issued: 0,
            took: None,
            next_progress: shows_progress.then_some(Duration::from_secs(1)),
        }
    }

    /// Waits until at least one datagram is due and hands out at most `most`; `None` when the run is over.
    #[inline]
    pub fn next(&mut self, most: usize) -> Option<Batch> {
        loop {
            if self.issued >= self.limit || stop::is_requested() {
                return None;
            }
            let elapsed = self.started.elapsed();
            if elapsed >= self.end {
                return None;
            }
            self.show_progress(elapsed);
            let due = self.due(elapsed) - self.issued;
            if due > 0 {
                let count = due.min(most as u64).max(1);
                return Some(self.issue(elapsed, count));
            }
            self.wait(elapsed);
        }
    }

    /// Time since the start; after [`Schedule::stop`], until then.
    pub fn elapsed(&self) -> Duration {
        self.took.unwrap_or_else(|| self.started.elapsed())
    }

    /// Stops the clock: what comes after is clearing up and no part of the rates.
    pub fn stop(&mut self) {
        self.took = Some(self.elapsed());
    }

    /// What is left of the run's time.
    pub fn remaining(&self) -> Duration {
        self.end.saturating_sub(self.started.elapsed())
    }

    /// Whether time, count or a signal has ended the run.
    pub fn is_over(&self) -> bool {
        self.issued >= self.limit || stop::is_requested() || self.started.elapsed() >= self.end
    }

    /// Datagrams that were due and never handed out, because the sender could not keep up with the rate.
    pub fn behind(&self) -> u64 {
        if self.interval_ns == 0.0 {
            return 0;
        }
        self.due(self.elapsed()).saturating_sub(self.issued)
    }

    /// How many datagrams are due after this time, the ones handed out included.
    #[inline]
    fn due(&self, elapsed: Duration) -> u64 {
        if self.interval_ns == 0.0 {
            return self.limit;
        }
        let elapsed_ns = elapsed.as_nanos() as u64;
        let at_ns = self.tick.map_or(elapsed_ns, |tick| elapsed_ns - elapsed_ns % tick.as_nanos() as u64);
        // The first is due at once, hence one more than whole intervals.
        let due = (at_ns as f64 / self.interval_ns) as u64 + 1;
        due.min(self.limit)
    }

    #[inline]
    fn issue(&mut self, elapsed: Duration, count: u64) -> Batch {
        let first_ns =
            if self.interval_ns == 0.0 { elapsed.as_nanos() as f64 } else { self.issued as f64 * self.interval_ns };
        self.issued += count;
        Batch { count: count as usize, first_ns, interval_ns: self.interval_ns, start_unix_ns: self.start_unix_ns }
    }

    fn wait(&self, elapsed: Duration) {
        let next_ns = (self.issued as f64 * self.interval_ns) as u64;
        let until = |at_ns| Duration::from_nanos(at_ns).min(self.end).saturating_sub(elapsed);
        let until_next = until(next_ns);
        if let Some(tick) = self.tick {
            let tick_ns = tick.as_nanos() as u64;
            std::thread::sleep(until(next_ns.next_multiple_of(tick_ns)).min(SLEEP_MAX));
        } else if until_next > SPIN {
            std::thread::sleep((until_next - SPIN).min(SLEEP_MAX));
        } else {
            std::hint::spin_loop();
        }
    }

    #[inline]
    fn show_progress(&mut self, elapsed: Duration) {
        if self.next_progress.is_some_and(|at| elapsed >= at) {
            self.print_progress(elapsed);
        }
    }

    #[cold]
    fn print_progress(&mut self, elapsed: Duration) {
        let rate = self.issued as f64 / elapsed.as_secs_f64();
        eprintln!("{:.0} s: {} datagrams, {rate:.0} a second", elapsed.as_secs_f64(), self.issued);
        self.next_progress = Some(Duration::from_secs(elapsed.as_secs() + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paced_run_hands_out_what_the_rate_says_and_no_more() {
        let mut schedule = Schedule::start(Rate::DatagramsPerS(50_000.0), 0.1, u64::MAX, false);
        let (mut total, mut last) = (0, 0);
        while let Some(batch) = schedule.next(64) {
            assert!((1..=64).contains(&batch.count));
            assert!(batch.time_ns(0) > last, "intended times only grow");
            last = batch.time_ns(batch.count - 1);
            total += batch.count as u64;
        }
        assert_eq!((total, schedule.behind()), (5_000, 0));
    }

    #[test]
    fn in_ticks_comes_what_has_become_due_since_the_last_one() {
        let tick = Duration::from_millis(10);
        let rate = Rate::InTicks { datagrams_per_s: 1_000.0, tick };
        let mut schedule = Schedule::start(rate, 0.1, u64::MAX, false);
        let (mut total, mut batches) = (0, 0);
        while let Some(batch) = schedule.next(1_000) {
            let due = schedule.elapsed();
            assert!(total + batch.count as u64 <= due.as_millis() as u64 + 1, "nothing before its time");
            total += batch.count as u64;
            batches += 1;
        }
        assert_eq!((total, schedule.behind()), (100, 0));
        assert!(batches <= 11, "{batches} batches in ten ticks and the end");
    }

    #[test]
    fn a_late_sender_is_told_all_that_was_due() {
        let mut schedule = Schedule::start(Rate::DatagramsPerS(10_000.0), 10.0, 100, false);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(schedule.next(1_000).unwrap().count, 100, "200 were due, the limit is 100");
        assert_eq!(schedule.next(1_000), None);
        assert!(schedule.is_over());
    }

    #[test]
    fn an_unpaced_run_is_bounded_by_count_and_time() {
        let mut schedule = Schedule::start(Rate::Max, 10.0, 100, false);
        assert_eq!(schedule.next(64).unwrap().count, 64);
        assert_eq!(schedule.next(64).unwrap().count, 36);
        assert_eq!((schedule.next(64), schedule.behind()), (None, 0));
        let mut schedule = Schedule::start(Rate::Max, 0.02, u64::MAX, false);
        while schedule.next(64).is_some() {}
        assert!(schedule.elapsed() >= Duration::from_millis(20));
    }
}
