//! The way down: an engine drained, or left as it is.

use std::time::{Duration, Instant};

use super::super::wait_until;
use super::{Guarded, Shared, program};
use crate::control::State;
use crate::metrics::{Counter, LostReason, Report};
use crate::nic::Switch;
use crate::runtime::RunnerHandle;
use crate::topology::LOG;

/// How long a disk may take to write and to sync what is left.
const LOG_PATIENCE: Duration = Duration::from_secs(30);

/// How a drain has ended.
pub struct Drained {
    pub report: Report,
    /// Frame slots that did not come back though everything has ended. Only debug builds look for them.
    pub lost_slots: usize,
}

impl Shared {
    /// The way down, in path order. See the design of each step beside it.
    pub fn drain(&self) -> Drained {
        let mut guarded = self.lock();
        let deadline = guarded.config.drain.timeout;
        let started = Instant::now();
        let left = || deadline.saturating_sub(started.elapsed());
        // Refuse, and wait until no run of the program that began before can still redirect.
        self.switch(&mut guarded, Switch::Refuse);
        if let Some(program) = program(&mut guarded) {
            program.wait_for_runs();
        }
        guarded.controller.set_by_operator(State::Draining, self.clock.now());
        self.state.set(State::Draining);
        Self::wake_all(&guarded);
        // Rx rings empty twice across a NAPI pass, sockets read to EAGAIN: each backend says so itself.
        let taken_in = wait_until(left(), || self.observers.drains.iter().all(|(_, drain)| drain.is_drained()));
        if !taken_in {
            for (agent, _) in self.observers.drains.iter().filter(|(_, drain)| !drain.is_drained()) {
                tracing::warn!(%agent, "has not drained in time");
            }
        }
        // Stages empty in path order, then every agent's counters are published once more.
        let ended = wait_until(left(), || self.is_quiescent());
        let rounds: Vec<u64> = guarded.runners.iter().map(RunnerHandle::housekeeping_rounds).collect();
        Self::wake_all(&guarded);
        wait_until(left().max(Duration::from_millis(250)), || {
            let published = |(runner, before): (&RunnerHandle, &u64)| runner.housekeeping_rounds() >= before + 2;
            guarded.runners.iter().zip(&rounds).all(published)
        });
        self.read_steering(&mut guarded);
        detach(&mut guarded);
        self.stop_runners(&mut guarded);
        let all_ended = taken_in && ended && self.is_quiescent();
        let lost = self.observers.sum(Counter::lost(LostReason::LogDisk));
        if lost > 0 {
            tracing::error!(
                events = lost,
                "these events were lost: the event log could not be written when the engine ended"
            );
        }
        Drained { report: self.report_with(&mut guarded), lost_slots: self.observers.name_lost_slots(all_ended) }
    }

    fn is_quiescent(&self) -> bool {
        let ledger = self.observers.ledger();
        let stages = &ledger.stages;
        stages.waiting_at_ingest + stages.ingest_queue + stages.worker_queues.total() + stages.waiting_for_retry == 0
            && stages.dead_letter_queues == 0
    }

    /// Ends the data threads. One that hangs in a handler is named and left behind.
    fn stop_runners(&self, guarded: &mut Guarded) {
        // What the threads drop at their end is no defect if not all has ended by then.
        self.observers.judge_slots_later();
        self.shutdown.request();
        Self::wake_all(guarded);
        for runner in guarded.runners.drain(..) {
            // A log is closed in order: written, synced, its index too.
            let patience = if runner.name == LOG { LOG_PATIENCE } else { Duration::from_millis(500) };
            if !wait_until(patience, || runner.is_finished()) {
                tracing::error!(runner = %runner.name, "does not return from a handler and is left behind");
                continue;
            }
            let name = runner.name.clone();
            if !runner.join() {
                tracing::error!(runner = %name, "a data thread panicked: this is a defect");
            }
        }
    }

    /// Stops without draining.
    pub fn abandon(&self) {
        let mut guarded = self.lock();
        if guarded.runners.is_empty() {
            return;
        }
        detach(&mut guarded);
        self.stop_runners(&mut guarded);
    }
}

/// Lets the interface go. Its switch comes first: without the program a veth has no NAPI contexts, and ignores it.
fn detach(guarded: &mut Guarded) {
    guarded.napi = None;
    if let Some(program) = program(guarded) {
        program.detach();
    }
}
