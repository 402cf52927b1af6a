//! Whoever asks over TCP is told what became of each event, once: whatever that is, however many ask, and though others
//! do not listen, vanish, or the engine ends.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eventstream::control::State;
use eventstream::engine::{Control, Engine};
use eventstream::frame::{Class, Priority};
use eventstream::metrics::Report;
use eventstream::worker::Outcome;
use eventstream_tests::acks::{Ack, Reader, asking, wire_id};
use eventstream_tests::client::{PATIENCE, connect, publish};
use eventstream_tests::engine_process::{Setup, count};
use eventstream_tests::flag::SetWhenDropped;
use eventstream_tests::local;
use eventstream_tests::pipeline::FnHandler;
use eventstream_tests::random::Random;
use xtask::process::capture;

const PROCESSED: u8 = 3;
const DEAD_LETTERED: u8 = 4;
const DUPLICATE: u8 = 0x80;

/// Where a handler that waits holds up nothing but workers.
const APART: &str = "
layout:
  mode: explicit
  runners:
    - {name: rest, cpu: null, agents: ['*']}
    - {name: work, cpu: null, agents: [realtime-0, transactional-0]}
";

/// An engine in this process that does with an event what its payload begins with, and with any other event as soon
/// as `gate` is open.
fn start(more: &str, gate: &Arc<AtomicBool>) -> Engine {
    let handlers = |_: Class, _: usize| {
        let gate = gate.clone();
        FnHandler::new(move |event, _| match event.payload().first() {
            Some(b'x') => Outcome::Reject("as asked"),
            Some(b'r') => Outcome::Retry,
            Some(b'2') if event.attempt() == 1 => Outcome::Retry,
            Some(b'p') => panic!("as asked"),
            _ => {
                while !gate.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_micros(100));
                }
                Outcome::Done
            }
        })
    };
    Engine::builder().config(local::config(more)).handlers(handlers).start().unwrap()
}

fn open() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(true))
}

fn client_of(control: &Control) -> TcpStream {
    connect(control.ports().tcp.unwrap())
}

