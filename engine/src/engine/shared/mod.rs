//! What the control side shares: observing, changing state, reloading; the way down is in [`drain`].
//!
//! - **Threads**: the control thread, the admin interface, and whoever embeds the engine; never a data thread. The lock
//!   here is therefore taken nowhere near an event.

mod drain;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::build::{self, Built};
use super::observe::{Observers, Progress};
use super::sources::Ports;
use crate::config::{Config, diff_reload, refused_move};
use crate::control::{Controller, State, StateCell, Transition};
use crate::frame::Class;
use crate::metrics::{Ledger, MemoryReport, NapiReport, QueueReport, Rates, Report, RunnerReport};
use crate::nic::{NapiThreads, NetEvent, NicSetup, SteerProgram, Switch};
use crate::runtime::clock::{Clock, Nanos};
use crate::runtime::{RunnerHandle, RunnerLoad, Shutdown};
use crate::storage::LetterControl;
use crate::subscribe::{self, Events, NameControl, Subscription, SubscriptionLink};
use crate::topology::Plan;

/// What an engine is made of once its threads run.
pub(super) struct Parts {
    pub config: Config,
    pub plan: Plan,
    pub clock: Clock,
    pub run_id: String,
    pub nic: Option<NicSetup>,
    pub napi: Option<NapiThreads>,
    pub state: StateCell,
    pub built: Built,
}

/// What only one control-side thread may do at a time.
struct Guarded {
    config: Config,
    controller: Controller,
    /// Before `nic`, as they have to be dropped: the interface gets its own way of polling back.
    napi: Option<NapiThreads>,
    nic: Option<NicSetup>,
    runners: Vec<RunnerHandle>,
    progress: Progress,
    transitions: u64,
    /// Events shed so far when the current state was entered.
    shed_at_entry: u64,
    /// Counters of the program as they last were: they outlive the program.
    steering: Steering,
}

/// The XDP program's counters, summed over the queues.
#[derive(Clone, Debug, Default)]
struct Steering {
    runs: u64,
    steered: u64,
    refused: u64,
    filtered: u64,
    passed: BTreeMap<String, u64>,
}

pub(super) struct Shared {
    plan: Plan,
    clock: Clock,
    run_id: String,
    started: Instant,
    state: StateCell,
    observers: Observers,
    topics: Arc<crate::dispatch::TopicTableCell>,
    shutdown: Shutdown,
    ports: Ports,
    claiming: [bool; 3],
    windowing: bool,
    dead_letters: Option<LetterControl>,
    subscriptions: Option<SubscriptionLink>,
    control_ended: AtomicBool,
    runner_reports: Vec<(RunnerReport, Arc<RunnerLoad>)>,
    napi_reports: Vec<NapiReport>,
    guarded: Mutex<Guarded>,
}

/// A handle for observing and steering a running engine.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

/// Why a reload changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadError(pub String);

impl Control {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    pub fn report(&self) -> Report {
        self.0.report()
    }

    pub fn ledger(&self) -> Ledger {
        self.0.ledger()
    }

    pub fn state(&self) -> State {
        self.0.state.get()
    }

    /// An operator's word; `Draining` is refused, [`Engine::drain`](super::Engine::drain) is the way there.
    pub fn set_state(&self, state: State) -> Result<(), String> {
        self.0.set_state(state)
    }

    /// Puts a new configuration's live part into force; names what needs a restart.
    pub fn reload(&self, config: Config) -> Result<Vec<String>, ReloadError> {
        self.0.reload(config)
    }

    /// The dead letters, where they are kept on disk.
    pub fn dead_letters(&self) -> Option<&LetterControl> {
        self.0.dead_letters.as_ref()
    }

    /// Events as they end, or out of the event log, in this process. Fails with what is wrong with the wish, or where there is no TCP
    /// (`tcp.enabled`), whose machinery this is.
    pub fn subscribe(&self, wanted: Subscription) -> Result<Events, String> {
        let link = self.0.subscriptions.as_ref();
        subscribe::subscribe(link.ok_or("tcp.enabled is false: nobody can subscribe")?, wanted)
    }

