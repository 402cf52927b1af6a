//! A worker of a logged class: what its handler is done with ends when the log writer says so.

use std::collections::VecDeque;

use super::Worker;
use crate::acks::{Asked, Told};
use crate::dedup::ClaimToken;
use crate::memory::Event;
use crate::metrics::{Counter, LostReason};
use crate::runtime::clock::Nanos;
use crate::storage::{Kept, LogSender, OUTSTANDING_MAX};
use crate::worker::burst::{BURST, Verdict};
use crate::worker::handler::Handler;

/// What is left of events that are with the log writer: of one, or of several one behind the other of which nothing is left but
/// their number.
struct Unsettled {
    count: u32,
    token: Option<ClaimToken>,
    asked: Option<Asked>,
}

impl Unsettled {
    const fn is_bare(&self) -> bool {
        self.token.is_none() && self.asked.is_none()
    }
}

pub(super) struct Logged {
    sender: LogSender,
    /// In the order in which they were handed over.
    unsettled: VecDeque<Unsettled>,
    /// How many events those are.
    count: usize,
}

impl Logged {
    pub(super) fn new(sender: LogSender) -> Self {
        let unsettled = VecDeque::with_capacity(OUTSTANDING_MAX + BURST);
        Self { sender, unsettled, count: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// How many of the events may be taken.
    pub(super) fn fits<'a>(&mut self, events: impl Iterator<Item = &'a Event>) -> usize {
        self.sender.fits(events.map(Event::length))
    }

    pub(super) fn has_room(&mut self) -> bool {
        self.sender.has_room()
    }

    pub(super) fn append(&mut self, body: &[u8], token: Option<ClaimToken>, asked: Option<Asked>) {
        self.sender.append(body, asked.as_ref().and_then(Asked::replayed));
        self.count += 1;
        let new = Unsettled { count: 1, token, asked };
        match self.unsettled.back_mut() {
            Some(last) if last.is_bare() && new.is_bare() => last.count += 1,
            _ => self.unsettled.push_back(new),
        }
    }

    /// To be called when a burst has been appended.
    pub(super) fn sum_up(&mut self) {
        self.sender.sum_up();
    }

    pub(super) fn publish(&mut self) {
        self.sender.publish();
    }

    /// Of the next `count` events, those that have something in common: nothing, or that it is one.
    fn take(&mut self, count: u32) -> Option<Unsettled> {
        let next = self.unsettled.front_mut()?;
        let taken = next.count.min(count);
        self.count -= taken as usize;
        if taken == next.count {
            return self.unsettled.pop_front();
        }
        next.count -= taken;
        Some(Unsettled { count: taken, token: None, asked: None })
    }
}

impl<H: Handler> Worker<H> {
    /// Ends the events that have become durable. Returns how many.
    pub(super) fn settle_logged(&mut self) -> usize {
        let mut count = 0;
        while let Some(settled) = self.logged.as_mut().and_then(|logged| logged.sender.take_settled()) {
            let mut left = settled.count;
            while let Some(next) = self.logged.as_mut().filter(|_| left > 0).and_then(|logged| logged.take(left)) {
                left -= next.count;
                match settled.kept {
                    Kept::Durable => self.ended_well(next.count, next.token, next.asked, Told::DURABLE),
                    Kept::Written => self.ended_well(next.count, next.token, next.asked, Told::WRITTEN),
                    Kept::Refused => self.lost(next, LostReason::LogRefused),
                    Kept::GivenUp => self.lost(next, LostReason::LogDisk),
                }
            }
            count += settled.count as usize;
        }
        if count > 0
            && let Some(logged) = &mut self.logged
        {
            logged.sender.release();
        }
        count
    }

    #[cold]
    fn lost(&mut self, ended: Unsettled, reason: LostReason) {
        self.counters.add(Counter::lost(reason), ended.count.into());
        if let (Some(token), Some(claimer)) = (ended.token, &self.spec.claimer) {
            claimer.release(token); // a resend is taken as new
        }
        if let Some(asked) = ended.asked {
            self.acks.tell(asked, Told::lost(reason));
        }
    }

    /// Ends a burst when all of it was handled or duplicate, as far as that is done here: what was handled goes to the log writer.
    pub(super) fn finish_logged(&mut self, ring: usize, count: usize, started: Nanos) {
        if self.burst.may_ask && self.burst.duplicates > 0 {
            self.answer(ring, count, false);
        }
        let Self { spec, burst, acks, logged, releaser, waits, .. } = self;
        let Some(logged) = logged else { return };
        burst.tokens.sort_unstable_by_key(|(index, _)| *index);
        let mut tokens = burst.tokens.drain(..).peekable();
        for (index, event) in spec.rings[ring].peek(0..count).enumerate() {
            if let Verdict::Done = burst.verdicts[index] {
                let token = tokens.next_if(|(of, _)| *of as usize == index).map(|(_, token)| token);
                let asked = if burst.may_ask { acks.asked(event, &spec.frames) } else { None };
                logged.append(spec.frames.bytes(event), token, asked);
            }
        }
        drop(tokens);
        logged.sum_up();
        let ended = |run| waits.ended(run, started);
        spec.rings[ring].take_each(count, |event| releaser.release_timed(event, ended));
        releaser.flush_timed(ended);
        self.counters.add(Counter::DUPLICATE, self.burst.duplicates);
    }
}
