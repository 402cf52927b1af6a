//! The plan: agents, links, cores and memory, derived and checked before anything is built.

use std::fmt;

use super::Machine;
use crate::config::{Config, Idle, LayoutMode, SOCKET_SLOT_BYTES, XdpQueues};
use crate::frame::Class;
use crate::runtime::IdleStrategy;

/// What an agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// AF_XDP ingest of one NIC queue.
    Xdp {
        queue: u32,
    },
    Udp,
    Tcp,
    Dispatcher,
    Worker(Class),
    DeadLetter,
}

impl Role {
    pub const fn is_ingest(self) -> bool {
        matches!(self, Self::Xdp { .. } | Self::Udp | Self::Tcp)
    }
}

/// An agent and where it stands in its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPlan {
    pub name: String,
    pub role: Role,
    pub index: usize,
}

/// An edge between two agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPlan {
    pub from: String,
    pub to: String,
    pub kind: &'static str,
    pub depth: u64,
    /// What happens when it is full.
    pub overload: &'static str,
}

/// A frame pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    pub owner: String,
    pub slots: u64,
    pub slot_bytes: u64,
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerPlan {
    pub name: String,
    pub cpu: Option<u32>,
    pub idle: IdleStrategy,
    /// In path order.
    pub agents: Vec<AgentPlan>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError(pub String);

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layout: {}", self.0)
    }
}

impl std::error::Error for PlanError {}

/// The whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub runners: Vec<RunnerPlan>,
    pub links: Vec<LinkPlan>,
    pub pools: Vec<PoolPlan>,
    /// Memory beside the pools: queues, deduplication table, unfinished frames, dead letters.
    pub other_bytes: u64,
}

/// Depth of each agent's link to the dead letter queue: as many events as a dispatcher takes in one burst, all of which may
/// have to be shed before the dead letter agent is stepped on the same core. No deeper: what waits there pins frames.
pub const DEAD_LETTER_LINK_DEPTH: u64 = 2048;
/// Largest event that can be copied out of its frame, and the slot size of spill and retry pools.
pub const SPILL_SLOT_BYTES: u64 = 64 << 10;

impl Plan {
    /// Derives the plan. `queues` are the NIC queues that will have an AF_XDP socket.
    pub fn derive(config: &Config, machine: &Machine, queues: &[u32]) -> Result<Self, PlanError> {
        let agents = agents(config, queues);
        let runners = match config.layout.mode {
            LayoutMode::Explicit => explicit(config, machine, agents)?,
            mode => placed(config, machine, mode, agents)?,
        };
        let plan = Self {
            links: links(config, &runners),
            pools: pools(config, queues),
            other_bytes: other_bytes(config, ingest_agents(&runners)),
            runners,
        };
        plan.check(machine)?;
        Ok(plan)
    }

    /// The queues of `interface` that the configuration asks for.
    pub fn xdp_queues(config: &Config, available: u32) -> Result<Vec<u32>, PlanError> {
        match &config.xdp.queues {
            XdpQueues::All => Ok((0..available).collect()),
            XdpQueues::These(queues) => match queues.iter().find(|queue| **queue >= available) {
                Some(queue) => Err(PlanError(format!(
                    "xdp.queues names queue {queue}, but the interface has {available} receive queues"
                ))),
                None => Ok(queues.clone()),
            },
        }
    }

    pub fn agents(&self) -> impl Iterator<Item = &AgentPlan> {
        self.runners.iter().flat_map(|runner| &runner.agents)
    }

