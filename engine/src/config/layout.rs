//! Which agents share which thread, and on which CPU.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::document::{Value, shown};
use super::limit::{Limit, range};
use super::reader::{Section, integer};
use super::words::{Idle, LayoutMode};

/// Above the number of CPUs that a kernel can be built for today (NR_CPUS of 8192).
const CPU: Limit = range(0, 8191, "CPU number");
/// What a kernel can be built for (NODES_SHIFT of 10).
const NODE: Limit = range(0, 1023, "NUMA node");
const RUNNERS_MAX: usize = 256;
const AGENTS_MAX: usize = 1024;
/// What the kernel shows of a thread's name.
const NAME_BYTES_MAX: usize = 15;

/// Kinds of which there are several, numbered from 0.
pub(super) const NUMBERED_KINDS: [&str; 7] = ["xdp", "udp", "tcp", "dispatcher", "realtime", "transactional", "batch"];
/// Agents of which there is one.
const SINGLE_AGENTS: [&str; 1] = ["dead-letter"];

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layout {
    pub mode: LayoutMode,
    /// CPUs the data path may use; empty: all that the process may run on.
    pub cpus: Vec<u32>,
    /// Node that the interface hangs on; `None`: as the firmware has it.
    pub numa_node: Option<u32>,
    /// CPUs of the interface's NAPI threads; empty: the kernel polls in its softirqs.
    pub napi_cpus: Vec<u32>,
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
            numa_node: None,
            napi_cpus: Vec::new(),
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
            Self::Rest(prefix) => agent.starts_with(prefix.as_str()).then_some(u8::from(!prefix.is_empty())),
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
        let closeness = |runner: &Runner| runner.agents.iter().filter_map(|pattern| pattern.closeness(agent)).max();
        self.runners
            .iter()
            .enumerate()
            .filter_map(|(index, runner)| Some((closeness(runner)?, index)))
            .max()
            .map(|(_, index)| index)
    }
}

impl Layout {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        let mode = s.word("mode", d.mode);
        let cpus = read_cpus(s, "cpus").unwrap_or_default();
        Self {
            mode,
            numa_node: optional_integer(s, "numa_node", NODE),
            napi_cpus: read_cpus(s, "napi_cpus").unwrap_or_default(),
            idle: s.word("idle", d.idle),
            poll_interval: s.micros("poll_interval_us", range(1, 10_000, "us"), d.poll_interval),
            runners: read_runners(s, &cpus).unwrap_or_default(),
            cpus,
        }
    }
}

/// A number that may also be `null`.
fn optional_integer(s: &mut Section<'_, '_>, key: &'static str, limit: Limit) -> Option<u32> {
    s.value(
        key,
        None,
        || format!("null or {limit}"),
        |value| match value {
            Value::Null => Ok(None),
            number => integer(number, limit).map(|number| u32::try_from(number).ok()),
        },
    )
}

fn read_cpus(s: &mut Section<'_, '_>, key: &'static str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    s.list(key, RUNNERS_MAX, "CPU numbers", |item| {
        item.place();
        let cpu: u32 = item.integer(CPU)?;
        if cpus.contains(&cpu) {
            item.error(format!("CPU {cpu} is listed twice"));
        }
        cpus.push(cpu);
        Some(())
    })?;
    Some(cpus)
}

fn read_runners(s: &mut Section<'_, '_>, allowed: &[u32]) -> Option<Vec<Runner>> {
    let mut names = HashSet::new();
    let mut pinned = HashSet::new();
    let mut placed = HashSet::new();
    s.list("runners", RUNNERS_MAX, "runners", |item| {
        item.placed_section(|s| {
            let name = read_name(s);
            if !name.is_empty() && !names.insert(name.clone()) {
                s.error("name", format!("another runner is already named {name}"));
            }
            let cpu = optional_integer(s, "cpu", CPU);
            if let Some(cpu) = cpu {
                check_cpu(s, cpu, allowed, &mut pinned);
            }
            let idle = s.word("idle", Idle::Auto);
            let agents = read_agents(s, &mut placed);
            Runner { name, cpu, idle, agents }
        })
    })
}

fn check_cpu(s: &Section<'_, '_>, cpu: u32, allowed: &[u32], pinned: &mut HashSet<u32>) {
    if !allowed.is_empty() && !allowed.contains(&cpu) {
        s.error("cpu", format!("CPU {cpu} is not among layout.cpus"));
    }
    if !pinned.insert(cpu) {
        let instead = "put the agents of both on one, so that they take turns instead of time slices";
        s.error("cpu", format!("another runner is already pinned to CPU {cpu}: {instead}"));
    }
}

fn read_name(s: &mut Section<'_, '_>) -> String {
    if !s.has("name") {
        s.error("name", "is missing: a runner's thread needs a name");
    }
    s.value(
        "name",
        String::new(),
        || "text".to_owned(),
        |value| match value {
            Value::Text(name)
                if (1..=NAME_BYTES_MAX).contains(&name.len())
                    && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') =>
            {
                Ok(name.to_string())
            }
            other => Err(format!("expected a name of 1..={NAME_BYTES_MAX} of a-z, 0-9 and -, found {other}")),
        },
    )
}

fn read_agents(s: &mut Section<'_, '_>, placed: &mut HashSet<String>) -> Vec<AgentPattern> {
    let agents = s.list("agents", AGENTS_MAX, "agent names", |item| {
        let pattern = AgentPattern::parse(item.text()?).map_err(|message| item.error(message)).ok()?;
        if !placed.insert(pattern.to_string()) {
            item.error(format!("{pattern} is already placed"));
        }
        Some(pattern)
    });
    if !s.has("agents") || s.list_len("agents") == Some(0) {
        s.error("agents", "is empty: a runner needs at least one agent");
    }
    agents.unwrap_or_default()
}

impl AgentPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_suffix('*') {
            Some("") => Some(Self::Rest(String::new())),
            Some(prefix) => {
                let kind = prefix.strip_suffix('-').filter(|kind| NUMBERED_KINDS.contains(kind));
                kind.map(|_| Self::Rest(prefix.to_owned()))
            }
            None if SINGLE_AGENTS.contains(&text) => Some(Self::One(text.to_owned())),
            None => text
                .rsplit_once('-')
                .filter(|(kind, number)| NUMBERED_KINDS.contains(kind) && is_number(number))
                .map(|_| Self::One(text.to_owned())),
        };
        parsed.ok_or_else(|| {
            let kinds = NUMBERED_KINDS.map(|kind| format!("{kind}-N")).join(", ");
            let single = SINGLE_AGENTS.join(", ");
            format!("value `{}` names no agent: {kinds} (N a number or *), {single} or *", shown(text))
        })
    }

    /// Kind and number of the one agent named, if it is of a numbered kind.
    pub(super) fn numbered(&self) -> Option<(&str, u32)> {
        let Self::One(name) = self else { return None };
        let (kind, number) = name.rsplit_once('-')?;
        Some((kind, number.parse().ok()?))
    }
}

/// Digits without a leading zero: the agent is found by comparing names.
fn is_number(text: &str) -> bool {
    (text == "0" || !text.starts_with('0'))
        && text.len() <= 4
        && text.bytes().all(|b| b.is_ascii_digit())
        && !text.is_empty()
}
