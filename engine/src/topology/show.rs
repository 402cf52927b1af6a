//! A plan and a machine for people, and for programs.

use std::fmt;

use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

use super::agents::{DEAD_LETTER, LOG};
use super::check::ranges;
use super::{AgentPlan, Machine, Plan, RunnerPlan};
use crate::nic::{Interface, Interrupt};
use crate::runtime::IdleStrategy;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "runners")?;
        for runner in &self.runners {
            writeln!(f, "  {runner}")?;
        }
        if self.links.iter().any(|link| link.to == LOG) {
            let cpu = self.control_cpus.first().map_or("any cpu".into(), |cpu| format!("cpu {cpu}"));
            writeln!(f, "  {:<16} {cpu:<8} {:<9} {DEAD_LETTER} log", LOG, IdleStrategy::Backoff.as_str())?;
        }
        writeln!(f, "  {:<16} cpu {:<4} everything else", "control", ranges(&self.control_cpus))?;
        writeln!(f, "links")?;
        for link in &self.links {
            writeln!(f, "  {:<16} -> {:<16} {} {:>6}  {}", link.from, link.to, link.kind, link.depth, link.overload)?;
        }
        writeln!(f, "frame pools")?;
        for pool in &self.pools {
            let node = pool.node.map_or_else(|| "any node".to_owned(), |node| format!("node {node}"));
            let (owner, slots, slot_bytes) = (&pool.owner, pool.slots, pool.slot_bytes);
            let kibibytes = slots * slot_bytes / 1024;
            writeln!(f, "  {owner:<32} {slots:>6} slots of {slot_bytes:>7} bytes = {kibibytes:>6} KiB  {node}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        write!(f, "memory {} MiB in all", self.memory_bytes().div_ceil(1 << 20))
    }
}

impl fmt::Display for RunnerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = self.cpu.map_or("any cpu".into(), |cpu| format!("cpu {cpu}"));
        let agents: Vec<&str> = self.agents.iter().map(|agent| agent.name.as_str()).collect();
        write!(f, "{:<16} {cpu:<8} {:<9} {}", self.name, self.idle.as_str(), agents.join(" "))
    }
}

pub(super) fn idle_name<S: Serializer>(idle: &IdleStrategy, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(idle.as_str())
}

pub(super) fn agent_names<S: Serializer>(agents: &[AgentPlan], serializer: S) -> Result<S::Ok, S::Error> {
    let mut sequence = serializer.serialize_seq(Some(agents.len()))?;
    for agent in agents {
        sequence.serialize_element(&agent.name)?;
    }
    sequence.end()
}

/// An interface and its place in the machine.
#[derive(Clone, Debug, Serialize)]
pub struct DescribedNic {
    pub name: String,
    pub driver: String,
    pub queue_count: u32,
    pub node: Option<u32>,
    pub interrupts: Vec<Interrupt>,
}

/// A machine, and the layout a configuration comes to on it.
#[derive(Clone, Debug, Serialize)]
pub struct Described {
    pub machine: Machine,
    pub interfaces: Vec<DescribedNic>,
    pub plan: Option<Plan>,
    /// Why there is no plan.
    pub refused: Option<String>,
}

impl Described {
    /// With the interfaces of this host, unless the machine is another.
    pub fn new(machine: Machine, plan: Result<Plan, String>) -> Self {
        let names = if machine.is_this_system { Interface::names().unwrap_or_default() } else { Vec::new() };
        let described = names.iter().filter_map(|name| Interface::named(name).ok()).map(|interface| DescribedNic {
            interrupts: interface.interrupts(),
            name: interface.name,
            driver: interface.driver,
            queue_count: interface.queue_count,
            node: interface.numa_node,
        });
        let interfaces = described.filter(|interface| interface.name != "lo").collect();
        let (plan, refused) = match plan {
            Ok(plan) => (Some(plan), None),
            Err(reason) => (None, Some(reason)),
        };
        Self { machine, interfaces, plan, refused }
    }
}

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.machine)?;
        writeln!(f, "interfaces")?;
        for interface in &self.interfaces {
            let node = interface.node.map_or_else(|| "no node known".to_owned(), |node| format!("node {node}"));
            let driver = if interface.driver.is_empty() { "-" } else { &interface.driver };
            writeln!(f, "  {:<16} {driver:<12} {} queues  {node}", interface.name, interface.queue_count)?;
            for interrupt in &interface.interrupts {
                let queue = interrupt.queue.map_or_else(String::new, |queue| format!("queue {queue}"));
                let Interrupt { number, name, allowed, effective, .. } = interrupt;
                writeln!(f, "    interrupt {number:<4} {name:<24} {queue:<9} cpu {effective} of {allowed}")?;
            }
        }
        match (&self.plan, &self.refused) {
            (Some(plan), _) => write!(f, "{plan}"),
            (None, reason) => write!(f, "no layout: {}", reason.as_deref().unwrap_or_default()),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_this_system { "machine" } else { "machine (described, not this one)" };
        let count = |of: &dyn Fn(&super::Cpu) -> u32| {
            let mut numbers: Vec<u32> = self.cpus.iter().map(of).collect();
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        };
        let (packages, cores) = (count(&|cpu| cpu.package), count(&|cpu| cpu.core));
        let counts = [(packages.len(), "package"), (self.nodes.len(), "node"), (cores.len(), "core")];
        let counts =
            counts.map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" })).join(", ");
        let (cpus, usable) = (self.cpus.len(), ranges(&self.usable()));
        writeln!(f, "{kind}: {counts}, {cpus} CPUs, of which {usable} are used unless others are named")?;
        for package in packages {
            let on = |core: u32| self.cpus.iter().filter(move |cpu| cpu.core == core && cpu.package == package);
            let siblings = |core: &u32| on(*core).map(|cpu| cpu.number.to_string()).collect::<Vec<String>>().join("+");
            let cores: Vec<String> = cores.iter().map(siblings).filter(|core| !core.is_empty()).collect();
            writeln!(f, "  package {package}: cores {}", cores.join(" "))?;
        }
        if let Some(cpu) = self.disk_cpu {
            writeln!(f, "  the disk of the data directory interrupts cpu {cpu}")?;
        }
        for node in &self.nodes {
            let memory = if node.memory_bytes == 0 { "no memory".to_owned() } else { size(node.memory_bytes) };
            let distances: Vec<String> = node.distances.iter().map(u64::to_string).collect();
            let far = if distances.is_empty() { String::new() } else { format!("  distances {}", distances.join(" ")) };
            writeln!(f, "  node {}: {memory}, cpus {}{far}", node.number, ranges(&node.cpus))?;
        }
        let mut kinds: Vec<(&str, u64)> = self.caches.iter().map(|cache| (cache.name.as_str(), cache.bytes)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for (name, bytes) in kinds {
            let shared = self.caches.iter().filter(|cache| cache.name == name && cache.bytes == bytes);
            let shared: Vec<String> = shared.map(|cache| ranges(&cache.cpus)).collect();
            writeln!(f, "  {name}: {} for cpus {}", size(bytes), shared.join(" | "))?;
        }
        Ok(())
    }
}

/// In the largest unit that leaves a number of at least one.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| bytes >> shift > 0);
    unit.map_or_else(
        || format!("{bytes} bytes"),
        |(shift, unit)| {
            let tenths = (bytes * 10) >> shift;
            if tenths.is_multiple_of(10) {
                format!("{} {unit}", tenths / 10)
            } else {
                format!("{:.1} {unit}", tenths as f64 / 10.0)
            }
        },
    )
}
