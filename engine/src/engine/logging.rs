//! What an engine keeps on disk, the event log and the dead letters: opened before anything is taken in, written on a thread
//! of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::EngineError;
use super::build::Context;
use super::sources::AckRings;
use crate::acks::{AckSender, Told};
use crate::config::FsyncPolicy;
use crate::dedup::{Claimer, EventId, Outcome};
use crate::dispatch::{TopicTable, TopicTableCell, topic_word};
use crate::frame::{Class, Parser, Priority, Transport};
use crate::ingest::DrainStatus;
use crate::memory::{Event, FramePool, Frames};
use crate::metrics::Span;
use crate::queue::{mpsc, spsc};
use crate::runtime::clock::{Nanos, unix_now};
use crate::runtime::waker::Waker;
use crate::runtime::{IdleStrategy, RunnerHandle, RunnerSpec, Shutdown};
use crate::storage::directory::{DataDirectory, LastEnd, Owner};
use crate::storage::disk::Disk;
use crate::storage::format::{Kind, LetterQueue, RecordView};
use crate::storage::letters::Letters;
use crate::storage::log::{EventLog, Item, Position, Recovery, Start, View};
use crate::storage::{
    ConsumerLetterInlet, ConsumerLetters, DeadLetter, DeadLetterSender, LetterAgent, LetterAgentSpec, LetterCommands,
    LetterControl, LogAgent, LogAgentSpec, LogInlet, LogReaders, LogSender, Queues, Refusing, ReplaySource, Replays,
    ShedBudget, StorageError, Streams, consumer_letters, disk, feed, is_logged, letter_control, letter_options,
    of_other_queue,
};
use crate::subscribe::kept::{Saved, Store};
use crate::topology::{DEAD_LETTER, LOG, REPLAY, Role};

/// An open log, and the ends of the ways to it.
pub(super) struct Logging {
    streams: Streams,
    failed: Letters,
    shed: Letters,
    refusing: Refusing,
    disk: Arc<dyn Disk>,
    directory: Arc<DataDirectory>,
    senders: HashMap<String, LogSender>,
    inlets: Vec<LogInlet>,
    waker: Waker,
    done: Told,
    replay: Option<(ReplaySource, DrainStatus)>,
    /// Of who writes dead letters.
    acks: AckSender,
    control: (LetterControl, LetterCommands),
    /// Of who reads what has become durable.
    readers: Option<LogReaders>,
    /// Of what groups have not done.
    consumers: Option<ConsumerLetterInlet>,
}

impl From<StorageError> for EngineError {
    fn from(error: StorageError) -> Self {
        Self(error.to_string())
    }
}

impl Logging {
    /// Opens what the configuration names, and puts in order what a crash has left.
    pub fn open(context: &mut Context<'_>) -> Result<Option<Self>, EngineError> {
        let storage = &context.config.storage;
        let Some(path) = &storage.directory else { return Ok(None) };
        let disk = disk::for_process().map_err(EngineError)?;
        let directory = DataDirectory::lock_or_make(path, Owner::this("the engine", &*context.run_id))?;
        let last = directory.begin_run()?;
        if let LastEnd::Unclean { run_id } = &last {
            tracing::warn!(run = %run_id, "the last run did not end in order: the event log is looked through");
        }
        let (streams, recoveries) = Streams::open(&disk, &directory, storage, last.is_crash())?;
        let names = streams.logs().iter().map(|log| log.view().stream.clone());
        names.zip(&recoveries).for_each(|(stream, recovery)| say(&stream, recovery));
        let letters = |queue, bytes| {
            let options = letter_options(context.config, bytes, last.is_crash());
            let (letters, recovery) = Letters::open(disk.clone(), &directory.letters(queue), queue, &options)?;
            say_of_letters(queue, &letters, &recovery);
            Ok::<_, StorageError>(letters)
        };
        let mut failed = letters(LetterQueue::Failed, context.config.dlq.failed_disk_bytes)?;
        let mut shed = letters(LetterQueue::Shed, context.config.dlq.shed_disk_bytes)?;
        if last.is_crash() {
            let removed = remove_replayed(&streams, &mut Queues { failed: &mut failed, shed: &mut shed })?;
            tracing::info!(removed, "dead letters whose replay had ended when the last run did");
        }
        let policies = storage.streams.iter().map(|stream| &stream.policy).chain([&storage.policy]);
        let never = policies.into_iter().any(|policy| policy.fsync == FsyncPolicy::Never);
        let waker = Waker::new().map_err(|error| EngineError(format!("eventfd: {error}")))?;
        let (mut senders, mut inlets) = (HashMap::new(), Vec::new());
        for worker in context.agents(|role| matches!(role, Role::Worker(class) if is_logged(class))) {
            let Role::Worker(class) = worker.role else { continue };
            let frame_bytes = context.config.limits.frame_bytes as usize;
            let wakers = (Some(waker.clone()), Some(context.waker_of(&worker.name)));
            let (sender, inlet) = feed(class, frame_bytes, wakers.0, wakers.1);
            senders.insert(worker.name, sender);
            inlets.push(inlet);
        }
        let done = if never { Told::WRITTEN } else { Told::DURABLE };
        let (control, refusing) = (letter_control(waker.clone()), Refusing::default());
        let replay = None;
        Ok(Some(Self {
            streams,
            failed,
            shed,
            refusing,
            disk,
            directory: directory.into(),
            senders,
            inlets,
            waker,
            done,
            replay,
            acks: AckSender::none(),
            control,
            readers: None,
            consumers: None,
        }))
    }

