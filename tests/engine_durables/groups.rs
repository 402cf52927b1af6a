//! Members of a group: each event to one of them, again when it is not done, and to the dead letters in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use eventstream_tests::consumer::{Consumer, Delivered};
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::count;
use serde_json::{Value, json};

use super::{publish, publish_as, start};

fn numbers(range: std::ops::Range<u32>) -> Vec<[u8; 4]> {
    range.map(u32::to_be_bytes).collect()
}

fn slices(payloads: &[[u8; 4]]) -> Vec<&[u8]> {
    payloads.iter().map(|payload| &payload[..]).collect()
}

fn number(event: &Delivered) -> u32 {
    u32::from_be_bytes(event.payload[..].try_into().expect("four bytes"))
}

fn group(more: &Value) -> Value {
    let mut subscription = json!({"sub": 1, "filter": "work/#", "group": "workers"});
    for (key, value) in more.as_object().expect("an object") {
        subscription[key] = value.clone();
    }
    subscription
}

#[test]
fn what_a_member_leaves_undone_goes_to_the_others() {
    let folder = DataFolder::new();
    let engine = start(&folder, "");
    let port = engine.tcp_port();
    let member = || Consumer::subscribed(port, group(&json!({"max_in_flight": 10})));
    let (mut one, mut other) = (member(), member());
    publish(&engine, "work/a", &slices(&numbers(0..20)));
    // Both are full: each has every other one, and there is no third.
    let ones: Vec<Delivered> = (0..10).map(|_| one.event().unwrap()).collect();
    let others = other.take(1, 10);
    let all: BTreeSet<u32> = ones.iter().chain(&others).map(number).collect();
    assert_eq!(all, (0..20).collect());
    assert!(ones.iter().chain(&others).all(|event| event.delivery == 1));
    one.done(1, &[ones[0].offset]).unwrap();
    // It goes in order: what it has not done is the other's at once.
    one.unsubscribe(1);
    let again = other.take(1, 9);
    assert_eq!(again.iter().map(number).collect::<Vec<_>>(), ones[1..].iter().map(number).collect::<Vec<_>>());
    assert!(again.iter().all(|event| event.delivery == 2), "{again:?}");
    let listed: Value = serde_json::from_str(&engine.ask(&["subscriptions", "list", "--json"])).unwrap();
    assert_eq!(listed[0]["members"], 1, "{listed}");
    drop((one, other));
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!((ended.count("/subscriptions/matched"), ended.count("/subscriptions/redelivered")), (20, 9));
}

#[test]
fn what_nobody_does_comes_again_and_is_dead_lettered_in_the_end() {
    let folder = DataFolder::new();
    let engine = start(&folder, "");
    let port = engine.tcp_port();
    let wait = json!({"ack_wait_ms": 100, "max_deliveries": 3});
    let (mut one, mut other) = (Consumer::subscribed(port, group(&wait)), Consumer::subscribed(port, group(&wait)));
    publish(&engine, "work/poison", &[b"drop"]);
    // By turns, though both stay.
    let events = [one.event().unwrap(), other.event().unwrap(), one.event().unwrap()];
    assert_eq!(events.map(|event| event.delivery), [1, 2, 3]);
    let status = engine.wait_until("a dead letter", |status| count(status, "/dlq/held") == 1);
    assert_eq!(count(&status, "/subscriptions/dead_lettered"), 1);
    engine.wait_until("nothing left", |_| {
        let listed: Value = serde_json::from_str(&engine.ask(&["subscriptions", "list", "--json"])).unwrap();
        listed[0]["lag"] == 0
    });
    assert!(one.is_silent(Duration::from_millis(300)) && other.is_silent(Duration::from_millis(1)));
    publish(&engine, "work/good", &[b"good"]);
    let good = other.take(1, 1).pop().unwrap();
    assert_eq!(good.payload, b"good");
    let stats = engine.ask(&["dlq", "stats", "--reason", "consumer:workers", "--json"]);
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!((&stats[0]["reason"], &stats[0]["letters"]), (&json!("consumer:workers"), &json!(1)));
    assert_eq!(engine.ask(&["dlq", "stats", "--reason", "consumer:others", "--json"]).trim(), "[]");
    assert!(engine.ask(&["dlq", "list", "--reason", "consumer:workers"]).contains("consumer:workers"));
    drop((one, other));
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.count("/dlq/received"), 1);
    // And in the next run it is still there, and with nobody.
    let engine = start(&folder, "");
    let mut late = Consumer::subscribed(engine.tcp_port(), group(&wait));
    assert!(late.is_silent(Duration::from_millis(200)));
    drop(late);
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.count("/dlq/held_at_start"), 1);
}

