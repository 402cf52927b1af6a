//! How an event ends at a worker: each way out is taken once, counted, and told to who asked.

use super::{Logged, Worker};
use crate::acks::{Asked, Told};
use crate::dedup::ClaimToken;
use crate::memory::Event;
use crate::metrics::{Counter, DeadLetterReason};
use crate::runtime::clock::Nanos;
use crate::storage::Sent;
use crate::worker::burst::Verdict;
use crate::worker::handler::Handler;

impl<H: Handler> Worker<H> {
    #[inline]
    pub(super) fn settle(&mut self, token: Option<ClaimToken>, done: bool) {
        if let (Some(token), Some(claimer)) = (token, &self.spec.claimer) {
            if done { claimer.finish(token) } else { claimer.dead_letter(token) }
        }
    }

    #[cold]
    pub(super) fn dead_letter(
        &mut self,
        event: Event,
        token: Option<ClaimToken>,
        reason: DeadLetterReason,
        now: Nanos,
    ) {
        let class = self.spec.class;
        let asked = self.acks.asked(&event, &self.spec.frames);
        let Self { spec, counters, releaser, .. } = self;
        let told = match spec.dead_letters.send(event, (class, reason, token), now, counters, releaser) {
            Sent::Later => return,
            Sent::Kept(token) => {
                self.settle(token, false);
                Told::dead_lettered(reason)
            }
            Sent::Lost(reason, token) => {
                if let (Some(token), Some(claimer)) = (token, &self.spec.claimer) {
                    claimer.release(token); // a resend is taken as new
                }
                Told::lost(reason)
            }
        };
        if let Some(asked) = asked {
            self.acks.tell(asked, told);
        }
    }

    /// Ends an event that was handled by itself.
    pub(super) fn end(&mut self, event: Event, token: Option<ClaimToken>, verdict: Verdict, now: Nanos) {
        if let Verdict::Dead(reason) = verdict {
            return self.dead_letter(event, token, reason, now);
        }
        self.succeed(event, token);
    }

    /// Ends an event whose handler has; of a logged class it ends when it is on disk.
    pub(super) fn succeed(&mut self, event: Event, token: Option<ClaimToken>) {
        let asked = self.acks.asked(&event, &self.spec.frames);
        match &mut self.logged {
            Some(logged) => logged.append(self.spec.frames.bytes(&event), token, asked),
            None => {
                if let Some(outlet) = self.outlet.as_mut().filter(|outlet| outlet.is_wanted()) {
                    outlet.offer(&event, &self.spec.frames);
                }
                self.ended_well(1, token, asked, Told::PROCESSED);
            }
        }
        self.releaser.release(event);
    }

    /// Offers the events of a burst that were handled to subscribers.
    #[inline(never)]
    pub(super) fn offer_all(&mut self, ring: usize, count: usize) {
        let Some(outlet) = &mut self.outlet else { return };
        for (event, verdict) in self.spec.rings[ring].peek(0..count).zip(&self.burst.verdicts) {
            if let Verdict::Done = verdict {
                outlet.offer(event, &self.spec.frames);
            }
        }
    }

    /// `count` events have; if it is more than one, they have no claims and asked for nothing.
    pub(super) fn ended_well(&mut self, count: u32, token: Option<ClaimToken>, asked: Option<Asked>, told: Told) {
        self.counters.add(Counter::processed(self.spec.class), count.into());
        self.settle(token, true);
        if let Some(asked) = asked {
            self.acks.tell(asked, told);
        }
    }

    /// Whether any event may end now, whatever becomes of it.
    pub(super) fn can_end(&mut self) -> bool {
        self.spec.dead_letters.has_room() && self.logged.as_mut().is_none_or(Logged::has_room)
    }
}
