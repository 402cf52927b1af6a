//! A stage of the data plane as its runner sees it.

use std::os::fd::BorrowedFd;

use super::clock::Nanos;

/// What a runner tells its agents at the start of a duty cycle.
#[derive(Clone, Copy, Debug)]
pub struct Cycle {
    /// Read once a round of the runner, shared by its agents.
    pub now: Nanos,
    /// Whether the last round found work anywhere on this runner. An agent whose poll costs a system call then
    /// polls at its bounded interval; on an idle runner it polls at once. A runner that never blocks calls most of its idle
    /// rounds busy, too, if it has a source that is [asked without a system call](Agent::asks_memory).
    pub busy: bool,
}

/// Whether a runner may block while this agent has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// There is work that no descriptor will announce: a ready list, events waiting for room downstream.
    Forbidden,
    /// Until this time at the latest.
    Until(Nanos),
    /// Until a descriptor of the agent or the runner's wake-up is ready.
    Allowed,
}

/// A non-blocking stage. Time comes from the [`Cycle`]; nothing here waits, sleeps or locks.
pub trait Agent: Send {
    /// Stable name, as in the layout: `xdp-0`, `dispatcher-0`, `realtime-0`.
    fn name(&self) -> &str;

    /// Does a bounded batch of work and returns how much it did; zero means idle.
    fn duty_cycle(&mut self, cycle: &Cycle) -> usize;

    /// Whether events enter the runner's agents here. A runner steps everything behind a source right after it has
    /// brought something, before the next source: what was written is then still in the cache when it is read.
    fn is_source(&self) -> bool {
        false
    }

    /// Of a source: whether finding nothing costs no system call.
    fn asks_memory(&self) -> bool {
        false
    }

    /// Publishes counters and gauges; about every millisecond, before blocking, and once at the end.
    fn housekeeping(&mut self, now: Nanos);

    fn blocking(&self) -> Blocking {
        Blocking::Allowed
    }

    /// Descriptors whose readability means work. Asked once, when the runner starts.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// Called once on the runner's thread before the first duty cycle.
    fn start(&mut self) {}

    /// Called once on the runner's thread after the last.
    fn close(&mut self) {}
}
