//! The plan: agents, links, cores and memory, derived and checked before anything is built.

use std::fmt;

use serde::Serialize;

use super::agents::{self, AgentPlan, LinkPlan};
use super::pools::{self, PoolPlan};
use super::{Machine, Nic, check, place, show};
use crate::config::{Config, XdpQueues};
use crate::runtime::IdleStrategy;

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunnerPlan {
    /// Also the thread's name, of which the kernel keeps 15 bytes.
    pub name: String,
    pub cpu: Option<u32>,
    #[serde(serialize_with = "show::idle_name")]
    pub idle: IdleStrategy,
    /// In path order.
    #[serde(serialize_with = "show::agent_names")]
    pub agents: Vec<AgentPlan>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// The key that asks for what cannot be, with its file and line.
    pub place: String,
    pub message: String,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for PlanError {}

impl PlanError {
    pub(super) fn new(config: &Config, key: &str, message: impl Into<String>) -> Self {
        Self { place: config.places.of(key), message: message.into() }
    }
}

/// The whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub runners: Vec<RunnerPlan>,
    pub links: Vec<LinkPlan>,
    pub pools: Vec<PoolPlan>,
    /// Memory beside the pools: queues, tables, unfinished frames, dead letters, the program.
    pub other_bytes: u64,
    /// Where the interface's UMEM is to lie.
    pub nic_node: Option<u32>,
    /// CPUs for whatever is no data thread: those that no data thread has, as far as there are any.
    pub control_cpus: Vec<u32>,
    /// Of those, the one for who waits for the disk.
    pub log_cpu: Option<u32>,
    /// What works and costs something all the same.
    pub notes: Vec<String>,
}

impl Plan {
    /// Derives the plan, or says why there can be none.
    pub fn derive(config: &Config, machine: &Machine, nic: &Nic) -> Result<Self, PlanError> {
        check::names_of_cpus(config, machine)?;
        let nic_node = check::memory_node(config, machine, nic)?;
        let runners = place::runners(config, machine, nic_node, agents::agents(config, &nic.queues))?;
        let agents = agents::in_path_order(&runners);
        let links = agents::links(config, &agents);
        let other_bytes = pools::other_bytes(config, &agents);
        let pools = pools::pools(config, machine, nic_node, &runners);
        let control_cpus = place::control_cpus(config, machine, &runners);
        let of_disk = machine.disk_cpu.filter(|cpu| control_cpus.contains(cpu));
        let log_cpu = of_disk.or(control_cpus.first().copied());
        let mut plan = Self { runners, links, pools, other_bytes, nic_node, control_cpus, log_cpu, notes: Vec::new() };
        check::plan(&plan, config, machine)?;
        plan.notes = check::notes(&plan, config, machine, nic);
        Ok(plan)
    }

    /// The queues of `interface` that the configuration asks for.
    pub fn xdp_queues(config: &Config, available: u32) -> Result<Vec<u32>, PlanError> {
        match &config.xdp.queues {
            XdpQueues::All => Ok((0..available).collect()),
            XdpQueues::These(queues) => match queues.iter().find(|queue| **queue >= available) {
                Some(queue) => {
                    let message = format!("there is no queue {queue}: the interface has {available} receive queues");
                    Err(PlanError::new(config, "xdp.queues", message))
                }
                None => Ok(queues.clone()),
            },
        }
    }

    /// In path order, whatever the order of the runners.
    pub fn agents(&self) -> impl Iterator<Item = &AgentPlan> {
        agents::in_path_order(&self.runners).into_iter()
    }

    /// Where a pool is to lie.
    pub fn pool_node(&self, owner: &str) -> Option<u32> {
        self.pools.iter().find(|pool| pool.owner == owner)?.node
    }

    pub fn memory_bytes(&self) -> u64 {
        self.pools.iter().map(|pool| pool.slots * pool.slot_bytes).sum::<u64>() + self.other_bytes
    }
}
