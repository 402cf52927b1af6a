//! What a report says beside the ledger, of an engine in this process: how far back ids are remembered, and what a pause
//! has refused.

use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use eventstream::admin::{ledger_table, prometheus, time_table};
use eventstream::control::State;
use eventstream::engine::{Control, Engine};
use eventstream::frame::{FrameHeader, Priority, encode};
use eventstream::runtime::clock::unix_now;
use eventstream_tests::client::PATIENCE;
use eventstream_tests::local;

const SMALL: &str = "limits: {frame_bytes: 65536}\ntcp: {large_slots: 1, slots: 16}\n";

fn start(more: &str) -> Engine {
    Engine::builder().config(local::config(&format!("{SMALL}{more}"))).start().unwrap()
}

fn wait_for(control: &Control, what: &str, mut done: impl FnMut(&Control) -> bool) {
    let started = Instant::now();
    while !done(control) {
        assert!(started.elapsed() < PATIENCE, "{what}: {:#?}", control.ledger());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_full_table_says_how_far_back_it_remembers() {
    const IDS: u64 = 5000;
    let engine = start("dedup: {capacity: 1024}");
    let control = engine.control();
    let mut client = TcpStream::connect(("127.0.0.1", control.ports().tcp.unwrap())).unwrap();
    let before = control.report().dedup.unwrap();
    assert_eq!(
        (before.effective_window_ns, before.window_ns, before.evicted_early),
        (60_000_000_000, 60_000_000_000, 0)
    );
    for number in 0..IDS {
        let mut bytes = Vec::new();
        let id = Some(u128::from(number).to_be_bytes());
        encode(&mut bytes, &FrameHeader { id, ..FrameHeader::new(Priority::Medium) }, b"t", b"");
        client.write_all(&bytes).unwrap();
    }
    wait_for(&control, "all events", |control| control.ledger().events.processed.transactional == IDS);
    let report = engine.drain();
    assert!(report.ledger.balanced, "{:?}", report.ledger.imbalances);
    let dedup = report.dedup.unwrap();
    assert!(dedup.effective_window_ns < dedup.window_ns, "{dedup:?}");
    assert!(dedup.evicted_early >= IDS - 2 * dedup.capacity && dedup.occupied <= dedup.capacity, "{dedup:?}");
    let (json, text) = (serde_json::to_value(&report).unwrap(), prometheus(&report));
    assert_eq!(json["dedup"]["effective_window_ns"], dedup.effective_window_ns);
    assert!(text.contains(&format!("eventstream_dedup_effective_window_ns {}\n", dedup.effective_window_ns)), "{text}");
    assert!(text.contains("eventstream_links_stalled 0\n"), "{text}");
    assert!(ledger_table(&report).contains("ids forgotten before their window"));
}

#[test]
fn latencies_are_there_as_far_as_anything_was_measured() {
    let engine = start("");
    let control = engine.control();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(("127.0.0.1", control.ports().udp)).unwrap();
    let send = |sent_time_ns| {
        let mut bytes = Vec::new();
        let header = FrameHeader { sent_time_ns, ..FrameHeader::new(Priority::High) };
        (0..3).for_each(|_| encode(&mut bytes, &header, b"t", b""));
        client.send(&bytes).unwrap();
    };
    send(None);
    wait_for(&control, "the first", |control| control.ledger().events.processed.realtime == 3);
    let first = serde_json::to_value(control.report()).unwrap();
    assert!(first["latency_ns"]["send_to_handler"].is_null() && first["latency_ns"]["rx_to_consumed"].is_null());
    send(Some(unix_now() - 5_000_000_000));
    send(Some(unix_now() + 5_000_000_000)); // a clock that is ahead says nothing
    wait_for(&control, "all", |control| control.ledger().events.processed.realtime == 9);
    let report = engine.drain();
    let (json, text) = (serde_json::to_value(&report).unwrap(), prometheus(&report));
    let latency = &json["latency_ns"];
    assert_eq!((&latency["rx_is"], &latency["rx_to_handler"]), (&"consumed".into(), &latency["consumed_to_handler"]));
    assert_eq!((latency["rx_to_handler"]["count"].as_u64(), latency["rx_to_consumed"].is_null()), (Some(9), true));
    assert!(latency["consumed_to_dispatched"]["count"].as_u64() >= Some(1));
    let sent = &latency["send_to_handler"];
    assert_eq!(sent["count"], 1, "once for the events of a datagram");
    assert!(sent["p50"].as_u64() >= Some(5_000_000_000), "{sent}");
    let busy = report.runners.iter().map(|runner| runner.busy_ns).sum::<u64>() as f64 / 9.0;
    assert!(busy > 0.0 && (report.busy_ns_per_event - busy).abs() < 1.0, "{busy} {}", report.busy_ns_per_event);
    for name in ["rx_to_handler_ns{quantile=\"0.5\"}", "send_to_handler_ns{quantile=\"1\"}", "runner_busy_ns_total{"] {
        assert!(text.contains(&format!("eventstream_{name}")), "{name}: {text}");
    }
    assert!(time_table(&report).contains("send to handler"));
}

#[test]
fn an_engine_that_deduplicates_nothing_says_nothing_about_it() {
    let report = start("dedup: {classes: []}").drain();
    assert!(report.dedup.is_none());
    assert_eq!((serde_json::to_value(&report).unwrap()["dedup"].is_null(), report.stalled_links), (true, 0));
    assert!(!prometheus(&report).contains("dedup_"));
}

#[test]
fn what_a_pause_refuses_is_in_a_counter_of_its_own() {
    let engine = start("");
    let control = engine.control();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(("127.0.0.1", control.ports().udp)).unwrap();
    let mut bytes = Vec::new();
    encode(&mut bytes, &FrameHeader::new(Priority::High), b"t", b"");
    client.send(&bytes).unwrap();
    wait_for(&control, "the first", |control| control.ledger().datagrams.socket_received == 1);
    control.set_state(State::Paused).unwrap();
    let mut sent = 1;
    // The agent follows in its next cycle: the first of these may still be taken in.
    wait_for(&control, "a refusal", |control| {
        client.send(&bytes).unwrap();
        sent += 1;
        control.ledger().datagrams.socket_refused >= 3
    });
    control.set_state(State::Running).unwrap();
    let report = engine.drain();
    assert!(report.ledger.balanced, "{:?}", report.ledger.imbalances);
    let datagrams = &report.ledger.datagrams;
    assert_eq!(datagrams.socket_received + datagrams.socket_dropped, sent);
    assert_eq!(datagrams.socket_refused, datagrams.socket_dropped, "nothing was dropped for another reason");
    assert!(ledger_table(&report).contains("of these, while paused or draining"));
}
