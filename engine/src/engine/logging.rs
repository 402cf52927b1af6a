//! The event log of an engine: opened before anything is taken in, written on a thread of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::EngineError;
use super::build::Context;
use crate::acks::Told;
use crate::config::FsyncPolicy;
use crate::dedup::{Claim, Claimer, EventId};
use crate::frame::Class;
use crate::runtime::clock::unix_now;
use crate::runtime::waker::Waker;
use crate::runtime::{IdleStrategy, RunnerHandle, RunnerSpec, Shutdown};
use crate::storage::directory::{DataDirectory, LastEnd, Owner};
use crate::storage::log::{Item, Recovery, Start};
use crate::storage::{LogAgent, LogInlet, LogSender, StorageError, Streams, disk, feed, is_logged};
use crate::topology::Role;

/// An open log, and the ends of the ways to it.
pub(super) struct Logging {
    streams: Streams,
    directory: DataDirectory,
    senders: HashMap<String, LogSender>,
    inlets: Vec<(Class, LogInlet)>,
    waker: Waker,
    done: Told,
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
        let policies = storage.streams.iter().map(|stream| &stream.policy).chain([&storage.policy]);
        let never = policies.into_iter().any(|policy| policy.fsync == FsyncPolicy::Never);
        let waker = Waker::new().map_err(|error| EngineError(format!("eventfd: {error}")))?;
        let (mut senders, mut inlets) = (HashMap::new(), Vec::new());
        for worker in context.agents(|role| matches!(role, Role::Worker(class) if is_logged(class))) {
            let Role::Worker(class) = worker.role else { continue };
            let frame_bytes = context.config.limits.frame_bytes as usize;
            let (sender, inlet) = feed(frame_bytes, Some(waker.clone()), Some(context.waker_of(&worker.name)));
            senders.insert(worker.name, sender);
            inlets.push((class, inlet));
        }
        let done = if never { Told::WRITTEN } else { Told::DURABLE };
        Ok(Some(Self { streams, directory, senders, inlets, waker, done }))
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

    /// Remembers the ids of the records that are younger than the window, as of events that have been processed.
    pub fn rebuild_claims(
        &self,
        context: &Context<'_>,
        claimers: &mut HashMap<String, Claimer>,
    ) -> Result<(), EngineError> {
        let window_ns = context.config.dedup.window.as_nanos() as u64;
        let since_ns = unix_now().saturating_sub(window_ns);
        let now = context.clock.now();
        let mut claimers: Vec<&mut Claimer> = claimers.values_mut().collect();
        let (mut next, mut count) = (0, 0_u64);
        if claimers.is_empty() {
            return Ok(());
        }
        for log in self.streams.logs() {
            let truncated = |_| EngineError("the event log has no beginning".to_owned());
            let mut reader = log.view().reader(Start::Time(since_ns), None).map_err(truncated)?;
            while let Some(item) = reader.read()? {
                let Item::Record(record) = item else { continue };
                let Some(id) = record.event().id().filter(|_| record.time_ns >= since_ns) else { continue };
                // In turns, as each has its share of the table.
                let claimer = &mut claimers[next];
                if let Claim::Won(token) = claimer.claim(EventId(id), now) {
                    claimer.finish(token);
                    count += 1;
                }
                next = if next + 1 < claimers.len() { next + 1 } else { 0 };
            }
        }
        tracing::info!(ids = count, "remembered from the event log");
        Ok(())
    }

    /// Starts the log writer, on a thread of its own: it blocks for as long as the disk takes.
    pub fn spawn(self, context: &mut Context<'_>, shutdown: &Shutdown) -> Result<RunnerHandle, EngineError> {
        let Self { streams, directory, inlets, waker, .. } = self;
        let agent = LogAgent::new(streams, directory, inlets);
        context.observers.blocks.push(agent.counters().block());
        let spec = RunnerSpec {
            name: "log".into(),
            cpu: context.plan.control_cpus.first().copied(),
            idle: IdleStrategy::Backoff,
            agents: vec![Box::new(agent)],
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
        tracing::warn!(%stream, epoch, next_offset, ?findings, "event log, recovered: a new epoch begins");
    }
}
