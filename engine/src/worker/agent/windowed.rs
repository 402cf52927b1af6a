//! A worker's windows: gathered from its bursts, handled when they close, tried again as a whole.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{BURSTS, Worker};
use crate::control::State;
use crate::dedup::ClaimToken;
use crate::fault::{self, Stage};
use crate::memory::Event;
use crate::metrics::{Counter, DeadLetterReason};
use crate::runtime::clock::Nanos;
use crate::worker::backlog::Place;
use crate::worker::burst::{BURST, Verdict};
use crate::worker::handler::Handler;
use crate::worker::key_index::NONE;
use crate::worker::pace::CYCLE_NS;
use crate::worker::window_view::{Progress, Told, told};
use crate::worker::windows::Cause;

impl<H: Handler> Worker<H> {
    /// Puts an event into its topic's window, and handles what is full by that.
    pub(super) fn gather(&mut self, event: Event, mut token: Option<ClaimToken>, now: Nanos) {
        if self.spec.retries.as_ref().is_some_and(|retries| retries.holds_back_topic(event.topic())) {
            // From before the topic had windows.
            return self.hold(event, token, now);
        }
        if let Some(outgrown) = self.spec.windows.as_ref().and_then(|windows| windows.outgrown_by(&event)) {
            self.close_window(outgrown, Cause::Bytes, now);
        }
        while let Some(windows) = self.spec.windows.as_mut().filter(|windows| windows.can_hold(&event)) {
            match windows.append(&event, token, now, &self.spec.frames) {
                Ok(full) => {
                    self.counters.add(Counter::COPIED_OUT, 1);
                    self.releaser.release(event);
                    return full.into_iter().for_each(|(window, cause)| self.close_window(window, cause, now));
                }
                Err(back) => token = back,
            }
            let Some(next) = windows.next_open() else { break };
            self.close_window(next, Cause::Memory, now);
            // What has ended there is room only once its references are given up.
            self.releaser.flush();
        }
        self.handle_alone(event, token, now);
    }

    /// An event for which there is no room is a window of its own, handled where it lies.
    #[cold]
    fn handle_alone(&mut self, event: Event, token: Option<ClaimToken>, now: Nanos) {
        let Some(windows) = &mut self.spec.windows else { return self.end(event, token, Verdict::Done, now) };
        if windows.is_blocked(event.topic()) {
            return self.dead_letter(event, token, DeadLetterReason::RetryOverflow, now);
        }
        let (progress, handler) = (Progress::default(), &mut self.spec.handler);
        let view = windows.lone_view(event, &self.spec.frames, self.spec.class, &progress);
        let answer = catch_unwind(AssertUnwindSafe(|| handler.handle_window(&view)));
        let Some((event, its_own)) = windows.take_lone() else { return };
        let told = match (answer, its_own) {
            (Err(_), _) => Told::Panicked,
            (Ok(answer), Told::Nothing) => told(answer),
            (Ok(_), its_own) => its_own,
        };
        let verdict = match told {
            Told::Retry if windows.policy().max_attempts <= 1 => Verdict::Dead(DeadLetterReason::RetriesExhausted),
            Told::Retry => Verdict::Dead(DeadLetterReason::RetryOverflow),
            Told::Rejected => Verdict::Dead(DeadLetterReason::Rejected),
            Told::Panicked => Verdict::Dead(DeadLetterReason::HandlerPanic),
            _ => Verdict::Done,
        };
        self.counters.add(Counter::HANDLER_RETRIES, u64::from(told == Told::Retry));
        self.counters.add(Counter::HANDLER_PANICS, u64::from(told == Told::Panicked));
        self.end(event, token, verdict, now);
    }

    /// Handles the windows whose time has come; while draining all there are.
    pub(super) fn run_windows(&mut self, now: Nanos) -> usize {
        let draining = self.spec.state.get() == State::Draining;
        let (mut work, began) = (0, self.spec.clock.now());
        // No longer than bursts may take, for the same reason.
        while work < BURST * BURSTS && self.spec.clock.now().saturating_sub(began) <= CYCLE_NS {
            let Some(windows) = &mut self.spec.windows else { break };
            if let Some((place, window)) = windows.take_waiting(now, draining) {
                work += windows.count(window).max(1) as usize;
                self.handle_window(window, Some(place), now);
                if !self.can_end() {
                    break;
                }
                continue;
            }
            let (open, cause) = match draining {
                true => (windows.next_open(), Cause::Drain),
                false => (windows.next_due_open(now), Cause::Time),
            };
            let Some(window) = open else { break };
            work += windows.count(window).max(1) as usize;
            self.close_window(window, cause, now);
        }
        work
    }

    fn close_window(&mut self, window: u32, cause: Cause, now: Nanos) {
        let Some(windows) = &mut self.spec.windows else { return };
        self.counters.add(
            match cause {
                Cause::Count => Counter::WINDOWS_CLOSED_BY_COUNT,
                Cause::Bytes => Counter::WINDOWS_CLOSED_BY_BYTES,
                Cause::Time => Counter::WINDOWS_CLOSED_BY_TIME,
                Cause::Memory => Counter::WINDOWS_CLOSED_BY_MEMORY,
                Cause::Drain => Counter::WINDOWS_CLOSED_BY_DRAIN,
            },
            1,
        );
        if windows.close(window) {
            self.handle_window(window, None, now);
        } else {
            self.counters.add(Counter::EVENTS_HELD_BACK, windows.count(window).into());
        }
    }

