//! What happens to a running engine from outside: killed, ended, paused, robbed of its interface, each under load.

use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::{Duration, Instant};

use eventstream::frame::Priority;
use eventstream_tests::blast::{Blast, Sent};
use eventstream_tests::client::{PATIENCE, publish};
use eventstream_tests::engine_process::{Ended, Engine, Setup, count};
use eventstream_tests::skipped;
use eventstream_tests::veth::Veth;
use libbpf_rs::ObjectBuilder;
use serde_json::Value;
use xtask::process::capture;
use xtask::testbed::LinkCounters;

/// Far below what one CPU takes, far above what could go unnoticed; on both queues.
const LOAD: &str = "afxdp --ids --rate 100k --queues 0:50,1:50";
/// Longer than any of these tests; they end it.
const LONG: &str = "--seconds 120";

/// Starts an engine on the link; `None`, said, where it cannot have AF_XDP there.
fn start(test: &str, link: &Veth) -> Option<Engine> {
    let engine = Setup::default().interface(&link.iface).start();
    let modes = engine.modes();
    if let Some((_, reason)) = modes.iter().find(|(mode, reason)| mode == "socket" && reason.contains("EPERM")) {
        skipped(test, reason);
        return None;
    }
    assert!(modes.len() == 2 && modes.iter().all(|(mode, _)| mode == "xdp-native-copy"), "{modes:?}");
    Some(engine)
}

fn load(engine: &Engine, link: &Veth, producer: u32) -> Blast {
    Blast::packets(link, engine.udp_port(), &format!("{LOAD} {LONG} --producer {producer}"))
}

/// Waits until so many more datagrams have been consumed.
fn wait_for_datagrams(engine: &Engine, more: u64) -> Value {
    let consumed = |report: &Value| count(report, "/datagrams/consumed");
    let before = consumed(&engine.status());
    engine.wait_until("load", |report| consumed(report) >= before + more)
}

fn has_program(iface: &str) -> bool {
    let text = capture(Command::new("ip").args(["-json", "link", "show", iface])).expect("the interface is there");
    let links: Value = serde_json::from_str(&text).expect("JSON");
    !links[0]["xdp"].is_null()
}

/// What had been counted when a load began.
struct Before {
    report: Value,
    link: LinkCounters,
}

impl Before {
    /// An engine and a link that have seen nothing.
    fn nothing(link: &Veth) -> Self {
        Self { report: Value::Null, link: link.counters().expect("the link is there") }
    }

    /// Once everything an earlier load has sent has come to its end.
    fn now(engine: &Engine, link: &Veth) -> Self {
        let report = engine.wait_until("rest", |report| report["ledger"]["balanced"] == true);
        Self { report, link: link.counters().expect("the link is there") }
    }

    fn since(&self, ended: &Ended, path: &str) -> u64 {
        ended.count(path) - count(&self.report, path)
    }

    /// Everything that was sent has reached the program or is in the link's counters.
    fn assert_arrived(&self, ended: &Ended, sent: Sent, link: &Veth) {
        let failed = lost_by_kernel(&ended.report) - lost_by_kernel(&self.report);
        let dropped = link.counters().expect("the link is there").dropped_since(&self.link, failed);
        let arrived = self.since(ended, "/datagrams/program_runs");
        assert_eq!(sent.datagrams, arrived + dropped, "{:#}", ended.report["ledger"]);
    }
}

/// Every event of every datagram that was taken in has come to its end.
fn assert_handled(ended: &Ended) {
    ended.assert_balanced();
    let taken = ended.count("/datagrams/consumed");
    assert_eq!((taken, taken * 23), (ended.count("/datagrams/parsed"), ended.count("/events/accepted")));
    assert_eq!(taken * 23, ended.processed() + ended.count("/events/duplicate"));
}

/// Attached over netlink a program outlives its process, as a killed engine's does on kernels without XDP links.
fn leave_a_program(iface: &str) {
    let index = std::fs::read_to_string(format!("/sys/class/net/{iface}/ifindex")).expect("the interface is there");
    let object = ObjectBuilder::default().open_memory(eventstream_steer::STEER_OBJECT).and_then(|open| open.load());
    let object = object.expect("the engine could load it");
    let program = object.progs().next().expect("a program");
    let index = index.trim().parse().expect("a number");
    libbpf_rs::Xdp::new(program.as_fd()).attach(index, libbpf_rs::XdpFlags::DRV_MODE).expect("the engine could");
}

#[test]
fn after_a_kill_the_same_command_works_again() {
    const TEST: &str = "after_a_kill_the_same_command_works_again";
    let Some(link) = Veth::create(TEST) else { return };
    let Some(engine) = start(TEST, &link) else { return };
    let unheeded = load(&engine, &link, 1);
    wait_for_datagrams(&engine, 1_000);
    engine.kill();
    leave_a_program(&link.iface);
    // Load goes on meanwhile: neither it nor what the first has left keeps the second from the queues.
    let engine = start(TEST, &link).expect("as before");
    assert!(engine.heard("replaced what a killed run had left attached", PATIENCE).is_some());
    unheeded.stop();
    let before = Before::now(&engine, &link);
    let load = load(&engine, &link, 10);
    wait_for_datagrams(&engine, 1_000);
    let sent = load.stop();
    let ended = engine.drain();
    assert_handled(&ended);
    before.assert_arrived(&ended, sent, &link);
    assert!(!has_program(&link.iface));
}

