//! With a log: from anywhere in it to its end and on, without a gap and without anything twice.

use std::time::Duration;

use eventstream::frame::Priority;
use eventstream_tests::client::connect;
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::{Engine, Setup};
use eventstream_tests::subscriber::{Heard, NO_OFFSET, Subscriber};

use super::publish;

fn start(folder: &DataFolder, storage: &str) -> Engine {
    Setup::default().config(&format!("limits: {{frame_bytes: 65536}}\n{}", folder.storage(storage))).start()
}

/// How many events go through the switch from the log to live; many more by hand.
fn events() -> u64 {
    std::env::var("LIVE_EVENTS").map_or(200_000, |text| text.parse().expect("LIVE_EVENTS is a number"))
}

#[test]
fn from_the_beginning_to_live_nothing_is_missing_and_nothing_comes_twice() {
    let folder = DataFolder::new();
    let engine = start(&folder, "fsync: every");
    let (port, events) = (engine.tcp_port(), events());
    let mut stream = connect(port);
    publish(&mut stream, Priority::Medium, "log/a", 0..events / 2);
    engine.wait_until("the first are logged", |status| {
        status["ledger"]["events"]["processed"]["transactional"].as_u64() > Some(1000)
    });
    let producer = std::thread::spawn(move || {
        // The subscription begins and catches up while this goes on.
        let mut at = events / 2;
        while at < events {
            let next = (at + 1 + events / 400).min(events);
            publish(&mut stream, Priority::Medium, "log/a", at..next);
            at = next;
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let read = |filter: &'static str, start: &'static str| {
        std::thread::spawn(move || {
            let mut subscriber = Subscriber::connect(port);
            subscriber.subscribe(&format!(r#"{{"sub":3,"filter":"{filter}","start":{start}}}"#));
            let first = subscriber.event();
            let mut wanted = first.number();
            let mut event = first.clone();
            loop {
                assert_eq!((event.number(), event.offset), (wanted, wanted), "from {start}");
                wanted += 1;
                if wanted == events {
                    return first.number();
                }
                event = subscriber.event();
            }
        })
    };
    let readers = [
        read("#", "\"earliest\""),
        read("log/+", "\"earliest\""),
        read("#", r#"{"epoch":1,"offset":1000}"#),
        read("#", r#"{"time_ns":1}"#),
    ];
    let firsts = readers.map(|reader| reader.join().unwrap());
    assert_eq!(firsts, [0, 0, 1000, 0]);
    producer.join().unwrap();
    engine.drain().assert_balanced();
}

#[test]
fn a_live_subscription_gets_what_becomes_durable_and_the_latest_one_the_last_before_it() {
    let folder = DataFolder::new();
    let engine = start(&folder, "fsync: always");
    let mut publisher = connect(engine.tcp_port());
    publish(&mut publisher, Priority::Medium, "seen/before", 0..10);
    publish(&mut publisher, Priority::Medium, "other", 10..20);
    engine.wait_until("all are logged", |status| {
        status["ledger"]["events"]["processed"]["transactional"].as_u64() == Some(20)
    });
    let mut live = Subscriber::connect(engine.tcp_port());
    live.subscribe(r##"{"sub":1,"filter":"#"}"##);
    let mut latest = Subscriber::connect(engine.tcp_port());
    latest.subscribe(r#"{"sub":1,"filter":"seen/+","start":"latest"}"#);
    assert_eq!(latest.event().number(), 9);
    publish(&mut publisher, Priority::Medium, "seen/after", 20..30);
    publish(&mut publisher, Priority::High, "realtime", 0..1);
    let mut got: Vec<_> = live.events(11).iter().map(|event| (event.offset, event.epoch, event.number())).collect();
    got.sort_unstable();
    let wanted: Vec<_> = (20..30).map(|number| (number, 1, number)).chain([(NO_OFFSET, 0, 0)]).collect();
    assert_eq!(got, wanted);
    assert!(latest.events(10).iter().map(|event| event.number()).eq(20..30));
    drop((live, latest, publisher));
    engine.drain().assert_balanced();
}

#[test]
fn a_position_goes_on_after_a_crash_and_one_that_is_not_kept_is_told_as_a_gap() {
    let folder = DataFolder::new();
    let storage = "fsync: always, segment_bytes: 1048576, retention_bytes: 2097152";
    let engine = start(&folder, storage);
    publish(&mut connect(engine.tcp_port()), Priority::Medium, "kept", 0..1000);
    let mut subscriber = Subscriber::connect(engine.tcp_port());
    subscriber.subscribe(r#"{"sub":1,"filter":"kept","start":"earliest"}"#);
    assert!(subscriber.events(1000).iter().map(|event| event.offset).eq(0..1000));
    engine.kill();
    let engine = start(&folder, storage);
    let mut subscriber = Subscriber::connect(engine.tcp_port());
    subscriber.subscribe(r#"{"sub":1,"filter":"kept","start":{"epoch":1,"offset":700}}"#);
    assert!(subscriber.events(300).iter().map(|event| event.number()).eq(700..1000));
    // Enough for the first segments to go.
    let mut publisher = connect(engine.tcp_port());
    publish(&mut publisher, Priority::Medium, "kept", 1000..100_000);
    engine.wait_until("segments are removed", |status| {
        status["counters"]["log_segments_removed"].as_u64().is_some_and(|removed| removed > 0)
    });
    let mut late = Subscriber::connect(engine.tcp_port());
    late.subscribe(r#"{"sub":2,"filter":"kept","start":{"epoch":1,"offset":500}}"#);
    let Some(Heard::Said(topic, gap)) = late.hear() else { panic!("an event where a gap is") };
    assert_eq!((topic.as_str(), gap["sub"].as_u64(), gap["from"].as_u64()), ("$esc/gap", Some(2), Some(500)));
    let to = gap["to"].as_u64().unwrap();
    assert_eq!(gap["count"].as_u64(), Some(to - 500));
    assert_eq!(late.event().offset, to);
    drop((subscriber, late, publisher));
    engine.drain().assert_balanced();
}