    /// Gives the sending end of a link to the dead letters what it needs for those on disk, and wakes the writer.
    pub fn dead_letters(&self, link: spsc::Producer<DeadLetter>, budget: ShedBudget) -> DeadLetterSender {
        DeadLetterSender::new(link, budget, Some(self.waker.clone())).to_disk(self.refusing.clone())
    }

    /// What operators ask the dead letters through.
    pub fn letter_control(&self) -> LetterControl {
        self.control.0.clone()
    }

    /// Lets who writes dead letters tell those who asked for the events.
    pub fn tells(&mut self, acks: &mut AckRings) {
        self.acks = acks.sender(DEAD_LETTER);
    }

    /// Lets dead letters come in again, through a pool and a queue of their own.
    pub fn replays_from(
        &mut self,
        context: &mut Context<'_>,
        acks: &mut AckRings,
        pool: FramePool,
        queue: mpsc::Producer<Event>,
    ) {
        let (acks, wanted) = acks.replay_inlet(context, &self.waker);
        let drain = DrainStatus::default();
        context.observers.pool(REPLAY, &pool);
        context.observers.drains.push((REPLAY.to_owned(), drain.clone()));
        let dispatcher = context.agents(|role| role == Role::Dispatcher).into_iter().next();
        let Some(dispatcher) = dispatcher else { return };
        let source = ReplaySource {
            pool,
            queue,
            parser: context.parser(Transport::Udp, Priority::Critical),
            waker: context.waker_of(&dispatcher.name),
            acks,
            wanted,
            state: context.state.clone(),
        };
        self.replay = Some((source, drain));
    }

    /// Opens what is kept of subscriptions' positions.
    pub fn kept_positions(&self) -> Result<(Store, Vec<Saved>), EngineError> {
        let folder = self.directory.subscriptions();
        Ok(Store::open(self.disk.clone(), &folder, Some(self.directory.clone()))?)
    }

    /// The streams as readers see them.
    pub fn views(&self) -> Vec<Arc<View>> {
        self.streams.logs().iter().map(EventLog::view).collect()
    }

    /// For those on a thread that are to be woken when there is more to read.
    pub fn readers(&mut self, waker: Waker) -> LogReaders {
        self.readers.insert(LogReaders::new(waker)).clone()
    }

    /// A way to the dead letters for what groups have not done; `sender` wakes who sends events to them.
    pub fn consumer_letters(&mut self, sender: Waker) -> ConsumerLetters {
        let (letters, inlet) = consumer_letters(self.waker.clone(), sender);
        self.consumers = Some(inlet);
        letters
    }

    /// What is set while a worker waits for the log.
    pub fn waits(&self, worker: &str) -> Option<Arc<AtomicBool>> {
        self.senders.get(worker).map(LogSender::waits)
    }

    pub fn sender(&mut self, worker: &str) -> Option<LogSender> {
        self.senders.remove(worker)
    }

    /// What an event of the class that has ended well is told. Where streams differ, the weaker word.
    pub const fn done(&self, class: Class) -> Told {
        if is_logged(class) { self.done } else { Told::PROCESSED }
    }

