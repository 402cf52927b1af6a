//! The data path on one thread: memory-backed ingest agents, dispatcher, workers and dead letter agent, stepped by hand on
//! a clock that only the test moves.
//!
//! What the engine's own build step does with threads and sockets, this does without: every queue is as shallow and every
//! pool as small as the test asks, and the order in which agents run is the test's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use eventstream::acks::{AckSender, Told};
use eventstream::control::{State, StateCell};
use eventstream::dedup::{Claimer, DedupConfig, DedupTable, GapTable};
use eventstream::dispatch::{
    Dispatcher, DispatcherSpec, Link, LinkSpec, SourceAccount, SpillPool, TopicEntry, TopicTableCell, WindowLimits,
};
use eventstream::frame::{Class, FrameHeader, Limits, Parser, Priority, Transport, encode};
use eventstream::ingest::memory::{MemoryBackend, MemorySender};
use eventstream::ingest::{IngestAgent, Intake, IntakeSpec};
use eventstream::memory::{Event, FramePool, Frames, PoolGauges, PoolSpec, Region};
use eventstream::metrics::{Counter, CounterBlock, Ledger, Processed, Totals};
use eventstream::queue::{Feedback, Progress, mpsc, spsc};
use eventstream::runtime::agent::Agent;
use eventstream::runtime::clock::{Clock, Nanos};
use eventstream::runtime::invoker::Invoker;
use eventstream::storage::{ByteRing, DeadLetter, DeadLetterAgent, DeadLetterGauges, DeadLetterSender, ShedBudget};
use eventstream::worker::{RetryPolicy, RetryQueue, Windows, WindowsSpec, Worker, WorkerSpec};

pub use crate::handler::FnHandler;

/// Where every pipeline's clock starts: late enough that a deadline before it is not below zero.
pub const START_NS: Nanos = 1_000_000_000_000;

/// What a pipeline is made of. The defaults are small, so that every bound is within a test's reach.
pub struct PipelineSpec {
    pub sources: usize,
    pub source_slots: usize,
    pub source_slot_bytes: usize,
    /// Whether the sources count as ones that can be made to wait.
    pub reliable: bool,
    pub max_priority: Priority,
    /// Workers of each class.
    pub workers: [usize; 3],
    pub mpsc_depth: usize,
    pub spsc_depth: usize,
    /// Positions of each ring to a worker that only reliable sources' events in their frames may use.
    pub reserved: u64,
    /// Credits with which a class counts as full.
    pub class_credits: u64,
    pub dead_letter_depth: usize,
    pub spill_slots: usize,
    pub spill_slot_bytes: usize,
    pub stall_ns: Nanos,
    pub retry: RetryPolicy,
    pub retry_depth: usize,
    pub dedup: [bool; 3],
    pub topics: Vec<TopicEntry>,
    /// Memory of the batch workers' windows; none if zero.
    pub window_slots: usize,
    pub window_events: usize,
    pub windows: usize,
    /// Of batch topics without entry.
    pub unnamed_window: Option<WindowLimits>,
    pub gaps: bool,
    pub shed_bytes_per_s: u64,
    pub failed_bytes: usize,
    pub shed_bytes: usize,
}

impl Default for PipelineSpec {
    fn default() -> Self {
        Self {
            sources: 1,
            source_slots: 64,
            source_slot_bytes: 2048,
            reliable: false,
            max_priority: Priority::Critical,
            workers: [1; 3],
            // A claim takes up to 256 cells at once.
            mpsc_depth: 512,
            spsc_depth: 64,
            reserved: 0,
            class_credits: u64::MAX,
            dead_letter_depth: 512,
            spill_slots: 4,
            spill_slot_bytes: 2048,
            stall_ns: 1_000_000_000,
            retry: RetryPolicy { max_attempts: 3, backoff_initial_ns: 10_000_000, backoff_max_ns: 1_000_000_000 },
            retry_depth: 16,
            dedup: [false, true, false],
            topics: Vec::new(),
            window_slots: 0,
            window_events: 256,
            windows: 16,
            unnamed_window: None,
            gaps: false,
            shed_bytes_per_s: 1 << 30,
            failed_bytes: 1 << 20,
            shed_bytes: 1 << 20,
        }
    }
}

