//! One who does not read holds up nobody.

use std::time::Duration;

use eventstream::frame::Priority;
use eventstream_tests::client::connect;
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::{Setup, sum};
use eventstream_tests::subscriber::{Heard, Subscriber};

use super::publish;

/// More than the sockets' buffers and what may wait behind them.
const EVENTS: u64 = 300_000;
const SMALL: &str = "subscriptions: {backlog_bytes: 65536}\n";

#[test]
fn live_events_are_dropped_for_it_alone_and_it_is_told() {
    let engine = Setup::default().config(SMALL).start();
    let port = engine.tcp_port();
    let mut stopped = Subscriber::connect(port);
    stopped.subscribe(r##"{"sub":1,"filter":"#"}"##);
    let mut impatient = Subscriber::connect(port);
    impatient.subscribe(r##"{"sub":1,"filter":"#","slow":"disconnect"}"##);
    let mut good = Subscriber::connect(port);
    good.subscribe(r##"{"sub":1,"filter":"#"}"##);
    // At a pace that one who reads can keep.
    let publisher = std::thread::spawn(move || {
        let mut stream = connect(port);
        for batch in 0..EVENTS / 1000 {
            publish(&mut stream, Priority::High, "slow", batch * 1000..(batch + 1) * 1000);
            std::thread::sleep(Duration::from_millis(3));
        }
    });
    for number in 0..EVENTS {
        assert_eq!(good.event().number(), number);
    }
    publisher.join().unwrap();

    // It gets what had waited for it, and the word of what it has missed.
    let (mut got, mut missed, mut last) = (0, 0, None);
    for heard in stopped.heard_within(Duration::from_millis(500)) {
        match heard {
            Heard::Event(event) => {
                assert!(last.is_none_or(|last| last < event.number()));
                last = Some(event.number());
                got += 1;
            }
            Heard::Said(topic, said) => {
                assert_eq!((topic.as_str(), said["sub"].as_u64()), ("$esc/dropped", Some(1)));
                missed += said["count"].as_u64().unwrap();
            }
        }
    }
    assert!(got > 0 && missed > 0, "{got} {missed}");
    assert_eq!(got + missed, EVENTS);
    let mut until_the_end = 0;
    while impatient.hear().is_some() {
        until_the_end += 1;
    }
    assert!(until_the_end < EVENTS);

    drop((stopped, good));
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.report["counters"]["subscribers_disconnected"].as_u64().unwrap_or(0), 1);
    assert!(sum(&ended.report, "/subscriptions/dropped") > missed);
}

#[test]
fn events_in_the_log_wait_for_it_there() {
    let folder = DataFolder::new();
    let engine = Setup::default().config(&format!("{SMALL}{}", folder.storage("fsync: every"))).start();
    let port = engine.tcp_port();
    let mut stopped = Subscriber::connect(port);
    stopped.subscribe(r##"{"sub":1,"filter":"#"}"##);
    let mut good = Subscriber::connect(port);
    good.subscribe(r##"{"sub":1,"filter":"#"}"##);
    let publisher = std::thread::spawn(move || publish(&mut connect(port), Priority::Medium, "slow", 0..EVENTS));
    for number in 0..EVENTS {
        assert_eq!(good.event().number(), number);
    }
    publisher.join().unwrap();
    for number in 0..EVENTS {
        assert_eq!(stopped.event().number(), number);
    }
    // Both are at the end again.
    publish(&mut connect(port), Priority::Medium, "slow", EVENTS..EVENTS + 1);
    assert_eq!((good.event().number(), stopped.event().number()), (EVENTS, EVENTS));
    drop((stopped, good));
    let ended = engine.drain();
    ended.assert_balanced();
    assert!(ended.report["counters"]["subscriptions_fell_behind"].as_u64().unwrap_or(0) > 0);
    assert_eq!(ended.count("/subscriptions/delivered"), 2 * (EVENTS + 1));
}

#[test]
fn a_live_one_begins_at_the_end_though_all_others_are_behind() {
    let folder = DataFolder::new();
    let engine = Setup::default().config(&format!("{SMALL}{}", folder.storage("fsync: every"))).start();
    let port = engine.tcp_port();
    let mut stopped = Subscriber::connect(port);
    stopped.subscribe(r##"{"sub":1,"filter":"#"}"##);
    publish(&mut connect(port), Priority::Medium, "slow", 0..EVENTS);
    engine.wait_until("it is behind, and all is logged", |status| {
        status["counters"]["subscriptions_fell_behind"].as_u64() > Some(0)
            && status["ledger"]["events"]["processed"]["transactional"].as_u64() == Some(EVENTS)
    });
    let mut live = Subscriber::connect(port);
    live.subscribe(r##"{"sub":1,"filter":"#"}"##);
    publish(&mut connect(port), Priority::Medium, "slow", EVENTS..EVENTS + 1);
    assert_eq!(live.event().number(), EVENTS);
    for number in 0..=EVENTS {
        assert_eq!(stopped.event().number(), number);
    }
    drop((stopped, live));
    engine.drain().assert_balanced();
}