    fn check(&self, machine: &Machine) -> Result<(), PlanError> {
        for (index, runner) in self.runners.iter().enumerate() {
            if let Some(cpu) = runner.cpu.filter(|cpu| !machine.cpus.contains(cpu)) {
                return Err(PlanError(format!(
                    "runner {} is to run on cpu {cpu}, but this process may use only {:?}",
                    runner.name, machine.cpus
                )));
            }
            let spins = |runner: &RunnerPlan| runner.idle == IdleStrategy::BusySpin && runner.cpu.is_some();
            let rival = self.runners[..index].iter().find(|other| spins(other) && other.cpu == runner.cpu);
            if let Some(rival) = rival.filter(|_| spins(runner)) {
                return Err(PlanError(format!(
                    "runners {} and {} both spin on cpu {}: one would starve the other",
                    rival.name,
                    runner.name,
                    runner.cpu.unwrap_or_default()
                )));
            }
        }
        Ok(())
    }

    pub fn memory_bytes(&self) -> u64 {
        self.pools.iter().map(|pool| pool.slots * pool.slot_bytes).sum::<u64>() + self.other_bytes
    }
}

/// All agents, in path order.
fn agents(config: &Config, queues: &[u32]) -> Vec<AgentPlan> {
    let mut agents = Vec::new();
    let mut add = |prefix: &str, index: usize, role| {
        agents.push(AgentPlan { name: format!("{prefix}-{index}"), role, index });
    };
    for queue in queues {
        add("xdp", *queue as usize, Role::Xdp { queue: *queue });
    }
    (0..config.udp.sockets as usize).for_each(|index| add("udp", index, Role::Udp));
    if config.tcp.enabled {
        (0..config.tcp.agents as usize).for_each(|index| add("tcp", index, Role::Tcp));
    }
    (0..config.dispatchers as usize).for_each(|index| add("dispatcher", index, Role::Dispatcher));
    for class in Class::ALL {
        for index in 0..config.workers.count(class) as usize {
            add(class.as_str(), index, Role::Worker(class));
        }
    }
    agents.push(AgentPlan { name: "dead-letter".into(), role: Role::DeadLetter, index: 0 });
    agents
}

fn idle(wanted: Idle, alone_on_core: bool) -> IdleStrategy {
    match wanted {
        Idle::BusySpin => IdleStrategy::BusySpin,
        Idle::Yield => IdleStrategy::Yield,
        Idle::Backoff => IdleStrategy::Backoff,
        Idle::Auto if alone_on_core => IdleStrategy::BusySpin,
        Idle::Auto => IdleStrategy::Backoff,
    }
}

/// Cores an automatic layout may use; the lowest is left to the control plane and the kernel where there is a choice.
fn data_cpus(config: &Config, machine: &Machine) -> Vec<u32> {
    let cpus = if config.layout.cpus.is_empty() { &machine.cpus } else { &config.layout.cpus };
    if config.layout.cpus.is_empty() && cpus.len() > 1 { cpus[1..].to_vec() } else { cpus.clone() }
}

/// `shared`: everything on one runner. `dedicated`: one runner an agent. `auto`: dedicated when the cores suffice.
fn placed(
    config: &Config,
    machine: &Machine,
    mode: LayoutMode,
    agents: Vec<AgentPlan>,
) -> Result<Vec<RunnerPlan>, PlanError> {
    let cpus = data_cpus(config, machine);
    if mode == LayoutMode::Dedicated && cpus.len() < agents.len() {
        return Err(PlanError(format!(
            "mode dedicated needs {} cores for {} agents, and there are {}",
            agents.len(),
            agents.len(),
            cpus.len()
        )));
    }
    if mode != LayoutMode::Shared && cpus.len() >= agents.len() {
        let runner = |(agent, cpu): (AgentPlan, u32)| RunnerPlan {
            name: agent.name.clone(),
            cpu: Some(cpu),
            idle: idle(config.layout.idle, false),
            agents: vec![agent],
        };
        return Ok(agents.into_iter().zip(cpus).map(runner).collect());
    }
    let cpu = cpus.first().copied();
    Ok(vec![RunnerPlan { name: "data".into(), cpu, idle: idle(config.layout.idle, false), agents }])
}