/// The published sides of the agents, as the control thread would read them.
#[derive(Default)]
struct Observed {
    blocks: Vec<Arc<CounterBlock>>,
    pending: Vec<Arc<AtomicU64>>,
    held: Vec<Arc<AtomicU64>>,
    pools: Vec<(String, Arc<PoolGauges>)>,
    /// Per source.
    feedback: Vec<Arc<Feedback>>,
    stalled_links: Arc<AtomicU64>,
    worker_depths: Vec<(Class, spsc::Depth<Event>)>,
    dead_letter_depths: Vec<spsc::Depth<DeadLetter>>,
}

/// A pipeline and both its ends.
pub struct Pipeline {
    pub invoker: Invoker,
    pub senders: Vec<MemorySender>,
    pub state: StateCell,
    pub topics: Arc<TopicTableCell>,
    /// Names of all agents in path order, for a test that chooses who runs next.
    pub agents: Vec<String>,
    time: Arc<AtomicU64>,
    observed: Observed,
    ingest_depth: mpsc::Depth<Event>,
    dead_letters: Arc<DeadLetterGauges>,
    sent_datagrams: u64,
    sent_events: u64,
}

/// A topic table entry.
pub fn topic(name: &str, class: Class) -> TopicEntry {
    TopicEntry { name: name.into(), class, dedup: false, strict: false, window: None }
}

/// A datagram of one event.
pub fn datagram(header: &FrameHeader, topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes, header, topic.as_bytes(), payload);
    bytes
}

fn parser(max_priority: Priority) -> Parser {
    let limits = Limits { frame_bytes: 1 << 20, topic_bytes: 255 };
    // A fixed seed: the same seed of a test then takes the same way through tables and workers.
    Parser::new(limits, Transport::Udp, max_priority, 42)
}

/// The pools of a pipeline, numbered in the order of the fields.
struct Pools {
    sources: Vec<FramePool>,
    spill: [FramePool; 3],
    retries: Vec<(Class, FramePool)>,
    windows: Vec<FramePool>,
}

impl Pools {
    fn map(spec: &PipelineSpec) -> Self {
        let mut next = 0u8;
        let mut pool = |slots: usize, slot_bytes: usize, reliable| {
            let region = Region::map(slots * slot_bytes).expect("a small mapping");
            next += 1;
            FramePool::new(next - 1, region, &PoolSpec { slot_bytes, reliable })
        };
        let sources =
            (0..spec.sources).map(|_| pool(spec.source_slots, spec.source_slot_bytes, spec.reliable)).collect();
        let spill = Class::ALL.map(|_| pool(spec.spill_slots, spec.spill_slot_bytes, false));
        let retried = [Class::Transactional, Class::Batch];
        let retries = retried
            .into_iter()
            .flat_map(|class| std::iter::repeat_n(class, spec.workers[class as usize]))
            .map(|class| (class, pool(spec.spill_slots, spec.spill_slot_bytes, false)))
            .collect();
        let windowed = if spec.window_slots > 0 { spec.workers[Class::Batch as usize] } else { 0 };
        let windows = (0..windowed).map(|_| pool(spec.window_slots, spec.spill_slot_bytes, false)).collect();
        Self { sources, spill, retries, windows }
    }

    fn named(&self) -> impl Iterator<Item = (String, &FramePool)> {
        let sources = self.sources.iter().enumerate().map(|(index, pool)| (format!("source-{index}"), pool));
        let spill = Class::ALL.iter().zip(&self.spill).map(|(class, pool)| (format!("spill {class}"), pool));
        let retries = self.retries.iter().map(|(class, pool)| (format!("retry {class}"), pool));
        let windows = self.windows.iter().map(|pool| ("windows".to_owned(), pool));
        sources.chain(spill).chain(retries).chain(windows)
    }
}

/// What is shared by all agents while they are made.
struct Maker<'a> {
    spec: &'a PipelineSpec,
    frames: Frames,
    state: StateCell,
    clock: Clock,
    observed: Observed,
    dead_letters: Vec<spsc::Consumer<DeadLetter>>,
    agents: Vec<Box<dyn Agent>>,
}

