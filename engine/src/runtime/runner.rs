//! A pinned thread that steps its agents, in the order they were given, until it is told to stop.
//!
//! Agents that share a runner are stepped one after another in path order and in bursts small enough that what one wrote
//! is still in L1 when the next reads it. Only the runner blocks: on one epoll set of its agents' descriptors and its
//! wake-up eventfd, until the earliest deadline.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::epoll;

use super::agent::{Agent, Blocking, Cycle};
use super::clock::{Clock, Nanos};
use super::idle::{ASK_EVERY, IdleStrategy, SPINS, YIELDS};
use super::waker::Waker;

/// How often counters and gauges are published while there is work.
const HOUSEKEEPING_NS: Nanos = 1_000_000;
/// The longest a runner blocks: gauges of an idle engine are at most this old.
const BLOCK_MAX_NS: Nanos = 100_000_000;

/// What a runner is made of.
pub struct RunnerSpec {
    pub name: String,
    /// Core to be pinned to.
    pub cpu: Option<u32>,
    pub idle: IdleStrategy,
    pub agents: Vec<Box<dyn Agent>>,
    pub waker: Waker,
    pub clock: Clock,
    pub shutdown: Shutdown,
}

/// Ends all runners that share it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<AtomicBool>);

impl Shutdown {
    pub fn request(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_requested(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How much of a runner's time goes into rounds that find work. Written by its thread, read by anybody.
#[derive(Debug)]
pub struct RunnerLoad {
    started_ns: Nanos,
    /// Zero as long as the thread runs.
    ended_ns: AtomicU64,
    busy_ns: AtomicU64,
}

impl RunnerLoad {
    /// Time from the thread's start to `now` or to its end, and the busy part of it as last published, about a millisecond
    /// ago or before the thread blocked. By the engine's clock: what interrupted the thread is in it.
    pub fn get(&self, now: Nanos) -> (Nanos, Nanos) {
        // Relaxed: figures for a report, that order nothing.
        let ended = self.ended_ns.load(Ordering::Relaxed);
        let elapsed = if ended == 0 { now } else { ended }.saturating_sub(self.started_ns);
        (elapsed, self.busy_ns.load(Ordering::Relaxed).min(elapsed))
    }
}

/// A running runner.
pub struct RunnerHandle {
    pub name: String,
    thread: JoinHandle<()>,
    waker: Waker,
    /// Rounds of housekeeping done: two more than at some moment mean that everything counted by then is published.
    rounds: Arc<AtomicU64>,
    load: Arc<RunnerLoad>,
    pub pinned: Result<Option<u32>, String>,
}

impl RunnerHandle {
    pub fn wake(&self) {
        self.waker.wake();
    }

    pub fn housekeeping_rounds(&self) -> u64 {
        self.rounds.load(Ordering::Acquire)
    }

    pub fn load(&self) -> Arc<RunnerLoad> {
        self.load.clone()
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the thread's end; false if it panicked.
    pub fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}

impl RunnerSpec {
    /// Starts the thread. Returns once it is pinned, or has failed to be.
    pub fn spawn(mut self) -> io::Result<RunnerHandle> {
        // A stable sort: sources come first, and both parts keep their path order.
        self.agents.sort_by_key(|agent| !agent.is_source());
        let asks_seldom = self.idle == IdleStrategy::BusySpin && self.agents.iter().any(|agent| agent.asks_memory());
        let sources = self.agents.iter().take_while(|agent| agent.is_source()).count();
        let (report, pinned) = std::sync::mpsc::channel();
        let rounds = Arc::new(AtomicU64::new(0));
        let (name, waker) = (self.name.clone(), self.waker.clone());
        let poll = EpollSet::new(&self.waker, &self.agents)?;
        let started_ns = self.clock.now();
        let load = Arc::new(RunnerLoad { started_ns, ended_ns: AtomicU64::new(0), busy_ns: AtomicU64::new(0) });
        let (counted, told) = (rounds.clone(), load.clone());
        let (busy_ns, idle_rounds) = (0, 0);
        let runner =
            Runner { spec: self, poll, rounds: counted, load: told, busy_ns, idle_rounds, sources, asks_seldom };
        // The kernel keeps 15 bytes of a thread's name.
        let thread = std::thread::Builder::new().name(name.chars().take(15).collect()).spawn(move || {
            let _ = report.send(pin(runner.spec.cpu));
            go_first();
            runner.run();
        })?;
        let pinned = pinned.recv().unwrap_or_else(|_| Err("the thread ended before it was pinned".into()));
        Ok(RunnerHandle { name, thread, waker, rounds, load, pinned })
    }
}

fn pin(cpu: Option<u32>) -> Result<Option<u32>, String> {
    let Some(cpu) = cpu else { return Ok(None) };
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu as usize);
    rustix::thread::sched_setaffinity(None, &set)
        .map(|()| Some(cpu))
        .map_err(|error| format!("cannot be pinned to cpu {cpu}: {error}"))
}

/// How much the data threads are preferred on their cores, as `nice` has it.
const NICENESS: i32 = -10;

/// Asks to go before ordinary work on the same core: an rx ring holds some milliseconds of packets, and so long lasts a
/// fair share of somebody else's. Without the right to ask the thread runs like everybody's.
fn go_first() {
    // Pid 0 means the calling thread to Linux, whatever POSIX says of processes (setpriority(2)).
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

/// Owned by the runner's thread.
struct EpollSet(std::os::fd::OwnedFd);

impl EpollSet {
    fn new(waker: &Waker, agents: &[Box<dyn Agent>]) -> io::Result<Self> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let event = |index| epoll::EventData::new_u64(index);
        epoll::add(&set, waker.descriptor(), event(0), epoll::EventFlags::IN)?;
        for agent in agents {
            for descriptor in agent.descriptors() {
                epoll::add(&set, descriptor, event(1), epoll::EventFlags::IN)?;
            }
        }
        Ok(Self(set))
    }

    /// Blocks until a descriptor is ready or `timeout` is over. Which one does not matter: every agent is stepped anyway.
    fn wait(&self, timeout: Duration) {
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 4];
        let timeout =
            rustix::event::Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        // EINTR and spurious returns only mean another idle round.
        let _ = epoll::wait(&self.0, &mut events[..], Some(&timeout));
    }
}

struct Runner {
    spec: RunnerSpec,
    poll: EpollSet,
    rounds: Arc<AtomicU64>,
    load: Arc<RunnerLoad>,
    /// Spent in rounds that found work, from one reading of the clock to the next.
    busy_ns: Nanos,
    idle_rounds: u32,
    /// How many of the agents, at the front, are sources.
    sources: usize,
    /// Whether idle rounds are told to look at memory only, but for one in [`ASK_EVERY`].
    asks_seldom: bool,
}

impl Runner {
    fn run(mut self) {
        self.spec.agents.iter_mut().for_each(|agent| agent.start());
        let (mut busy, mut before, mut next_housekeeping) = (false, 0, 0);
        loop {
            let now = self.spec.clock.now();
            if busy {
                self.busy_ns += now.saturating_sub(before);
            }
            before = now;
            let looks_only = self.asks_seldom && !self.idle_rounds.is_multiple_of(ASK_EVERY);
            busy = self.step(now, busy || looks_only) > 0;
            if now >= next_housekeeping {
                self.housekeeping(now);
                next_housekeeping = now + HOUSEKEEPING_NS;
                if self.spec.shutdown.is_requested() {
                    break;
                }
            }
            if busy {
                self.idle_rounds = 0;
            } else {
                self.idle();
            }
        }
        self.spec.agents.iter_mut().for_each(|agent| agent.close());
        let now = self.spec.clock.now();
        self.housekeeping(now);
        self.load.ended_ns.store(now, Ordering::Relaxed);
    }

    /// One round, depth first: the agents behind the sources are stepped after each source that brought something, so
    /// that one burst is through before the next comes in and queues stay short. They are stepped once in any case.
    #[inline]
    fn step(&mut self, now: Nanos, busy: bool) -> usize {
        let cycle = Cycle { now, busy };
        let (sources, stages) = self.spec.agents.split_at_mut(self.sources);
        crate::memory::on_data_path(|| {
            let mut work = 0;
            for source in sources {
                let brought = source.duty_cycle(&cycle);
                if brought > 0 {
                    work += brought;
                    stages.iter_mut().for_each(|stage| work += stage.duty_cycle(&cycle));
                }
            }
            if work == 0 {
                stages.iter_mut().for_each(|stage| work += stage.duty_cycle(&cycle));
            }
            work
        })
    }

    fn housekeeping(&mut self, now: Nanos) {
        self.spec.agents.iter_mut().for_each(|agent| agent.housekeeping(now));
        self.load.busy_ns.store(self.busy_ns, Ordering::Relaxed);
        self.rounds.fetch_add(1, Ordering::Release);
    }

    fn idle(&mut self) {
        self.idle_rounds = self.idle_rounds.saturating_add(1);
        match self.spec.idle {
            IdleStrategy::BusySpin => std::hint::spin_loop(),
            IdleStrategy::Yield => std::thread::yield_now(),
            IdleStrategy::Backoff if self.idle_rounds <= SPINS => std::hint::spin_loop(),
            IdleStrategy::Backoff if self.idle_rounds <= SPINS + YIELDS => std::thread::yield_now(),
            IdleStrategy::Backoff => self.block(),
        }
    }

    #[cold]
    fn block(&mut self) {
        self.spec.waker.park();
        let now = self.spec.clock.now();
        // Whatever was published before the flag was seen is found here.
        if self.step(now, false) > 0 {
            self.spec.waker.unpark();
            self.idle_rounds = 0;
            self.busy_ns += self.spec.clock.now().saturating_sub(now);
            return;
        }
        self.housekeeping(now);
        let mut until = now + BLOCK_MAX_NS;
        for agent in &self.spec.agents {
            match agent.blocking() {
                Blocking::Allowed => {}
                Blocking::Until(deadline) => until = until.min(deadline),
                Blocking::Forbidden => until = now,
            }
        }
        if until > now && !self.spec.shutdown.is_requested() {
            self.poll.wait(Duration::from_nanos(until - now));
        } else {
            std::thread::yield_now();
        }
        self.spec.waker.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting {
        steps: Arc<AtomicU64>,
        work: Arc<AtomicU64>,
    }

    impl Agent for Counting {
        fn name(&self) -> &str {
            "counting"
        }

        fn duty_cycle(&mut self, _cycle: &Cycle) -> usize {
            self.steps.fetch_add(1, Ordering::Relaxed);
            self.work.swap(0, Ordering::Relaxed) as usize
        }

        fn housekeeping(&mut self, _now: Nanos) {}
    }

    /// Counts its idle rounds and those of them in which it is to ask the kernel.
    struct Asked {
        asks_memory: bool,
        rounds: Arc<AtomicU64>,
        asked: Arc<AtomicU64>,
    }

    impl Agent for Asked {
        fn name(&self) -> &str {
            "asked"
        }

        fn duty_cycle(&mut self, cycle: &Cycle) -> usize {
            self.asked.fetch_add(u64::from(!cycle.busy), Ordering::Relaxed);
            self.rounds.fetch_add(1, Ordering::Release);
            0
        }

        fn asks_memory(&self) -> bool {
            self.asks_memory
        }

        fn housekeeping(&mut self, _now: Nanos) {}
    }

    #[test]
    fn a_spinning_runner_with_a_ring_asks_the_kernel_in_one_round_of_some() {
        let cases = [(IdleStrategy::BusySpin, true), (IdleStrategy::BusySpin, false), (IdleStrategy::Yield, true)];
        for (idle, asks_memory) in cases {
            let (rounds, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let agent = Asked { asks_memory, rounds: rounds.clone(), asked: asked.clone() };
            let (waker, shutdown) = (Waker::new().unwrap(), Shutdown::default());
            let spec = RunnerSpec {
                name: "test".into(),
                cpu: None,
                idle,
                agents: vec![Box::new(agent)],
                waker,
                clock: Clock::calibrated(),
                shutdown: shutdown.clone(),
            };
            let handle = spec.spawn().unwrap();
            while rounds.load(Ordering::Acquire) < 1_000 {
                std::thread::yield_now();
            }
            shutdown.request();
            assert!(handle.join());
            let (rounds, asked) = (rounds.load(Ordering::Relaxed), asked.load(Ordering::Relaxed));
            let seldom = idle == IdleStrategy::BusySpin && asks_memory;
            let expected = if seldom { rounds.div_ceil(u64::from(ASK_EVERY)) } else { rounds };
            assert_eq!(asked, expected, "{idle:?}, {asks_memory}: of {rounds}");
        }
    }

    #[test]
    fn an_idle_runner_blocks_and_a_wake_up_steps_it() {
        let (steps, work) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let agent = Counting { steps: steps.clone(), work: work.clone() };
        let (waker, shutdown) = (Waker::new().unwrap(), Shutdown::default());
        let spec = RunnerSpec {
            name: "test".into(),
            cpu: None,
            idle: IdleStrategy::Backoff,
            agents: vec![Box::new(agent)],
            waker: waker.clone(),
            clock: Clock::calibrated(),
            shutdown: shutdown.clone(),
        };
        let handle = spec.spawn().unwrap();
        for _ in 0..100 {
            work.store(1, Ordering::Release);
            waker.wake();
            while work.load(Ordering::Acquire) != 0 {
                std::thread::yield_now();
            }
        }
        shutdown.request();
        handle.wake();
        let load = handle.load();
        assert!(handle.join());
        let (elapsed, busy) = load.get(0);
        assert!(busy > 0 && busy < elapsed, "{busy} of {elapsed}");
        assert_eq!(load.get(Nanos::MAX), (elapsed, busy), "it ran until its end and no longer");
    }
}