fn explicit(config: &Config, machine: &Machine, agents: Vec<AgentPlan>) -> Result<Vec<RunnerPlan>, PlanError> {
    let mut runners: Vec<RunnerPlan> = config
        .layout
        .runners
        .iter()
        .map(|runner| {
            let shared = config.layout.runners.iter().filter(|other| other.cpu == runner.cpu).count() > 1;
            let alone = runner.cpu.is_some() && !shared && machine.cpus.len() > 2;
            RunnerPlan {
                name: runner.name.clone(),
                cpu: runner.cpu,
                idle: idle(runner.idle, alone),
                agents: Vec::new(),
            }
        })
        .collect();
    for agent in agents {
        let Some(index) = config.layout.runner_of(&agent.name) else {
            return Err(PlanError(format!("no runner of layout.runners takes agent {}", agent.name)));
        };
        runners[index].agents.push(agent);
    }
    runners.retain(|runner| !runner.agents.is_empty());
    Ok(runners)
}

fn links(config: &Config, runners: &[RunnerPlan]) -> Vec<LinkPlan> {
    let agents: Vec<&AgentPlan> = runners.iter().flat_map(|runner| &runner.agents).collect();
    let dispatchers: Vec<&AgentPlan> = agents.iter().filter(|agent| agent.role == Role::Dispatcher).copied().collect();
    let mut links = Vec::new();
    let mut add = |from: &AgentPlan, to: &str, kind, depth, overload| {
        links.push(LinkPlan { from: from.name.clone(), to: to.into(), kind, depth, overload });
    };
    for (place, agent) in agents.iter().filter(|agent| agent.role.is_ingest()).enumerate() {
        let overload = match agent.role {
            Role::Tcp => "reliable: the sender is not read",
            _ => "lossy: the kernel drops and counts",
        };
        let to = &dispatchers[place % dispatchers.len()].name;
        add(agent, to, "mpsc", u64::from(config.queues.mpsc_depth), overload);
    }
    for dispatcher in &dispatchers {
        for worker in agents.iter().filter(|agent| matches!(agent.role, Role::Worker(_))) {
            let overload = "copied out, then dead-lettered link_full; TCP is not read before that";
            add(dispatcher, &worker.name, "spsc", u64::from(config.queues.spsc_depth), overload);
        }
    }
    for agent in agents.iter().filter(|agent| matches!(agent.role, Role::Dispatcher | Role::Worker(_))) {
        add(agent, "dead-letter", "spsc", DEAD_LETTER_LINK_DEPTH, "lost dead_letter_link_full");
    }
    links
}

/// In the order in which the engine numbers them.
fn pools(config: &Config, queues: &[u32]) -> Vec<PoolPlan> {
    let mut pools = Vec::new();
    let mut add = |owner: String, slots: u64, slot_bytes: u64| pools.push(PoolPlan { owner, slots, slot_bytes });
    for queue in queues {
        add(format!("xdp-{queue}"), u64::from(config.xdp.frames), u64::from(config.xdp.frame_bytes));
    }
    for index in 0..config.udp.sockets {
        add(format!("udp-{index}"), u64::from(config.udp.slots), u64::from(SOCKET_SLOT_BYTES));
    }
    for index in 0..if config.tcp.enabled { config.tcp.agents } else { 0 } {
        add(format!("tcp-{index}"), u64::from(config.tcp.slots), u64::from(SOCKET_SLOT_BYTES));
        let large = large_slot_bytes(config);
        add(format!("tcp-{index} large"), u64::from(config.tcp.large_slots), large);
    }
    for index in 0..config.dispatchers {
        for class in Class::ALL {
            let slots = (config.spill.bytes_per_class / SPILL_SLOT_BYTES).max(1);
            add(format!("dispatcher-{index} spill {class}"), slots, SPILL_SLOT_BYTES);
        }
    }
    for class in [Class::Transactional, Class::Batch] {
        for index in 0..config.workers.count(class) {
            add(format!("{class}-{index} retry"), retry_slots(config), SPILL_SLOT_BYTES);
        }
    }
    pools
}

