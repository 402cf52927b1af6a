//! Events that wait for another attempt, copied out of their frames.

use std::collections::VecDeque;

use crate::dedup::ClaimToken;
use crate::dispatch::SpillPool;
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
    /// Doubles with each attempt, up to the maximum.
    fn backoff_ns(&self, attempt: u32) -> Nanos {
        let factor = 1u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(Nanos::MAX);
        self.backoff_initial_ns.saturating_mul(factor).min(self.backoff_max_ns)
    }
}

/// An event that waits.
pub struct Waiting {
    pub event: Event,
    pub token: Option<ClaimToken>,
    /// Attempts made so far.
    pub attempts: u32,
    due_ns: Nanos,
}

/// Bounded; owned by one worker. Events of equal attempts wait equally long, so one queue per attempt count would be sorted;
/// with few attempts a single scan of the queue's front is as good and simpler.
pub struct RetryQueue {
    policy: RetryPolicy,
    waiting: VecDeque<Waiting>,
    spill: SpillPool,
    next_due_ns: Nanos,
}

impl RetryQueue {
    /// `depth` events at most, copied into `spill`.
    pub fn new(policy: RetryPolicy, depth: usize, spill: SpillPool) -> Self {
        Self { policy, waiting: VecDeque::with_capacity(depth), spill, next_due_ns: Nanos::MAX }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    pub fn next_due_ns(&self) -> Nanos {
        self.next_due_ns
    }

    /// Copies an event in that has been tried once. Gives the token back when there is no room; the original event stays the
    /// caller's either way.
    pub fn admit(
        &mut self,
        event: &Event,
        token: Option<ClaimToken>,
        now: Nanos,
        frames: &Frames,
    ) -> Result<(), Option<ClaimToken>> {
        if self.waiting.len() == self.waiting.capacity() {
            return Err(token);
        }
        let Some(copy) = self.spill.copy(event, frames) else { return Err(token) };
        self.put_back(Waiting { event: copy, token, attempts: 1, due_ns: 0 }, now);
        Ok(())
    }

    /// Lets an event wait once more.
    pub fn put_back(&mut self, mut waiting: Waiting, now: Nanos) {
        waiting.due_ns = now.saturating_add(self.policy.backoff_ns(waiting.attempts));
        self.next_due_ns = self.next_due_ns.min(waiting.due_ns);
        self.waiting.push_back(waiting);
    }

    /// Takes the next event that is due.
    pub fn take_due(&mut self, now: Nanos) -> Option<Waiting> {
        if now < self.next_due_ns {
            return None;
        }
        let index = self.waiting.iter().position(|waiting| waiting.due_ns <= now);
        let taken = index.and_then(|index| self.waiting.remove(index));
        if taken.is_none() {
            self.next_due_ns = self.waiting.iter().map(|waiting| waiting.due_ns).min().unwrap_or(Nanos::MAX);
        }
        taken
    }

    /// Takes whatever is there, due or not: for the end of a drain.
    pub fn take_any(&mut self) -> Option<Waiting> {
        self.waiting.pop_front()
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
        let pauses: Vec<_> = (1..=100).map(|attempt| policy.backoff_ns(attempt)).collect();
        assert_eq!(pauses[..4], [10_000_000, 20_000_000, 40_000_000, 80_000_000]);
        assert!(pauses[7..].iter().all(|pause| *pause == backoff_max_ns), "{pauses:?}");
    }
}