impl Maker<'_> {
    fn dead_letter_sender(&mut self) -> DeadLetterSender {
        let (producer, consumer) = spsc::ring(self.spec.dead_letter_depth);
        self.observed.dead_letter_depths.push(producer.depth());
        self.dead_letters.push(consumer);
        DeadLetterSender::new(producer, ShedBudget::new(self.spec.shed_bytes_per_s), None)
    }

    fn sources(&mut self, pools: Vec<FramePool>, queues: Vec<mpsc::Producer<Event>>) -> Vec<MemorySender> {
        let mut senders = Vec::new();
        for (index, (pool, queue)) in pools.into_iter().zip(queues).enumerate() {
            self.observed.feedback.push(Arc::default());
            let (sender, backend) = MemoryBackend::new();
            let parser = parser(self.spec.max_priority);
            let intake = Intake::new(IntakeSpec { pool, queue, parser, waker: None });
            self.observed.blocks.push(intake.counters.block());
            self.observed.pending.push(intake.pending_gauge());
            let agent = IngestAgent::new(format!("source-{index}"), backend, intake, self.state.clone());
            self.agents.push(Box::new(agent));
            senders.push(sender);
        }
        senders
    }

    fn dispatcher(
        &mut self,
        queue: mpsc::Consumer<Event>,
        links: Vec<Link>,
        spill: [FramePool; 3],
        topics: Arc<TopicTableCell>,
    ) {
        let account = |(index, feedback): (usize, &Arc<Feedback>)| SourceAccount {
            pool: index as u8,
            large: None,
            class_credits: self.spec.class_credits,
            feedback: feedback.clone(),
        };
        let accounts = self.observed.feedback.iter().enumerate().map(account).collect();
        let spec = DispatcherSpec {
            name: "dispatcher".into(),
            queue,
            links,
            spill: spill.map(SpillPool::new),
            frames: self.frames.clone(),
            topics,
            state: self.state.clone(),
            dead_letters: self.dead_letter_sender(),
            acks: AckSender::none(),
            dedup: self.spec.dedup,
            gaps: self.spec.gaps.then(|| GapTable::new(64)),
            accounts,
            clock: self.clock.clone(),
        };
        let agent = Dispatcher::new(spec);
        self.observed.blocks.push(agent.counters().block());
        self.observed.stalled_links = agent.stalled_links_gauge();
        self.agents.push(Box::new(agent));
    }

    fn worker(&mut self, name: String, class: Class, parts: WorkerParts) {
        let spec = WorkerSpec {
            name,
            class,
            handler: parts.handler,
            rings: vec![parts.ring],
            frames: self.frames.clone(),
            dead_letters: self.dead_letter_sender(),
            acks: AckSender::none(),
            claimer: parts.claimer,
            retries: parts
                .retries
                .map(|pool| RetryQueue::new(self.spec.retry, self.spec.retry_depth, SpillPool::new(pool))),
            windows: parts.windows,
            log: None,
            done: Told::PROCESSED,
            clock: self.clock.clone(),
            state: self.state.clone(),
        };
        let agent = Worker::new(spec);
        self.observed.blocks.push(agent.counters().block());
        self.observed.held.push(agent.held_gauge());
        self.agents.push(Box::new(agent));
    }

    fn dead_letter_agent(&mut self) -> Arc<DeadLetterGauges> {
        let ring = |bytes: usize| ByteRing::new(bytes, bytes / 64);
        let (failed, shed) = (ring(self.spec.failed_bytes), ring(self.spec.shed_bytes));
        let links = std::mem::take(&mut self.dead_letters);
        let agent = DeadLetterAgent::new("dead-letter".into(), links, failed, shed, self.frames.clone());
        self.observed.blocks.push(agent.counters().block());
        let gauges = agent.gauges();
        self.agents.push(Box::new(agent));
        gauges
    }
}

struct WorkerParts {
    handler: FnHandler,
    ring: spsc::Consumer<Event>,
    claimer: Option<Claimer>,
    retries: Option<FramePool>,
    windows: Option<Windows>,
}

