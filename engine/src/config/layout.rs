//! Which agents share which thread, and on which CPU.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::words::{Idle, LayoutMode};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layout {
    pub mode: LayoutMode,
    /// CPUs the data path may use; empty: all that the process may run on.
    pub cpus: Vec<u32>,
    /// Idle strategy of runners that do not name one.
    pub idle: Idle,
    /// How often an agent whose poll costs a system call is polled while others on its thread are busy.
    #[serde(rename = "poll_interval_us", serialize_with = "super::micros")]
    pub poll_interval: Duration,
    /// The threads of an explicit layout; empty in every other mode.
    pub runners: Vec<Runner>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            mode: LayoutMode::Auto,
            cpus: Vec::new(),
            idle: Idle::Auto,
            // An empty recvmmsg costs 0.4 µs and an empty epoll_wait 0.15 µs: at 50 µs that is about 1 % of a core.
            poll_interval: Duration::from_micros(50),
            runners: Vec::new(),
        }
    }
}

/// One pinned thread and the agents on it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Runner {
    pub name: String,
    /// `None`: not pinned.
    pub cpu: Option<u32>,
    /// `Auto`: as `layout.idle` says.
    pub idle: Idle,
    pub agents: Vec<AgentPattern>,
}

/// Names one agent, or all of a kind that no other pattern names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentPattern {
    /// `xdp-0`, `dead-letter`
    One(String),
    /// `xdp-*` as `xdp-`, and `*` as the empty prefix.
    Rest(String),
}

impl AgentPattern {
    /// How closely the pattern names the agent: larger is closer, `None` not at all.
    fn closeness(&self, agent: &str) -> Option<u8> {
        match self {
            Self::One(name) => (name == agent).then_some(2),
            Self::Rest(prefix) => agent
                .starts_with(prefix.as_str())
                .then_some(u8::from(!prefix.is_empty())),
        }
    }
}

impl std::fmt::Display for AgentPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(name) => f.write_str(name),
            Self::Rest(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl Serialize for AgentPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Layout {
    /// The runner of an explicit layout that an agent is placed on: the one that names it most closely.
    pub fn runner_of(&self, agent: &str) -> Option<usize> {
        let closeness = |runner: &Runner| {
            runner
                .agents
                .iter()
                .filter_map(|pattern| pattern.closeness(agent))
                .max()
        };
        self.runners
            .iter()
            .enumerate()
            .filter_map(|(index, runner)| Some((closeness(runner)?, index)))
            .max()
            .map(|(_, index)| index)
    }
}
