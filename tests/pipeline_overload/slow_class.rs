//! Classes whose handlers hardly get on, over TCP: their own senders wait, and nobody else's.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eventstream::engine::{Control, Engine};
use eventstream::frame::{Class, FrameHeader, Priority, encode};
use eventstream::metrics::Report;
use eventstream::worker::Outcome;
use eventstream_tests::pipeline::FnHandler;

use super::apart;

/// Longer than anything here takes on the slowest machine; shorter than somebody's patience.
const PATIENCE: Duration = Duration::from_secs(60);

const LIMITS: &str = "limits: {frame_bytes: 131000}\ntcp: {large_slots: 4, slots: 16}\n";
/// As long as they stand still here they only count as slow.
const NEVER_STALLED: &str = "workers: {stall_ms: 60000}\n";
const SOON_STALLED: &str = "workers: {stall_ms: 20}\n";

const ROUNDS: u64 = 20;
/// Connections that send to each slow class.
const SENDERS: u64 = 3;

fn wait_for(control: &Control, what: &str, mut done: impl FnMut(&Control) -> bool) {
    let started = Instant::now();
    while !done(control) {
        assert!(started.elapsed() < PATIENCE, "{what}: {:#?}", control.ledger());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until nothing more has been taken in for a while.
fn wait_until_quiet(control: &Control) {
    let (mut accepted, mut quiet) = (0, 0);
    wait_for(control, "the slow classes' senders wait", |control| {
        let now = control.ledger().events.accepted;
        quiet = if now == accepted { quiet + 1 } else { 0 };
        accepted = now;
        quiet == 200
    });
}

fn priority(class: Class) -> Priority {
    match class {
        Class::Realtime => Priority::Critical,
        Class::Transactional => Priority::Medium,
        Class::Batch => Priority::Batch,
    }
}

/// An event that names its sender and its place among that one's.
fn frame(class: Class, sender: u64, number: u64, payload_bytes: usize) -> Vec<u8> {
    let mut payload = vec![b'.'; payload_bytes.max(16)];
    payload[..8].copy_from_slice(&sender.to_be_bytes());
    payload[8..16].copy_from_slice(&number.to_be_bytes());
    let mut bytes = Vec::new();
    encode(&mut bytes, &FrameHeader::new(priority(class)), b"t", &payload);
    bytes
}

/// An engine whose slow classes handle nothing until `open` says so. Every sender's events must come in order.
fn start(config: &str, slow: &'static [Class], open: &Arc<AtomicBool>) -> Engine {
    let config = apart(&["transactional", "batch"], &format!("{LIMITS}{config}"));
    let handlers = |class: Class, _: usize| {
        let open = open.clone();
        let mut newest = std::collections::HashMap::new();
        FnHandler::new(move |event, _| {
            while slow.contains(&class) && !open.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let (sender, rest) = event.payload().split_first_chunk::<8>().unwrap();
            let number = u64::from_be_bytes(*rest.first_chunk().unwrap());
            let before = newest.insert(*sender, number);
            assert!(before.is_none_or(|before| before < number), "{before:?} before {number}");
            Outcome::Done
        })
    };
    Engine::builder().config(config).handlers(handlers).start().unwrap()
}

/// Lets the handlers go on, also when a test fails: its senders would wait for ever.
struct OpenedAtLast(Arc<AtomicBool>);

impl Drop for OpenedAtLast {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What one of the tests below is about.
struct Case {
    config: &'static str,
    slow: &'static [Class],
    /// Payloads of the slow classes' events, and of the others'.
    slow_bytes: usize,
    other_bytes: usize,
    /// Events of each sender to a slow class.
    count: u64,
}

/// Sends to the slow classes until their senders wait, then to realtime, which must go on. Then lets everybody go on. Returns
/// the reports of both moments.
fn run(case: &Case) -> (Report, Report) {
    let open = Arc::new(AtomicBool::new(false));
    let engine = start(case.config, case.slow, &open);
    let control = engine.control();
    let connect = || TcpStream::connect(("127.0.0.1", control.ports().tcp.unwrap())).unwrap();
    let mut other = connect();
    let finished = AtomicU64::new(0);
    let senders = SENDERS * case.slow.len() as u64;
    let (mut sent, mut midway) = (0, None);
    std::thread::scope(|scope| {
        let opened = OpenedAtLast(open.clone());
        for sender in 0..senders {
            let (mut connection, finished) = (connect(), &finished);
            let class = case.slow[sender as usize % case.slow.len()];
            scope.spawn(move || {
                for number in 0..case.count {
                    connection.write_all(&frame(class, sender, number, case.slow_bytes)).unwrap();
                }
                finished.fetch_add(1, Ordering::Relaxed);
            });
        }
        wait_until_quiet(&control);
        for round in 1..=ROUNDS {
            for _ in 0..20 {
                other.write_all(&frame(Class::Realtime, senders, sent, case.other_bytes)).unwrap();
                sent += 1;
            }
            wait_for(&control, "realtime goes on", |control| control.ledger().events.processed.realtime == round * 20);
        }
        if case.config == SOON_STALLED {
            // What has been taken in is told about a millisecond after it may have been handled.
            let all = senders * case.count + sent;
            wait_for(&control, "all is taken in", |control| control.ledger().events.accepted == all);
        }
        midway = Some(control.report());
        drop(opened);
        wait_for(&control, "everybody goes on", |control| {
            let events = control.ledger().events;
            let ended = events.processed.total() + events.dead_lettered.values().sum::<u64>();
            finished.load(Ordering::Relaxed) == senders && ended == sent + senders * case.count
        });
    });
    let report = engine.drain();
    assert!(report.ledger.balanced, "{:#?}", report.ledger.imbalances);
    (midway.unwrap(), report)
}

/// The slow classes' events waited, all of them, and most of the memory was left to others.
fn check_waited(case: &Case, midway: &Report, end: &Report) {
    let all = SENDERS * case.slow.len() as u64 * case.count;
    assert_eq!(midway.ledger.events.processed.total(), ROUNDS * 20);
    assert!(midway.ledger.events.accepted < all, "{:?}", midway.ledger.events);
    let tcp = midway.frames.pools.iter().find(|pool| pool.owner == "tcp-0").unwrap();
    assert!(tcp.in_flight <= tcp.slots * 3 / 4 + 1, "{tcp:?}");
    assert!(end.ledger.events.dead_lettered.is_empty(), "{:?}", end.ledger.events);
    assert_eq!(end.ledger.events.processed.total(), all + ROUNDS * 20);
}

#[test]
fn a_slow_class_of_large_events_leaves_slots_to_the_others() {
    let case = Case { config: NEVER_STALLED, slow: &[Class::Batch], slow_bytes: 8000, other_bytes: 100, count: 2000 };
    let (midway, end) = run(&case);
    check_waited(&case, &midway, &end);
}

#[test]
fn a_slow_class_of_small_events_leaves_credit_to_the_others() {
    let case = Case { config: NEVER_STALLED, slow: &[Class::Batch], slow_bytes: 16, other_bytes: 100, count: 100_000 };
    let (midway, end) = run(&case);
    check_waited(&case, &midway, &end);
}

#[test]
fn two_slow_classes_leave_slots_and_credit_to_the_third() {
    for (slow_bytes, count) in [(8000, 2000), (700, 10_000), (16, 50_000)] {
        let slow = &[Class::Transactional, Class::Batch];
        let case = Case { config: NEVER_STALLED, slow, slow_bytes, other_bytes: 100, count };
        let (midway, end) = run(&case);
        check_waited(&case, &midway, &end);
    }
}

#[test]
fn slow_classes_leave_a_large_slot_to_the_third() {
    let slow = &[Class::Transactional, Class::Batch];
    let case = Case { config: NEVER_STALLED, slow, slow_bytes: 100_000, other_bytes: 100_000, count: 200 };
    let (midway, end) = run(&case);
    check_waited(&case, &midway, &end);
}

#[test]
fn a_class_that_stands_still_holds_no_more_than_a_slow_one_and_its_senders_do_not_wait() {
    for slow_bytes in [8000, 16] {
        let case = Case { config: SOON_STALLED, slow: &[Class::Batch], slow_bytes, other_bytes: 100, count: 2000 };
        let (midway, end) = run(&case);
        let all = SENDERS * case.count;
        assert_eq!(midway.ledger.events.accepted, all + ROUNDS * 20);
        let tcp = midway.frames.pools.iter().find(|pool| pool.owner == "tcp-0").unwrap();
        assert!(tcp.in_flight <= tcp.slots * 3 / 8 + 1, "{tcp:?}");
        let events = &end.ledger.events;
        let dead: u64 = events.dead_lettered.values().sum();
        assert!(dead > 0 && events.dead_lettered["link_full"] == dead, "{events:?}");
        assert_eq!(events.processed.batch + dead, all);
    }
}
