//! The layout as it comes out: which threads there are, on which CPUs they may run, where memory lies, what is refused.

use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use eventstream_tests::blast::Blast;
use eventstream_tests::client::PATIENCE;
use eventstream_tests::engine_process::Setup;
use eventstream_tests::veth::Veth;
use eventstream_tests::{binaries, skipped};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity};
use serde_json::Value;

/// The CPUs a thread may run on.
fn cpus(pid: Pid) -> Vec<usize> {
    let set = sched_getaffinity(Some(pid)).expect("the thread lives");
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Name and identity of the threads of a process.
fn threads(process: Pid) -> Vec<(String, Pid)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).expect("the process lives");
    named_threads(tasks)
}

fn named_threads(folder: fs::ReadDir) -> Vec<(String, Pid)> {
    let thread = |entry: fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        Some((fs::read_to_string(entry.path().join("comm")).ok()?.trim().to_owned(), pid))
    };
    folder.flatten().filter_map(thread).collect()
}

fn engine(arguments: &[&str], machine: Option<&str>) -> Output {
    let mut command = Command::new(binaries::engine());
    command.args(arguments).envs(machine.map(|machine| ("HWLOC_SYNTHETIC", machine)));
    command.output().expect("the engine's program runs")
}

#[test]
fn threads_are_named_and_pinned_and_control_keeps_off_their_cpus() {
    const TEST: &str = "threads_are_named_and_pinned_and_control_keeps_off_their_cpus";
    let own = cpus(rustix::thread::gettid());
    let [first, .., last] = own[..] else { return skipped(TEST, "there is one CPU") };
    let engine = Setup::default().config(&format!("layout: {{mode: shared, cpus: [{last}]}}\n")).start();
    // A thread names and confines itself when it first runs, which may be after the engine is ready.
    let deadline = Instant::now() + PATIENCE;
    let threads = loop {
        let threads: Vec<_> = threads(engine.pid()).into_iter().map(|(name, pid)| (name, cpus(pid))).collect();
        let is_confined = |(name, cpus): &(String, Vec<usize>)| name == "control" && !cpus.contains(&last);
        if threads.iter().any(is_confined) || Instant::now() > deadline {
            break threads;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let of = |name: &str| threads.iter().find(|(named, _)| named == name).map(|(_, cpus)| cpus.clone());
    assert_eq!(of("data"), Some(vec![last]), "{threads:?}");
    for name in ["control", "eventstream"] {
        let cpus = of(name).unwrap_or_else(|| panic!("no {name} in {threads:?}"));
        assert!(cpus.contains(&first) && !cpus.contains(&last), "{name} on {cpus:?}");
    }
    let status = engine.status();
    let memory = status["memory"].as_array().expect("a list");
    assert_eq!(memory.len(), 8, "{memory:#?}");
    for pool in memory {
        // Where there are nodes at all, and the kernel says what is on them.
        let node = pool["node"].as_u64().map(|node| node.to_string());
        let pages = pool["pages"].as_object().expect("counts by node");
        assert!(node.is_none() || pages.keys().all(|on| Some(on) == node.as_ref()), "{pool}");
    }
    engine.drain().assert_balanced();
}

#[test]
fn napi_threads_run_where_the_layout_puts_them_and_only_as_long() {
    const TEST: &str = "napi_threads_run_where_the_layout_puts_them_and_only_as_long";
    let Some(link) = Veth::create(TEST) else { return };
    let own = cpus(rustix::thread::gettid());
    let [first, .., last] = own[..] else { return skipped(TEST, "there is one CPU") };
    let switch = format!("/sys/class/net/{}/threaded", link.iface);
    if fs::OpenOptions::new().write(true).open(&switch).is_err() {
        return skipped(TEST, "sysfs cannot be written here");
    }
    let layout = format!("layout: {{mode: shared, cpus: [{last}], napi_cpus: [{first}]}}\n");
    let engine = Setup::default().interface(&link.iface).config(&layout).start();
    assert_eq!(fs::read_to_string(&switch).unwrap().trim(), "1");
    let prefix = format!("napi/{}-", link.iface);
    let all = named_threads(fs::read_dir("/proc").unwrap());
    let napi: Vec<_> = all.iter().filter(|(name, _)| name.starts_with(&prefix)).collect();
    assert_eq!(napi.len(), 2, "one a queue: {napi:?}");
    assert!(napi.iter().all(|(_, pid)| cpus(*pid) == [first]), "{napi:?}");
    let status = engine.status();
    assert_eq!(status["napi_threads"].as_array().map(Vec::len), Some(2));
    let memory = status["memory"].as_array().expect("a list");
    let umem = memory.iter().find(|pool| pool["owner"] == "xdp-1").expect("the second queue's");
    let pages = umem["pages"].as_object().expect("counts by node");
    let total: u64 = pages.values().filter_map(Value::as_u64).sum();
    // 8 MiB, all of them there before the first packet.
    assert!(pages.is_empty() || total == (8 << 20) / rustix::param::page_size() as u64, "{umem}");
    let sent = Blast::datagrams(&link, engine.udp_port(), "--rate 20k --seconds 1").finish();
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(sent.datagrams, ended.count("/datagrams/program_runs") + sent.link_dropped);
    assert_eq!(fs::read_to_string(&switch).unwrap().trim(), "0");
}

/// In KiB, of what `/proc` says of a process.
fn resident(process: Pid) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has some");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn memory_is_what_was_announced_from_the_start_and_stays_so() {
    const TEST: &str = "memory_is_what_was_announced_from_the_start_and_stays_so";
    let Some(link) = Veth::create(TEST) else { return };
    let said = engine(&["run", "--check-config", "--iface", &link.iface], None).stdout;
    let said = String::from_utf8_lossy(&said);
    let announced: f64 = said
        .lines()
        .find_map(|line| line.strip_prefix("memory ")?.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("no memory in {said}"));
    let engine = Setup::default().interface(&link.iface).start();
    let share = || resident(engine.pid()) / 1024.0 / announced;
    let at_start = share();
    assert!((0.9..1.1).contains(&at_start), "{at_start} of {announced} MiB");
    let sent =
        Blast::datagrams(&link, engine.udp_port(), "--datagram-rate 20k --ids --events-per-datagram 20 --seconds 1")
            .finish();
    let loaded = share();
    assert!((0.9..1.1).contains(&loaded), "{loaded} of {announced} MiB");
    assert!(loaded - at_start < 0.02, "{at_start} has become {loaded}");
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(sent.datagrams, ended.count("/datagrams/program_runs") + sent.link_dropped);
}

#[test]
fn a_layout_that_cannot_work_is_refused_with_its_place() {
    let path = std::env::temp_dir().join(format!("esc-layout-{}.yaml", std::process::id()));
    fs::write(&path, "udp: {sockets: 1}\nlayout:\n  cpus:\n    - 8000\n").expect("a temporary file");
    let file = path.to_str().expect("text");
    let expected = format!("{file}:4:7: layout.cpus[0]: this machine has no CPU 8000");
    for arguments in [&["run", "--config", file][..], &["run", "--check-config", "--config", file]] {
        let output = engine(arguments, None);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.trim()), (Some(2), format!("eventstream: {expected}").as_str()));
    }
    let output = engine(&["topology", "--json", "--config", file], None);
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), shown["refused"].as_str()), (Some(2), Some(expected.as_str())));
    fs::remove_file(&path).expect("ours");

    let output = engine(&["run", "--seconds", "1"], Some("package:1 core:4 pu:1"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("hwloc was told of another machine than this one"), "{said}");
}

#[test]
fn a_machine_that_is_not_at_hand_can_be_described() {
    let machine = "package:2 [numa(memory=8GB)] l3:1 core:8 pu:2";
    let output = engine(&["topology", "--json"], Some(machine));
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(shown["machine"]["cpus"].as_array().map(Vec::len), Some(32));
    assert_eq!(shown["interfaces"].as_array().map(Vec::len), Some(0), "none of this host's");
    let runners = shown["plan"]["runners"].as_array().expect("runners");
    let cpus: Vec<_> = runners.iter().map(|runner| runner["cpu"].as_u64()).collect();
    assert_eq!(cpus, [2, 4, 6, 8, 10, 12, 14].map(Some), "a core for each agent: {runners:#?}");
    let text = engine(&["topology"], Some(machine)).stdout;
    let text = String::from_utf8_lossy(&text);
    for line in
        ["  package 1: cores 16+17 18+19", "  node 1: 7.4 GiB, cpus 16-31", "  L3: ", "  control          cpu 0-1"]
    {
        assert!(text.contains(&format!("\n{line}")), "{line}: {text}");
    }
}
