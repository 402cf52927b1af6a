//! Building what the plan says: pools, queues, agents, and the threads they are placed on.

use std::collections::HashMap;
use std::sync::Arc;

use super::EngineError;
use super::dead_letters::DeadLetterLinks;
use super::logging::Logging;
use super::observe::Observers;
use super::queues::{WorkerEnd, ingest_queues, rings};
use super::sources::{self, AckRings};
use super::subscriptions::Subscribing;
use crate::acks::{AckSender, Told};
use crate::config::{Config, TopicOrder, WINDOWS_MAX, Window};
use crate::control::StateCell;
use crate::dedup::{Claimer, DedupConfig, DedupTable, GapTable};
use crate::dispatch::{
    Dispatcher, DispatcherSpec, Link, LinkSpec, SourceAccount, SpillPool, TopicEntry, TopicTableCell, WindowLimits,
    WindowProfiles,
};
use crate::frame::{Class, Limits, Parser, Priority, Transport};
use crate::memory::{Backing, Event, FramePool, Frames, PoolSpec, Region};
use crate::nic::XskReady;
use crate::queue::{mpsc, spsc};
use crate::runtime::agent::Agent;
use crate::runtime::clock::{Clock, Nanos};
use crate::runtime::waker::Waker;
use crate::runtime::{RunnerHandle, RunnerSpec, Shutdown};
use crate::storage::{DeadLetterSender, LetterControl};
use crate::subscribe::SubscriptionLink;
use crate::topology::{AgentPlan, Plan, REPLAY, Role};
use crate::worker::{HandlerFactory, RetryPolicy, RetryQueue, Windows, WindowsSpec, Worker, WorkerSpec};

/// What the parts of a build share.
pub(super) struct Context<'a> {
    pub config: &'a Config,
    pub plan: &'a Plan,
    pub state: StateCell,
    pub clock: Clock,
    pub hash_seed: u64,
    pub run_id: String,
    pub observers: Observers,
    /// To the sender, where there is one.
    pub subscriptions: Option<SubscriptionLink>,
    /// Runner of each agent, and each runner's waker.
    runner_of: HashMap<String, usize>,
    wakers: Vec<Waker>,
}

/// What a build gives to the engine.
pub(super) struct Built {
    pub runners: Vec<RunnerHandle>,
    pub observers: Observers,
    pub topics: Arc<TopicTableCell>,
    pub shutdown: Shutdown,
    pub ports: sources::Ports,
    /// Classes whose workers can claim ids; a reload cannot add one.
    pub claiming: [bool; 3],
    /// Whether there is memory for windows; a reload cannot add it.
    pub windowing: bool,
    /// To the sender, where there is one.
    pub subscriptions: Option<SubscriptionLink>,
    /// Where there is a data directory.
    pub dead_letters: Option<LetterControl>,
}

impl<'a> Context<'a> {
    pub fn new(config: &'a Config, plan: &'a Plan, clock: Clock, run_id: String) -> Result<Self, EngineError> {
        let mut runner_of = HashMap::new();
        let mut wakers = Vec::new();
        for (index, runner) in plan.runners.iter().enumerate() {
            wakers.push(Waker::new().map_err(|error| EngineError(format!("eventfd: {error}")))?);
            runner_of.extend(runner.agents.iter().map(|agent| (agent.name.clone(), index)));
        }
        Ok(Self {
            config,
            plan,
            state: StateCell::new(crate::control::State::Running),
            clock,
            // The hash of topics that senders choose must not be theirs to predict.
            hash_seed: std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8),
            run_id,
            observers: Observers::default(),
            subscriptions: None,
            runner_of,
            wakers,
        })
    }

    fn runner(&self, agent: &str) -> usize {
        self.runner_of.get(agent).copied().unwrap_or_default()
    }

    /// The waker a producer needs to reach a consumer: none when they share a runner.
    pub fn waker(&self, from: &str, to: &str) -> Option<Waker> {
        let (from, to) = (self.runner(from), self.runner(to));
        (from != to).then(|| self.wakers[to].clone())
    }

    /// That of an agent's runner.
    pub fn waker_of(&self, agent: &str) -> Waker {
        self.wakers[self.runner(agent)].clone()
    }

    pub fn parser(&self, transport: Transport, max_priority: Priority) -> Parser {
        let limits =
            Limits { frame_bytes: self.config.limits.frame_bytes, topic_bytes: self.config.limits.topic_bytes };
        Parser::new(limits, transport, max_priority, self.hash_seed)
    }

    pub fn agents(&self, wanted: impl Fn(Role) -> bool) -> Vec<AgentPlan> {
        self.plan.agents().filter(|agent| wanted(agent.role)).cloned().collect()
    }
}

