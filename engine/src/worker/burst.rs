//! What a worker finds out about the events of one burst, pass by pass: claims and verdicts.

use super::acks::First;
use crate::dedup::ClaimToken;
use crate::metrics::DeadLetterReason;

/// Events handled in one go: their frames stay in L1 between the passes over them.
pub(super) const BURST: usize = 256;

/// What is to become of an event of the burst.
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    Done,
    Duplicate,
    Dead(DeadLetterReason),
    Retry,
    /// Not handled yet: an earlier event of its topic waits for a retry.
    Held,
    /// Not handled yet: it goes into its topic's window.
    Gathered,
}

/// What was found out about the events of a burst, one after the other.
pub(super) struct Burst {
    pub(super) verdicts: Vec<Verdict>,
    /// The claims that were won, and the event of each; not in the order of the events.
    pub(super) tokens: Vec<(u32, ClaimToken)>,
    pub(super) duplicates: u64,
    /// Some event of it may ask for an acknowledgement.
    pub(super) may_ask: bool,
    /// If so, the event of each duplicate, and what its first copy has come to; not in the order of the events.
    pub(super) firsts: Vec<(u32, First)>,
    /// If so, events whose first copy is in the dead letter queue: one that is replayed is that copy.
    pub(super) dead_lettered: Vec<u32>,
    /// Some verdict is neither done nor duplicate.
    pub(super) has_failures: bool,
}

impl Burst {
    pub(super) fn new() -> Self {
        Self {
            verdicts: Vec::with_capacity(BURST),
            tokens: Vec::with_capacity(BURST),
            duplicates: 0,
            may_ask: false,
            firsts: Vec::with_capacity(BURST),
            dead_lettered: Vec::with_capacity(BURST),
            has_failures: false,
        }
    }

    pub(super) fn begin(&mut self, count: usize, may_ask: bool) {
        self.verdicts.clear();
        self.verdicts.resize(count, Verdict::Done);
        self.duplicates = 0;
        self.may_ask = may_ask;
        self.has_failures = false;
    }

    /// Of one that was taken for a duplicate: it is the copy that counts.
    pub(super) fn is_first(&mut self, index: u32, token: ClaimToken) {
        self.verdicts[index as usize] = Verdict::Done;
        self.duplicates -= 1;
        self.is_duplicate_of(index, None);
        self.tokens.push((index, token));
    }

    pub(super) fn is_duplicate_of(&mut self, index: u32, first: Option<First>) {
        self.firsts.retain(|(of, _)| *of != index);
        self.firsts.extend(first.map(|first| (index, first)));
    }

    /// Index of the last event that goes to the handler, or one beyond all.
    pub(super) fn last_to_handle(&self) -> usize {
        let last = self.verdicts.iter().rposition(|verdict| matches!(verdict, Verdict::Done));
        last.unwrap_or(self.verdicts.len())
    }

    pub(super) fn fail(&mut self, index: usize, verdict: Verdict) {
        self.verdicts[index] = verdict;
        self.has_failures = true;
    }
}
