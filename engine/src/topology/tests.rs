//! Layouts of machines that are not at hand, as hwloc describes them.

use hwlocality::Topology;
use hwlocality::topology::export::xml::XMLExportFlags;

use super::*;
use crate::config::Config;
use crate::runtime::IdleStrategy;

/// Two sockets of eight cores with two hardware threads each: CPUs 0 and 1 are the first core, 16 to 31 the second socket.
const TWO_SOCKETS: &str = "package:2 [numa(memory=8GB)] core:8 pu:2";

fn synthetic(description: &str) -> Topology {
    Topology::builder().from_synthetic(description).unwrap().build().unwrap()
}

fn machine(description: &str) -> Machine {
    Machine::from_hwloc(&synthetic(description))
}

/// The same machine with its description changed.
fn edited(description: &str, edit: impl Fn(String) -> String) -> Machine {
    let xml = synthetic(description).export_xml(XMLExportFlags::default()).unwrap().to_string();
    Machine::from_hwloc(&Topology::builder().from_xml(&edit(xml)).unwrap().build().unwrap())
}

/// Two sockets, of which the second has no memory.
fn half_without_memory() -> Machine {
    edited(TWO_SOCKETS, |xml| {
        let second = xml.rfind("local_memory=\"").unwrap() + "local_memory=\"".len();
        let end = second + xml[second..].find('"').unwrap();
        format!("{}0{}", &xml[..second], &xml[end..])
    })
}

fn config(text: &str) -> Config {
    Config::parse(text, "c.yaml").unwrap_or_else(|errors| panic!("{errors}"))
}

fn two_queues(node: Option<u32>) -> Nic {
    Nic { queues: vec![0, 1], node }
}

fn cpus(plan: &Plan) -> Vec<Option<u32>> {
    plan.runners.iter().map(|runner| runner.cpu).collect()
}

fn names(plan: &Plan) -> Vec<String> {
    let agents =
        |runner: &RunnerPlan| runner.agents.iter().map(|agent| agent.name.clone()).collect::<Vec<_>>().join(" ");
    plan.runners.iter().map(|runner| format!("{}: {}", runner.name, agents(runner))).collect()
}

fn refusal(text: &str, machine: &Machine) -> String {
    Plan::derive(&config(text), machine, &two_queues(Some(0))).expect_err(text).to_string()
}

#[test]
fn hwloc_tells_packages_cores_siblings_nodes_and_caches() {
    let machine = machine("package:2 [numa(memory=8GB)] l3:1(size=32MB) core:2 l1d:1(size=32KB) pu:2");
    assert!(!machine.is_this_system);
    let cpus: Vec<_> = machine.cpus.iter().map(|cpu| (cpu.package, cpu.core, cpu.thread, cpu.node)).collect();
    assert_eq!(cpus[..3], [(0, 0, 0, Some(0)), (0, 0, 1, Some(0)), (0, 1, 0, Some(0))]);
    assert_eq!(cpus[7], (1, 3, 1, Some(1)));
    let nodes: Vec<_> =
        machine.nodes.iter().map(|node| (node.number, node.memory_bytes > 0, node.cpus.len())).collect();
    assert_eq!(nodes, [(0, true, 4), (1, true, 4)]);
    let l3: Vec<_> = machine.caches.iter().filter(|cache| cache.name == "L3").collect();
    assert_eq!((l3.len(), &l3[1].cpus[..], l3[1].bytes), (2, &[4, 5, 6, 7][..], 32_000_000));
}

#[test]
fn distances_come_from_the_firmware_or_are_assumed() {
    let assumed = machine(TWO_SOCKETS);
    assert_eq!((assumed.distance(Some(0), Some(0)), assumed.distance(Some(0), Some(1))), (10, 20));
    let told = edited(TWO_SOCKETS, |xml| {
        let matrix = "<distances2 type=\"NUMANode\" nbobjs=\"2\" kind=\"5\" name=\"NUMALatency\" indexing=\"os\">\
                      <indexes length=\"4\">0 1 </indexes><u64values length=\"12\">10 32 31 10 </u64values></distances2>";
        xml.replace("</topology>", &format!("{matrix}</topology>"))
    });
    assert_eq!((told.distance(Some(0), Some(1)), told.distance(Some(1), Some(0))), (32, 31));
}

#[test]
fn this_machine_is_described_too() {
    let machine = Machine::discover();
    assert!(machine.is_this_system && !machine.usable().is_empty());
    let plan = Plan::derive(&Config::default(), &machine, &Nic::default()).unwrap();
    let shown = Described::new(machine, Ok(plan)).to_string();
    assert!(shown.starts_with("machine: ") && shown.contains("\nrunners\n"), "{shown}");
}