/// Maps the pool that the plan has for `owner`, with the next number and on its node.
pub(super) fn map_pool(
    context: &mut Context<'_>,
    next: &mut u8,
    owner: &str,
    reliable: bool,
) -> Result<FramePool, EngineError> {
    let plan = context.plan.pools.iter().find(|pool| pool.owner == owner);
    let plan = plan.ok_or_else(|| EngineError(format!("the plan has no frame pool for {owner}")))?;
    let bytes = plan.slots * plan.slot_bytes;
    let (region, placement) = Region::map_on(plan.node, bytes as usize)
        .map_err(|error| EngineError(format!("{owner}: {bytes} bytes for a frame pool cannot be mapped: {error}")))?;
    context.observers.memory(owner, bytes, region.backing() == Backing::HugePages, placement);
    let pool = FramePool::new(*next, region, &PoolSpec { slot_bytes: plan.slot_bytes as usize, reliable });
    *next = next.checked_add(1).ok_or_else(|| EngineError("more than 255 frame pools".into()))?;
    Ok(pool)
}

/// Pools that belong to dispatchers and workers.
struct SpillPools {
    dispatchers: Vec<[FramePool; 3]>,
    retries: HashMap<String, FramePool>,
    windows: HashMap<String, FramePool>,
}

fn spill_pools(context: &mut Context<'_>, next: &mut u8) -> Result<SpillPools, EngineError> {
    let mut dispatchers = Vec::new();
    for dispatcher in context.agents(|role| role == Role::Dispatcher) {
        let mut pool = |class: Class| map_pool(context, next, &format!("{} spill {class}", dispatcher.name), false);
        let [realtime, transactional, batch] = Class::ALL;
        dispatchers.push([pool(realtime)?, pool(transactional)?, pool(batch)?]);
    }
    let mut retries = HashMap::new();
    for worker in context.agents(retried) {
        let pool = map_pool(context, next, &format!("{} retry", worker.name), false)?;
        retries.insert(worker.name, pool);
    }
    let mut windows = HashMap::new();
    if context.config.has_windows() {
        for worker in context.agents(windowed) {
            let pool = map_pool(context, next, &format!("{} windows", worker.name), false)?;
            windows.insert(worker.name, pool);
        }
    }
    Ok(SpillPools { dispatchers, retries, windows })
}

fn windowed(role: Role) -> bool {
    role == Role::Worker(Class::Batch)
}

fn retried(role: Role) -> bool {
    matches!(role, Role::Worker(Class::Transactional | Class::Batch))
}

const _: () = assert!(WINDOWS_MAX <= WindowProfiles::COUNT);

fn limits(window: Window) -> WindowLimits {
    let Window { max_events, max_bytes, max_time } = window;
    WindowLimits { max_events, max_bytes, max_ns: max_time.as_nanos() as Nanos }
}

/// The configured topics as the topic table wants them.
pub(super) fn topic_entries(config: &Config) -> Vec<TopicEntry> {
    let entry = |topic: &crate::config::Topic| TopicEntry {
        name: topic.name.to_string(),
        class: topic.class,
        dedup: topic.dedup.unwrap_or_else(|| config.dedup.classes.contains(&topic.class)),
        strict: topic.order == TopicOrder::Strict,
        window: config.window_of(topic).map(limits),
    };
    config.topics.iter().map(entry).collect()
}

