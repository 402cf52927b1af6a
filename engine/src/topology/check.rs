//! What no layout may be, each with the key that asks for it; and what works but costs something.

use super::agents::{DEAD_LETTER, LOG};
use super::place::NAME_BYTES_MAX;
use super::plan::{Plan, PlanError, RunnerPlan};
use super::{AgentPlan, Machine, Nic, Role};
use crate::config::{Config, LayoutMode};
use crate::runtime::IdleStrategy;

/// Every CPU that is named must be one a thread can be pinned to, and those of data threads near memory.
pub(super) fn names_of_cpus(config: &Config, machine: &Machine) -> Result<(), PlanError> {
    let layout = &config.layout;
    let listed = |key: &'static str, cpus: &[u32]| -> Vec<(String, u32)> {
        cpus.iter().enumerate().map(|(index, cpu)| (format!("layout.{key}[{index}]"), *cpu)).collect()
    };
    let data = match layout.mode {
        // `cpus` only bounds what the runners may name.
        LayoutMode::Explicit => {
            let pinned = layout.runners.iter().enumerate();
            pinned.filter_map(|(index, runner)| Some((format!("layout.runners[{index}].cpu"), runner.cpu?))).collect()
        }
        _ => listed("cpus", &layout.cpus),
    };
    for (key, cpu) in data.iter().chain(&listed("napi_cpus", &layout.napi_cpus)) {
        match machine.cpu(*cpu) {
            None => return Err(PlanError::new(config, key, format!("this machine has no CPU {cpu}"))),
            Some(known) if !known.is_allowed => {
                let allowed = ranges(&machine.allowed());
                let message = format!("CPU {cpu} is not among those of this process's control group, {allowed}");
                return Err(PlanError::new(config, key, message));
            }
            Some(_) => {}
        }
    }
    match data.iter().find(|(_, cpu)| machine.lacks_memory(*cpu)) {
        None => Ok(()),
        Some((key, cpu)) => {
            let node = machine.cpu(*cpu).and_then(|cpu| cpu.node).unwrap_or_default();
            let message =
                format!("CPU {cpu} is on NUMA node {node}, which has no memory: nothing its agents read could be near");
            Err(PlanError::new(config, key, message))
        }
    }
}

/// The node of the UMEM: the one that was named, else the interface's own or the nearest to that with memory.
pub(super) fn memory_node(config: &Config, machine: &Machine, nic: &Nic) -> Result<Option<u32>, PlanError> {
    let refuse = |message| Err(PlanError::new(config, "layout.numa_node", message));
    let Some(named) = config.layout.numa_node else {
        // With one node there is no question where things are.
        let only = (machine.nodes.len() == 1).then(|| machine.nodes.first().map(|node| node.number)).flatten();
        return Ok(nic.node.or(only).and_then(|node| machine.memory_near(node)));
    };
    match machine.node(named) {
        None if machine.nodes.is_empty() => refuse("this machine shows no NUMA nodes".to_owned()),
        None => {
            let numbers: Vec<u32> = machine.nodes.iter().map(|node| node.number).collect();
            refuse(format!("this machine has no NUMA node {named}, only {}", ranges(&numbers)))
        }
        Some(node) if node.memory_bytes == 0 => {
            let nearest = machine.memory_near(named);
            let instead = nearest.map_or_else(String::new, |node| format!("; the nearest that has is node {node}"));
            refuse(format!("NUMA node {named} has no memory for this process, and the UMEM is to lie there{instead}"))
        }
        Some(_) => Ok(Some(named)),
    }
}

/// Whether the threads can run beside each other and the links lead somewhere.
pub(super) fn plan(plan: &Plan, config: &Config, machine: &Machine) -> Result<(), PlanError> {
    one_thread_a_cpu(plan, config, machine)?;
    napi_can_run(plan, config)?;
    links_have_ends(plan, config)?;
    threads_can_be_told_apart(plan, config)
}

fn spins(runner: &RunnerPlan) -> bool {
    runner.idle == IdleStrategy::BusySpin
}

/// The key that has put a runner where it is.
fn key_of(config: &Config, runner: &RunnerPlan, key: &str) -> String {
    let listed = config.layout.runners.iter().position(|listed| listed.name == runner.name);
    match listed {
        Some(index) if config.layout.mode == LayoutMode::Explicit => format!("layout.runners[{index}].{key}"),
        _ => "layout.idle".to_owned(),
    }
}

fn one_thread_a_cpu(plan: &Plan, config: &Config, machine: &Machine) -> Result<(), PlanError> {
    for (index, runner) in plan.runners.iter().enumerate().filter(|(_, runner)| spins(runner)) {
        let rival = plan.runners[..index].iter().find(|other| spins(other) && other.cpu == runner.cpu);
        if let (Some(cpu), Some(rival)) = (runner.cpu, rival) {
            let message =
                format!("{} and {} would both spin on CPU {cpu}: one would starve the other", rival.name, runner.name);
            return Err(PlanError::new(config, &key_of(config, runner, "cpu"), message));
        }
    }
    let spinning: Vec<&RunnerPlan> = plan.runners.iter().filter(|runner| spins(runner)).collect();
    let allowed = machine.allowed();
    match spinning.last() {
        Some(last) if spinning.len() > allowed.len() => {
            let count = spinning.len();
            let message = format!("{count} threads would spin on {} CPUs: some would starve the others", allowed.len());
            Err(PlanError::new(config, &key_of(config, last, "idle"), message))
        }
        _ => Ok(()),
    }
}