    /// Remembers the ids of the records that are younger than the window: of the log as of events that have been processed, of
    /// the dead letters that had been claimed as of such. Only where topic or class ask for deduplication: what does not claim
    /// an id while the engine runs must not keep others from it after a restart.
    pub fn rebuild_claims(
        &self,
        context: &Context<'_>,
        topics: &TopicTableCell,
        claimers: &mut HashMap<String, Claimer>,
    ) -> Result<(), EngineError> {
        let window_ns = context.config.dedup.window.as_nanos() as u64;
        let logs = self.streams.logs().iter().chain([self.failed.log()]);
        let last_ns = logs.filter_map(EventLog::last_record_ns).max().unwrap_or(u64::MAX);
        // A clock that has been set ahead must not make what was logged right before look old.
        let since_ns = unix_now().min(last_ns).saturating_sub(window_ns);
        let now = context.clock.now();
        let claimers: Vec<&mut Claimer> = claimers.values_mut().collect();
        if claimers.is_empty() {
            return Ok(());
        }
        let claiming = Claiming {
            topics: topics.load().1,
            parser: context.parser(Transport::Tcp, Priority::Critical),
            classes: context.config.dedup.by_class(),
        };
        let mut remembered = Remembered { claimers, next: 0, claiming, since_ns, is_recent: false, now };
        let (mut processed, mut dead_lettered) = (0, 0);
        for log in self.streams.logs() {
            let truncated = |_| EngineError("the event log has no beginning".to_owned());
            let mut reader = log.view().reader(Start::Time(since_ns), None).map_err(truncated)?;
            remembered.is_recent = false;
            while let Some(item) = reader.read()? {
                let Item::Record(record) = item else { continue };
                processed += u64::from(remembered.insert(&record, Outcome::Done));
            }
        }
        // What was shed had not been claimed.
        let mut reader = self.failed.letters().reader()?;
        remembered.is_recent = false;
        while let Some(letter) = reader.read()? {
            dead_lettered += u64::from(remembered.insert(&letter, Outcome::DeadLettered));
        }
        tracing::info!(processed, dead_lettered, "ids remembered from disk");
        Ok(())
    }

    /// Starts the writers of the log and of the dead letters, on a thread of their own: they block for as long as the disk
    /// takes.
    pub fn spawn(
        self,
        context: &mut Context<'_>,
        links: Vec<spsc::Consumer<DeadLetter>>,
        frames: &Frames,
        shutdown: &Shutdown,
    ) -> Result<RunnerHandle, EngineError> {
        let Self {
            mut streams,
            failed,
            shed,
            refusing,
            directory,
            inlets,
            waker,
            replay,
            acks,
            control,
            readers,
            consumers,
            ..
        } = self;
        for log in streams.logs_mut() {
            context.observers.spans.push((Span::LogSync, log.sync_took_ns()));
            if let Err(error) = log.sync_beside(Some(waker.clone())) {
                let stream = log.stream();
                tracing::warn!(%stream, %error, "the event log: no thread for syncs, so nothing is written meanwhile");
            }
        }
        let replays = Replays::default();
        let letters = LetterAgent::new(LetterAgentSpec {
            links,
            consumers,
            failed,
            shed,
            frames: frames.clone(),
            refusing,
            claims: context.observers.dedup.clone(),
            acks,
            frame_bytes: context.config.limits.frame_bytes as usize,
            replay,
            replays: replays.clone(),
            state: context.state.clone(),
            commands: Some(control.1),
        });
        let log = LogAgent::new(LogAgentSpec {
            streams,
            directory,
            inlets,
            replays,
            state: context.state.clone(),
            // Before connections are closed, so that who asked is told; see `drain_wait_ns` of TCP.
            drain_wait_ns: context.config.drain.timeout.as_nanos() as Nanos / 3,
        })
        .with_readers(readers);
        context.observers.blocks.extend([letters.counters().block(), log.counters().block()]);
        context.observers.dead_letters = Some(letters.gauges());
        let spec = RunnerSpec {
            name: LOG.into(),
            cpu: context.plan.log_cpu,
            idle: IdleStrategy::Backoff,
            // The log is closed last: then the run has ended in order.
            agents: vec![Box::new(letters), Box::new(log)],
            waker,
            clock: context.clock.clone(),
            shutdown: shutdown.clone(),
        };
        spec.spawn().map_err(|error| EngineError(format!("the log writer: {error}")))
    }
}