/// Which classes' workers need a claimer.
pub(super) fn claiming(config: &Config) -> [bool; 3] {
    Class::ALL.map(|class| {
        config.dedup.classes.contains(&class)
            || topic_entries(config).iter().any(|topic| topic.class == class && topic.dedup)
    })
}

fn claimers(context: &mut Context<'_>, claiming: [bool; 3]) -> Result<HashMap<String, Claimer>, EngineError> {
    let workers = context.agents(|role| matches!(role, Role::Worker(class) if claiming[class as usize]));
    if workers.is_empty() {
        return Ok(HashMap::new());
    }
    let config = DedupConfig {
        capacity: context.config.dedup.capacity as usize,
        window_ns: context.config.dedup.window.as_nanos() as Nanos,
        claimers: workers.len(),
    };
    let (table, claimers) = DedupTable::new(config).map_err(|error| EngineError(format!("dedup: {error}")))?;
    context.observers.dedup = Some(table);
    Ok(workers.into_iter().map(|worker| worker.name).zip(claimers).collect())
}

/// Builds everything and starts the threads.
pub(super) fn build<F: HandlerFactory>(
    mut context: Context<'_>,
    xsk: Vec<XskReady>,
    interface_index: Option<u32>,
    factory: &mut F,
) -> Result<Built, EngineError> {
    let unnamed_window = Some(context.config.batch.window).filter(Window::is_on).map(limits);
    let parser = context.parser(Transport::Tcp, Priority::Critical);
    let topics = TopicTableCell::with_windows(&topic_entries(context.config), unnamed_window, parser);
    let mut next_pool = 0u8;
    let mut subscribing = Subscribing::open(&context)?.map(|(subscribing, link)| {
        context.subscriptions = Some(link);
        subscribing
    });
    let mut sources = sources::open(&mut context, xsk, interface_index, &mut next_pool, &topics)?;
    let spill = spill_pools(&mut context, &mut next_pool)?;
    let mut pools: Vec<&FramePool> = sources.pools();
    pools.extend(spill.dispatchers.iter().flatten());
    let retried: Vec<AgentPlan> = context.agents(retried);
    pools.extend(retried.iter().filter_map(|worker| spill.retries.get(&worker.name)));
    pools.extend(context.agents(windowed).iter().filter_map(|worker| spill.windows.get(&worker.name)));
    let replay_pool = match &context.config.storage.directory {
        Some(_) => Some(map_pool(&mut context, &mut next_pool, REPLAY, false)?),
        None => None,
    };
    pools.extend(&replay_pool);
    let frames = Frames::new(&pools);

    let mut letters = DeadLetterLinks::new(context.config);
    let mut log = Logging::open(&mut context)?;
    if let Some(subscribing) = &mut subscribing {
        subscribing.connect(&mut context, log.as_mut())?;
    }
    let mut rings = rings(&mut context, log.as_ref());
    let (mut producers, consumers) = ingest_queues(&mut context);
    let claiming = claiming(context.config);

    let mut agents: HashMap<String, Box<dyn Agent>> = HashMap::new();
    let accounts = sources.accounts();
    let mut acks = std::mem::take(&mut sources.acks);
    let ports = sources.start(&mut context, &mut producers, &mut agents);
    if let Some(log) = &mut log {
        log.tells(&mut acks);
    }
    let queue = producers.first_mut().and_then(Vec::pop);
    if let (Some(log), Some(pool), Some(queue)) = (&mut log, replay_pool, queue) {
        log.replays_from(&mut context, &mut acks, pool, queue);
    }
    let dispatchers = context.agents(|role| role == Role::Dispatcher);
    let links = std::mem::take(&mut rings.links);
    let parts = dispatchers.into_iter().zip(consumers).zip(links).zip(spill.dispatchers).zip(accounts);
    for ((((plan, queue), links), spill), accounts) in parts {
        let dead_letters = letters.sender(&mut context, log.as_ref(), &plan.name);
        let parts = DispatcherParts { queue, links, spill, accounts, acks: acks.sender(&plan.name), dead_letters };
        let agent = dispatcher(&mut context, &plan, parts, &frames, &topics);
        agents.insert(plan.name, agent);
    }
    let windowing = !spill.windows.is_empty();
    let mut claimers = claimers(&mut context, claiming)?;
    if let Some(log) = &log {
        log.rebuild_claims(&context, &topics, &mut claimers)?;
    }
    let mut workers = WorkerParts {
        claimers,
        retries: spill.retries,
        windows: spill.windows,
        rings: rings.workers,
        topics: topics.clone(),
        acks,
        log: log.as_mut(),
        subscribing: subscribing.as_mut(),
    };
    for plan in context.agents(|role| matches!(role, Role::Worker(_))) {
        let agent = worker(&mut context, &plan, &mut workers, &frames, &mut letters, factory);
        agents.insert(plan.name, agent);
    }
    let written = match log {
        Some(log) => Some((log, letters)),
        None => {
            agents.insert("dead-letter".into(), letters.agent(&mut context, &frames));
            None
        }
    };
    let (mut runners, shutdown) = spawn(&mut context, agents)?;
    if let Some(subscribing) = subscribing {
        runners.push(subscribing.spawn(&mut context, &shutdown)?);
    }
    let mut dead_letters = None;
    if let Some((log, letters)) = written {
        dead_letters = Some(log.letter_control());
        runners.push(log.spawn(&mut context, letters.into_consumers(), &frames, &shutdown)?);
    }
    let subscriptions = context.subscriptions.take();
    Ok(Built {
        subscriptions,
        runners,
        observers: context.observers,
        topics,
        shutdown,
        ports,
        claiming,
        windowing,
        dead_letters,
    })
}