#[test]
fn two_cores_have_everything_on_one_and_control_on_the_other() {
    let plan =
        Plan::derive(&Config::default(), &machine("package:1 [numa(memory=8GB)] core:2 pu:1"), &two_queues(None))
            .unwrap();
    assert_eq!((cpus(&plan), plan.control_cpus), (vec![Some(1)], vec![0]));
    assert_eq!((plan.runners[0].name.as_str(), plan.runners[0].agents.len()), ("data", 9));
    assert_eq!(plan.runners[0].idle, IdleStrategy::Backoff);
    // Nodes are no question where there is one.
    assert!(plan.pools.iter().all(|pool| pool.node == Some(0)), "{:?}", plan.pools);
    assert!(plan.notes.is_empty(), "{:?}", plan.notes);
}

#[test]
fn agents_take_cores_next_to_the_interface_and_pools_lie_there() {
    let plan = Plan::derive(&Config::default(), &machine(TWO_SOCKETS), &two_queues(Some(1))).unwrap();
    // One of each core of the second socket, then the first socket without the core of control; no sibling.
    let expected = [16, 18, 20, 22, 24, 26, 28, 30, 2].map(Some);
    assert_eq!(cpus(&plan), expected);
    assert_eq!(plan.control_cpus.first(), Some(&0));
    assert!(!plan.control_cpus.contains(&17), "the other half of a hot core");
    let node = |owner: &str| plan.pools.iter().find(|pool| pool.owner == owner).unwrap().node;
    assert_eq!([node("xdp-0"), node("tcp-0"), node("batch-0 retry")], [Some(1); 3]);
    assert!(plan.runners.iter().all(|runner| runner.idle == IdleStrategy::Backoff), "auto never takes whole cores");
}

#[test]
fn dedicated_takes_siblings_when_it_must_and_says_so() {
    let config = config("layout: {mode: dedicated, cpus: [2, 3, 4, 5, 6, 7, 8, 9, 10]}");
    let plan = Plan::derive(&config, &machine("package:1 [numa(memory=8GB)] core:8 pu:2"), &two_queues(None)).unwrap();
    assert_eq!(cpus(&plan), [2, 4, 6, 8, 10, 3, 5, 7, 9].map(Some));
    assert!(plan.runners.iter().all(|runner| runner.idle == IdleStrategy::BusySpin));
    assert_eq!(plan.notes[0], "xdp-0 on CPU 2 and realtime-0 on CPU 3 spin on one core, half as fast each");
}

#[test]
fn fewer_cores_than_agents_are_shared_stage_by_stage() {
    let plan =
        Plan::derive(&Config::default(), &machine("package:1 [numa(memory=8GB)] core:4 pu:2"), &two_queues(None))
            .unwrap();
    assert_eq!(cpus(&plan), [2, 4, 6].map(Some));
    let three = [
        "ingest: xdp-0 xdp-1 udp-0 tcp-0",
        "dispatcher-0: dispatcher-0",
        "workers: realtime-0 transactional-0 batch-0 dead-letter",
    ];
    assert_eq!(names(&plan), three);
    let two =
        Plan::derive(&config("layout: {mode: shared, cpus: [2, 1]}"), &Machine::flat(0..4), &Nic::default()).unwrap();
    assert_eq!(cpus(&two), [2, 1].map(Some));
    let stages =
        ["ingest-dispatch: udp-0 tcp-0 dispatcher-0", "workers: realtime-0 transactional-0 batch-0 dead-letter"];
    assert_eq!(names(&two), stages);
    let six = Plan::derive(&Config::default(), &Machine::flat(0..7), &two_queues(None)).unwrap();
    let expected = [
        "ingest-0: xdp-0 tcp-0",
        "xdp-1: xdp-1",
        "udp-0: udp-0",
        "dispatcher-0: dispatcher-0",
        "workers-0: realtime-0 batch-0",
        "workers-1: transactional-0 dead-letter",
    ];
    assert_eq!(names(&six), expected);
}

#[test]
fn the_dedicated_example_fits_the_machine_it_is_for() {
    let text = include_str!("../../../configs/dedicated.yaml");
    let nic = Nic { queues: vec![0, 1, 2, 3], node: Some(0) };
    let plan = Plan::derive(&config(text), &machine("package:1 [numa(memory=8GB)] core:16 pu:1"), &nic).unwrap();
    assert_eq!(cpus(&plan), (2..=12).map(Some).collect::<Vec<_>>());
    let backs_off = |runner: &&RunnerPlan| runner.idle == IdleStrategy::Backoff;
    let waiting: Vec<&str> = plan.runners.iter().filter(backs_off).map(|runner| runner.name.as_str()).collect();
    assert_eq!(waiting, ["batch", "sockets"]);
    assert_eq!((plan.control_cpus, plan.notes), (vec![0, 1, 13, 14, 15], Vec::new()));
}

