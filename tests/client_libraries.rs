//! The clients under `clients/` and the engine understand each other, and whatever becomes of the engine in the meantime, what a
//! client is told is so.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eventstream::frame::{FrameHeader, encode};
use eventstream_client::wire;
use eventstream_client::{Delivery, Error, Message, Options, Priority, Publisher, Receipt, Start, Status};
use eventstream_client::{Subscriber, Subscription, UdpOptions, UdpPublisher};
use eventstream_tests::binaries;
use eventstream_tests::client::PATIENCE;
use eventstream_tests::data_folder::{DataFolder, Logged};
use eventstream_tests::engine_process::{Engine, Setup, count};
use eventstream_tests::flag::SetWhenDropped;
use eventstream_tests::publisher::payload_of;
use eventstream_tests::random::Random;
use eventstream_tests::skipped;
use xtask::process::{capture, find_program, workspace_root};

const KILLS: usize = 5;
/// Events between two kills.
const EVENTS: u64 = 2000;

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Numbers of the events that were published, in order, with what became of each.
struct Publishing<'a> {
    publisher: &'a Publisher,
    published: AtomicU64,
    stop: AtomicBool,
}

impl Publishing<'_> {
    fn run(&self) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let payload = payload_of(receipts.len() as u64);
            receipts.push(self.publisher.publish(Message::new("log/rust", &payload)).unwrap());
            self.published.store(receipts.len() as u64, Ordering::Relaxed);
        }
        receipts
    }

    fn wait_for_more(&self) {
        let (started, wanted) = (Instant::now(), self.published.load(Ordering::Relaxed) + EVENTS);
        while self.published.load(Ordering::Relaxed) < wanted {
            assert!(started.elapsed() < PATIENCE, "the publisher publishes no more");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn what_is_acknowledged_is_in_the_log_once_though_the_engine_is_killed() {
    let folder = DataFolder::new();
    let setup = Setup::default().same_tcp_port().config(&folder.storage("fsync: always, segment_bytes: 4194304"));
    let mut engine = setup.start();
    let options = Options { max_outstanding: 256, give_up_after: Some(PATIENCE) };
    let publisher = Publisher::with_options(&address(engine.tcp_port()), options).unwrap();
    let publishing = Publishing { publisher: &publisher, published: AtomicU64::new(0), stop: AtomicBool::new(false) };
    let (receipts, engine) = std::thread::scope(|scope| {
        let receipts = scope.spawn(|| publishing.run());
        let stop = SetWhenDropped(&publishing.stop);
        for _ in 0..KILLS {
            publishing.wait_for_more();
            engine.kill();
            engine = setup.start();
        }
        publishing.wait_for_more();
        drop(stop);
        (receipts.join().unwrap(), engine)
    });
    let mut duplicates = 0;
    for receipt in &receipts {
        let told = receipt.wait_for(PATIENCE).expect("an answer in time").unwrap();
        assert_eq!((told.status, told.id), (Status::Durable, receipt.id()));
        duplicates += u64::from(told.is_duplicate);
    }
    println!("{} events, {duplicates} of them sent again although they were in the log", receipts.len());
    engine.drain().assert_balanced();
    // Each payload is the one that belongs to its number, which the reader checks.
    let records: Vec<u64> = folder.read().0.iter().map(|record: &Logged| record.id).collect();
    assert!(records.iter().copied().eq(0..receipts.len() as u64), "{} of {}", records.len(), receipts.len());
}

/// None where the engine serves no subscriptions.
fn subscribe(test: &str, engine: &Engine, subscription: Subscription) -> Option<Subscriber> {
    match Subscriber::new(&address(engine.tcp_port()), subscription) {
        Err(Error::SubscriptionRefused { code, .. }) if code == "unsupported" => {
            skipped(test, "this engine serves no subscriptions");
            None
        }
        subscribed => Some(subscribed.unwrap()),
    }
}

fn next_payload(subscriber: &mut Subscriber) -> Vec<u8> {
    match subscriber.next_within(PATIENCE).unwrap() {
        Some(Delivery::Event(event)) => event.payload,
        other => panic!("{other:?} instead of an event"),
    }
}

#[test]
fn a_subscription_gets_what_is_logged_once_though_the_engine_is_killed() {
    const TEST: &str = "a_subscription_gets_what_is_logged_once_though_the_engine_is_killed";
    let folder = DataFolder::new();
    let setup = Setup::default().same_tcp_port().config(&folder.storage("fsync: always, segment_bytes: 4194304"));
    let mut engine = setup.start();
    let Some(mut subscriber) = subscribe(TEST, &engine, Subscription::new("log/#").start(Start::Earliest)) else {
        return;
    };
    let publisher = Publisher::new(&address(engine.tcp_port())).unwrap();
    let mut numbers = 0..;
    for round in 1..=KILLS as u64 {
        for number in (round - 1) * EVENTS..round * EVENTS {
            publisher.publish(Message::new("log/rust", &payload_of(number))).unwrap();
        }
        let mut takes = |count: u64| {
            for number in numbers.by_ref().take(count as usize) {
                assert_eq!(next_payload(&mut subscriber), payload_of(number), "event {number}");
            }
        };
        // In the middle of what it gets, and perhaps of what is published.
        takes(EVENTS / 2);
        engine.kill();
        engine = setup.start();
        takes(EVENTS / 2);
        publisher.flush().unwrap();
    }
    assert_eq!(subscriber.next_within(Duration::from_millis(100)), Ok(None));
    drop(subscriber);
    engine.drain().assert_balanced();
}

#[test]
fn a_live_subscription_says_when_it_was_away() {
    let setup = Setup::default().same_tcp_port();
    let engine = setup.start();
    let Some(mut subscriber) = subscribe("a_live_subscription_says_when_it_was_away", &engine, Subscription::new("#"))
    else {
        return;
    };
    engine.kill();
    let engine = setup.start();
    let notice = Delivery::Reconnected { is_truncated: false };
    assert_eq!(subscriber.next_within(PATIENCE), Ok(Some(notice)));
    let publisher = Publisher::new(&address(engine.tcp_port())).unwrap();
    for (priority, payload) in [(Priority::High, "realtime"), (Priority::Medium, "transactional")] {
        publisher.publish(Message::new("a/b", payload).priority(priority)).unwrap().wait().unwrap();
        assert_eq!(next_payload(&mut subscriber), payload.as_bytes());
    }
    drop(subscriber);
    engine.drain().assert_balanced();
}

#[test]
fn what_the_engine_refuses_fails_alone() {
    let engine = Setup::default().start();
    let publisher = Publisher::new(&address(engine.tcp_port())).unwrap();
    let publish = |topic: &str| publisher.publish(Message::new(topic, "x")).unwrap();
    let mut receipts: Vec<Receipt> = (0..50).map(|_| publish("t")).collect();
    let wrong = publish(&"t".repeat(300));
    receipts.extend((0..50).map(|_| publish("t")));
    let refused = wrong.wait_for(PATIENCE).unwrap();
    assert!(matches!(refused, Err(Error::PublishRefused { .. })), "{refused:?}");
    publisher.flush().unwrap();
    for receipt in receipts {
        assert_eq!(receipt.wait().unwrap().status, Status::Processed);
    }
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!((ended.count("/tcp_frames/malformed/topic_limit"), ended.processed()), (1, 100));
}

#[test]
fn datagrams_are_parsed_whole() {
    let engine = Setup::default().start();
    let options = UdpOptions { linger: Duration::from_secs(3600), ..UdpOptions::default() };
    let publisher = UdpPublisher::with_options(&address(engine.udp_port()), options).unwrap();
    // As much as the socket's buffer has room for.
    for number in 0..200 {
        publisher.publish(Message::new("t", &payload_of(number)).priority(Priority::High)).unwrap();
    }
    drop(publisher);
    engine.wait_until("the events", |report| count(report, "/events/processed/realtime") == 200);
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.count("/events/accepted"), 200);
}

#[test]
fn frames_are_the_engines() {
    let mut random = Random::new(1);
    for _ in 0..1000 {
        let (number, flags) = (random.draw(), if random.one_in(2) { wire::FLAG_ACK } else { 0 });
        let id = random.one_in(2).then(|| u128::from(number).to_be_bytes());
        let sent_time_ns = random.one_in(2).then(|| random.draw());
        let (ours, theirs) = *random.pick(&[
            (eventstream::frame::Priority::Batch, Priority::Batch),
            (eventstream::frame::Priority::Medium, Priority::Medium),
            (eventstream::frame::Priority::Critical, Priority::Critical),
        ]);
        let topic = "ü/".repeat(1 + random.below(80));
        let payload = payload_of(number);
        let (mut expected, mut encoded) = (Vec::new(), Vec::new());
        encode(&mut expected, &FrameHeader { priority: ours, id, sent_time_ns, flags }, topic.as_bytes(), &payload);
        let header = wire::Header { priority: theirs, id, sent_time_ns, flags };
        wire::encode(&mut encoded, &header, &topic, &payload).unwrap();
        assert_eq!(encoded, expected);
    }
}

fn said(example: &str, arguments: &[&str]) -> String {
    capture(Command::new(binaries::example(example)).args(arguments))
        .unwrap_or_else(|error| panic!("{example}: {error}"))
}

#[test]
fn the_examples_run() {
    let engine: Engine = Setup::default().start();
    assert_eq!(said("publish", &[&address(engine.tcp_port())]), "{Processed: 10000}\n");
    assert!(said("udp", &[&address(engine.udp_port())]).contains("sent"));
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.count("/events/processed/transactional"), 10_000);
}

