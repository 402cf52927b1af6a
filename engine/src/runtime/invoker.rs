//! Steps agents by hand on the calling thread: for tests, where time and order must be the test's own.

use super::agent::{Agent, Cycle};
use super::clock::Nanos;

/// Owns agents and steps them like a runner would.
pub struct Invoker {
    agents: Vec<Box<dyn Agent>>,
}

impl Invoker {
    pub fn new(agents: Vec<Box<dyn Agent>>) -> Self {
        Self { agents }
    }

    /// One round at time `now`: every agent's duty cycle, then everyone's housekeeping.
    pub fn step(&mut self, now: Nanos) -> usize {
        let cycle = Cycle { now, busy: true };
        let work = self.agents.iter_mut().map(|agent| agent.duty_cycle(&cycle)).sum();
        self.agents.iter_mut().for_each(|agent| agent.housekeeping(now));
        work
    }

    /// Steps one agent only.
    ///
    /// # Panics
    /// When no agent has this name.
    pub fn step_one(&mut self, name: &str, now: Nanos) -> usize {
        let agent = self.agents.iter_mut().find(|agent| agent.name() == name).expect("an agent of that name");
        let work = agent.duty_cycle(&Cycle { now, busy: true });
        agent.housekeeping(now);
        work
    }

    /// Steps until a whole round does nothing.
    pub fn settle(&mut self, now: Nanos) {
        while self.step(now) > 0 {}
    }
}