#[test]
fn names_of_threads_fit_and_tell_their_agents() {
    let config = config("layout: {mode: dedicated}\nworkers: {transactional: 12}");
    let plan = Plan::derive(&config, &Machine::flat(0..32), &Nic::default()).unwrap();
    let names: Vec<&str> = plan.runners.iter().map(|runner| runner.name.as_str()).collect();
    assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
    assert!(names.contains(&"transactional-9") && names.contains(&"transact-10"), "{names:?}");
}

#[test]
fn agents_are_in_path_order_whatever_the_order_of_the_runners() {
    let text = "layout: {mode: explicit, runners: [{name: w, agents: ['*']}, {name: b, agents: [tcp-0, xdp-1]}, \
                {name: a, agents: [udp-0, xdp-0]}]}";
    let plan = Plan::derive(&config(text), &Machine::flat(0..4), &two_queues(None)).unwrap();
    let order: Vec<&str> = plan.agents().map(|agent| agent.name.as_str()).collect();
    assert_eq!(order[..5], ["xdp-0", "xdp-1", "udp-0", "tcp-0", "dispatcher-0"]);
    let owners: Vec<&str> = plan.pools.iter().map(|pool| pool.owner.as_str()).collect();
    assert_eq!(owners[..5], ["xdp-0", "xdp-1", "udp-0", "tcp-0", "tcp-0 large"]);
    assert!(plan.links.iter().all(|link| order.contains(&link.from.as_str()) && order.contains(&link.to.as_str())));
}

#[test]
fn an_explicit_runner_idles_as_the_layout_says_unless_it_says_itself() {
    let text = "layout: {mode: explicit, idle: yield, runners: [{name: a, cpu: 1, agents: ['*']}, \
                {name: b, cpu: 2, idle: backoff, agents: [udp-0]}]}";
    let plan = Plan::derive(&config(text), &Machine::flat(0..4), &Nic::default()).unwrap();
    assert_eq!(
        plan.runners.iter().map(|runner| runner.idle).collect::<Vec<_>>(),
        [IdleStrategy::Yield, IdleStrategy::Backoff]
    );
}

#[test]
fn a_node_without_memory_is_avoided_and_named() {
    let machine = half_without_memory();
    assert_eq!(machine.nodes.iter().map(|node| node.memory_bytes > 0).collect::<Vec<_>>(), [true, false]);
    let plan = Plan::derive(&Config::default(), &machine, &two_queues(Some(1))).unwrap();
    assert_eq!(plan.nic_node, Some(0));
    assert_eq!(plan.notes, ["the interface's NUMA node 1 has no memory: its UMEM lies on node 0"]);
    assert_eq!(cpus(&plan)[..7], [2, 4, 6, 8, 10, 12, 14].map(Some), "next to the memory");

    let named = refusal("layout:\n  numa_node: 1\n", &machine);
    let expected = "c.yaml:2:14: layout.numa_node: NUMA node 1 has no memory for this process, and the UMEM is to lie there; \
                    the nearest that has is node 0";
    assert_eq!(named, expected);
    let pinned = refusal("layout:\n  mode: explicit\n  runners:\n    - {name: a, cpu: 20, agents: ['*']}\n", &machine);
    let expected = "c.yaml:4:22: layout.runners[0].cpu: CPU 20 is on NUMA node 1, which has no memory: \
                    nothing its agents read could be near";
    assert_eq!(pinned, expected);
}

#[test]
fn an_interface_on_another_node_than_its_reader_is_noted() {
    let text = "layout: {mode: explicit, runners: [{name: rx, cpu: 4, agents: ['xdp-*']}, {name: rest, cpu: 18, agents: ['*']}]}";
    let plan = Plan::derive(&config(text), &machine(TWO_SOCKETS), &two_queues(Some(1))).unwrap();
    assert_eq!(plan.notes, ["rx on CPU 4 of node 0 reads a UMEM on node 1"]);
    assert_eq!((plan.pool_node("xdp-1"), plan.pool_node("udp-0")), (Some(1), Some(1)));
    // The operator knows better than the firmware.
    let known = config(&format!("{text}\n").replace("mode:", "numa_node: 0, mode:"));
    let plan = Plan::derive(&known, &machine(TWO_SOCKETS), &two_queues(Some(1))).unwrap();
    assert_eq!((plan.pool_node("xdp-1"), plan.notes.len()), (Some(0), 0));
}