struct DispatcherParts {
    queue: mpsc::Consumer<Event>,
    links: Vec<WorkerEnd>,
    spill: [FramePool; 3],
    accounts: Vec<SourceAccount>,
    acks: AckSender,
    dead_letters: DeadLetterSender,
}

fn dispatcher(
    context: &mut Context<'_>,
    plan: &AgentPlan,
    parts: DispatcherParts,
    frames: &Frames,
    topics: &Arc<TopicTableCell>,
) -> Box<dyn Agent> {
    let config = context.config;
    let depth = u64::from(config.queues.spsc_depth);
    let reserved = if config.tcp.enabled { depth / 2 } else { 0 };
    // More than a burst brings of what is rare; from then on a worker takes more than comes.
    let reserved_critical = (depth - reserved) / 8;
    let stall_ns = config.workers.stall.as_nanos() as Nanos;
    let link = |WorkerEnd { class, producer, waker, waits }| {
        Link::new(LinkSpec { producer, class, reserved, reserved_critical, stall_ns, waker, waits }, frames)
    };
    for (class, pool) in Class::ALL.iter().zip(&parts.spill) {
        context.observers.pool(format!("{} spill {class}", plan.name), pool);
    }
    let spec = DispatcherSpec {
        name: plan.name.clone(),
        queue: parts.queue,
        links: parts.links.into_iter().map(link).collect(),
        spill: parts.spill.map(SpillPool::new),
        frames: frames.clone(),
        topics: topics.clone(),
        state: context.state.clone(),
        dead_letters: parts.dead_letters,
        acks: parts.acks,
        dedup: config.dedup.by_class(),
        gaps: config.gap_tracking.enabled.then(|| GapTable::new(config.gap_tracking.producers as usize)),
        accounts: parts.accounts,
        clock: context.clock.clone(),
    };
    let agent = Dispatcher::new(spec);
    context.observers.blocks.push(agent.counters().block());
    context.observers.stalled_links.push(agent.stalled_links_gauge());
    context.observers.spans.extend(agent.spans());
    Box::new(agent)
}

