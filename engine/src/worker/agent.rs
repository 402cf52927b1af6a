//! A worker: handles a burst of events in place and gives their frames back.
//!
//! - **Thread**: its runner's. **In**: one ring from each dispatcher. **Out**: outcomes, acknowledgements, the dead letter link.
//! - **Overload**: its ring fills, and the dispatcher sees it. Retries wait in a bounded queue of copies, windows in bounded memory.
//! - **Invariant**: every event taken ends as processed, duplicate, dead-lettered or lost, or waits for a retry or in a window; its
//!   ring position is given back after its frame's reference.

#[cfg(test)]
mod alone;
mod claiming;
mod ending;
mod logged;
mod retrying;
mod windowed;

use logged::Logged;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::acks::Acks;
use super::burst::{Burst, Verdict};
use super::handler::{EventView, Handler, Outcome};
use super::pace::Pace;
use super::retry::RetryQueue;
use super::waits::Waits;
use super::windows::Windows;
use crate::acks::{AckSender, Told};
use crate::control::StateCell;
use crate::dedup::Claimer;
use crate::dispatch::topic_word;
use crate::fault::{self, Stage};
use crate::frame::{Class, FLAG_TIME};
use crate::memory::{Event, Frames, Releaser};
use crate::metrics::{Counter, Counters, DeadLetterReason, Spans};
use crate::queue::spsc;
use crate::runtime::agent::{Agent, Blocking, Cycle};
use crate::runtime::clock::{Clock, Nanos};
use crate::storage::{DeadLetterSender, LogSender};
use crate::subscribe::Outlet;

/// Bursts of one ring in a duty cycle: together what a dispatcher pushes in one of its own.
const BURSTS: usize = 8;

/// What a worker is made of.
pub struct WorkerSpec<H> {
    pub name: String,
    pub class: Class,
    pub handler: H,
    /// One from each dispatcher.
    pub rings: Vec<spsc::Consumer<Event>>,
    pub frames: Frames,
    pub dead_letters: DeadLetterSender,
    pub acks: AckSender,
    /// `None` where no class or topic of this worker can ask for deduplication.
    pub claimer: Option<Claimer>,
    /// `None` for realtime: its events are not retried.
    pub retries: Option<RetryQueue>,
    /// `None` where no topic has windows.
    pub windows: Option<Windows>,
    /// `None`: an event has ended when its handler has.
    pub log: Option<LogSender>,
    /// What an event that has ended well is told, where a duplicate of it asks.
    pub done: Told,
    pub clock: Clock,
    pub state: StateCell,
}

/// The agent.
pub struct Worker<H> {
    spec: WorkerSpec<H>,
    counters: Counters,
    waits: Waits,
    releaser: Releaser,
    burst: Burst,
    pace: Pace,
    acks: Acks,
    logged: Option<Logged>,
    /// Where events go that have ended well and are in no log.
    outlet: Option<Outlet>,
    held: Arc<AtomicU64>,
    /// How long the last event taken had waited; zero when idle.
    lag_ns: Arc<AtomicU64>,
}

impl<H: Handler> Worker<H> {
    pub fn new(mut spec: WorkerSpec<H>) -> Self {
        let acks = std::mem::replace(&mut spec.acks, AckSender::none());
        Self {
            counters: Counters::default(),
            waits: Waits::new(&spec.clock),
            releaser: Releaser::new(spec.frames.clone()),
            burst: Burst::new(),
            pace: Pace::new(),
            acks: Acks::new(acks, spec.claimer.is_some(), spec.done),
            logged: spec.log.take().map(Logged::new),
            outlet: None,
            held: Arc::default(),
            lag_ns: Arc::default(),
            spec,
        }
    }