/// Python, if there is one that is new enough.
fn python(test: &str) -> Option<Command> {
    let Some(program) = find_program("python3") else {
        skipped(test, "there is no python3 here");
        return None;
    };
    let version = Command::new(&program).args(["-c", "import sys; sys.exit(sys.version_info < (3, 9))"]).status();
    if !version.is_ok_and(|status| status.success()) {
        skipped(test, "python3 is older than 3.9");
        return None;
    }
    let mut command = Command::new(program);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

/// The examples of the README, as they stand there: what it shows of Python is run, and what it shows of Rust compiles.
#[test]
fn the_examples_in_the_readme_are_true() {
    let readme = include_str!("../README.md");
    let section =
        readme.split_once("\n## Clients\n").expect("a section about them").1.split_once("\n## ").expect("its end").0;
    let block =
        |language: &str| section.split_once(language).expect("an example").1.split_once("```").expect("its end").0;
    let rust = include_str!("../clients/rust/examples/first.rs");
    assert_eq!(block("```rust\n"), rust.split_once("\n\n").expect("code behind its title").1);
    let Some(mut command) = python("the_examples_in_the_readme_are_true") else { return };
    let engine = Setup::default().start();
    let python_code = block("```python\n");
    let script = python_code.replace("8081", &engine.tcp_port().to_string());
    assert_ne!(script, python_code, "the default port");
    command.args(["-c", &script]).env("PYTHONPATH", "clients/python");
    let printed = capture(command.current_dir(workspace_root())).unwrap();
    assert_eq!(printed, "PROCESSED None False\n".repeat(3));
    engine.drain().assert_balanced();
}

#[test]
fn the_python_client_passes_its_tests() {
    let Some(mut command) = python("the_python_client_passes_its_tests") else { return };
    command.args(["-m", "unittest", "discover", "--verbose"]).current_dir(workspace_root().join("clients/python"));
    command.env("EVENTSTREAM_BIN", binaries::engine());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let reasons: BTreeSet<&str> = said.lines().filter_map(|line| Some(line.split_once(" ... skipped ")?.1)).collect();
    for reason in reasons {
        skipped("the_python_client_passes_its_tests", &format!("some of them: {reason}"));
    }
    println!("{said}");
}