#[test]
fn asked_to_end_under_load_it_ends_what_it_has_begun() {
    const TEST: &str = "asked_to_end_under_load_it_ends_what_it_has_begun";
    let Some(link) = Veth::create(TEST) else { return };
    let Some(engine) = start(TEST, &link) else { return };
    assert!(has_program(&link.iface));
    let load = load(&engine, &link, 1);
    let before = wait_for_datagrams(&engine, 1_000);
    let ended = engine.drain();
    assert!(!has_program(&link.iface), "while packets still come");
    let sent = load.stop();
    assert_handled(&ended);
    assert_eq!(ended.report["state"], "draining");
    let consumed = ended.count("/datagrams/consumed");
    assert!(consumed >= count(&before, "/datagrams/consumed") && consumed <= sent.datagrams);
    // What came after the end went to the kernel, where nobody listened.
    assert!(ended.count("/datagrams/program_runs") <= sent.datagrams);
}

#[test]
fn a_deleted_interface_is_said_and_streams_go_on() {
    const TEST: &str = "a_deleted_interface_is_said_and_streams_go_on";
    let Some(link) = Veth::create(TEST) else { return };
    let Some(engine) = start(TEST, &link) else { return };
    let load = load(&engine, &link, 1);
    wait_for_datagrams(&engine, 1_000);
    capture(Command::new("ip").args(["link", "delete", &link.iface])).unwrap();
    let deleted = Instant::now();
    let heard = engine.heard("the interface is gone", PATIENCE).expect("said");
    assert!(heard.saturating_duration_since(deleted) <= Duration::from_secs(2));
    drop(load); // its end of the link is gone as well
    let modes = engine.modes();
    assert!(modes.iter().all(|(_, reason)| reason.contains("removed")), "{modes:?}");
    publish(engine.tcp_port(), Priority::High, 10_000);
    engine.wait_until("the stream", |report| count(report, "/tcp_frames/accepted") == 10_000);
    let ended = engine.drain();
    ended.assert_balanced();
    let (streamed, steered) = (ended.count("/tcp_frames/accepted"), ended.count("/datagrams/consumed") * 23);
    assert_eq!(streamed + steered, ended.processed() + ended.count("/events/duplicate"));
}

#[test]
fn paused_it_refuses_and_resumed_it_goes_on() {
    const TEST: &str = "paused_it_refuses_and_resumed_it_goes_on";
    let Some(link) = Veth::create(TEST) else { return };
    let Some(engine) = start(TEST, &link) else { return };
    let before = Before::nothing(&link);
    let load = load(&engine, &link, 1);
    wait_for_datagrams(&engine, 1_000);
    engine.set_state("paused");
    // What was steered before the word came is still handled.
    let paused = engine.wait_until("an empty pipe", |report| {
        let steered = count(report, "/datagrams/steered") - lost_by_kernel(report);
        steered == count(report, "/datagrams/consumed") && count(report, "/events/in_flight") == 0
    });
    let refused = count(&paused, "/datagrams/refused");
    let later = engine.wait_until("refusals", |report| count(report, "/datagrams/refused") >= refused + 1_000);
    for path in ["/datagrams/steered", "/datagrams/consumed", "/events/accepted"] {
        assert_eq!(count(&later, path), count(&paused, path), "{path} while paused");
    }
    engine.set_state("running");
    wait_for_datagrams(&engine, 1_000);
    let sent = load.stop();
    let ended = engine.drain();
    assert_handled(&ended);
    before.assert_arrived(&ended, sent, &link);
    assert!(ended.count("/datagrams/refused") >= refused + 1_000);
}

fn lost_by_kernel(report: &Value) -> u64 {
    ["rx_dropped", "rx_ring_full", "redirect_failed"]
        .iter()
        .map(|k| count(report, &format!("/datagrams/kernel/{k}")))
        .sum()
}

/// The last resort for the control socket is a folder in the temporary one: it is there if it is used, and not otherwise.
#[test]
fn no_folder_is_made_for_a_control_socket_that_lies_elsewhere() {
    let temporary = std::env::temp_dir().join(format!("esc-sockets-{}", std::process::id()));
    std::fs::create_dir_all(&temporary).unwrap();
    let config = temporary.join("config.yaml");
    std::fs::write(&config, "admin: {enabled: false}\nlisten: {udp_port: 0, tcp_port: 0}\n").unwrap();
    let eventstream = |arguments: &[&str]| {
        let mut command = Command::new(eventstream_tests::binaries::engine());
        command.args(arguments).arg("--config").arg(&config);
        command.env("TMPDIR", &temporary).env_remove("XDG_RUNTIME_DIR");
        command.output().unwrap()
    };
    let made = || std::fs::read_dir(&temporary).unwrap().count() - 1;
    eventstream(&["status"]);
    assert_eq!(made(), 0, "whoever asks makes nothing");
    let output = eventstream(&["run", "--seconds", "0", "--quiet"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let socket = said.split_whitespace().find_map(|word| word.strip_prefix("control=")).expect(&said);
    assert_eq!(made(), usize::from(socket.starts_with(&*temporary.to_string_lossy())), "{said}");
    std::fs::remove_dir_all(&temporary).unwrap();
}