struct WorkerParts<'a> {
    claimers: HashMap<String, Claimer>,
    retries: HashMap<String, FramePool>,
    windows: HashMap<String, FramePool>,
    rings: HashMap<String, Vec<spsc::Consumer<Event>>>,
    topics: Arc<TopicTableCell>,
    acks: AckRings,
    log: Option<&'a mut Logging>,
    subscribing: Option<&'a mut Subscribing>,
}

fn worker<F: HandlerFactory>(
    context: &mut Context<'_>,
    plan: &AgentPlan,
    parts: &mut WorkerParts<'_>,
    frames: &Frames,
    letters: &mut DeadLetterLinks,
    factory: &mut F,
) -> Box<dyn Agent> {
    let Role::Worker(class) = plan.role else { unreachable!("only workers are built here") };
    let retry = &context.config.retry;
    let policy = RetryPolicy {
        max_attempts: retry.max_attempts,
        backoff_initial_ns: retry.backoff_initial.as_nanos() as Nanos,
        backoff_max_ns: retry.backoff_max.as_nanos() as Nanos,
    };
    let depth = retry.queue_depth as usize;
    let retries = parts.retries.remove(&plan.name).map(|pool| {
        context.observers.pool(format!("{} retry", plan.name), &pool);
        RetryQueue::new(policy, depth, SpillPool::new(pool))
    });
    let windows = parts.windows.remove(&plan.name).map(|pool| {
        context.observers.pool(format!("{} windows", plan.name), &pool);
        let memory = &context.config.batch.memory;
        Windows::new(WindowsSpec {
            spill: SpillPool::new(pool),
            events: memory.events() as usize,
            windows: memory.windows as usize,
            profiles: parts.topics.windows().clone(),
            retry: policy,
        })
    });
    let spec = WorkerSpec {
        name: plan.name.clone(),
        class,
        handler: factory.make(class, plan.index),
        rings: parts.rings.remove(&plan.name).unwrap_or_default(),
        frames: frames.clone(),
        dead_letters: letters.sender(context, parts.log.as_deref(), &plan.name),
        acks: parts.acks.sender(&plan.name),
        claimer: parts.claimers.remove(&plan.name),
        retries,
        windows,
        log: parts.log.as_mut().and_then(|log| log.sender(&plan.name)),
        done: parts.log.as_ref().map_or(Told::PROCESSED, |log| log.done(class)),
        clock: context.clock.clone(),
        state: context.state.clone(),
    };
    let outlet = parts.subscribing.as_mut().and_then(|subscribing| subscribing.outlet(&plan.name));
    let agent = Worker::new(spec).with_outlet(outlet);
    let observers = &mut context.observers;
    observers.blocks.push(agent.counters().block());
    observers.held.push(agent.held_gauge());
    observers.lags.push(agent.lag_gauge());
    observers.spans.extend(agent.spans());
    Box::new(agent)
}

/// Places the agents on their runners and starts these.
fn spawn(
    context: &mut Context<'_>,
    mut agents: HashMap<String, Box<dyn Agent>>,
) -> Result<(Vec<RunnerHandle>, Shutdown), EngineError> {
    let shutdown = Shutdown::default();
    let mut runners = Vec::new();
    for (plan, waker) in context.plan.runners.iter().zip(&context.wakers) {
        let placed = plan.agents.iter().filter_map(|agent| agents.remove(&agent.name)).collect();
        let spec = RunnerSpec {
            name: plan.name.clone(),
            cpu: plan.cpu,
            idle: plan.idle,
            agents: placed,
            waker: waker.clone(),
            clock: context.clock.clone(),
            shutdown: shutdown.clone(),
        };
        let handle = spec.spawn().map_err(|error| EngineError(format!("runner {}: {error}", plan.name)))?;
        if let Err(error) = &handle.pinned {
            tracing::warn!(runner = %plan.name, %error, "runs where the kernel likes");
        }
        runners.push(handle);
    }
    match agents.keys().next() {
        Some(orphan) => Err(EngineError(format!("agent {orphan} is on no runner"))),
        None => Ok((runners, shutdown)),
    }
}