/// What opening a stream found, if it is worth a word.
fn say(stream: &str, recovery: &Recovery) {
    let Recovery { clean, epoch, next_offset, findings } = recovery;
    if *clean {
        tracing::info!(%stream, epoch, next_offset, "event log");
    } else {
        tracing::warn!(%stream, epoch, next_offset, %findings, "event log, recovered: a new epoch begins");
    }
}

/// The same of a queue of dead letters.
fn say_of_letters(queue: LetterQueue, letters: &Letters, recovery: &Recovery) {
    let (queue, held) = (queue.as_str(), letters.held());
    if recovery.clean {
        tracing::info!(%queue, held, "dead letters");
    } else {
        tracing::warn!(%queue, held, findings = %recovery.findings, "dead letters, recovered");
    }
}

/// Which events claim their ids, as dispatchers decide it.
struct Claiming {
    topics: Arc<TopicTable>,
    parser: Parser,
    /// Of topics without entry.
    classes: [bool; 3],
}

impl Claiming {
    fn takes(&self, record: &RecordView<'_>) -> bool {
        let topic = record.event().topic_bytes();
        match self.topics.find(self.parser.topic_hash(topic), || topic) {
            Some(found) => found.word & topic_word::DEDUP != 0,
            // The class that it had: its listener may have capped the priority that its frame names.
            None => self.classes[record.class as usize],
        }
    }
}

/// Enters ids at start, in turns, as each claimer has its share of the table.
struct Remembered<'c> {
    claimers: Vec<&'c mut Claimer>,
    next: usize,
    claiming: Claiming,
    since_ns: u64,
    /// One that is not older has been met: what comes behind it is not older either, whatever the clock was when it was written.
    is_recent: bool,
    now: Nanos,
}

impl Remembered<'_> {
    fn insert(&mut self, record: &RecordView<'_>, outcome: Outcome) -> bool {
        self.is_recent |= record.time_ns >= self.since_ns;
        let id = record.event().id().filter(|_| self.is_recent && self.claiming.takes(record));
        let Some(id) = id else { return false };
        let claimer = &mut self.claimers[self.next];
        let is_new = claimer.insert_at(EventId(id), self.now, outcome);
        self.next = if self.next + 1 < self.claimers.len() { self.next + 1 } else { 0 };
        is_new
    }
}

/// How far clocks may have been set back between a letter and its replay.
const CLOCK_STEP_NS: u64 = 3_600_000_000_000;

/// Takes letters out that are in the log as well, or in the other queue again: a crash came between the one and the other.
fn remove_replayed(streams: &Streams, queues: &mut Queues<'_>) -> Result<u64, StorageError> {
    let (mut gone, mut oldest_ns) = (Vec::new(), u64::MAX);
    for queue in LetterQueue::ALL {
        let letters = queues.of(queue);
        let mut reader = letters.reader()?;
        while let Some(item) = reader.read()? {
            let Item::Record(letter) = item else { continue };
            if letter.kind != Kind::DeadLetter {
                continue;
            }
            // Also of one that is gone itself: each queue is synced by itself, and may know more than the other.
            gone.extend(of_other_queue(&letter, queue));
            if letters.holds(Position { epoch: letter.epoch, offset: letter.offset }) {
                oldest_ns = oldest_ns.min(letter.time_ns);
            }
        }
    }
    for log in streams.logs().iter().filter(|_| oldest_ns < u64::MAX) {
        let start = Start::Time(oldest_ns.saturating_sub(CLOCK_STEP_NS));
        let Ok(mut reader) = log.view().reader(start, None) else { continue };
        while let Some(item) = reader.read()? {
            if let Item::Record(record) = item {
                gone.extend(record.reference);
            }
        }
    }
    let mut count = 0;
    for was in gone {
        let letters = queues.of(was.queue);
        let mut removed = letters.remove(was.position(), true, unix_now());
        if removed.is_err() {
            letters.write(0)?;
            letters.sync(0)?;
            removed = letters.remove(was.position(), true, unix_now());
        }
        count += u64::from(removed == Ok(true));
    }
    Ok(count)
}