impl Pipeline {
    /// Builds a pipeline; `handlers` is asked for each worker's handler.
    pub fn new(spec: &PipelineSpec, mut handlers: impl FnMut(Class, usize) -> FnHandler) -> Self {
        let time = Arc::new(AtomicU64::new(START_NS));
        let pools = Pools::map(spec);
        let frames = Frames::new(&pools.named().map(|(_, pool)| pool).collect::<Vec<_>>());
        let mut maker = Maker {
            spec,
            frames,
            state: StateCell::new(State::Running),
            clock: Clock::manual(time.clone()),
            observed: Observed::default(),
            dead_letters: Vec::new(),
            agents: Vec::new(),
        };
        maker.observed.pools = pools.named().map(|(name, pool)| (name, pool.gauges())).collect();
        let Pools { sources, spill, retries, windows } = pools;
        let (producers, consumer) = mpsc::queue(spec.mpsc_depth, sources.len());
        let ingest_depth = consumer.depth();
        let senders = maker.sources(sources, producers);
        let topics = TopicTableCell::with_windows(&spec.topics, spec.unnamed_window, parser(Priority::Critical));
        let windowed = |pool| {
            Windows::new(WindowsSpec {
                spill: SpillPool::new(pool),
                events: spec.window_events,
                windows: spec.windows,
                profiles: topics.windows().clone(),
                retry: spec.retry,
            })
        };
        let mut windows = windows.into_iter().map(windowed);

        let (mut links, mut workers) = (Vec::new(), Vec::new());
        let mut retries = retries.into_iter();
        let mut claimers = claimers(spec).into_iter();
        for class in Class::ALL {
            for index in 0..spec.workers[class as usize] {
                let (producer, ring) = spsc::ring(spec.spsc_depth);
                maker.observed.worker_depths.push((class, producer.depth()));
                let &PipelineSpec { reserved, stall_ns, .. } = spec;
                let link =
                    LinkSpec { producer, class, reserved, reserved_critical: 0, stall_ns, waker: None, waits: None };
                links.push(Link::new(link, &maker.frames));
                let retries = if class == Class::Realtime { None } else { retries.next().map(|(_, pool)| pool) };
                let windows = if class == Class::Batch { windows.next() } else { None };
                let (handler, claimer) = (handlers(class, index), claimers.next());
                let parts = WorkerParts { handler, ring, claimer, retries, windows };
                workers.push((format!("{class}-{index}"), class, parts));
            }
        }
        maker.dispatcher(consumer, links, spill, topics.clone());
        workers.into_iter().for_each(|(name, class, parts)| maker.worker(name, class, parts));
        let dead_letters = maker.dead_letter_agent();
        let agents = maker.agents.iter().map(|agent| agent.name().to_owned()).collect();
        let Maker { state, observed, agents: stepped, .. } = maker;
        Self {
            invoker: Invoker::new(stepped),
            senders,
            state,
            topics,
            agents,
            time,
            observed,
            ingest_depth,
            dead_letters,
            sent_datagrams: 0,
            sent_events: 0,
        }
    }

    /// Sends a datagram of `events` events, all of them well-formed, to a source.
    pub fn send(&mut self, source: usize, datagram: &[u8], events: u64, from: Option<SocketAddr>) {
        self.senders[source].send(datagram, from);
        self.sent_datagrams += 1;
        self.sent_events += events;
    }

    pub fn sent_events(&self) -> u64 {
        self.sent_events
    }

    pub fn now(&self) -> Nanos {
        self.time.load(Ordering::Relaxed)
    }

    pub fn advance(&self, by: Nanos) {
        self.time.fetch_add(by, Ordering::Relaxed);
    }

    /// One duty cycle of one agent.
    pub fn step_one(&mut self, agent: &str) -> usize {
        self.invoker.step_one(agent, self.now())
    }

    /// Steps all agents until nobody has anything to do at this time.
    pub fn settle(&mut self) {
        self.invoker.settle(self.now());
    }

    pub fn sum(&self, counter: Counter) -> u64 {
        Totals(&self.observed.blocks).sum(counter)
    }

