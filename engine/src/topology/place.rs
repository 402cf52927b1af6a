//! Which agents share which thread, and on which CPU each thread runs.
//!
//! CPUs are taken in one order: first one of each core, nearest to the interface's memory first, then the other hardware
//! threads of those cores; of what is equally near, hwloc's neighbours stay neighbours, so that agents that follow each
//! other on the path share caches. Agents take them in path order: ingest is nearest to the interface, and the workers
//! are as near to the pools they read as there are CPUs.

use super::Machine;
use super::agents::{AgentPlan, Role};
use super::plan::{PlanError, RunnerPlan};
use crate::config::{Config, Idle, LayoutMode};
use crate::runtime::IdleStrategy;

/// What the kernel keeps of a thread's name.
pub(super) const NAME_BYTES_MAX: usize = 15;

pub(super) fn runners(
    config: &Config,
    machine: &Machine,
    node: Option<u32>,
    agents: Vec<AgentPlan>,
) -> Result<Vec<RunnerPlan>, PlanError> {
    match config.layout.mode {
        LayoutMode::Explicit => explicit(config, machine, agents),
        mode => placed(config, machine, node, mode, agents),
    }
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

/// CPUs for the data path, in the order in which they are taken. Without a list of the operator one core is left to the control
/// plane and the kernel, where there is a choice: the one that the disk interrupts, or the lowest.
fn data_cpus(config: &Config, machine: &Machine, node: Option<u32>) -> Vec<u32> {
    let usable = machine.usable();
    let mut cpus = config.layout.cpus.clone();
    if cpus.is_empty() {
        let of_disk = machine.disk_cpu.filter(|cpu| usable.contains(cpu));
        let left = of_disk.or(usable.first().copied()).unwrap_or(0);
        cpus = machine.cpus.iter().filter(|cpu| cpu.is_usable).map(|cpu| cpu.number).collect();
        if usable.iter().any(|cpu| !machine.share_core(*cpu, left)) {
            cpus.retain(|cpu| !machine.share_core(*cpu, left));
        } else if cpus.len() > 1 {
            cpus.retain(|cpu| *cpu != left);
        }
    }
    let rank = |cpu: &u32| {
        let known = machine.cpu(*cpu);
        (known.map_or(0, |cpu| cpu.thread), machine.distance(node, known.and_then(|cpu| cpu.node)))
    };
    cpus.sort_by_key(rank); // stable
    cpus
}

/// How many of them are cores: hardware threads of one core take each other's cycles. A list is taken at its word.
fn core_count(config: &Config, machine: &Machine, cpus: &[u32]) -> usize {
    if !config.layout.cpus.is_empty() {
        return cpus.len();
    }
    let shares = |index: &usize| cpus[..*index].iter().any(|other| machine.share_core(*other, cpus[*index]));
    (0..cpus.len()).filter(|index| !shares(index)).count()
}

/// `shared`: one thread, or as many as CPUs were listed. `dedicated`: one an agent. `auto`: dedicated when the cores
/// suffice, else folded onto those there are.
fn placed(
    config: &Config,
    machine: &Machine,
    node: Option<u32>,
    mode: LayoutMode,
    agents: Vec<AgentPlan>,
) -> Result<Vec<RunnerPlan>, PlanError> {
    let cpus = data_cpus(config, machine, node);
    if mode == LayoutMode::Dedicated && cpus.len() < agents.len() {
        let message = format!("{} agents need a CPU each, and there are {} for them", agents.len(), cpus.len());
        return Err(PlanError::new(config, "layout.mode", message));
    }
    let cores = core_count(config, machine, &cpus);
    let is_dedicated = mode == LayoutMode::Dedicated || (mode == LayoutMode::Auto && cores >= agents.len());
    let groups = match mode {
        _ if is_dedicated => agents.into_iter().map(|agent| vec![agent]).collect(),
        LayoutMode::Shared if config.layout.cpus.is_empty() => vec![agents],
        _ => fold(agents, cores.max(1)),
    };
    // `auto` is what a machine gets that nobody looked at, and so it never takes whole cores for waiting.
    let spins = mode == LayoutMode::Dedicated && has_another(machine, &cpus);
    let names = thread_names(&groups);
    let runner = |((agents, name), cpu): ((Vec<AgentPlan>, String), Option<u32>)| RunnerPlan {
        name,
        cpu,
        idle: idle(config.layout.idle, spins),
        agents,
    };
    let cpus = cpus.into_iter().map(Some).chain(std::iter::repeat(None));
    Ok(groups.into_iter().zip(names).zip(cpus).map(runner).collect())
}

/// Whether the process has a CPU besides these.
fn has_another(machine: &Machine, cpus: &[u32]) -> bool {
    machine.allowed().iter().any(|cpu| !cpus.contains(cpu))
}

/// Folds agents onto `threads` threads, stage by stage: taking in, dispatching, working. Two threads have the first two
/// stages on one. With more, each further thread goes to the stage that has most agents a thread.
fn fold(agents: Vec<AgentPlan>, threads: usize) -> Vec<Vec<AgentPlan>> {
    if threads == 1 {
        return vec![agents];
    }
    let stage = |agent: &AgentPlan| match agent.role {
        role if role.is_ingest() => 0,
        Role::Dispatcher if threads == 2 => 0,
        Role::Dispatcher => 1,
        _ => 2,
    };
    let mut stages: [Vec<AgentPlan>; 3] = Default::default();
    agents.into_iter().for_each(|agent| stages[stage(&agent)].push(agent));
    let mut counts = stages.each_ref().map(|stage| stage.len().min(1));
    while counts.iter().sum::<usize>() < threads {
        let open = (0..3).filter(|stage| counts[*stage] < stages[*stage].len());
        // The first of equals: what comes in is lost when it is not taken.
        let fullest = open.rev().max_by_key(|stage| stages[*stage].len().div_ceil(counts[*stage]));
        let Some(fullest) = fullest else { break };
        counts[fullest] += 1;
    }
    let mut groups = Vec::new();
    for (stage, count) in stages.into_iter().zip(counts) {
        let first = groups.len();
        groups.resize_with(first + count, Vec::new);
        for (index, agent) in stage.into_iter().enumerate() {
            groups[first + index % count].push(agent);
        }
    }
    groups
}

/// A thread is called by its agent, or by the stages it has, numbered where several have the same.
fn thread_names(groups: &[Vec<AgentPlan>]) -> Vec<String> {
    let stage = |agents: &[AgentPlan]| {
        let has = |wanted: fn(Role) -> bool| agents.iter().any(|agent| wanted(agent.role));
        let workers = has(|role| matches!(role, Role::Worker(_) | Role::DeadLetter));
        match (has(Role::is_ingest), has(|role| role == Role::Dispatcher), workers) {
            (true, false, false) => "ingest",
            (true, true, false) => "ingest-dispatch",
            (false, true, false) => "dispatch",
            (false, false, true) => "workers",
            _ => "data",
        }
    };
    let stages: Vec<&str> = groups.iter().map(|agents| stage(agents)).collect();
    let name = |(index, agents): (usize, &Vec<AgentPlan>)| match agents.as_slice() {
        // The one kind whose name leaves no room for two digits.
        [agent] if agent.name.len() > NAME_BYTES_MAX => agent.name.replace("transactional", "transact"),
        [agent] => agent.name.clone(),
        _ if stages.iter().filter(|stage| **stage == stages[index]).count() == 1 => stages[index].to_owned(),
        _ => format!("{}-{}", stages[index], stages[..index].iter().filter(|stage| **stage == stages[index]).count()),
    };
    groups.iter().enumerate().map(name).collect()
}

fn explicit(config: &Config, machine: &Machine, agents: Vec<AgentPlan>) -> Result<Vec<RunnerPlan>, PlanError> {
    let wanted = &config.layout.runners;
    let pinned: Vec<u32> = wanted.iter().filter_map(|runner| runner.cpu).collect();
    let runner = |runner: &crate::config::Runner| {
        let on_its_core = |cpu| pinned.iter().filter(|other| machine.share_core(**other, cpu)).count();
        let alone = runner.cpu.is_some_and(|cpu| on_its_core(cpu) == 1)
            && has_another(machine, &pinned)
            && machine.allowed().len() > 2;
        let idle_wanted = if runner.idle == Idle::Auto { config.layout.idle } else { runner.idle };
        RunnerPlan { name: runner.name.clone(), cpu: runner.cpu, idle: idle(idle_wanted, alone), agents: Vec::new() }
    };
    let mut runners: Vec<RunnerPlan> = wanted.iter().map(runner).collect();
    for agent in agents {
        let Some(index) = config.layout.runner_of(&agent.name) else {
            let message = format!("no runner has {}: place it, or `*` for the rest", agent.name);
            return Err(PlanError::new(config, "layout.runners", message));
        };
        runners[index].agents.push(agent);
    }
    // Those of queues that have no AF_XDP socket here.
    runners.retain(|runner| !runner.agents.is_empty());
    Ok(runners)
}

/// CPUs that no data thread has, nor a core of one; failing that, those where at least nobody spins; failing that, all.
pub(super) fn control_cpus(config: &Config, machine: &Machine, runners: &[RunnerPlan]) -> Vec<u32> {
    let usable = machine.usable();
    let pinned: Vec<u32> =
        runners.iter().filter_map(|runner| runner.cpu).chain(config.layout.napi_cpus.clone()).collect();
    let spinning: Vec<u32> =
        runners.iter().filter(|runner| runner.idle == IdleStrategy::BusySpin).filter_map(|runner| runner.cpu).collect();
    let choices: [&dyn Fn(u32) -> bool; 3] =
        [&|cpu| !pinned.iter().any(|other| machine.share_core(cpu, *other)), &|cpu| !pinned.contains(&cpu), &|cpu| {
            !spinning.contains(&cpu)
        }];
    let mut found = choices.iter().map(|free| usable.iter().copied().filter(|cpu| free(*cpu)).collect::<Vec<u32>>());
    found.find(|cpus| !cpus.is_empty()).unwrap_or(usable)
}
