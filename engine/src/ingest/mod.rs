//! Taking events in: one trait, three backends (`xdp`, `udp`, `tcp`) and an in-memory fake for tests.
//!
//! A backend knows its descriptors and its kernel interface; what is the same for all of them is here: the
//! [`IngestAgent`] that steps a backend, and in [`intake`] the way from bytes to events in the dispatcher's queue.

pub mod intake;
pub mod memory;
pub mod tcp;
pub mod udp;
pub mod xdp;

pub use intake::{Arrival, Intake, IntakeSpec};

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::control::{State, StateCell};
use crate::metrics::Spans;
use crate::runtime::agent::{Agent, Blocking, Cycle};
use crate::runtime::clock::Nanos;

/// Where bytes come from.
pub trait Backend: Send {
    /// Takes in a bounded batch through `intake` and returns how many datagrams or reads that was. Keeps its
    /// position and returns when [`Intake::is_blocked`] says that the dispatcher's queue has no room.
    ///
    /// `state` decides what may be taken in: while it [takes nothing in](State::takes_in), AF_XDP still empties its
    /// rx ring (steering has been switched off in the program before) and keeps the fill ring full, sockets are read
    /// only when `Draining`, to their end.
    fn receive(&mut self, intake: &mut Intake, state: State, cycle: &Cycle) -> usize;

    /// Called once on the agent's thread before anything else.
    fn start(&mut self, _intake: &mut Intake) {}

    /// Called when the state changes, before the first `receive` under it.
    fn state_changed(&mut self, _intake: &mut Intake, _state: State) {}

    /// Whether [`receive`](Self::receive) costs no system call when there is nothing.
    fn asks_memory(&self) -> bool {
        false
    }

    /// While draining: nothing is left that this backend could still take in.
    fn drained(&self) -> bool;

    /// Kernel counters into `intake.counters`, other rare work. About once a millisecond.
    fn housekeeping(&mut self, _intake: &mut Intake, _now: Nanos) {}

    /// Called once, after everything else: gives back the slots it holds.
    fn end(&mut self, _intake: &mut Intake) {}

    /// What this backend measures, before anything is.
    fn spans(&self) -> Spans {
        Spans::new()
    }

    fn blocking(&self) -> Blocking {
        Blocking::Allowed
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;
}

/// Tells the control thread how far an agent is with a drain.
#[derive(Clone, Debug, Default)]
pub struct DrainStatus(Arc<AtomicBool>);

impl DrainStatus {
    pub fn is_drained(&self) -> bool {
        // Acquire: paired with the Release in `set`; counters flushed before are seen.
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, drained: bool) {
        self.0.store(drained, Ordering::Release);
    }
}

/// The agent around a backend.
pub struct IngestAgent<B> {
    name: String,
    backend: B,
    intake: Intake,
    state: StateCell,
    last_state: State,
    drain: DrainStatus,
}

impl<B: Backend> IngestAgent<B> {
    pub fn new(name: String, backend: B, intake: Intake, state: StateCell) -> Self {
        Self { name, backend, intake, state, last_state: State::Running, drain: DrainStatus::default() }
    }

    pub fn drain_status(&self) -> DrainStatus {
        self.drain.clone()
    }

    pub fn spans(&self) -> Spans {
        self.backend.spans()
    }

    pub fn intake(&self) -> &Intake {
        &self.intake
    }
}

impl<B: Backend> Agent for IngestAgent<B> {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self) {
        self.backend.start(&mut self.intake);
    }

    fn duty_cycle(&mut self, cycle: &Cycle) -> usize {
        let state = self.state.get();
        if state != self.last_state {
            self.last_state = state;
            self.backend.state_changed(&mut self.intake, state);
            self.drain.set(false);
        }
        let pushed = self.intake.push_pending();
        if self.intake.is_blocked() {
            return pushed;
        }
        pushed + self.backend.receive(&mut self.intake, state, cycle)
    }

    fn is_source(&self) -> bool {
        true
    }

    fn asks_memory(&self) -> bool {
        self.backend.asks_memory()
    }

    fn housekeeping(&mut self, now: Nanos) {
        self.backend.housekeeping(&mut self.intake, now);
        self.intake.pool.reclaim();
        self.intake.pool.publish_gauges();
        self.intake.flush_counters();
        if self.last_state == State::Draining {
            self.drain.set(self.backend.drained() && !self.intake.is_blocked());
        }
    }

    fn blocking(&self) -> Blocking {
        if self.intake.is_blocked() { Blocking::Forbidden } else { self.backend.blocking() }
    }

    fn close(&mut self) {
        self.backend.end(&mut self.intake);
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.backend.descriptors()
    }
}