    /// Has a window handled, unless it has been, and ends those of its events that are over.
    fn handle_window(&mut self, window: u32, place: Option<Place>, now: Nanos) {
        if self.spec.windows.as_ref().is_some_and(|windows| !windows.is_ending(window)) {
            self.call_with_window(window);
        }
        // The one behind which to look for the next that has ended.
        let mut kept = NONE;
        while self.can_end() {
            let Some(windows) = &mut self.spec.windows else { return };
            let Some((event, token, told)) = windows.take_ended(window, &mut kept) else {
                return windows.end(window, place, now);
            };
            let verdict = match told {
                Told::Rejected => Verdict::Dead(DeadLetterReason::Rejected),
                Told::Exhausted => Verdict::Dead(DeadLetterReason::RetriesExhausted),
                Told::Panicked => Verdict::Dead(DeadLetterReason::HandlerPanic),
                Told::Done | Told::Retry | Told::Nothing => Verdict::Done,
            };
            if let Verdict::Done = verdict {
                self.counters
                    .add(Counter::processed(self.spec.class), u64::from(fault::doubles(Stage::of(self.spec.class))));
            }
            self.end(event, token, verdict, now);
        }
        // Dead letters of a whole window may be more than their link has room for: the rest goes when it has.
        if let Some(windows) = &mut self.spec.windows {
            windows.wait(window, place, now);
        }
    }

    /// Calls the handler until it has answered for all of the window's events. A panic ends one event if it was about one.
    fn call_with_window(&mut self, window: u32) {
        let Some(windows) = &mut self.spec.windows else { return };
        let progress = Progress::default();
        let answer = loop {
            let view = windows.view(window, &self.spec.frames, self.spec.class, &progress);
            let handler = &mut self.spec.handler;
            match catch_unwind(AssertUnwindSafe(|| handler.handle_window(&view))) {
                Ok(answer) => break told(answer),
                Err(_) => {
                    self.counters.add(Counter::HANDLER_PANICS, 1);
                    if !windows.blame(window, &progress) {
                        break Told::Done;
                    }
                }
            }
        };
        let retries = windows.answer(window, answer, &progress);
        self.counters.add(Counter::HANDLER_RETRIES, retries);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::alone;
    use super::*;
    use crate::dispatch::{SpillPool, TopicEntry, TopicTableCell, WindowLimits};
    use crate::frame::{Class, Limits, Parser, Priority, Transport};
    use crate::memory::{Frames, Peer, Route};
    use crate::runtime::agent::{Agent, Blocking, Cycle};
    use crate::worker::{RetryPolicy, Windows, WindowsSpec};

    /// A topic's word in a table where it has windows of three events and a microsecond.
    fn windowed_topic() -> (Arc<TopicTableCell>, u32) {
        let limits = Limits { frame_bytes: 1 << 20, topic_bytes: 255 };
        let parser = Parser::new(limits, Transport::Tcp, Priority::Critical, 42);
        let window = Some(WindowLimits { max_events: 3, max_bytes: 1000, max_ns: 1000 });
        let entry = TopicEntry { name: "t".into(), class: Class::Batch, dedup: false, strict: false, window };
        let hash = parser.topic_hash(b"t");
        let table = TopicTableCell::new(&[entry], parser);
        let word = table.load().1.find(hash, || b"t").unwrap().word;
        (table, word)
    }

    #[test]
    fn the_runner_may_sleep_until_the_first_window_is_due() {
        let (mut source, spill) = (alone::pool(0, 4), alone::pool(1, 4));
        let frames = Frames::new(&[&source, &spill]);
        let (table, word) = windowed_topic();
        let retry = RetryPolicy { max_attempts: 3, backoff_initial_ns: 10, backoff_max_ns: 1000 };
        let profiles = table.windows().clone();
        let windows = WindowsSpec { spill: SpillPool::new(spill), events: 8, windows: 16, profiles, retry };
        let time = Arc::new(AtomicU64::new(0));
        let (mut worker, mut ring, _kept) = alone::worker(frames, Some(Windows::new(windows)), time.clone());
        let (block, held) = (worker.counters().block(), worker.held_gauge());
        let mut send = |count: u32| {
            let slot = source.acquire().unwrap();
            let mut maker = source.seal(slot, count, 0, Peer::NONE);
            let route = Route { topic: word, ..Route::default() };
            (0..count).for_each(|_| ring.push(maker.make(0, 4, route)).unwrap());
            drop(maker);
            ring.publish();
        };
        let mut run = |now| {
            time.store(now, Ordering::Relaxed);
            let work = worker.duty_cycle(&Cycle { now, busy: true });
            (work, worker.blocking(), block.get(Counter::processed(Class::Batch)), held.load(Ordering::Relaxed))
        };
        assert_eq!(run(1), (0, Blocking::Allowed, 0, 0));
        send(4);
        assert_eq!(run(10), (4, Blocking::Until(1010), 3, 1), "the fourth opens a window of its own");
        send(1);
        assert_eq!(run(500), (1, Blocking::Until(1010), 3, 2));
        assert_eq!(run(1009), (0, Blocking::Until(1010), 3, 2));
        assert_eq!(run(1010), (2, Blocking::Allowed, 5, 0));
        worker.housekeeping(2000);
        assert_eq!(source.reclaim(), 2, "frames were given back long before");
    }
}
