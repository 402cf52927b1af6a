//! The queues between sources, dispatchers and workers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::build::Context;
use super::logging::Logging;
use super::observe::{DepthProbe, Edge};
use super::sources::Sources;
use crate::frame::Class;
use crate::memory::Event;
use crate::queue::{mpsc, spsc};
use crate::runtime::waker::Waker;
use crate::topology::Role;

/// One queue for each dispatcher, with a producer for each of its ingest agents.
pub(super) fn ingest_queues(
    context: &mut Context<'_>,
) -> (Vec<Vec<mpsc::Producer<Event>>>, Vec<mpsc::Consumer<Event>>) {
    let depth = context.config.queues.mpsc_depth as usize;
    let sources = context.agents(Role::is_ingest).len();
    let dispatchers = context.agents(|role| role == Role::Dispatcher);
    let (mut producers, mut consumers) = (Vec::new(), Vec::new());
    for (index, dispatcher) in dispatchers.iter().enumerate() {
        let own = (0..sources).filter(|place| Sources::dispatcher_of(*place, dispatchers.len()) == index).count();
        // Dead letters that are replayed come in at the first.
        let own = own + usize::from(index == 0 && context.config.storage.directory.is_some());
        // A dispatcher may have no source at all, but its queue has a place for one.
        let (ends, consumer) = mpsc::queue(depth, own.max(1));
        let probe = consumer.depth();
        context.observers.depths.push(DepthProbe {
            edge: Edge::Ingest,
            name: format!("ingest -> {}", dispatcher.name),
            capacity: probe.capacity(),
            read: Box::new(move || probe.len()),
            waits: None,
        });
        producers.push(ends);
        consumers.push(consumer);
    }
    (producers, consumers)
}

/// The dispatcher's end of a worker's ring, and how to wake the worker.
pub(super) struct WorkerEnd {
    pub class: Class,
    pub producer: spsc::Producer<Event>,
    pub waker: Option<Waker>,
    pub waits: Option<Arc<AtomicBool>>,
}

/// Rings between dispatchers and workers.
#[derive(Default)]
pub(super) struct Rings {
    /// Per dispatcher, in the order of the workers.
    pub links: Vec<Vec<WorkerEnd>>,
    /// By worker, one from each dispatcher.
    pub workers: HashMap<String, Vec<spsc::Consumer<Event>>>,
}

pub(super) fn rings(context: &mut Context<'_>, log: Option<&Logging>) -> Rings {
    let depth = context.config.queues.spsc_depth as usize;
    let mut rings = Rings::default();
    for dispatcher in context.agents(|role| role == Role::Dispatcher) {
        let mut links = Vec::new();
        for worker in context.agents(|role| matches!(role, Role::Worker(_))) {
            let Role::Worker(class) = worker.role else { continue };
            let (producer, consumer) = spsc::ring(depth);
            let waits = log.and_then(|log| log.waits(&worker.name));
            let probe = producer.depth();
            context.observers.depths.push(DepthProbe {
                edge: Edge::Worker(class),
                name: format!("{} -> {}", dispatcher.name, worker.name),
                capacity: depth as u64,
                read: Box::new(move || probe.len()),
                waits: waits.clone(),
            });
            let waker = context.waker(&dispatcher.name, &worker.name);
            links.push(WorkerEnd { class, producer, waker, waits });
            rings.workers.entry(worker.name).or_default().push(consumer);
        }
        rings.links.push(links);
    }
    rings
}
