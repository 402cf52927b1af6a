//! Deleting the oldest segments: when there is too much, and when they are too old by a clock that one step does not mislead.
//!
//! The wall clock may be wrong at start, and be set at any time by any amount. What is deleted stays deleted, so the age of
//! segments is told by a time of its own: it goes with the monotonic clock, never back, and comes closer to a wall clock that is
//! ahead of it at a bounded rate. At start it is no later than the last record: how long the engine was down is known only by the
//! wall clock. A wrong year thus deletes nothing for days, and after an outage deletion is late by a part of that outage.

use std::sync::Arc;

use super::super::error::StorageError;
use super::view::Segment;
use super::writer::EventLog;
use crate::runtime::clock::Nanos;

/// So much faster than time passes may it come closer to the wall clock: a day's outage is made up for in three hours.
const CATCH_UP: u64 = 8;

/// Nanoseconds since the UNIX epoch.
#[derive(Clone, Copy, Debug)]
pub struct AgeClock {
    time_ns: u64,
    last: Nanos,
}

impl AgeClock {
    /// `last_record_ns`: the latest time in the log; `None` when it is empty.
    pub fn new(wall_ns: u64, last_record_ns: Option<u64>, now: Nanos) -> Self {
        Self { time_ns: last_record_ns.map_or(wall_ns, |last| last.min(wall_ns)), last: now }
    }

    /// Moves on, and tells the time.
    pub fn advance(&mut self, wall_ns: u64, now: Nanos) -> u64 {
        let elapsed = now.saturating_sub(self.last);
        self.last = self.last.max(now);
        let furthest = self.time_ns.saturating_add(elapsed.saturating_mul(CATCH_UP));
        self.time_ns = wall_ns.clamp(self.time_ns, furthest);
        self.time_ns
    }
}

impl EventLog {
    /// Deletes the oldest segments while all together are larger than `retention_bytes`, and those whose last record is older
    /// than `retention_age` at `time_ns`, which is to come from an [`AgeClock`]. The one that is written stays, and when all
    /// others go, the last keeps the place. Calls `removed` with each before it goes.
    pub fn retain(&mut self, time_ns: u64, now: Nanos, removed: impl FnMut(&Segment)) -> Result<(), StorageError> {
        let age = self.options.retention_age.map(|age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
        let too_old = |last_time_ns: u64| age.is_some_and(|age| last_time_ns.saturating_add(age) < time_ns);
        // A segment that is too old may still be written, where little comes in.
        let idle = |index: &super::index::Index| index.records > 0 && too_old(index.last_time_ns);
        if self.active.as_ref().is_some_and(|active| idle(&active.index)) {
            self.write(now)?;
            self.roll_or_give_up(now)?;
        }
        let retention_bytes = self.options.retention_bytes;
        let mut bytes: u64 = self.view.segments().iter().map(|segment| segment.end()).sum();
        let mut latest_ns = 0;
        let goes = |segment: &Segment| {
            // No segment is older than those before it, whatever the clock was when it was written.
            latest_ns = segment.index().map_or(0, |index| index.last_time_ns).max(latest_ns);
            let goes = bytes > retention_bytes || too_old(latest_ns);
            bytes -= segment.end();
            goes
        };
        self.remove_oldest(goes, removed)?;
        self.files.reserve()
    }

    /// Deletes the oldest segments as long as `goes` says so; not the last, and none that is written. Calls `removed` with each
    /// before it goes.
    pub fn remove_oldest(
        &mut self,
        mut goes: impl FnMut(&Segment) -> bool,
        mut removed: impl FnMut(&Segment),
    ) -> Result<(), StorageError> {
        let mut kept = self.view.segments().to_vec();
        let closed = kept.iter().take(kept.len().saturating_sub(1)).take_while(|segment| segment.index().is_some());
        let count = closed.take_while(|segment| goes(segment)).count();
        if count > 0 {
            let going: Vec<Arc<Segment>> = kept.drain(..count).collect();
            self.view.replace_segments(kept);
            going.iter().for_each(|segment| removed(segment));
            self.counts.segments_removed += count as u64;
            self.doomed.extend(going.iter().map(|segment| segment.header.name));
        }
        self.remove_doomed()
    }

    /// In order: one that comes back after a power cut must not come back without those behind it. What cannot be removed is
    /// tried again the next time, or comes back with the next start.
    fn remove_doomed(&mut self) -> Result<(), StorageError> {
        while let Some(name) = self.doomed.front() {
            self.files.remove(name)?;
            self.files.sync_directory()?;
            self.doomed.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000_000;
    const YEAR: u64 = 365 * 24 * HOUR;

    #[test]
    fn it_goes_with_a_clock_that_is_right() {
        let mut clock = AgeClock::new(100 * HOUR, Some(100 * HOUR), 0);
        assert_eq!((1..5).map(|hour| clock.advance((100 + hour) * HOUR, hour * HOUR)).last(), Some(104 * HOUR));
    }

    #[test]
    fn one_step_of_the_clock_moves_it_little() {
        let mut clock = AgeClock::new(50 * YEAR, Some(50 * YEAR), 0);
        assert!(clock.advance(60 * YEAR, HOUR) <= 50 * YEAR + CATCH_UP * HOUR);
        // Set right again: it waits, and never goes back.
        let reached = clock.advance(50 * YEAR + 2 * HOUR, 2 * HOUR);
        assert!((50 * YEAR + 2 * HOUR..50 * YEAR + 9 * HOUR).contains(&reached));
        assert_eq!(clock.advance(0, 3 * HOUR), reached);
        assert_eq!(clock.advance(51 * YEAR, 3 * HOUR), reached);
    }

    #[test]
    fn a_wrong_clock_at_start_is_believed_slowly_and_an_outage_is_made_up_for() {
        let mut clock = AgeClock::new(60 * YEAR, Some(50 * YEAR), 7 * HOUR);
        assert_eq!(clock.advance(60 * YEAR, 8 * HOUR), 50 * YEAR + CATCH_UP * HOUR);
        let mut clock = AgeClock::new(24 * HOUR, Some(0), 0);
        assert_eq!((1..6).map(|hour| clock.advance((24 + hour) * HOUR, hour * HOUR)).last(), Some(29 * HOUR));
        // A clock that is behind the log says nothing about age.
        assert_eq!(AgeClock::new(0, Some(HOUR), 0).advance(0, HOUR), 0);
    }
}
