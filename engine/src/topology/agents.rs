//! The agents of a configuration and the links between them.

use serde::Serialize;

use super::RunnerPlan;
use crate::config::Config;
use crate::frame::Class;
use crate::storage::{BATCHES, is_logged};

/// What an agent does; in the order of the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkPlan {
    pub from: String,
    pub to: String,
    pub kind: &'static str,
    pub depth: u64,
    /// What happens when it is full.
    pub overload: &'static str,
}

/// Depth of each agent's link to the dead letter queue: as many events as a dispatcher takes in one burst, all of which may
/// have to be shed before the dead letter agent is stepped on the same core. No deeper: what waits there pins frames.
pub const DEAD_LETTER_LINK_DEPTH: u64 = 2048;

/// Depth of each link back to a TCP agent, and with it the number of frames whose acknowledgements the agent may owe at
/// once: as many as events it may have on the way, so that neither bound is met long before the other.
pub fn ack_link_depth(config: &Config) -> u64 {
    (u64::from(config.queues.spsc_depth) / 2 / u64::from(config.tcp.agents)).max(1).next_power_of_two()
}

/// The log writer, which is no agent to be placed: it blocks in the kernel for as long as the disk takes, so it has a thread of
/// its own on a CPU of the control plane.
pub const LOG: &str = "log";
/// The runner that sends events to subscribers.
pub const SUBSCRIBERS: &str = "subscribers";
/// Whoever keeps the dead letters: an agent, or with a data directory one beside the log writer.
pub const DEAD_LETTER: &str = "dead-letter";

/// All agents, in path order.
pub(super) fn agents(config: &Config, queues: &[u32]) -> Vec<AgentPlan> {
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
    // With a data directory they are written to disk, on the log writer's thread.
    if config.storage.directory.is_none() {
        agents.push(AgentPlan { name: DEAD_LETTER.into(), role: Role::DeadLetter, index: 0 });
    }
    agents
}

/// The agents of all runners, in path order again.
pub(super) fn in_path_order(runners: &[RunnerPlan]) -> Vec<&AgentPlan> {
    let mut agents: Vec<&AgentPlan> = runners.iter().flat_map(|runner| &runner.agents).collect();
    agents.sort_by_key(|agent| (agent.role, agent.index));
    agents
}

pub(super) fn links(config: &Config, agents: &[&AgentPlan]) -> Vec<LinkPlan> {
    let dispatchers: Vec<&AgentPlan> = agents.iter().filter(|agent| agent.role == Role::Dispatcher).copied().collect();
    let mut links = Vec::new();
    let mut add = |from: &str, to: &str, kind, depth, overload| {
        links.push(LinkPlan { from: from.into(), to: to.into(), kind, depth, overload });
    };
    for (place, agent) in agents.iter().filter(|agent| agent.role.is_ingest()).enumerate() {
        let overload = match agent.role {
            Role::Tcp => "reliable: the sender is not read",
            _ => "lossy: the kernel drops and counts",
        };
        let to = format!("dispatcher-{}", place % config.dispatchers as usize);
        add(&agent.name, &to, "mpsc", u64::from(config.queues.mpsc_depth), overload);
    }
    for dispatcher in &dispatchers {
        for worker in agents.iter().filter(|agent| matches!(agent.role, Role::Worker(_))) {
            let overload = "copied out, then dead-lettered link_full; TCP is not read before that";
            add(&dispatcher.name, &worker.name, "spsc", u64::from(config.queues.spsc_depth), overload);
        }
    }
    for agent in agents.iter().filter(|agent| matches!(agent.role, Role::Dispatcher | Role::Worker(_))) {
        add(&agent.name, DEAD_LETTER, "spsc", DEAD_LETTER_LINK_DEPTH, "lost dead_letter_link_full");
        if config.storage.directory.is_some() && matches!(agent.role, Role::Worker(class) if is_logged(class)) {
            let overload = "the worker takes no more from its own links";
            add(&agent.name, LOG, "feed", BATCHES as u64, overload);
        }
    }
    let ends = |agent: &&&AgentPlan| matches!(agent.role, Role::Dispatcher | Role::Worker(_));
    let enders = agents.iter().filter(ends).map(|agent| agent.name.as_str());
    for from in enders.chain(config.storage.directory.is_some().then_some(DEAD_LETTER)) {
        for tcp in agents.iter().filter(|agent| agent.role == Role::Tcp) {
            let overload = "never full: frames that ask for an acknowledgement are not read before";
            add(from, &tcp.name, "spsc", ack_link_depth(config), overload);
        }
    }
    links
}