#[test]
fn a_cpu_that_cannot_be_had_is_refused_where_it_is_named() {
    let mut machine = Machine::flat(0..4);
    machine.cpus[3].is_allowed = false;
    let runners = "layout:\n  mode: explicit\n  runners:\n    - {name: a, cpu: 0, agents: ['*']}\n    - name: b\n      cpu: 3\n      agents: [udp-0]\n";
    let expected = "c.yaml:6:12: layout.runners[1].cpu: CPU 3 is not among those of this process's control group, 0-2";
    assert_eq!(refusal(runners, &machine), expected);
    let expected = "c.yaml:1:20: layout.cpus[1]: this machine has no CPU 9";
    assert_eq!(refusal("layout: {cpus: [1, 9]}\n", &machine), expected);
    let expected = "c.yaml:1:22: layout.napi_cpus[0]: this machine has no CPU 8";
    assert_eq!(refusal("layout: {napi_cpus: [8]}\n", &machine), expected);
    let mut overridden = Config::default();
    overridden.layout.cpus = vec![7];
    overridden.places.override_by("layout.cpus", "--cpus");
    let error = Plan::derive(&overridden, &machine, &Nic::default()).unwrap_err();
    assert_eq!(error.to_string(), "--cpus: layout.cpus[0]: this machine has no CPU 7");
}

/// As isolcpus leaves it: only the first core runs what is not pinned.
#[test]
fn isolated_cpus_are_used_when_they_are_named() {
    let mut machine = Machine::flat(0..8);
    machine.cpus[2..].iter_mut().for_each(|cpu| cpu.is_usable = false);
    let by_itself = Plan::derive(&Config::default(), &machine, &Nic::default()).unwrap();
    assert_eq!(cpus(&by_itself), [Some(1)]);
    let named = config(
        "layout: {mode: explicit, runners: [{name: a, cpu: 6, agents: ['*']}, {name: b, cpu: 7, agents: [udp-0]}]}",
    );
    let plan = Plan::derive(&named, &machine, &Nic::default()).unwrap();
    assert_eq!((cpus(&plan), plan.control_cpus.clone()), (vec![Some(6), Some(7)], vec![0, 1]));
    assert!(plan.runners.iter().all(|runner| runner.idle == IdleStrategy::BusySpin));
}

#[test]
fn threads_that_would_starve_each_other_are_refused() {
    let machine = Machine::flat(0..3);
    let expected = "c.yaml:1:16: layout.mode: 9 agents need a CPU each, and there are 2 for them";
    assert_eq!(refusal("layout: {mode: dedicated}\n", &machine), expected);

    let spinners = "layout:\n  mode: explicit\n  runners:\n    - {name: a, idle: busy_spin, agents: ['*']}\n    \
                    - {name: b, idle: busy_spin, agents: [udp-0]}\n    - {name: c, idle: busy_spin, agents: [tcp-0]}\n    \
                    - {name: d, idle: busy_spin, agents: [batch-0]}\n";
    let expected = "c.yaml:7:23: layout.runners[3].idle: 4 threads would spin on 3 CPUs: some would starve the others";
    assert_eq!(refusal(spinners, &machine), expected);

    let napi = "layout:\n  mode: shared\n  idle: busy_spin\n  cpus: [1]\n  napi_cpus: [2, 1]\n";
    let expected = "c.yaml:5:18: layout.napi_cpus[1]: data spins on CPU 1 and would starve the NAPI threads there";
    assert_eq!(refusal(napi, &machine), expected);

    // Two runners on one CPU the reader of the file refuses; whoever makes a configuration by hand is told here.
    let apart = "layout: {mode: explicit, idle: busy_spin, runners: [{name: a, cpu: 1, agents: ['*']}, \
                 {name: b, cpu: 2, agents: [udp-0]}]}";
    let mut config = config(apart);
    config.layout.runners[1].cpu = Some(1);
    let error = Plan::derive(&config, &machine, &Nic::default()).unwrap_err().to_string();
    assert!(
        error.ends_with("layout.runners[1].cpu: a and b would both spin on CPU 1: one would starve the other"),
        "{error}"
    );
}

