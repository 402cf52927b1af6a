//! What a worker tells those who asked, and the duplicates for which it is too early to tell anything.
//!
//! A duplicate waits as long as its first copy is under way, perhaps at another worker. There is room for all that may
//! ever ask at once, so none goes without an answer.

use std::collections::VecDeque;

use crate::acks::{AckSender, Asked, Told};
use crate::dedup::{Claim, DedupTable, PendingClaim, Settled};
use crate::memory::{Event, Frames};
use crate::runtime::clock::Nanos;

/// Waiting duplicates looked at in one duty cycle.
const LOOKS: usize = 64;
/// How soon to look again: nobody wakes a worker when another settles a claim.
const RETRY_NS: Nanos = 1_000_000;

/// What the first copy of a duplicate has come to.
#[derive(Clone, Copy)]
pub(super) enum First {
    Processed,
    DeadLettered,
    UnderWay(PendingClaim),
}

impl First {
    /// Of a claim that was lost; a won one has no other copy.
    pub(super) fn of(claim: &Claim) -> Option<Self> {
        match claim {
            Claim::Won(_) => None,
            Claim::Pending(claim) => Some(Self::UnderWay(*claim)),
            Claim::Done => Some(Self::Processed),
            Claim::DeadLettered => Some(Self::DeadLettered),
        }
    }

    /// `None` as long as it is under way.
    fn told(self, table: &DedupTable, done: Told) -> Option<Told> {
        match self {
            Self::Processed => Some(done.of_duplicate()),
            Self::DeadLettered => Some(Told::FIRST_DEAD_LETTERED),
            Self::UnderWay(claim) => table.settled(claim).map(|settled| match settled {
                Settled::Done => done.of_duplicate(),
                Settled::DeadLettered => Told::FIRST_DEAD_LETTERED,
                Settled::Released => Told::FIRST_LOST,
                Settled::Forgotten => Told::FIRST_FORGOTTEN,
            }),
        }
    }
}

pub(super) struct Acks {
    sender: AckSender,
    waiting: VecDeque<(First, Asked)>,
    /// What an event is told that has ended well. Where streams differ, the weaker word.
    done: Told,
    now: Nanos,
}

impl Acks {
    /// `deduplicates`: the worker may meet duplicates.
    pub(super) fn new(sender: AckSender, deduplicates: bool, done: Told) -> Self {
        let waiting = VecDeque::with_capacity(if deduplicates { sender.bound() } else { 0 });
        Self { sender, waiting, done, now: 0 }
    }

    /// Whether any event at hand may ask.
    #[inline]
    pub(super) fn are_wanted(&self) -> bool {
        self.sender.are_wanted()
    }

    #[inline]
    pub(super) fn asked(&self, event: &Event, frames: &Frames) -> Option<Asked> {
        self.sender.asked(event, frames)
    }

    pub(super) fn tell(&mut self, asked: Asked, told: Told) {
        self.sender.tell(asked, told);
    }

    /// Answers a duplicate as its first copy was answered, now or later.
    pub(super) fn duplicate(&mut self, asked: Asked, first: First, table: &DedupTable) {
        match first.told(table, self.done) {
            Some(told) => self.sender.tell(asked, told),
            None => self.waiting.push_back((first, asked)),
        }
    }

    /// Looks whether first copies have ended by now. Returns how many had.
    #[inline]
    pub(super) fn look(&mut self, table: Option<&DedupTable>, now: Nanos) -> usize {
        self.now = now;
        if self.waiting.is_empty() { 0 } else { table.map_or(0, |table| self.look_again(table)) }
    }

    #[cold]
    fn look_again(&mut self, table: &DedupTable) -> usize {
        let mut ended = 0;
        for _ in 0..self.waiting.len().min(LOOKS) {
            let Some((first, asked)) = self.waiting.pop_front() else { break };
            match first.told(table, self.done) {
                Some(told) => {
                    self.sender.tell(asked, told);
                    ended += 1;
                }
                None => self.waiting.push_back((first, asked)),
            }
        }
        ended
    }

    #[inline]
    pub(super) fn publish(&mut self) {
        self.sender.publish();
    }

    /// When to look again, if anything waits.
    pub(super) fn due_ns(&self) -> Option<Nanos> {
        (!self.waiting.is_empty()).then_some(self.now + RETRY_NS)
    }
}
