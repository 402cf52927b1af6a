//! Events that wait for another attempt, and those of topics in strict order that wait behind them, copied out of their
//! frames.

use super::backlog::{Backlog, Place};
use crate::dedup::ClaimToken;
use crate::dispatch::{SpillPool, topic_word};
use crate::memory::{Event, Frames};
use crate::runtime::clock::Nanos;

/// How often, and how long apart.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Calls of the handler in all, the first included.
    pub max_attempts: u32,
    pub backoff_initial_ns: Nanos,
    pub backoff_max_ns: Nanos,
}

impl RetryPolicy {
    /// When the attempt after this one is due: the pause doubles with each, up to the maximum.
    pub(super) fn due_ns(&self, attempt: u32, now: Nanos) -> Nanos {
        now.saturating_add(self.backoff_ns(attempt))
    }

    fn backoff_ns(&self, attempt: u32) -> Nanos {
        let factor = 1u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(Nanos::MAX);
        self.backoff_initial_ns.saturating_mul(factor).min(self.backoff_max_ns)
    }
}

/// An event that waits.
pub(super) struct Waiting {
    pub event: Event,
    pub token: Option<ClaimToken>,
    /// Attempts made so far.
    pub attempts: u32,
}

/// Bounded; owned by one worker.
pub struct RetryQueue {
    policy: RetryPolicy,
    waiting: Backlog<Waiting>,
    spill: SpillPool,
}

impl RetryQueue {
    /// `depth` events at most, copied into `spill`.
    pub fn new(policy: RetryPolicy, depth: usize, spill: SpillPool) -> Self {
        Self { policy, waiting: Backlog::new(depth), spill }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// [`Nanos::MAX`] if nothing waits.
    pub fn next_due_ns(&self) -> Nanos {
        self.waiting.next_due_ns()
    }

    /// Whether there is a topic whose later events must wait.
    #[inline]
    pub(super) fn holds_back(&self) -> bool {
        self.waiting.has_keys()
    }

    /// Whether events of this topic must wait.
    pub(super) fn holds_back_topic(&self, topic: u32) -> bool {
        topic_word::strict_key(topic).is_some_and(|key| self.waiting.has_key(key))
    }

    /// Copies an event in that has been tried once. Gives the token back when there is no room; the original event stays the
    /// caller's either way.
    pub(super) fn admit(
        &mut self,
        event: &Event,
        token: Option<ClaimToken>,
        now: Nanos,
        frames: &Frames,
    ) -> Result<(), Option<ClaimToken>> {
        let due_ns = self.policy.due_ns(1, now);
        self.copy_in(event, token, 1, due_ns, frames)
    }

    /// Copies an event in that has not been tried, because an earlier one of its topic waits here. As
    /// [`admit`](Self::admit) otherwise.
    pub(super) fn hold(
        &mut self,
        event: &Event,
        token: Option<ClaimToken>,
        frames: &Frames,
    ) -> Result<(), Option<ClaimToken>> {
        self.copy_in(event, token, 0, Nanos::MAX, frames)
    }

    fn copy_in(
        &mut self,
        event: &Event,
        token: Option<ClaimToken>,
        attempts: u32,
        due_ns: Nanos,
        frames: &Frames,
    ) -> Result<(), Option<ClaimToken>> {
        if self.waiting.is_full() {
            return Err(token);
        }
        let Some(copy) = self.spill.copy(event, frames) else { return Err(token) };
        let waiting = Waiting { event: copy, token, attempts };
        let pushed = self.waiting.push(topic_word::strict_key(event.topic()), waiting, due_ns);
        debug_assert!(pushed.is_ok(), "it is not full");
        Ok(())
    }

    /// Lets an event wait once more.
    pub(super) fn put_back(&mut self, place: Place, waiting: Waiting, now: Nanos) {
        let due_ns = self.policy.due_ns(waiting.attempts, now);
        self.waiting.put_back(place, waiting, due_ns);
    }

    /// Takes the next event that is due.
    #[inline]
    pub(super) fn take_due(&mut self, now: Nanos) -> Option<(Place, Waiting)> {
        self.waiting.take_due(now)
    }

    /// Takes the next event, due or not: for the end of a drain.
    pub(super) fn take_next(&mut self) -> Option<(Place, Waiting)> {
        self.waiting.take_next()
    }

    /// The event that was taken is over; what it held back is due.
    pub(super) fn end(&mut self, place: Place, now: Nanos) {
        self.waiting.end(place, now);
    }

    pub fn housekeeping(&mut self) {
        self.spill.housekeeping();
    }

    pub fn pool(&self) -> &crate::memory::FramePool {
        self.spill.pool()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_maximum_and_stays_there() {
        let (backoff_initial_ns, backoff_max_ns) = (10_000_000, 1_000_000_000);
        let policy = RetryPolicy { max_attempts: 100, backoff_initial_ns, backoff_max_ns };
        let pauses: Vec<_> = (1..=100).map(|attempt| policy.due_ns(attempt, 7) - 7).collect();
        assert_eq!(pauses[..4], [10_000_000, 20_000_000, 40_000_000, 80_000_000]);
        assert!(pauses[7..].iter().all(|pause| *pause == backoff_max_ns), "{pauses:?}");
        assert_eq!(policy.due_ns(1, Nanos::MAX), Nanos::MAX);
    }
}