/// Its record was processed, so the log has it: a replay is a duplicate of that if there is an id to tell by, and a new event if not.
#[test]
fn what_a_group_did_not_do_is_replayed_once_or_reaches_it_again() {
    let folder = DataFolder::new();
    let engine = start(&folder, "");
    let member = || Consumer::subscribed(engine.tcp_port(), group(&json!({"ack_wait_ms": 100, "max_deliveries": 1})));
    let mut idle = member();
    publish_as(&engine, Some(7), "work/a", &[b"known"]);
    publish_as(&engine, None, "work/b", &[b"unknown"]);
    assert_eq!(
        [idle.event().unwrap().payload, idle.event().unwrap().payload],
        [b"known".to_vec(), b"unknown".to_vec()]
    );
    engine.wait_until("two dead letters", |status| count(status, "/dlq/held") == 2);
    drop(idle);
    let replayed = engine.ask(&["dlq", "replay", "--reason", "consumer:workers"]);
    assert_eq!(replayed.trim(), "2 letters replayed: 1 processed, 1 duplicates, 0 failed again; 0 kept");
    let mut other = member();
    assert_eq!(other.take(1, 1).pop().unwrap().payload, b"unknown");
    assert!(other.is_silent(Duration::from_millis(50)));
    drop(other);
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!((ended.count("/dlq/received"), ended.count("/dlq/held")), (2, 0));
}

#[test]
fn events_of_a_topic_are_done_in_order_by_one_member() {
    const TOPICS: u32 = 12;
    const EACH: u32 = 25;
    let folder = DataFolder::new();
    let engine = start(&folder, "");
    let port = engine.tcp_port();
    let by_topic = json!({"key": "topic", "start": "earliest"});
    let members: Vec<Consumer> = (0..3).map(|_| Consumer::subscribed(port, group(&by_topic))).collect();
    for event in 0..EACH {
        for topic in 0..TOPICS {
            publish(&engine, &format!("work/{topic}"), &[&event.to_be_bytes()]);
        }
    }
    let done = std::sync::atomic::AtomicU32::new(0);
    let got: Vec<Vec<Delivered>> = std::thread::scope(|scope| {
        let work = |mut member: Consumer| {
            let done = &done;
            scope.spawn(move || {
                let mut mine = Vec::new();
                while done.load(std::sync::atomic::Ordering::SeqCst) < TOPICS * EACH {
                    if member.is_silent(Duration::from_millis(20)) {
                        continue;
                    }
                    mine.extend(member.take(1, 1));
                    done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
                mine
            })
        };
        let threads: Vec<_> = members.into_iter().map(work).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut owners = BTreeMap::new();
    for (member, events) in got.iter().enumerate() {
        let mut next: BTreeMap<&str, u32> = BTreeMap::new();
        for event in events {
            assert_eq!(*owners.entry(event.topic.clone()).or_insert(member), member, "{} has moved", event.topic);
            let next = next.entry(&event.topic).or_default();
            assert_eq!((number(event), event.delivery), (*next, 1), "{}", event.topic);
            *next += 1;
        }
    }
    assert_eq!(owners.len(), TOPICS as usize);
    assert!(owners.values().collect::<BTreeSet<_>>().len() > 1, "one has all: {owners:?}");
    engine.drain().assert_balanced();
}
