//! A worker's retries: what is to be tried again, what waits behind it, and when its time has come.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Worker, verdict_of};
use crate::control::State;
use crate::dedup::ClaimToken;
use crate::memory::Event;
use crate::metrics::{Counter, DeadLetterReason};
use crate::runtime::clock::Nanos;
use crate::worker::backlog::Place;
use crate::worker::burst::{BURST, Verdict};
use crate::worker::handler::{EventView, Handler};
use crate::worker::retry::Waiting;

impl<H: Handler> Worker<H> {
    #[cold]
    pub(super) fn retry(&mut self, event: Event, token: Option<ClaimToken>, now: Nanos) {
        self.counters.add(Counter::HANDLER_RETRIES, 1);
        let Some(retries) = &mut self.spec.retries else {
            return self.dead_letter(event, token, DeadLetterReason::RetriesExhausted, now);
        };
        if retries.policy().max_attempts <= 1 {
            return self.dead_letter(event, token, DeadLetterReason::RetriesExhausted, now);
        }
        match retries.admit(&event, token, now, &self.spec.frames) {
            Ok(()) => {
                self.counters.add(Counter::COPIED_OUT, 1);
                self.releaser.release(event);
            }
            Err(token) => self.dead_letter(event, token, DeadLetterReason::RetryOverflow, now),
        }
    }

    /// Lets an event wait behind the one of its topic that is to be retried, or handles it if that has ended meanwhile.
    #[cold]
    pub(super) fn hold(&mut self, event: Event, token: Option<ClaimToken>, now: Nanos) {
        match &mut self.spec.retries {
            Some(retries) if retries.holds_back_topic(event.topic()) => {
                match retries.hold(&event, token, &self.spec.frames) {
                    Ok(()) => {
                        self.counters.add(Counter::COPIED_OUT, 1);
                        self.counters.add(Counter::EVENTS_HELD_BACK, 1);
                        self.releaser.release(event);
                    }
                    Err(token) => self.dead_letter(event, token, DeadLetterReason::RetryOverflow, now),
                }
            }
            _ => match self.call(&event, 1) {
                Verdict::Retry => self.retry(event, token, now),
                verdict => self.end(event, token, verdict, now),
            },
        }
    }

    /// Tries events again whose time has come. While draining every one gets its remaining attempts without waiting.
    pub(super) fn run_retries(&mut self, now: Nanos) -> usize {
        let draining = self.spec.state.get() == State::Draining;
        let mut count = 0;
        while count < BURST && self.can_end() {
            let Some(retries) = &mut self.spec.retries else { break };
            let due = if draining { retries.take_next() } else { retries.take_due(now) };
            let Some((place, waiting)) = due else { break };
            self.attempt(place, waiting, now);
            count += 1;
        }
        count
    }

    fn attempt(&mut self, place: Place, mut waiting: Waiting, now: Nanos) {
        waiting.attempts += 1;
        let mut verdict = self.call(&waiting.event, waiting.attempts);
        let Some(retries) = &mut self.spec.retries else { return };
        if let Verdict::Retry = verdict {
            self.counters.add(Counter::HANDLER_RETRIES, 1);
            if waiting.attempts < retries.policy().max_attempts {
                return retries.put_back(place, waiting, now);
            }
            verdict = Verdict::Dead(DeadLetterReason::RetriesExhausted);
        }
        retries.end(place, now);
        self.end(waiting.event, waiting.token, verdict, now);
    }

    /// Hands out one event by itself.
    fn call(&mut self, event: &Event, attempt: u32) -> Verdict {
        let spec = &mut self.spec;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            spec.handler.handle(&EventView::new(&spec.frames, event, spec.class, attempt), true)
        }));
        match outcome {
            Ok(outcome) => verdict_of(outcome, self.spec.retries.is_some()),
            Err(_) => {
                self.counters.add(Counter::HANDLER_PANICS, 1);
                Verdict::Dead(DeadLetterReason::HandlerPanic)
            }
        }
    }
}