    /// Offers what has ended well to subscribers.
    pub fn with_outlet(self, outlet: Option<Outlet>) -> Self {
        Self { outlet, ..self }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How long events had waited when their burst began.
    pub fn spans(&self) -> Spans {
        self.waits.spans()
    }

    /// Events that wait for a retry, their own or that of one before them, in a window, or for the log.
    pub fn held_gauge(&self) -> Arc<AtomicU64> {
        self.held.clone()
    }

    /// How long the last event taken had waited: an input of the control plane.
    pub fn lag_gauge(&self) -> Arc<AtomicU64> {
        self.lag_ns.clone()
    }

    pub fn retry_pool(&self) -> Option<&crate::memory::FramePool> {
        self.spec.retries.as_ref().map(RetryQueue::pool)
    }

    fn held(&self) -> usize {
        let retries = self.spec.retries.as_ref().map_or(0, RetryQueue::len);
        let windows = self.spec.windows.as_ref().map_or(0, Windows::held);
        retries + windows + self.logged.as_ref().map_or(0, Logged::len)
    }

    /// Sets aside the events of topics that wait for a retry, and those that go into windows.
    #[inline(never)]
    fn set_aside(&mut self, ring: usize, count: usize) {
        let WorkerSpec { rings, retries, windows, .. } = &self.spec;
        for (index, event) in rings[ring].peek(0..count).enumerate() {
            if !matches!(self.burst.verdicts[index], Verdict::Done) {
                continue;
            }
            if retries.as_ref().is_some_and(|retries| retries.holds_back_topic(event.topic())) {
                self.burst.fail(index, Verdict::Held);
            } else if windows.as_ref().is_some_and(|windows| windows.gathers(event.topic())) {
                self.burst.fail(index, Verdict::Gathered);
            }
        }
    }

    /// Sets aside what comes behind the event before `start`, which is to be retried, if its topic wants it so.
    #[cold]
    fn hold_back_behind(&mut self, ring: usize, start: usize, count: usize) {
        let events = &self.spec.rings[ring];
        let key = |event: &Event| topic_word::strict_key(event.topic());
        let retried = events.peek(start - 1..start).next().and_then(key);
        for (index, event) in (start..count).zip(events.peek(start..count)) {
            if matches!(self.burst.verdicts[index], Verdict::Done) && key(event) == retried {
                self.burst.fail(index, Verdict::Held);
            }
        }
    }

    /// Calls the handler for every event of the burst that has no verdict against it. A panic ends one event, not the burst.
    fn handle(&mut self, ring: usize, count: usize) {
        let mut next = 0;
        // Duplicates behind it are never handed out: it is the handler's last.
        let mut last = self.burst.last_to_handle();
        while next < count {
            let WorkerSpec { handler, rings, frames, class, retries, .. } = &mut self.spec;
            let Burst { verdicts, has_failures, .. } = &mut self.burst;
            // The cursor outlives a panic: it then names the event that caused it.
            let cursor = &mut next;
            let finished = catch_unwind(AssertUnwindSafe(|| {
                for (event, verdict) in rings[ring].peek(*cursor..count).zip(&mut verdicts[*cursor..]) {
                    if let Verdict::Done = verdict {
                        let view = EventView::new(frames, event, *class, 1);
                        let outcome = handler.handle(&view, *cursor == last);
                        if outcome != Outcome::Done {
                            *verdict = verdict_of(outcome, retries.is_some());
                            *has_failures = true;
                            if let Verdict::Retry = verdict
                                && event.topic() & topic_word::STRICT != 0
                            {
                                *cursor += 1;
                                return;
                            }
                        }
                    }
                    *cursor += 1;
                }
            }));
            if finished.is_err() {
                self.counters.add(Counter::HANDLER_PANICS, 1);
                self.burst.fail(next, Verdict::Dead(DeadLetterReason::HandlerPanic));
                next += 1;
            } else if next < count {
                self.hold_back_behind(ring, next, count);
                last = self.burst.last_to_handle();
            }
        }
    }

    /// Answers for the duplicates of the burst, and if `all_is_well` for the others as well: otherwise each is answered when it
    /// ends.
    #[cold]
    fn answer(&mut self, ring: usize, count: usize, all_is_well: bool) {
        let WorkerSpec { rings, frames, claimer, .. } = &self.spec;
        let Burst { verdicts, firsts, .. } = &mut self.burst;
        firsts.sort_unstable_by_key(|(index, _)| *index);
        let mut firsts = firsts.drain(..).peekable();
        for (index, (event, verdict)) in rings[ring].peek(0..count).zip(verdicts).enumerate() {
            let first = firsts.next_if(|(of, _)| *of as usize == index).map(|(_, first)| first);
            let Some(asked) = self.acks.asked(event, frames) else { continue };
            match (verdict, first, claimer) {
                (Verdict::Done, ..) if all_is_well => self.acks.tell(asked, Told::PROCESSED),
                (Verdict::Duplicate, Some(first), Some(claimer)) => {
                    self.acks.duplicate(asked, first, claimer.table());
                }
                _ => {}
            }
        }
    }

    /// Ends the burst when all of it was handled or duplicate: the rule.
    #[inline]
    fn finish(&mut self, ring: usize, count: usize, started: Nanos) {
        if let Some(claimer) = &self.spec.claimer {
            self.burst.tokens.drain(..).for_each(|(_, token)| claimer.finish(token));
        }
        if self.burst.may_ask {
            self.answer(ring, count, true);
        }
        if self.outlet.as_ref().is_some_and(Outlet::is_wanted) {
            self.offer_all(ring, count);
        }
        let Self { waits, releaser, .. } = self;
        let ended = |run| waits.ended(run, started);
        self.spec.rings[ring].take_each(count, |event| releaser.release_timed(event, ended));
        releaser.flush_timed(ended);
        self.counters.add(Counter::processed(self.spec.class), count as u64 - self.burst.duplicates);
        self.counters.add(Counter::DUPLICATE, self.burst.duplicates);
    }

    /// Takes the burst off the ring and ends each event as its verdict says.
    #[cold]
    fn finish_one_by_one(&mut self, ring: usize, count: usize, started: Nanos, now: Nanos) {
        let class = self.spec.class;
        for event in self.spec.rings[ring].peek(0..count) {
            self.waits.ended(self.spec.frames.run_of_one(event), started);
        }
        if self.burst.may_ask {
            self.answer(ring, count, false);
        }
        let mut tokens = std::mem::take(&mut self.burst.tokens);
        tokens.sort_unstable_by_key(|(index, _)| *index);
        {
            let mut next_token = tokens.drain(..).peekable();
            for index in 0..count {
                let Some(event) = self.spec.rings[ring].take() else { break };
                let token = next_token.next_if(|(of, _)| *of as usize == index).map(|(_, token)| token);
                if fault::drops(Stage::of(class)) {
                    self.releaser.release(event);
                    continue;
                }
                match self.burst.verdicts[index] {
                    Verdict::Done => {
                        self.counters.add(Counter::processed(class), u64::from(fault::doubles(Stage::of(class))));
                        self.succeed(event, token);
                    }
                    Verdict::Duplicate => {
                        self.counters.add(Counter::DUPLICATE, 1);
                        self.releaser.release(event);
                    }
                    Verdict::Dead(reason) => self.dead_letter(event, token, reason, now),
                    Verdict::Retry => self.retry(event, token, now),
                    Verdict::Held => self.hold(event, token, now),
                    Verdict::Gathered => self.gather(event, token, now),
                }
            }
        }
        self.burst.tokens = tokens;
    }

    /// Handles up to a burst of events of one ring, unless the cycle has taken its time.
    #[inline]
    fn burst(&mut self, ring: usize, now: Nanos) -> usize {
        let mut count = self.spec.rings[ring].available(self.pace.burst());
        if let Some(logged) = &mut self.logged {
            count = logged.fits(self.spec.rings[ring].peek(0..count));
        }
        count = self.spec.dead_letters.fits(count, now);
        if count > 0 {
            let started = self.spec.clock.now();
            if !self.pace.begins(started) {
                return 0;
            }
            self.counters.add(Counter::taken(self.spec.class), count as u64);
            self.burst.begin(count, self.acks.are_wanted());
            if let Some(first) = self.spec.rings[ring].peek(0..1).next() {
                let arrived = self.spec.frames.arrival_ns(first);
                self.lag_ns.store(started.saturating_sub(arrived), Ordering::Relaxed);
                if first.shape().has(FLAG_TIME) {
                    self.waits.sent(self.spec.rings[ring].peek(0..count), &self.spec.frames, started);
                }
            }
            self.claim(ring, count, now);
            if self.spec.windows.is_some() || self.spec.retries.as_ref().is_some_and(RetryQueue::holds_back) {
                self.set_aside(ring, count);
            }
            self.handle(ring, count);
            if self.burst.has_failures || fault::is_armed(Stage::of(self.spec.class)) {
                self.finish_one_by_one(ring, count, started, now);
            } else if self.logged.is_some() {
                self.finish_logged(ring, count, started);
            } else {
                self.finish(ring, count, started);
            }
        }
        count
    }
}

/// What an outcome means for a class that does, or does not, retry.
fn verdict_of(outcome: Outcome, retries: bool) -> Verdict {
    match outcome {
        Outcome::Done => Verdict::Done,
        Outcome::Retry if retries => Verdict::Retry,
        Outcome::Retry => Verdict::Dead(DeadLetterReason::RetriesExhausted),
        Outcome::Reject(_) => Verdict::Dead(DeadLetterReason::Rejected),
    }
}

impl<H: Handler> Agent for Worker<H> {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn duty_cycle(&mut self, cycle: &Cycle) -> usize {
        let mut work = self.settle_logged();
        work += self.run_retries(cycle.now);
        if self.spec.windows.is_some() {
            work += self.run_windows(cycle.now);
        }
        work += self.acks.look(self.spec.claimer.as_ref().map(|claimer| &**claimer.table()), cycle.now);
        let mut taken = 0;
        for ring in 0..self.spec.rings.len() {
            for _ in 0..BURSTS {
                let count = self.burst(ring, cycle.now);
                taken += count;
                if count < self.pace.burst() {
                    break;
                }
            }
        }
        self.pace.end(taken, || self.spec.clock.now());
        work += taken;
        if let Some(logged) = &mut self.logged {
            logged.publish();
        }
        if work > 0 {
            // Counters before ring positions: should the next call of the handler never return, what was handled before it
            // is in the ledger. Frames too: a position given back says that its frame is no longer pinned.
            self.counters.flush();
            self.releaser.flush();
            self.spec.dead_letters.publish();
            self.outlet.iter_mut().for_each(Outlet::publish);
            self.acks.publish();
            self.held.store(self.held() as u64, Ordering::Release);
            self.spec.rings.iter_mut().for_each(spsc::Consumer::release);
        } else {
            self.lag_ns.store(0, Ordering::Relaxed);
        }
        work
    }