    /// The ledger as the engine would read it now.
    pub fn ledger(&self) -> Ledger {
        let sum = |gauges: &[Arc<AtomicU64>]| gauges.iter().map(|gauge| gauge.load(Ordering::Acquire)).sum();
        let depth = |wanted| {
            let of_class = self.observed.worker_depths.iter().filter(|(class, _)| *class == wanted);
            of_class.map(|(_, depth)| depth.len()).sum()
        };
        let mut ledger = Ledger::read(&Totals(&self.observed.blocks));
        let stages = &mut ledger.stages;
        stages.waiting_for_retry = sum(&self.observed.held);
        stages.worker_queues = Processed {
            realtime: depth(Class::Realtime),
            transactional: depth(Class::Transactional),
            batch: depth(Class::Batch),
        };
        stages.ingest_queue = self.ingest_depth.len();
        stages.waiting_at_ingest = sum(&self.observed.pending);
        stages.dead_letter_queues = self.observed.dead_letter_depths.iter().map(spsc::Depth::len).sum();
        let held = &self.dead_letters;
        ledger.dlq.held = held.held_failed.load(Ordering::Acquire) + held.held_shed.load(Ordering::Acquire);
        ledger.settle();
        ledger
    }

    /// Dead letters held now: failed and shed.
    pub fn dead_letters_held(&self) -> (u64, u64) {
        let held = &self.dead_letters;
        (held.held_failed.load(Ordering::Acquire), held.held_shed.load(Ordering::Acquire))
    }

    /// Free, kernel and in flight of each pool add up to its slots; returns how many are in flight, by owner.
    pub fn frames_in_flight(&self) -> Vec<(&str, u64)> {
        let level = |(name, gauges): &'_ (String, Arc<PoolGauges>)| {
            let read = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
            let (free, kernel, in_flight) = (read(&gauges.free), read(&gauges.kernel), read(&gauges.in_flight));
            assert_eq!(free + kernel + in_flight, read(&gauges.slots), "slots of {name}");
            in_flight
        };
        self.observed.pools.iter().map(|pool| (pool.0.as_str(), level(pool))).collect()
    }

    /// Events of a source that hold no credit any more.
    pub fn settled(&self, source: usize) -> u64 {
        self.progress(source).settled
    }

    /// What the dispatcher has told a source.
    pub fn progress(&self, source: usize) -> Progress {
        self.observed.feedback[source].read()
    }

    /// Links whose workers stand still, as of the dispatcher's last housekeeping.
    pub fn stalled_links(&self) -> u64 {
        self.observed.stalled_links.load(Ordering::Acquire)
    }

    /// Drains, and checks what holds at the end of every run: the ledger is balanced and says what was sent, every event's
    /// credit has come back once, and every frame is home.
    pub fn finish(&mut self) -> Ledger {
        self.state.set(State::Draining);
        self.settle();
        // Frames given up in the last round are taken in by their owners' next housekeeping.
        self.invoker.step(self.now());
        let ledger = self.ledger();
        assert!(ledger.balanced, "{:#?}", ledger.imbalances);
        assert_eq!(ledger.datagrams.socket_received, self.sent_datagrams);
        assert_eq!(ledger.datagrams.parsed, self.sent_datagrams);
        assert_eq!(ledger.events.accepted, self.sent_events);
        let told = (0..self.senders.len()).map(|source| self.progress(source));
        let (dispatched, settled) = told.fold((0, 0), |sum, of| (sum.0 + of.dispatched, sum.1 + of.settled));
        assert_eq!((dispatched, settled), (self.sent_events, self.sent_events), "credits");
        for (pool, in_flight) in self.frames_in_flight() {
            assert_eq!(in_flight, 0, "frames of {pool} are not home");
        }
        ledger
    }
}

/// One for each worker that may need it, in their order; none when no class deduplicates.
fn claimers(spec: &PipelineSpec) -> Vec<Claimer> {
    let asked = spec.dedup.contains(&true) || spec.topics.iter().any(|topic| topic.dedup);
    if !asked {
        return Vec::new();
    }
    let config = DedupConfig { capacity: 1 << 14, window_ns: 60_000_000_000, claimers: spec.workers.iter().sum() };
    DedupTable::new(config).expect("sizes within bounds").1
}