/// A reader that spins where the kernel polls keeps the kernel from polling: with nothing to read it never lets go.
fn napi_can_run(plan: &Plan, config: &Config) -> Result<(), PlanError> {
    for (index, cpu) in config.layout.napi_cpus.iter().enumerate() {
        if let Some(runner) = plan.runners.iter().find(|runner| spins(runner) && runner.cpu == Some(*cpu)) {
            let message = format!("{} spins on CPU {cpu} and would starve the NAPI threads there", runner.name);
            return Err(PlanError::new(config, &format!("layout.napi_cpus[{index}]"), message));
        }
    }
    Ok(())
}

/// Every agent has a thread, once, and every link one that reads it.
fn links_have_ends(plan: &Plan, config: &Config) -> Result<(), PlanError> {
    let agents: Vec<&AgentPlan> = plan.agents().collect();
    let count = |name: &str| agents.iter().filter(|agent| agent.name == name).count();
    if let Some(twice) = agents.iter().find(|agent| count(&agent.name) > 1) {
        let message = format!("{} is on two threads: both would read its links", twice.name);
        return Err(PlanError::new(config, "layout.runners", message));
    }
    for link in &plan.links {
        for (end, what) in [(&link.to, "consumer"), (&link.from, "producer")] {
            // The log writer has a thread of its own in any layout, with who writes the dead letters.
            let is_with_log = end == LOG || end == DEAD_LETTER && config.storage.directory.is_some();
            if count(end) == 0 && !is_with_log {
                let message =
                    format!("the link from {} to {} has no {what}: {end} is on no thread", link.from, link.to);
                return Err(PlanError::new(config, "layout.runners", message));
            }
        }
    }
    Ok(())
}

fn threads_can_be_told_apart(plan: &Plan, config: &Config) -> Result<(), PlanError> {
    for (index, runner) in plan.runners.iter().enumerate() {
        if runner.name.len() > NAME_BYTES_MAX || plan.runners[..index].iter().any(|other| other.name == runner.name) {
            let message =
                format!("a thread cannot be called {}: names have 15 bytes and are not repeated", runner.name);
            return Err(PlanError::new(config, &key_of(config, runner, "name"), message));
        }
    }
    Ok(())
}

/// What an operator should know before wondering about it.
pub(super) fn notes(plan: &Plan, config: &Config, machine: &Machine, nic: &Nic) -> Vec<String> {
    let mut notes = Vec::new();
    if let (Some(node), None) = (nic.node, config.layout.numa_node)
        && let Some(memory) = plan.nic_node.filter(|memory| *memory != node)
    {
        notes.push(format!("the interface's NUMA node {node} has no memory: its UMEM lies on node {memory}"));
    }
    for runner in &plan.runners {
        let Some(cpu) = runner.cpu else { continue };
        let node = machine.cpu(cpu).and_then(|cpu| cpu.node);
        let reads_the_card = runner.agents.iter().any(|agent| matches!(agent.role, Role::Xdp { .. }));
        if let (Some(node), Some(wanted)) = (node, plan.nic_node)
            && reads_the_card
            && node != wanted
        {
            notes.push(format!("{} on CPU {cpu} of node {node} reads a UMEM on node {wanted}", runner.name));
        }
    }
    for (index, runner) in plan.runners.iter().enumerate().filter(|(_, runner)| spins(runner)) {
        let Some(cpu) = runner.cpu else { continue };
        let sibling = plan.runners[..index].iter().filter(|other| spins(other)).find_map(|other| {
            let other_cpu = other.cpu.filter(|other| *other != cpu && machine.share_core(*other, cpu))?;
            Some((&other.name, other_cpu))
        });
        if let Some((other, other_cpu)) = sibling {
            let name = &runner.name;
            notes.push(format!(
                "{other} on CPU {other_cpu} and {name} on CPU {cpu} spin on one core, half as fast each"
            ));
        }
    }
    for runner in plan.runners.iter().filter(|runner| runner.cpu.is_some() && runner.cpu == machine.disk_cpu) {
        let (name, cpu) = (&runner.name, runner.cpu.unwrap_or_default());
        notes.push(format!("{name} is on CPU {cpu}, which the disk of the data directory interrupts"));
    }
    let has_a_data_thread = |cpu: &u32| plan.runners.iter().any(|runner| runner.cpu == Some(*cpu));
    if plan.control_cpus.iter().all(has_a_data_thread) {
        let cpus = ranges(&plan.control_cpus);
        notes.push(format!("no CPU is left for the control plane: it shares CPU {cpus} with data threads"));
    }
    if config.xdp.interface.is_none() && !config.layout.napi_cpus.is_empty() {
        notes.push("layout.napi_cpus has no effect without xdp.interface".to_owned());
    }
    notes
}

/// Numbers as `taskset` takes them: `0-3,8`.
pub(super) fn ranges(numbers: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let shown =
        ranges.iter().map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
    shown.collect::<Vec<String>>().join(",")
}
