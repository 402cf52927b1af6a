//! Without a log: what ends is sent to those who want it.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use eventstream::frame::Priority;
use eventstream_tests::client::{connect, event};
use eventstream_tests::engine_process::Setup;
use eventstream_tests::subscriber::{Heard, NO_OFFSET, Subscriber};

use super::publish;

#[test]
fn each_gets_what_it_asked_for_and_nothing_else() {
    let engine = Setup::default().start();
    let mut all = Subscriber::connect(engine.tcp_port());
    all.subscribe(r##"{"sub":1,"filter":"#"}"##);
    let mut some = Subscriber::connect(engine.tcp_port());
    some.subscribe(r#"{"sub":7,"filter":"a/+"}"#);
    some.subscribe(r#"{"sub":8,"filter":"a/x","classes":["batch"]}"#);
    let mut publisher = connect(engine.tcp_port());
    let sent = [("a/x", Priority::High), ("b", Priority::Medium), ("a/y/z", Priority::Low), ("a/x", Priority::Batch)];
    for (number, (topic, priority)) in sent.iter().enumerate() {
        publish(&mut publisher, *priority, topic, number as u64..number as u64 + 1);
    }
    let mut got: Vec<_> =
        all.events(4).iter().map(|event| (event.number(), event.topic.clone(), event.class)).collect();
    got.sort();
    let wanted = [(0, "a/x", 0), (1, "b", 1), (2, "a/y/z", 1), (3, "a/x", 2)];
    assert_eq!(got, wanted.map(|(number, topic, class)| (number, topic.to_owned(), class)));
    let mut got: Vec<_> = some.events(3).iter().map(|event| (event.sub, event.number(), event.offset)).collect();
    got.sort_unstable();
    assert_eq!(got, [(7, 0, NO_OFFSET), (7, 3, NO_OFFSET), (8, 3, NO_OFFSET)]);

    // Who has ended a subscription gets no more of it.
    some.ask("$esc/unsubscribe", r#"{"sub":7}"#);
    assert!(matches!(some.hear(), Some(Heard::Said(topic, _)) if topic == "$esc/ok"));
    publish(&mut publisher, Priority::Batch, "a/x", 9..10);
    let event = some.event();
    assert_eq!((event.sub, event.number()), (8, 9));
    assert_eq!(all.event().number(), 9);
    // Its number may be used again, and counts from the beginning.
    some.subscribe(r#"{"sub":7,"filter":"nothing"}"#);
    some.ask("$esc/count", r#"{"sub":7}"#);
    let Some(Heard::Said(_, count)) = some.hear() else { panic!("no count") };
    assert_eq!(count["delivered"].as_u64(), Some(0));
    some.ask("$esc/count", r#"{"sub":8}"#);
    let Some(Heard::Said(_, count)) = some.hear() else { panic!("no count") };
    assert_eq!(
        (count["delivered"].as_u64(), count["dropped"].as_u64(), count["waiting"].as_u64()),
        (Some(2), Some(0), Some(0))
    );

    drop((all, some, publisher));
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!((ended.count("/subscriptions/matched"), ended.count("/subscriptions/delivered")), (9, 9));
}

#[test]
fn a_hundred_subscribers_get_each_event_once_and_in_order() {
    const EVENTS: u64 = 2_000;
    let engine = Setup::default().start();
    let mut subscribers: Vec<_> = (0..100).map(|_| Subscriber::connect(engine.tcp_port())).collect();
    for (number, subscriber) in subscribers.iter_mut().enumerate() {
        // Some have the same bytes sent to them, some have not.
        subscriber.subscribe(&format!(r#"{{"sub":{},"filter":"fan/+"}}"#, number % 7));
    }
    publish(&mut connect(engine.tcp_port()), Priority::High, "fan/out", 0..EVENTS);
    for subscriber in &mut subscribers {
        let numbers: Vec<u64> = subscriber.events(EVENTS as usize).iter().map(|event| event.number()).collect();
        assert!(numbers.into_iter().eq(0..EVENTS));
    }
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.count("/subscriptions/delivered"), 100 * EVENTS);
}

/// Also over UDP, and though the engine ends while they are on their way.
#[test]
fn what_was_taken_in_before_the_end_is_sent() {
    const EVENTS: u64 = 20_000;
    let engine = Setup::default().start();
    let mut subscriber = Subscriber::connect(engine.tcp_port());
    subscriber.subscribe(r##"{"sub":1,"filter":"#"}"##);
    let reader = std::thread::spawn(move || {
        let mut numbers = Vec::new();
        while let Some(heard) = subscriber.hear() {
            numbers.push(heard.event().number());
        }
        numbers
    });
    let mut publisher = connect(engine.tcp_port());
    publish(&mut publisher, Priority::High, "end", 0..EVENTS);
    let ended = engine.drain();
    ended.assert_balanced();
    let numbers = reader.join().unwrap();
    // Those for which the sender had no room are counted, and nobody waits for it.
    let overflowed = ended.count("/subscriptions/overflowed");
    assert_eq!(numbers.len() as u64 + overflowed, ended.processed());
    assert!(numbers.is_sorted_by(|before, after| before < after));
}

/// As it stands there: run, and what it prints.
#[test]
fn the_example_in_the_readme_prints_what_is_published() {
    let readme = include_str!("../../README.md");
    let behind = readme.split_once("### Subscriptions\n").expect("a section about them").1;
    let example = behind.split_once("```python\n").expect("an example").1.split_once("```").expect("its end").0;
    let engine = Setup::default().start();
    let script = example.replace("8081", &engine.tcp_port().to_string());
    assert_ne!(script, example, "the default port");
    let mut python = Command::new("python3");
    let mut python = python.args(["-u", "-c", &script]).stdout(Stdio::piped()).spawn().expect("python3 is there");
    engine.wait_until("it has subscribed", |status| status["counters"]["subscriptions_opened"].as_u64() == Some(1));
    let mut publisher = connect(engine.tcp_port());
    publisher.write_all(&event(Priority::High, "sensor/temp", b"23.5")).expect("the engine reads");
    publisher.write_all(&event(Priority::High, "elsewhere", b"0")).expect("the engine reads");
    engine.wait_until("both are handled", |status| {
        status["ledger"]["events"]["processed"]["realtime"].as_u64() == Some(2)
    });
    engine.drain().assert_balanced();
    let mut printed = String::new();
    python.stdout.take().expect("piped").read_to_string(&mut printed).expect("text");
    assert!(python.wait().expect("it ends").success());
    assert_eq!(printed, "$esc/ok b'{\"sub\":1}'\nsensor/temp b'23.5'\n");
}
