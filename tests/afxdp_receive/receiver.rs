//! An engine reduced to its AF_XDP intake, stepped by the test.

use std::time::{Duration, Instant};

use eventstream::control::{State, StateCell};
use eventstream::frame::{Limits, Parser, Priority, Transport};
use eventstream::ingest::xdp::XdpBackend;
use eventstream::ingest::{IngestAgent, Intake, IntakeSpec};
use eventstream::memory::{Event, Frames, Releaser};
use eventstream::metrics::{Counter, MalformedReason};
use eventstream::nic::{Interface, NetWatch, NicSetup, QueueMode, QueueVerdicts, SteerProgram};
use eventstream::queue::mpsc;
use eventstream::runtime::agent::{Agent, Blocking, Cycle};
use eventstream::runtime::clock::{Clock, kernel_now};
use rustix::event::{PollFd, PollFlags};

pub struct Receiver {
    pub program: SteerProgram,
    pub watch: NetWatch,
    pub modes: Vec<QueueMode>,
    pub interface: Interface,
    pub state: StateCell,
    agents: Vec<(u32, IngestAgent<XdpBackend>)>,
    events: mpsc::Consumer<Event>,
    frames: Frames,
    releaser: Releaser,
    /// Payload of each event received, in order.
    pub received: Vec<Vec<u8>>,
    /// How long those with a stamp had been in the ring.
    pub waited: Vec<u32>,
}

impl Receiver {
    pub fn new(setup: NicSetup) -> Self {
        let NicSetup { program, watch, queues, modes, interface, .. } = setup;
        let frames = Frames::new(&queues.iter().map(|ready| &ready.pool).collect::<Vec<_>>());
        let (mut producers, events) = mpsc::queue(1 << 16, queues.len());
        let limits = Limits { frame_bytes: 1 << 20, topic_bytes: 255 };
        let parser = Parser::new(limits, Transport::Udp, Priority::Critical, 7);
        let state = StateCell::new(State::Running);
        let clock = Clock::calibrated();
        let agent = |ready: eventstream::nic::XskReady| {
            let spec = IntakeSpec { pool: ready.pool, queue: producers.remove(0), parser: parser.clone(), waker: None };
            let backend = XdpBackend::new(ready.rings, clock.clone());
            let agent = IngestAgent::new(format!("xdp-{}", ready.queue), backend, Intake::new(spec), state.clone());
            (ready.queue, agent)
        };
        let agents = queues.into_iter().map(agent).collect();
        let releaser = Releaser::new(frames.clone());
        let program = program.expect("a program");
        let received = Vec::new();
        Self { program, watch, modes, interface, state, agents, events, frames, releaser, received, waited: Vec::new() }
    }

    /// One round of all agents and of a dispatcher that ends every event at once.
    pub fn step(&mut self) {
        let cycle = Cycle { now: kernel_now(), busy: true };
        for (_, agent) in &mut self.agents {
            agent.duty_cycle(&cycle);
            agent.housekeeping(cycle.now);
        }
        while let Some(event) = self.events.take() {
            let run = self.frames.run_of_one(&event);
            self.waited.extend((run.waited_ns > 0).then_some(run.waited_ns));
            self.received.push(self.frames.view(&event).payload().to_vec());
            self.releaser.release(event);
        }
        self.events.release();
        self.releaser.flush();
    }

    /// Steps until `condition`, at most five seconds.
    pub fn step_until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < Duration::from_secs(5), "{what}: not within 5 s, {:?}", self.verdicts());
            self.step();
        }
    }

    /// Steps until every agent may sleep, then waits on their descriptors as a runner does.
    pub fn sleep(&mut self, limit: Duration) -> bool {
        self.step_until("an idle agent", |r| r.agents.iter().all(|(_, agent)| agent.blocking() == Blocking::Allowed));
        let descriptors: Vec<_> = self.agents.iter().flat_map(|(_, agent)| agent.descriptors()).collect();
        let mut waiting: Vec<_> = descriptors.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let limit = limit.try_into().expect("a short time");
        rustix::event::poll(&mut waiting, Some(&limit)).expect("poll") > 0
    }

    pub fn is_drained(&self) -> bool {
        self.agents.iter().all(|(_, agent)| agent.drain_status().is_drained())
    }

    pub fn count(&self, queue: u32, counter: Counter) -> u64 {
        let agent = self.agents.iter().find(|(served, _)| *served == queue);
        agent.map_or(0, |(_, agent)| agent.intake().counters.get(counter))
    }

    pub fn total(&self, counter: Counter) -> u64 {
        self.agents.iter().map(|(queue, _)| self.count(*queue, counter)).sum()
    }

    pub fn verdicts(&self) -> Vec<(u32, QueueVerdicts)> {
        let verdicts = |queue: &u32| (*queue, self.program.verdicts(*queue).expect("counters can be read"));
        self.agents.iter().map(|(queue, _)| verdicts(queue)).collect()
    }

    pub fn steered(&self) -> u64 {
        self.verdicts().iter().map(|(_, verdicts)| verdicts.steered()).sum()
    }

    /// Waits until the program has seen so many of our packets and is done with them. Nothing is taken off the rings.
    pub fn wait_until_steered(&mut self, count: u64) {
        let start = Instant::now();
        while self.steered() < count {
            assert!(start.elapsed() < Duration::from_secs(5), "not within 5 s: {:?}", self.verdicts());
            std::thread::sleep(Duration::from_millis(1));
        }
        self.program.wait_for_runs();
    }

    /// Every equation of the ledger that is about datagrams, queue by queue.
    pub fn check_balance(&mut self) {
        self.program.wait_for_runs();
        loop {
            let before = self.total(Counter::DATAGRAMS_CONSUMED);
            self.step();
            if self.total(Counter::DATAGRAMS_CONSUMED) == before {
                break;
            }
        }
        for (queue, verdicts) in self.verdicts() {
            let ended = verdicts.steered() + verdicts.passed() + verdicts.refused() + verdicts.filtered();
            assert_eq!(verdicts.runs, ended, "queue {queue}: runs");
            let consumed = self.count(queue, Counter::DATAGRAMS_CONSUMED);
            let lost = [Counter::KERNEL_RX_DROPPED, Counter::KERNEL_RX_RING_FULL].map(|lost| self.count(queue, lost));
            assert_eq!(verdicts.steered(), consumed + lost[0] + lost[1], "queue {queue}: steered, lost {lost:?}");
            let malformed: u64 =
                MalformedReason::ALL.iter().map(|reason| self.count(queue, Counter::datagram_malformed(*reason))).sum();
            let parsed = self.count(queue, Counter::DATAGRAMS_PARSED);
            assert_eq!(consumed, parsed + malformed, "queue {queue}: consumed");
            assert_eq!(self.count(queue, Counter::RX_DESCRIPTOR_INVALID), 0);
        }
        assert_eq!(self.total(Counter::EVENTS_ACCEPTED), self.received.len() as u64);
        for (queue, agent) in &self.agents {
            let pool = &agent.intake().pool;
            assert_eq!(pool.free() + pool.kernel(), pool.slots(), "queue {queue}: frames");
        }
    }
}
