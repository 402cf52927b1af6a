//! A worker of a logged class: what its handler is done with ends when the log writer says so.

use std::collections::VecDeque;

use super::Worker;
use crate::acks::{Asked, Told};
use crate::dedup::ClaimToken;
use crate::memory::Event;
use crate::metrics::{Counter, LostReason};
use crate::storage::{Kept, LogSender, OUTSTANDING_MAX};
use crate::worker::burst::BURST;
use crate::worker::handler::Handler;

/// What is left of an event that is with the log writer.
struct Unsettled {
    token: Option<ClaimToken>,
    asked: Option<Asked>,
}

pub(super) struct Logged {
    sender: LogSender,
    /// In the order in which they were handed over.
    unsettled: VecDeque<Unsettled>,
}

impl Logged {
    pub(super) fn new(sender: LogSender) -> Self {
        let unsettled = VecDeque::with_capacity(OUTSTANDING_MAX + BURST);
        Self { sender, unsettled }
    }

    pub(super) fn len(&self) -> usize {
        self.unsettled.len()
    }

    /// How many of the events may be taken.
    pub(super) fn fits<'a>(&mut self, events: impl Iterator<Item = &'a Event>) -> usize {
        self.sender.fits(events.map(Event::length))
    }

    pub(super) fn has_room(&mut self) -> bool {
        self.sender.has_room()
    }

    pub(super) fn append(&mut self, body: &[u8], token: Option<ClaimToken>, asked: Option<Asked>) {
        self.sender.append_replayed(body, asked.as_ref().and_then(Asked::replayed));
        self.unsettled.push_back(Unsettled { token, asked });
    }

    pub(super) fn publish(&mut self) {
        self.sender.publish();
    }
}

impl<H: Handler> Worker<H> {
    /// Ends the events that have become durable. Returns how many.
    pub(super) fn settle_logged(&mut self) -> usize {
        let mut count = 0;
        while let Some(settled) = self.logged.as_mut().and_then(|logged| logged.sender.take_settled()) {
            for _ in 0..settled.count {
                let next = self.logged.as_mut().and_then(|logged| logged.unsettled.pop_front());
                let Some(Unsettled { token, asked }) = next else { break };
                match settled.kept {
                    Kept::Durable => self.ended_well(token, asked, Told::DURABLE),
                    Kept::Written => self.ended_well(token, asked, Told::WRITTEN),
                    Kept::Refused => self.lost(token, asked, LostReason::LogRefused),
                    Kept::GivenUp => self.lost(token, asked, LostReason::LogDisk),
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
    fn lost(&mut self, token: Option<ClaimToken>, asked: Option<Asked>, reason: LostReason) {
        self.counters.add(Counter::lost(reason), 1);
        if let (Some(token), Some(claimer)) = (token, &self.spec.claimer) {
            claimer.release(token); // a resend is taken as new
        }
        if let Some(asked) = asked {
            self.acks.tell(asked, Told::lost(reason));
        }
    }
}