    fn housekeeping(&mut self, now: Nanos) {
        if let Some(retries) = &mut self.spec.retries {
            retries.housekeeping();
        }
        if let Some(windows) = &mut self.spec.windows {
            windows.housekeeping();
        }
        if let Some(claimer) = &mut self.spec.claimer {
            claimer.housekeep(now);
        }
        self.outlet.iter_mut().for_each(|outlet| outlet.housekeep(&self.spec.clock));
        self.waits.compare_clocks(&self.spec.clock);
        self.counters.flush();
    }

    fn blocking(&self) -> Blocking {
        let retries = self.spec.retries.as_ref().map(RetryQueue::next_due_ns);
        let windows = self.spec.windows.as_ref().map(Windows::next_due_ns);
        let dead_letters = self.spec.dead_letters.due_ns();
        match retries.into_iter().chain(windows).chain(self.acks.due_ns()).chain(dead_letters).min() {
            None | Some(Nanos::MAX) => Blocking::Allowed,
            Some(due) => Blocking::Until(due),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Peer, Route};

    #[test]
    fn what_has_left_the_ring_is_in_the_published_counters() {
        let mut pool = alone::pool(0, 1);
        let (mut worker, mut ring, _kept) = alone::worker(Frames::new(&[&pool]), None, Arc::default());
        let block = worker.counters().block();
        let slot = pool.acquire().unwrap();
        let mut maker = pool.seal(slot, 3, 0, Peer::NONE);
        (0..3).for_each(|_| ring.push(maker.make(0, 4, Route::default())).unwrap());
        drop(maker);
        ring.publish();
        let depth = ring.depth();
        worker.duty_cycle(&Cycle { now: 1, busy: true });
        // Housekeeping may never come: the next call of the handler may not return.
        let counters = [Counter::taken(Class::Batch), Counter::processed(Class::Batch)];
        assert_eq!((counters.map(|counter| block.get(counter)), depth.len()), ([3, 3], 0));
        assert_eq!(pool.reclaim(), 1);
    }
}