#[test]
fn a_link_that_nobody_reads_is_refused() {
    let text = "layout:\n  mode: explicit\n  runners:\n    - {name: a, agents: ['udp-*', 'tcp-*', 'dispatcher-*', dead-letter]}\n    \
                - {name: b, agents: ['realtime-*', 'transactional-*', 'batch-*', xdp-0]}\n";
    let expected = "c.yaml:4:5: layout.runners: no runner has xdp-1: place it, or `*` for the rest";
    assert_eq!(refusal(text, &Machine::flat(0..4)), expected);

    let whole = config(text);
    let machine = Machine::flat(0..4);
    let one_queue = Nic { queues: vec![0], node: None };
    let mut plan = Plan::derive(&whole, &machine, &one_queue).unwrap();
    let dispatcher = plan.runners[0].agents.iter().position(|agent| agent.role == Role::Dispatcher).unwrap();
    let removed = plan.runners[0].agents.remove(dispatcher);
    let error = check::plan(&plan, &whole, &machine).unwrap_err().to_string();
    let expected =
        "c.yaml:4:5: layout.runners: the link from xdp-0 to dispatcher-0 has no consumer: dispatcher-0 is on no thread";
    assert_eq!(error, expected);
    plan.runners[0].agents.push(removed.clone());
    plan.runners[1].agents.push(removed);
    let error = check::plan(&plan, &whole, &machine).unwrap_err().to_string();
    assert!(error.ends_with("dispatcher-0 is on two threads: both would read its links"), "{error}");
}

#[test]
fn a_queue_the_interface_does_not_have_is_refused() {
    let config = config("xdp:\n  queues: [0, 5]\n");
    let error = Plan::xdp_queues(&config, 4).unwrap_err();
    assert_eq!(error.to_string(), "c.yaml:2:11: xdp.queues: there is no queue 5: the interface has 4 receive queues");
    assert_eq!(Plan::xdp_queues(&config, 6), Ok(vec![0, 5]));
}

#[test]
fn without_a_cpu_of_its_own_control_shares_and_it_is_said() {
    let plan = Plan::derive(&Config::default(), &Machine::flat([0]), &Nic::default()).unwrap();
    assert_eq!((cpus(&plan), plan.control_cpus), (vec![Some(0)], vec![0]));
    assert_eq!(plan.notes, ["no CPU is left for the control plane: it shares CPU 0 with data threads"]);
}

#[test]
fn numbers_are_shown_as_ranges() {
    assert_eq!(check::ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
    assert_eq!(check::ranges(&[]), "");
}

#[test]
fn the_log_writer_is_shown_where_it_runs_and_who_feeds_it() {
    let text = "storage: {directory: /data}\n";
    let plan = Plan::derive(&config(text), &Machine::flat(0..2), &Nic { queues: vec![0], node: None }).unwrap();
    let shown = plan.to_string();
    assert!(shown.contains("log              cpu 0"), "{shown}");
    let fed: Vec<&str> = plan.links.iter().filter(|link| link.to == "log").map(|link| &*link.from).collect();
    assert_eq!(fed, ["transactional-0", "batch-0"]);
    let without = Plan::derive(&config(""), &Machine::flat(0..2), &Nic { queues: vec![0], node: None }).unwrap();
    assert!(plan.memory_bytes() > without.memory_bytes() && !without.to_string().contains("log"), "{without}");
}

#[test]
fn the_cpu_that_the_disk_interrupts_is_left_to_the_log_writer() {
    let derive = |machine: &Machine, text: &str| Plan::derive(&config(text), machine, &Nic::default()).unwrap();
    let with_disk = |machine: Machine, cpu| Machine { disk_cpu: Some(cpu), ..machine };
    let two = derive(&with_disk(Machine::flat([0, 1]), 1), "");
    assert_eq!((cpus(&two), two.log_cpu, &two.control_cpus), (vec![Some(0)], Some(1), &vec![1]));
    let of_many = derive(&with_disk(machine(TWO_SOCKETS), 18), "");
    assert!(of_many.runners.iter().all(|runner| runner.cpu.is_some_and(|cpu| cpu != 18 && cpu != 19)));
    assert_eq!((of_many.log_cpu, of_many.notes.len()), (Some(18), 0));
    // One that this process may not use says nothing.
    assert_eq!(cpus(&derive(&with_disk(Machine::flat([0, 1]), 7), "")), [Some(1)]);
    // An operator is taken at their word, and told.
    let listed = derive(&with_disk(Machine::flat([0, 1]), 1), "layout: {cpus: [1]}");
    assert_eq!((cpus(&listed), listed.log_cpu), (vec![Some(1)], Some(0)));
    assert!(listed.notes.iter().any(|note| note.contains("CPU 1, which the disk")), "{:?}", listed.notes);
}