    /// Durable subscriptions and groups, where one can subscribe.
    pub fn names(&self) -> Option<NameControl> {
        self.0.subscriptions.clone().map(NameControl::new)
    }

    pub fn plan(&self) -> &Plan {
        &self.0.plan
    }

    pub fn napi_threads(&self) -> &[NapiReport] {
        &self.0.napi_reports
    }

    /// Where the frame pools lie.
    pub fn memory(&self) -> &[MemoryReport] {
        &self.0.observers.memory
    }

    pub fn ports(&self) -> &Ports {
        &self.0.ports
    }

    pub fn run_id(&self) -> &str {
        &self.0.run_id
    }

    pub fn queue_modes(&self) -> Vec<QueueReport> {
        self.0.queue_reports(&self.0.lock())
    }
}

impl Shared {
    pub fn new(parts: Parts) -> Self {
        let Parts { config, plan, clock, run_id, nic, napi, state, built } = parts;
        let napi_reports = napi
            .iter()
            .flat_map(|napi| &napi.pinned)
            .map(|thread| NapiReport { name: thread.name.clone(), cpu: thread.cpu })
            .collect();
        let runner_reports = plan.runners.iter().zip(&built.runners).map(runner_report).collect();
        let guarded = Guarded {
            controller: Controller::new(&config.control),
            config,
            nic,
            napi,
            runners: built.runners,
            progress: Progress::default(),
            transitions: 0,
            shed_at_entry: 0,
            steering: Steering::default(),
        };
        Self {
            plan,
            clock,
            run_id,
            started: Instant::now(),
            state,
            observers: built.observers,
            topics: built.topics,
            shutdown: built.shutdown,
            ports: built.ports,
            claiming: built.claiming,
            windowing: built.windowing,
            dead_letters: built.dead_letters,
            subscriptions: built.subscriptions,
            control_ended: AtomicBool::new(false),
            runner_reports,
            napi_reports,
            guarded: Mutex::new(guarded),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        // A panic under the lock leaves nothing half done that the next holder could trip over.
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn control_cpus(&self) -> &[u32] {
        &self.plan.control_cpus
    }

    pub fn is_control_ended(&self) -> bool {
        self.control_ended.load(Ordering::Acquire)
    }

    pub fn stop_control(&self) {
        self.control_ended.store(true, Ordering::Release);
    }

    pub fn evaluate_interval(&self) -> Duration {
        self.lock().config.control.evaluate
    }

    fn wake_all(guarded: &Guarded) {
        guarded.runners.iter().for_each(RunnerHandle::wake);
    }

    /// Makes the program and the data path follow a transition, and logs it once.
    fn apply(&self, guarded: &mut Guarded, transition: &Transition) {
        let steer = if transition.to.takes_in() { Switch::Steer } else { Switch::Refuse };
        // Before the agents stop, after they have started again: what the program refuses is counted, what it steers is read.
        let before = !transition.to.takes_in();
        if before {
            self.switch(guarded, steer);
        }
        self.state.set(transition.to);
        Self::wake_all(guarded);
        if !before {
            self.switch(guarded, steer);
        }
        guarded.transitions += 1;
        let shed = self.observers.shed();
        let shed_there = shed - guarded.shed_at_entry;
        guarded.shed_at_entry = shed;
        tracing::info!(
            from = transition.from.name(),
            to = transition.to.name(),
            cause = %transition.cause,
            shed_in_from = shed_there,
            "state"
        );
    }

    fn switch(&self, guarded: &mut Guarded, switch: Switch) {
        if let Some(program) = program(guarded)
            && let Err(error) = program.set_switch(switch)
        {
            tracing::error!(%error, "the XDP program cannot be switched");
        }
    }

    fn set_state(&self, state: State) -> Result<(), String> {
        if !super::is_operator_state(state) {
            return Err("draining is reached by ending the engine, not by setting a state".into());
        }
        let mut guarded = self.lock();
        if guarded.controller.state() == State::Draining {
            return Err("the engine is draining".into());
        }
        if let Some(transition) = guarded.controller.set_by_operator(state, self.clock.now()) {
            self.apply(&mut guarded, &transition);
        }
        Ok(())
    }

    /// One look of the control thread: thresholds, addresses, the interface's fate, retired topic tables.
    pub fn evaluate(&self, now: Nanos) {
        let mut guarded = self.lock();
        self.follow_interface(&mut guarded);
        self.topics.retire();
        let busy_ns = self.runner_reports.iter().map(|(_, load)| load.get(now).1).collect();
        let progress = self.observers.progress(now, busy_ns);
        let inputs = self.observers.inputs(&guarded.progress, &progress);
        guarded.progress = progress;
        if let Some(transition) = guarded.controller.evaluate(&inputs, now) {
            self.apply(&mut guarded, &transition);
        }
        for runner in guarded.runners.iter().filter(|runner| runner.is_finished()) {
            tracing::error!(runner = %runner.name, "a data thread has ended by itself: this is a defect");
        }
    }

    fn follow_interface(&self, guarded: &mut Guarded) {
        let Some(nic) = &mut guarded.nic else { return };
        let events = match nic.watch.poll() {
            Ok(events) => events,
            Err(error) => return tracing::error!(%error, "netlink cannot be read"),
        };
        for event in events {
            let name = &nic.interface.name;
            match event {
                NetEvent::AddressesChanged => {
                    let own = nic.watch.addresses();
                    match nic.program.as_mut().map(|program| program.set_addresses(&own)) {
                        Some(Err(error)) => tracing::error!(%error, "the steered addresses cannot be changed"),
                        Some(Ok(change)) => tracing::info!(?change, "own addresses changed"),
                        None => {}
                    }
                }
                NetEvent::LinkDown => tracing::warn!(interface = %name, "the interface is down"),
                NetEvent::LinkUp => tracing::info!(interface = %name, "the interface is up"),
                NetEvent::LinkRemoved => {
                    tracing::error!(interface = %name, "the interface is gone: AF_XDP receives nothing any more, the sockets go on");
                    for mode in &mut nic.modes {
                        mode.reason = "the interface was removed while the engine ran".into();
                    }
                }
            }
        }
    }

    fn reload(&self, config: Config) -> Result<Vec<String>, ReloadError> {
        let mut guarded = self.lock();
        for (class, wanted) in Class::ALL.iter().zip(build::claiming(&config)) {
            if wanted && !self.claiming[*class as usize] {
                return Err(ReloadError(format!(
                    "a {class} topic asks for deduplication, which no {class} topic did at start: this needs a restart"
                )));
            }
        }
        let diff = diff_reload(&guarded.config, &config);
        // What is not live stays as it was at the start, and with it what topics without windows of their own have.
        let config = Config { batch: guarded.config.batch.clone(), ..config };
        if config.has_windows() && !self.windowing {
            return Err(ReloadError("a topic has windows, which none had at start: this needs a restart".into()));
        }
        if let Some(why) = refused_move(&guarded.config, &config) {
            return Err(ReloadError(why));
        }
        let count = self.topics.publish(&build::topic_entries(&config));
        guarded.controller.configure(&config.control);
        guarded.config.topics = config.topics;
        guarded.config.control = config.control;
        tracing::info!(topics = count, live = ?diff.live, restart = ?diff.restart, "configuration reloaded");
        Ok(diff.restart.iter().map(ToString::to_string).collect())
    }

    fn read_steering(&self, guarded: &mut Guarded) -> Steering {
        let read = guarded.nic.as_ref().and_then(|nic| {
            let program = nic.program.as_ref()?;
            let mut steering = Steering::default();
            for queue in 0..=u64::from(nic.interface.queue_count) {
                // The row after the last collects queues beyond what the maps have room for.
                let verdicts = program.verdicts(queue as u32).ok()?;
                steering.runs += verdicts.runs;
                steering.steered += verdicts.steered();
                steering.refused += verdicts.refused();
                steering.filtered += verdicts.filtered();
                for verdict in eventstream_steer::Verdict::PASSED {
                    let count = verdicts.count(verdict);
                    if count > 0 {
                        *steering.passed.entry(verdict.name().to_owned()).or_default() += count;
                    }
                }
            }
            Some(steering)
        });
        if let Some(steering) = read {
            guarded.steering = steering;
        }
        guarded.steering.clone()
    }

    fn ledger(&self) -> Ledger {
        self.ledger_with(&mut self.lock())
    }

    fn ledger_with(&self, guarded: &mut Guarded) -> Ledger {
        // Events first, then what they came from: live, differences show on the safe side.
        let mut ledger = self.observers.ledger();
        let steering = self.read_steering(guarded);
        let datagrams = &mut ledger.datagrams;
        datagrams.program_runs = steering.runs;
        datagrams.steered = steering.steered;
        datagrams.refused = steering.refused;
        datagrams.filtered = steering.filtered;
        datagrams.passed = steering.passed.values().sum();
        datagrams.passed_reasons = steering.passed;
        ledger.settle();
        ledger
    }

    fn queue_reports(&self, guarded: &Guarded) -> Vec<QueueReport> {
        let socket =
            |reason: &str| QueueReport { iface: "any".into(), queue: 0, mode: "socket".into(), reason: reason.into() };
        match &guarded.nic {
            None => vec![socket("no interface is configured")],
            Some(nic) => nic
                .modes
                .iter()
                .map(|mode| QueueReport {
                    iface: mode.interface.clone(),
                    queue: mode.queue,
                    mode: mode.mode.name().into(),
                    reason: mode.reason.clone(),
                })
                .collect(),
        }
    }

    fn runners(&self, accepted: u64) -> Vec<RunnerReport> {
        let now = self.clock.now();
        let with_load = |(report, load): &(RunnerReport, Arc<RunnerLoad>)| {
            let (elapsed_ns, busy_ns) = load.get(now);
            RunnerReport {
                elapsed_ns,
                busy_ns,
                busy_share: busy_ns as f64 / elapsed_ns.max(1) as f64,
                busy_ns_per_event: busy_ns as f64 / accepted.max(1) as f64,
                ..report.clone()
            }
        };
        self.runner_reports.iter().map(with_load).collect()
    }

    fn report(&self) -> Report {
        self.report_with(&mut self.lock())
    }

    fn report_with(&self, guarded: &mut Guarded) -> Report {
        let ledger = self.ledger_with(guarded);
        let seconds = self.started.elapsed().as_secs_f64();
        let datagrams = ledger.datagrams.consumed + ledger.datagrams.socket_received;
        let runners = self.runners(ledger.events.accepted);
        let bytes = self.observers.sum(crate::metrics::Counter::BYTES_RECEIVED);
        Report {
            run_id: self.run_id.clone(),
            seconds,
            state: guarded.controller.state().name().into(),
            state_transitions: guarded.transitions,
            queues: self.queue_reports(guarded),
            busy_ns_per_event: runners.iter().map(|runner| runner.busy_ns_per_event).sum(),
            runners,
            napi_threads: self.napi_reports.clone(),
            rates: Rates {
                datagrams_per_s: datagrams as f64 / seconds,
                events_per_s: ledger.events.accepted as f64 / seconds,
                bits_per_s: bytes as f64 * 8.0 / seconds,
            },
            latency_ns: self.observers.latencies(),
            memory: self.observers.memory.clone(),
            frames: self.observers.frames(),
            dedup: self.observers.dedup(),
            stalled_links: self.observers.stalled_links(),
            counters: self.observers.counters(),
            depths: self.observers.depths(),
            data_path_allocations: crate::memory::data_path_allocations(),
            ledger,
        }
    }
}

fn program(guarded: &mut Guarded) -> Option<&mut SteerProgram> {
    guarded.nic.as_mut()?.program.as_mut()
}

fn runner_report((plan, handle): (&crate::topology::RunnerPlan, &RunnerHandle)) -> (RunnerReport, Arc<RunnerLoad>) {
    let report = RunnerReport {
        name: plan.name.clone(),
        cpu: handle.pinned.clone().ok().flatten(),
        idle: plan.idle.as_str().into(),
        agents: plan.agents.iter().map(|agent| agent.name.clone()).collect(),
        error: handle.pinned.clone().err(),
        ..RunnerReport::default()
    };
    (report, handle.load())
}
