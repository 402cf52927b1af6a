//! The memory of a plan: frame pools, each on the node of who reads it, and what else is set aside.

use serde::Serialize;

use super::agents::{Role, ack_link_depth, in_path_order};
use super::{AgentPlan, Machine, RunnerPlan};
use crate::acks::Ack;
use crate::config::{Config, SOCKET_SLOT_BYTES};
use crate::dedup::DedupTable;
use crate::dispatch::TopicTable;
use crate::frame::Class;
use crate::memory::{Event, Slab};
use crate::storage::{feed_bytes, letter_bytes};
use crate::subscribe::{Interest, outlet_bytes};
use crate::worker::Windows;

/// A frame pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolPlan {
    pub owner: String,
    pub slots: u64,
    pub slot_bytes: u64,
    /// Where its memory is to lie; `None` where it does not matter or cannot be told.
    pub node: Option<u32>,
}

/// Largest event that can be copied out of its frame, and the slot size of spill and retry pools.
const SPILL_SLOT_BYTES: u64 = 64 << 10;

/// In the order in which the engine numbers them.
pub(super) fn pools(
    config: &Config,
    machine: &Machine,
    nic_node: Option<u32>,
    runners: &[RunnerPlan],
) -> Vec<PoolPlan> {
    let mut pools = Vec::new();
    let mut add = |owner: String, slots: u64, slot_bytes: u64, node| {
        pools.push(PoolPlan { owner, slots, slot_bytes, node });
    };
    // The node with memory next to the CPU of an agent.
    let node_of = |agent: &AgentPlan| {
        let runner = runners.iter().find(|runner| runner.agents.contains(agent))?;
        machine.memory_near(machine.cpu(runner.cpu?)?.node?)
    };
    for agent in in_path_order(runners) {
        let node = node_of(agent);
        let name = &agent.name;
        match agent.role {
            // The card writes there, whoever reads.
            Role::Xdp { .. } => {
                add(name.clone(), u64::from(config.xdp.frames), u64::from(config.xdp.frame_bytes), nic_node);
            }
            Role::Udp => add(name.clone(), u64::from(config.udp.slots), u64::from(SOCKET_SLOT_BYTES), node),
            Role::Tcp => {
                add(name.clone(), u64::from(config.tcp.slots), u64::from(SOCKET_SLOT_BYTES), node);
                add(format!("{name} large"), u64::from(config.tcp.large_slots), large_slot_bytes(config), node);
            }
            Role::Dispatcher => {
                let slots = (config.spill.bytes_per_class / SPILL_SLOT_BYTES).max(1);
                Class::ALL.iter().for_each(|class| add(format!("{name} spill {class}"), slots, SPILL_SLOT_BYTES, node));
            }
            Role::Worker(Class::Transactional | Class::Batch) => {
                add(format!("{name} retry"), retry_slots(config), SPILL_SLOT_BYTES, node);
                if config.has_windows() && agent.role == Role::Worker(Class::Batch) {
                    add(
                        format!("{name} windows"),
                        config.batch.memory.bytes / SPILL_SLOT_BYTES,
                        SPILL_SLOT_BYTES,
                        node,
                    );
                }
            }
            Role::Worker(Class::Realtime) | Role::DeadLetter => {}
        }
    }
    if config.storage.directory.is_some() {
        add(REPLAY.into(), REPLAY_SLOTS, large_slot_bytes(config).max(REPLAY_SLOT_BYTES_MIN), None);
    }
    pools
}

/// The owner of the pool from which dead letters are replayed.
pub const REPLAY: &str = "replay";
/// A few bursts of them.
const REPLAY_SLOTS: u64 = 16;
const REPLAY_SLOT_BYTES_MIN: u64 = 128 << 10;

/// A frame of the largest allowed size with its length field.
fn large_slot_bytes(config: &Config) -> u64 {
    (u64::from(config.limits.frame_bytes) + 4).next_power_of_two()
}

/// Retry copies are packed into slots: a kilobyte an event on average, and never fewer than four slots.
fn retry_slots(config: &Config) -> u64 {
    (u64::from(config.retry.queue_depth) * 1024 / SPILL_SLOT_BYTES).max(4)
}

/// Code, stacks and what the control plane allocates, measured on an idle engine: 6 MiB of files and 2 of heap.
const PROGRAM_BYTES: u64 = 8 << 20;

/// Queues, tables, unfinished frames, dead letters, and the program itself.
pub(super) fn other_bytes(config: &Config, agents: &[&AgentPlan]) -> u64 {
    let ingest_agents = agents.iter().filter(|agent| agent.role.is_ingest()).count() as u64;
    let workers: u64 = Class::ALL.iter().map(|class| u64::from(config.workers.count(*class))).sum();
    let mpsc = ingest_agents * queue_bytes(config.queues.mpsc_depth);
    let spsc = u64::from(config.dispatchers) * workers * 2 * queue_bytes(config.queues.spsc_depth);
    let topics = TopicTable::bytes(config.topics.len()) as u64;
    let dedup = DedupTable::bytes(config.dedup.capacity as usize) as u64;
    let enders = u64::from(config.dispatchers) + workers + u64::from(config.storage.directory.is_some());
    let ack_bytes = Slab::<Ack>::bytes(ack_link_depth(config) as usize) as u64;
    let acks = if config.tcp.enabled { u64::from(config.tcp.agents) * enders * ack_bytes } else { 0 };
    let carries = if config.tcp.enabled { u64::from(config.tcp.agents) * config.tcp.carry_bytes } else { 0 };
    let of_bytes = |bytes: u64| Slab::<u8>::bytes(bytes as usize) as u64;
    let dead_letters = if config.storage.directory.is_some() {
        2 * letter_bytes(u64::from(config.limits.frame_bytes))
    } else {
        of_bytes(config.dlq.failed_memory_bytes) + of_bytes(config.dlq.shed_memory_bytes)
    };
    let windows = if config.has_windows() {
        u64::from(config.workers.batch) * Windows::bytes(config.batch.memory.events() as usize) as u64
    } else {
        0
    };
    let log = if config.storage.directory.is_some() { log_bytes(config) } else { 0 };
    let outlets = if config.tcp.enabled { outlet_bytes_of_all(config) } else { 0 };
    mpsc + spsc + topics + dedup + acks + windows + log + outlets + carries + dead_letters + PROGRAM_BYTES
}

/// What is on its way to the event log, and what each stream has for records that are not durable yet.
fn log_bytes(config: &Config) -> u64 {
    let workers = u64::from(config.workers.transactional + config.workers.batch);
    let feeds = workers * feed_bytes(config.limits.frame_bytes as usize) as u64;
    let streams = config.storage.streams.len() as u64 + 1;
    feeds + streams * 2 * config.storage.buffer_bytes
}

/// What is on its way to subscribers without having come into the log.
fn outlet_bytes_of_all(config: &Config) -> u64 {
    let workers = &config.workers;
    let logged = if config.storage.directory.is_some() { 0 } else { workers.transactional + workers.batch };
    u64::from(workers.realtime + logged) * outlet_bytes(config.limits.frame_bytes as usize) as u64
        + Interest::BYTES as u64
}

fn queue_bytes(depth: u32) -> u64 {
    Slab::<Event>::bytes(depth as usize) as u64
}