fn wait_for(control: &Control, what: &str, done: impl Fn(&Control) -> bool) {
    let started = Instant::now();
    while !done(control) {
        assert!(started.elapsed() < PATIENCE, "{what}: {:#?}", control.ledger());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn counter(control: &Control, name: &str) -> u64 {
    control.report().counters.get(name).copied().unwrap_or(0)
}

/// Drains, and checks that the books balance. Returns acknowledgements asked for, sent and undeliverable.
fn end(engine: Engine) -> (Report, [u64; 3]) {
    let report = engine.drain();
    assert!(report.ledger.balanced, "{:#?}", report.ledger.imbalances);
    let acks = &report.ledger.acks;
    let counts = [acks.asked, acks.sent, acks.undeliverable];
    (report, counts)
}

/// The example of the README, as it stands there.
#[test]
fn the_example_in_the_readme_prints_its_acknowledgements() {
    let readme = include_str!("../README.md");
    let behind = readme.split_once("### Acknowledgements").expect("a section about them").1;
    let example = behind.split_once("```python\n").expect("an example").1.split_once("```").expect("its end").0;
    let engine = Setup::default().start();
    let script = example.replace("8081", &engine.tcp_port().to_string());
    assert_ne!(script, example, "the default port");
    let printed = capture(Command::new("python3").args(["-c", &script])).unwrap();
    let mut lines: Vec<&str> = printed.lines().collect();
    lines.sort_unstable();
    let expected = [0, 1, 2].map(|number| format!("{number} 3 0 {:016x}{number:016x}", 4711));
    assert_eq!(lines, expected);
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!((ended.count("/acks/asked"), ended.count("/acks/sent"), ended.processed()), (3, 3, 3));
}

#[test]
fn each_outcome_has_its_status_and_reason() {
    let engine = start("retry: {backoff_initial_ms: 1}\ndlq: {shed_bytes_per_s: 1000}", &open());
    let control = engine.control();
    let mut client = client_of(&control);
    let mut reader = Reader::new(&client);
    let mut told = |priority, payload: &[u8]| {
        client.write_all(&asking(priority, Some(payload.len() as u64), "t", payload)).unwrap();
        let Ack { status, reason, id, .. } = reader.read(1).acks[0];
        assert_eq!(id, wire_id(payload.len() as u64));
        (status, reason)
    };
    assert_eq!(told(Priority::High, b"."), (PROCESSED, 0));
    assert_eq!(told(Priority::Medium, b".."), (PROCESSED, 0));
    assert_eq!(told(Priority::Batch, b"..."), (PROCESSED, 0));
    assert_eq!(told(Priority::High, b"x"), (DEAD_LETTERED, 1));
    assert_eq!(told(Priority::Medium, b"xxxx"), (DEAD_LETTERED, 1));
    assert_eq!(told(Priority::Medium, b"rrrrr"), (DEAD_LETTERED, 2));
    assert_eq!(told(Priority::High, b"r"), (DEAD_LETTERED, 2));
    assert_eq!(told(Priority::Medium, b"2222222"), (PROCESSED, 0));
    assert_eq!(told(Priority::Batch, b"p"), (DEAD_LETTERED, 4));
    assert_eq!(told(Priority::High, &[b'.'; 100_000]), (PROCESSED, 0), "in a slot of its own");
    control.set_state(State::Dropping).unwrap();
    // Who can be made to wait is not shed.
    assert_eq!(told(Priority::Batch, b"shed"), (PROCESSED, 0));
    assert_eq!(told(Priority::Low, &[b's'; 2000]), (PROCESSED, 0));
    control.set_state(State::Emergency).unwrap();
    assert_eq!(told(Priority::High, b"shed"), (PROCESSED, 0));
    let (report, acks) = end(engine);
    assert_eq!(acks, [13, 13, 0]);
    assert!(report.ledger.events.lost.is_empty(), "{:?}", report.ledger.events);
}

#[test]
fn a_duplicate_is_told_what_its_first_copy_came_to() {
    let gate = Arc::new(AtomicBool::new(false));
    let engine = start(&format!("retry: {{backoff_initial_ms: 20}}{APART}"), &gate);
    let control = engine.control();
    let mut client = client_of(&control);
    let mut reader = Reader::new(&client);
    // Both copies at once: the second finds the first under way.
    let (once, twice) = (asking(Priority::Medium, Some(1), "t", b"."), asking(Priority::Medium, Some(2), "t", b"2"));
    client.write_all(&[once.clone(), once.clone(), twice.clone(), twice].concat()).unwrap();
    wait_for(&control, "all four", |control| control.ledger().acks.asked == 4);
    gate.store(true, Ordering::Release);
    let mut first = reader.read(4).acks;
    first.sort_unstable_by_key(|ack| (ack.id, ack.status));
    let seen: Vec<_> = first.iter().map(|ack| (ack.status, ack.id)).collect();
    let both = |id| [(PROCESSED, wire_id(id)), (DUPLICATE | PROCESSED, wire_id(id))];
    assert_eq!(seen, [both(1), both(2)].concat());
    // Long after.
    client.write_all(&once).unwrap();
    assert_eq!(reader.read(1).acks[0].status, DUPLICATE | PROCESSED);
    let dead = asking(Priority::Medium, Some(3), "t", b"x");
    client.write_all(&[dead.clone(), dead.clone()].concat()).unwrap();
    let mut statuses: Vec<_> = reader.read(2).acks.iter().map(|ack| ack.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [DEAD_LETTERED, DUPLICATE | DEAD_LETTERED]);
    client.write_all(&dead).unwrap();
    let last = reader.read(1).acks[0];
    assert_eq!((last.status, last.reason), (DUPLICATE | DEAD_LETTERED, 0));
    let (report, acks) = end(engine);
    assert_eq!((acks, report.ledger.events.duplicate), ([8, 8, 0], 5));
}

#[test]
fn events_in_a_window_are_told_when_it_has_been_handled() {
    let more =
        "topics: [{name: t, class: batch, window: {max_events: 5, max_ms: 600000}}]\nretry: {backoff_initial_ms: 1}";
    let engine = start(more, &open());
    let control = engine.control();
    let mut client = client_of(&control);
    let mut reader = Reader::new(&client);
    let mut send = |priority, topic: &str, payloads: &[&[u8]]| {
        let frame = |payload: &&[u8]| asking(priority, None, topic, payload);
        client.write_all(&payloads.iter().flat_map(frame).collect::<Vec<u8>>()).unwrap();
    };
    let mut next = |count: usize| {
        let mut acks = reader.read(count).acks;
        acks.sort_unstable_by_key(|ack| ack.ordinal);
        acks.iter().map(|ack| (ack.ordinal, ack.status, ack.reason)).collect::<Vec<_>>()
    };
    // Four wait in the window; what comes behind them in another class does not.
    send(Priority::Batch, "t", &[&b"."[..]; 4]);
    wait_for(&control, "the window", |control| control.ledger().stages.waiting_for_retry == 4);
    send(Priority::High, "else", &[b"."]);
    assert_eq!(next(1), [(4, PROCESSED, 0)]);
    wait_for(&control, "what is owed", |control| control.ledger().acks.outstanding == 4);
    assert_eq!(control.ledger().events.in_flight, 4);
    send(Priority::Batch, "t", &[b"."]);
    assert_eq!(next(5), [0, 1, 2, 3, 5].map(|ordinal| (ordinal, PROCESSED, 0)));
    // Each is told its own outcome, whatever the others of its window come to.
    send(Priority::Batch, "t", &[b".", b"x", b"p", b".", b"x"]);
    let told = [PROCESSED, DEAD_LETTERED, DEAD_LETTERED, PROCESSED, DEAD_LETTERED].iter().zip([0, 1, 4, 0, 1]);
    assert_eq!(
        next(5),
        (6..).zip(told).map(|(ordinal, (status, reason))| (ordinal, *status, reason)).collect::<Vec<_>>()
    );
    // A drain closes the window that is open.
    send(Priority::Batch, "t", &[&b"."[..]; 3]);
    wait_for(&control, "the last window", |control| control.ledger().stages.waiting_for_retry == 3);
    let ending = std::thread::spawn(move || end(engine));
    assert_eq!(next(3), [11, 12, 13].map(|ordinal| (ordinal, PROCESSED, 0)));
    drop(client);
    let (_, acks) = ending.join().unwrap();
    assert_eq!(acks, [14, 14, 0]);
}

/// Every class, retries, rejections and duplicates, over several agents of each kind, from clients that write and read
/// at their own speed.
#[test]
fn many_at_once_get_each_answer_once() {
    const CLIENTS: u64 = 8;
    const EACH: u64 = 20_000;
    let more =
        "tcp: {agents: 3}\ndispatchers: 2\nworkers: {realtime: 2, transactional: 2}\nretry: {backoff_initial_ms: 1}";
    let engine = start(more, &open());
    let control = engine.control();
    let told: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn({
                    let control = &control;
                    move || ask_many(client_of(control), number, EACH)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let mut by_status: BTreeMap<u8, u64> = BTreeMap::new();
    for told in &told {
        told.assert_each_once(EACH);
        assert!(told.frames < told.acks.len() / 2, "{} frames", told.frames);
        told.acks.iter().for_each(|ack| *by_status.entry(ack.status).or_default() += 1);
    }
    let (report, acks) = end(engine);
    assert_eq!(acks, [CLIENTS * EACH, CLIENTS * EACH, 0]);
    let events = &report.ledger.events;
    let of = |status| by_status.get(&status).copied().unwrap_or(0);
    assert_eq!(of(PROCESSED), events.processed.total());
    assert_eq!(of(DEAD_LETTERED), events.dead_lettered.values().sum::<u64>());
    let duplicates = of(DUPLICATE | PROCESSED) + of(DUPLICATE | DEAD_LETTERED);
    assert!(duplicates > CLIENTS * EACH / 100, "{by_status:?}");
    assert_eq!(duplicates, events.duplicate);
}

fn ask_many(mut stream: TcpStream, seed: u64, count: u64) -> eventstream_tests::acks::Told {
    let mut reader = Reader::new(&stream);
    let reading = std::thread::spawn(move || reader.read_to_end());
    let mut random = Random::new(seed);
    let mut bytes = Vec::new();
    for number in 0..count {
        // One in ten repeats the one before, if that is of the class that is deduplicated.
        let id = seed << 32 | (number - u64::from(number > 0 && random.one_in(10)));
        let payload = match random.below(200) {
            0 => &b"x"[..],
            1 => b"2",
            _ => b".",
        };
        bytes.extend(asking(*random.pick(&Priority::ALL), Some(id), "topic", payload));
        if bytes.len() > 1 << 15 {
            stream.write_all(&bytes).unwrap();
            bytes.clear();
        }
    }
    stream.write_all(&bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    reading.join().unwrap()
}

#[test]
fn who_never_reads_is_closed_and_disturbs_nobody() {
    let engine = Setup::default().config("tcp: {ack_wait_ms: 200}\n").start();
    let mut deaf = connect(engine.tcp_port());
    deaf.set_write_timeout(Some(PATIENCE)).unwrap();
    let stream = asking(Priority::High, None, "t", b".").repeat(1000);
    // Until the engine has read enough of it and ends the connection.
    while deaf.write_all(&stream).is_ok() {}
    publish(engine.tcp_port(), Priority::High, 1000);
    engine.wait_until("the end of it", |report| report["counters"]["tcp_acks_unread"] == 1);
    let ended = engine.drain();
    ended.assert_balanced();
    let [asked, sent, undeliverable] = ["asked", "sent", "undeliverable"].map(|c| ended.count(&format!("/acks/{c}")));
    assert!(undeliverable > 0 && asked == sent + undeliverable, "{asked} {sent} {undeliverable}");
    assert_eq!((ended.processed(), ended.count("/events/accepted")), (asked + 1000, asked + 1000));
}

#[test]
fn what_cannot_be_told_any_more_is_counted() {
    const ASKED: u64 = 500;
    let gate = Arc::new(AtomicBool::new(false));
    let engine = start(APART, &gate);
    let control = engine.control();
    let mut client = client_of(&control);
    client.write_all(&asking(Priority::High, None, "t", b".").repeat(ASKED as usize)).unwrap();
    wait_for(&control, "the events", |control| control.ledger().acks.asked == ASKED);
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    wait_for(&control, "the reset", |control| counter(control, "tcp_connections_closed") == 1);
    gate.store(true, Ordering::Release);
    let mut another = client_of(&control);
    another.write_all(&asking(Priority::High, None, "t", b".")).unwrap();
    assert_eq!(Reader::new(&another).read(1).acks[0].ordinal, 0);
    let (_, [asked, sent, undeliverable]) = end(engine);
    assert_eq!((asked, sent, undeliverable), (ASKED + 1, 1, ASKED));
}

/// SIGTERM in the middle of a stream: what was taken in is answered, the rest is not, and the client knows which.
#[test]
fn a_drain_answers_what_was_taken_in() {
    let engine = Setup::default().start();
    let mut client = connect(engine.tcp_port());
    let mut reader = Reader::new(&client);
    let (read, ended) = (reader.count(), Arc::new(AtomicBool::new(false)));
    let reading = std::thread::spawn({
        let ended = SetWhenDropped(ended.clone());
        move || {
            let _ended = ended;
            reader.read_to_end()
        }
    });
    // It goes on until the engine has ended its side, and is never far ahead of what it has read.
    let writing = std::thread::spawn(move || {
        let stream = asking(Priority::Medium, None, "t", b".").repeat(100);
        let mut written = 0;
        while !ended.load(Ordering::Acquire) {
            if written > read.load(Ordering::Relaxed) + 10_000 {
                std::thread::sleep(Duration::from_micros(100));
            } else if client.write_all(&stream).is_ok() {
                written += 100;
            }
        }
    });
    engine.wait_until("some", |report| count(report, "/acks/sent") > 10_000);
    let ended = engine.drain();
    writing.join().unwrap();
    let told = reading.join().unwrap();
    ended.assert_balanced();
    let accepted = ended.count("/events/accepted");
    assert_eq!((ended.count("/acks/asked"), ended.count("/acks/sent")), (accepted, accepted));
    told.assert_each_once(accepted);
    assert!(told.acks.iter().all(|ack| ack.status == PROCESSED));
}

#[test]
fn over_udp_the_flag_is_counted_and_means_nothing() {
    let engine = Setup::default().start();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(&asking(Priority::High, None, "t", b".").repeat(3), ("127.0.0.1", engine.udp_port())).unwrap();
    engine.wait_until("the events", |report| count(report, "/events/processed/realtime") == 3);
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!((&ended.report["counters"]["ack_flag_ignored"], ended.count("/acks/asked")), (&3.into(), 0));
}