/// A frame of the largest allowed size with its length field.
pub fn large_slot_bytes(config: &Config) -> u64 {
    (u64::from(config.limits.frame_bytes) + 4).next_power_of_two()
}

/// Retry copies are packed into slots: a kilobyte an event on average, and never fewer than four slots.
pub fn retry_slots(config: &Config) -> u64 {
    (u64::from(config.retry.queue_depth) * 1024 / SPILL_SLOT_BYTES).max(4)
}

fn ingest_agents(runners: &[RunnerPlan]) -> u64 {
    runners.iter().flat_map(|runner| &runner.agents).filter(|agent| agent.role.is_ingest()).count() as u64
}

fn other_bytes(config: &Config, ingest_agents: u64) -> u64 {
    let workers: u64 = Class::ALL.iter().map(|class| u64::from(config.workers.count(*class))).sum();
    let mpsc = ingest_agents * u64::from(config.queues.mpsc_depth) * 24;
    let spsc = u64::from(config.dispatchers) * workers * u64::from(config.queues.spsc_depth) * (24 + 24);
    let dedup = u64::from(config.dedup.capacity) * 52;
    let carries = if config.tcp.enabled { u64::from(config.tcp.agents) * config.tcp.carry_bytes } else { 0 };
    mpsc + spsc + dedup + carries + config.dlq.failed_memory_bytes + config.dlq.shed_memory_bytes
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "runners")?;
        for runner in &self.runners {
            let cpu = runner.cpu.map_or("any cpu".into(), |cpu| format!("cpu {cpu}"));
            let agents: Vec<&str> = runner.agents.iter().map(|agent| agent.name.as_str()).collect();
            writeln!(f, "  {:<16} {cpu:<8} {:<9} {}", runner.name, runner.idle.as_str(), agents.join(" "))?;
        }
        writeln!(f, "links")?;
        for link in &self.links {
            writeln!(f, "  {:<16} -> {:<16} {} {:>6}  {}", link.from, link.to, link.kind, link.depth, link.overload)?;
        }
        writeln!(f, "frame pools")?;
        for pool in &self.pools {
            writeln!(
                f,
                "  {:<32} {:>6} slots of {:>7} bytes = {:>6} KiB",
                pool.owner,
                pool.slots,
                pool.slot_bytes,
                pool.slots * pool.slot_bytes / 1024
            )?;
        }
        write!(f, "memory {} MiB in all", self.memory_bytes().div_ceil(1 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cpus: u32) -> Machine {
        Machine { cpus: (0..cpus).collect() }
    }

    #[test]
    fn two_cores_share_and_many_do_not() {
        let config = Config::default();
        let small = Plan::derive(&config, &machine(2), &[0, 1]).unwrap();
        assert_eq!(small.runners.len(), 1);
        assert_eq!(small.runners[0].cpu, Some(1));
        let large = Plan::derive(&config, &machine(64), &[0, 1]).unwrap();
        assert_eq!(large.runners.len(), large.agents().count());
        assert_eq!(small.agents().count(), large.agents().count());
    }

    #[test]
    fn every_link_has_both_ends() {
        let plan = Plan::derive(&Config::default(), &machine(2), &[0, 1]).unwrap();
        let names: Vec<&str> = plan.agents().map(|agent| agent.name.as_str()).collect();
        for link in &plan.links {
            assert!(names.contains(&link.from.as_str()) && names.contains(&link.to.as_str()), "{link:?}");
        }
    }

    #[test]
    fn a_layout_that_cannot_work_is_refused() {
        let mut config = Config::default();
        config.layout.mode = LayoutMode::Dedicated;
        let error = Plan::derive(&config, &machine(2), &[]).unwrap_err();
        assert!(error.to_string().contains("needs 7 cores"), "{error}");
        config.layout.mode = LayoutMode::Shared;
        config.layout.cpus = vec![9];
        let error = Plan::derive(&config, &machine(2), &[]).unwrap_err();
        assert!(error.to_string().contains("cpu 9"), "{error}");
    }
}
