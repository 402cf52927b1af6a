//! A batch handler that never returns, in a whole engine with threads and sockets.

use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use eventstream::engine::{Control, Engine};
use eventstream::frame::{Class, FrameHeader, Priority, encode};
use eventstream::worker::Outcome;
use eventstream_tests::pipeline::FnHandler;

use super::apart;

/// Set for the process that has the engine.
const CHILD: &str = "EVENTSTREAM_TEST_CHILD";
/// Longer than anything here takes on the slowest machine; shorter than somebody's patience.
const PATIENCE: Duration = Duration::from_secs(60);

const CONFIG: &str = "
limits: {frame_bytes: 65536}
tcp: {large_slots: 1, slots: 16}
workers: {stall_ms: 20}
drain: {timeout_ms: 300}
";

const ROUNDS: u64 = 60;
/// Events of each class in a round, over UDP and TCP each.
const PER_CLASS: u64 = 20;
/// Batch events that are handled before the handler hangs.
const HANDLED: u64 = 10;

#[test]
fn a_batch_handler_that_never_returns_stops_neither_the_others_nor_the_drain_nor_the_process() {
    const TEST: &str =
        "stuck_handler::a_batch_handler_that_never_returns_stops_neither_the_others_nor_the_drain_nor_the_process";
    if std::env::var_os(CHILD).is_some() {
        return stuck_engine();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if started.elapsed() > 2 * PATIENCE => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("the process does not end");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(status.success(), "{status}");
}

/// One class at a time, in one datagram or one write.
fn frames(priority: Priority) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..PER_CLASS {
        encode(&mut bytes, &FrameHeader::new(priority), b"t", b"payload");
    }
    bytes
}

fn wait_for(control: &Control, what: &str, done: impl Fn(&Control) -> bool) {
    let started = Instant::now();
    while !done(control) {
        assert!(started.elapsed() < PATIENCE, "{what}: {:#?}", control.ledger());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn start() -> Engine {
    let config = apart(&["batch"], CONFIG);
    let handlers = |class: Class, _: usize| {
        let mut handled = 0;
        FnHandler::new(move |_, _| {
            handled += 1;
            if class == Class::Batch && handled > HANDLED {
                loop {
                    std::thread::park();
                }
            }
            Outcome::Done
        })
    };
    Engine::builder().config(config).handlers(handlers).start().unwrap()
}

fn stuck_engine() {
    let engine = start();
    let control = engine.control();
    let ports = *control.ports();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(("127.0.0.1", ports.udp)).unwrap();
    let mut tcp = TcpStream::connect(("127.0.0.1", ports.tcp.unwrap())).unwrap();
    // The first few end, in a duty cycle of their own, right before one hangs.
    let mut first = Vec::new();
    (0..HANDLED).for_each(|_| encode(&mut first, &FrameHeader::new(Priority::Batch), b"t", b""));
    udp.send(&first).unwrap();
    wait_for(&control, "the first", |control| control.ledger().events.processed.batch == HANDLED);
    for round in 1..=ROUNDS {
        for priority in [Priority::Batch, Priority::Critical, Priority::Medium] {
            udp.send(&frames(priority)).unwrap();
            tcp.write_all(&frames(priority)).unwrap();
        }
        wait_for(&control, "realtime and transactional go on", |control| {
            let processed = control.ledger().events.processed;
            processed.realtime == round * 2 * PER_CLASS && processed.transactional == processed.realtime
        });
    }
    wait_for(&control, "all are accepted", |control| {
        control.ledger().events.accepted == HANDLED + ROUNDS * 6 * PER_CLASS
    });
    wait_for(&control, "one link is known to stand still", |control| control.report().stalled_links == 1);
    let report = engine.drain();
    let (ledger, events) = (&report.ledger, &report.ledger.events);
    assert_eq!(events.accepted, HANDLED + ROUNDS * 6 * PER_CLASS);
    assert_eq!((events.processed.realtime, events.processed.transactional), (ROUNDS * 40, ROUNDS * 40));
    assert_eq!(events.processed.batch, HANDLED);
    assert!(events.in_flight > 0 && events.dead_lettered["link_full"] > 0, "{events:?}");
    let dead: u64 = events.dead_lettered.values().sum();
    let lost: u64 = events.lost.values().sum();
    assert_eq!(dead, events.dead_lettered["link_full"]);
    assert_eq!(events.accepted, events.processed.total() + events.duplicate + dead + lost + events.in_flight);
    assert!(!ledger.balanced);
    // Every other equation holds.
    assert_eq!(ledger.imbalances, [format!("{} events are still in flight", events.in_flight)]);
    for pool in &report.frames.pools {
        assert_eq!(pool.free + pool.kernel + pool.in_flight, pool.slots, "{pool:?}");
    }
}
