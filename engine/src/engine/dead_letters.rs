//! The links to the dead letter queue, and the agent at their end.

use super::build::Context;
use super::logging::Logging;
use super::observe::{DepthProbe, Edge};
use crate::config::Config;
use crate::memory::Frames;
use crate::queue::spsc;
use crate::runtime::agent::Agent;
use crate::storage::{ByteRing, DeadLetter, DeadLetterAgent, DeadLetterSender, ShedBudget};
use crate::topology::DEAD_LETTER_LINK_DEPTH;

/// Ends of the links to the dead letter queue.
pub(super) struct DeadLetterLinks {
    budget: ShedBudget,
    consumers: Vec<spsc::Consumer<DeadLetter>>,
}

impl DeadLetterLinks {
    pub fn new(config: &Config) -> Self {
        let per_dispatcher = config.dlq.shed_bytes_per_s / u64::from(config.dispatchers);
        Self { budget: ShedBudget::new(per_dispatcher), consumers: Vec::new() }
    }

    pub fn sender(&mut self, context: &mut Context<'_>, log: Option<&Logging>, from: &str) -> DeadLetterSender {
        let (producer, consumer) = spsc::ring(DEAD_LETTER_LINK_DEPTH as usize);
        let probe = producer.depth();
        context.observers.depths.push(DepthProbe {
            edge: Edge::DeadLetter,
            name: format!("{from} -> dead-letter"),
            capacity: DEAD_LETTER_LINK_DEPTH,
            read: Box::new(move || probe.len()),
            waits: None,
        });
        self.consumers.push(consumer);
        match log {
            Some(log) => log.dead_letters(producer, self.budget),
            None => DeadLetterSender::new(producer, self.budget, context.waker(from, "dead-letter")),
        }
    }

    /// The other ends, for who writes to disk.
    pub fn into_consumers(self) -> Vec<spsc::Consumer<DeadLetter>> {
        self.consumers
    }

    /// The agent that keeps what arrives in memory.
    pub fn agent(self, context: &mut Context<'_>, frames: &Frames) -> Box<dyn Agent> {
        // Room for records of 64 bytes on average before their number limits them.
        let ring = |bytes: u64| ByteRing::new(bytes as usize, (bytes / 64) as usize);
        let dlq = &context.config.dlq;
        let (failed, shed) = (ring(dlq.failed_memory_bytes), ring(dlq.shed_memory_bytes));
        let agent = DeadLetterAgent::new("dead-letter".into(), self.consumers, failed, shed, frames.clone());
        context.observers.blocks.push(agent.counters().block());
        context.observers.dead_letters = Some(agent.gauges());
        Box::new(agent)
    }
}
