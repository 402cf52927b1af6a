//! Getting events out: the links to the sender, made before those who use them, and its thread, started after them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use super::EngineError;
use super::build::Context;
use super::logging::Logging;
use super::observe::{DepthProbe, Edge};
use crate::frame::Class;
use crate::runtime::waker::Waker;
use crate::runtime::{IdleStrategy, RunnerHandle, RunnerSpec, Shutdown};
use crate::storage::{LogReaders, is_logged};
use crate::subscribe::{
    Interest, KeptSpec, Message, Outlet, OutletEnd, Sender, SenderLimits, SenderSpec, Streams, SubscriptionLink, link,
    outlet,
};
use crate::topology::{Role, SUBSCRIBERS};

/// The ends that wait for their owners.
pub(super) struct Subscribing {
    waker: Waker,
    requests: Receiver<Message>,
    interest: Arc<Interest>,
    outlets: HashMap<String, Outlet>,
    ends: Vec<OutletEnd>,
    streams: Streams,
    kept: KeptSpec,
    readers: Option<LogReaders>,
}

impl Subscribing {
    /// `None` where nobody can subscribe. The link is for those who read connections.
    pub fn open(context: &Context<'_>) -> Result<Option<(Self, SubscriptionLink)>, EngineError> {
        if !context.config.tcp.enabled {
            return Ok(None);
        }
        let waker = Waker::new().map_err(|error| EngineError(format!("eventfd: {error}")))?;
        let (link, requests) = link(waker.clone());
        // What senders choose must not collide as they like.
        let interest = Arc::new(Interest::new(context.hash_seed));
        let (outlets, ends, streams) = (HashMap::new(), Vec::new(), Streams::default());
        let kept = KeptSpec { names_max: context.config.subscriptions.names as usize, ..KeptSpec::default() };
        Ok(Some((Self { waker, requests, interest, outlets, ends, streams, kept, readers: None }, link)))
    }

    /// Makes the ways from the workers, and those from the log.
    pub fn connect(&mut self, context: &mut Context<'_>, log: Option<&mut Logging>) -> Result<(), EngineError> {
        let has_log = log.is_some();
        for worker in context.agents(|role| matches!(role, Role::Worker(_))) {
            let Role::Worker(class) = worker.role else { continue };
            if has_log && is_logged(class) {
                continue;
            }
            let frame_bytes = context.config.limits.frame_bytes as usize;
            let (outlet, end) = outlet(
                class,
                self.interest.clone(),
                frame_bytes,
                Some(self.waker.clone()),
                Some(context.waker_of(&worker.name)),
            );
            self.outlets.insert(worker.name, outlet);
            self.ends.push(end);
        }
        if let Some(log) = log {
            self.streams = Streams::new(log.views());
            self.readers = Some(log.readers(self.waker.clone()));
            let (store, saved) = log.kept_positions()?;
            let letters = log.consumer_letters(self.waker.clone());
            let depth = letters.depth();
            context.observers.depths.push(DepthProbe {
                edge: Edge::DeadLetter,
                name: format!("{SUBSCRIBERS} -> dead-letter"),
                // It is no queue of the data path, which nothing is to be shed for.
                capacity: u64::MAX,
                read: Box::new(move || depth.load(Ordering::Acquire)),
                waits: None,
            });
            (self.kept.store, self.kept.saved, self.kept.letters) = (Some(store), saved, Some(letters));
        }
        Ok(())
    }

    pub fn outlet(&mut self, worker: &str) -> Option<Outlet> {
        self.outlets.remove(worker)
    }

    /// Starts the sender.
    pub fn spawn(self, context: &mut Context<'_>, shutdown: &Shutdown) -> Result<RunnerHandle, EngineError> {
        let Self { waker, requests, interest, ends, streams, kept, readers, .. } = self;
        let config = &context.config.subscriptions;
        let sender = Sender::new(SenderSpec {
            name: SUBSCRIBERS.into(),
            requests,
            outlets: ends,
            streams,
            logged: Class::ALL.map(is_logged),
            interest,
            limits: SenderLimits {
                subs_per_connection: config.per_connection as usize,
                backlog_bytes: config.backlog_bytes as usize,
            },
            kept,
            readers,
            clock: context.clock.clone(),
        })
        .map_err(EngineError)?;
        context.observers.blocks.push(sender.counters().block());
        context.observers.waiting.push(sender.waiting_gauge());
        let spec = RunnerSpec {
            name: SUBSCRIBERS.into(),
            cpu: None,
            idle: IdleStrategy::Backoff,
            agents: vec![Box::new(sender)],
            waker,
            clock: context.clock.clone(),
            shutdown: shutdown.clone(),
        };
        spec.spawn().map_err(|error| EngineError(format!("the sender to subscribers: {error}")))
    }
}
