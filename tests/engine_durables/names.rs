//! Names: who may have one, what is known of them, and how they go.

use eventstream_tests::consumer::{Consumer, Received};
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::{Engine, Setup};
use serde_json::{Value, json};

use super::{LIMITS, publish, start};

fn durable(sub: u32) -> Value {
    json!({"sub": sub, "filter": "a/+", "durable": "books", "start": "earliest"})
}

fn listed(engine: &Engine) -> Vec<Value> {
    serde_json::from_str(&engine.ask(&["subscriptions", "list", "--json"])).expect("a list")
}

#[test]
fn a_name_has_one_subscriber_and_one_meaning() {
    let folder = DataFolder::new();
    let engine = start(&folder, "subscriptions: {names: 2}\n");
    let port = engine.tcp_port();
    let mut owner = Consumer::subscribed(port, durable(1));
    let mut other = Consumer::connect(port);
    let mut refused = |more: Value| {
        let mut asked = durable(7);
        more.as_object().expect("an object").iter().for_each(|(key, value)| asked[key] = value.clone());
        other.refusal("$esc/subscribe", &asked)
    };
    assert_eq!(refused(json!({})), "durable_in_use");
    assert_eq!(refused(json!({"filter": "a/b"})), "durable_mismatch");
    assert_eq!(refused(json!({"classes": ["batch"]})), "durable_mismatch");
    assert_eq!(refused(json!({"stream": "other"})), "no_such_stream");
    assert_eq!(refused(json!({"durable": "late", "start": {"epoch": 900, "offset": 1}})), "truncated");
    // A group of the same name is another name, and the last one there may be.
    let mut member = Consumer::subscribed(port, json!({"sub": 1, "filter": "a/+", "group": "books"}));
    assert_eq!(refused(json!({"durable": "third"})), "too_many_names");
    let error = json!({"sub": 3, "filter": "b", "group": "books"});
    assert_eq!(member.refusal("$esc/subscribe", &error), "group_mismatch");
    publish(&engine, "a/b", &[b"1", b"2"]);
    assert_eq!(owner.take(1, 2)[1].payload, b"2");
    let count = owner.ask("$esc/count", &json!({"sub": 1})).unwrap();
    assert_eq!(count, json!({"sub": 1, "delivered": 2, "dropped": 0, "waiting": 0}));
    owner.unsubscribe(1);
    assert_eq!(owner.refusal("$esc/unsubscribe", &json!({"sub": 1})), "no_such_sub");
    // Now it is free, and goes on.
    other.ask("$esc/subscribe", &durable(7)).unwrap();
    publish(&engine, "a/b", &[b"3"]);
    assert_eq!(other.take(7, 1)[0].payload, b"3");
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.report["counters"]["subscription_names_refused"], 1);
}

#[test]
fn names_are_listed_outlive_the_engine_and_are_deleted() {
    let folder = DataFolder::new();
    let engine = start(&folder, "");
    publish(&engine, "a/b", &[b"1", b"2", b"3"]);
    let mut owner = Consumer::subscribed(engine.tcp_port(), durable(1));
    let events: Vec<_> = (0..3).map(|_| owner.event().unwrap()).collect();
    owner.done(1, &[events[0].offset, events[2].offset]).unwrap();
    owner.ask("$esc/count", &json!({"sub": 1})).unwrap();
    let name = &listed(&engine)[0];
    let shown = ["kind", "name", "filter", "stream", "members", "in_flight"].map(|key| name[key].clone());
    assert_eq!(shown, [json!("durable"), json!("books"), json!("a/+"), json!("default"), json!(1), json!(1)]);
    assert_eq!((&name["position"]["offset"], &name["lag"]), (&json!(events[1].offset), &json!(2)));
    drop(owner);
    engine.drain().assert_balanced();

    let engine = start(&folder, "");
    assert_eq!(listed(&engine)[0]["position"]["offset"], json!(events[1].offset));
    // `start` counts only where the name is new.
    let mut owner = Consumer::subscribed(engine.tcp_port(), {
        let mut asked = durable(1);
        asked["start"] = json!("live");
        asked
    });
    publish(&engine, "a/b", &[b"4"]);
    let got = owner.take(1, 2);
    assert_eq!((&got[0].payload[..], got[0].delivery, &got[1].payload[..]), (&b"2"[..], 2, &b"4"[..]));
    owner.unsubscribe(1);
    assert!(engine.ask(&["subscriptions", "list"]).contains("durable  books"), "{:?}", listed(&engine));
    assert_eq!(engine.ask(&["subscriptions", "delete", "books"]).trim(), "durable books deleted");
    assert_eq!(listed(&engine), [] as [Value; 0]);
    // It begins anew.
    owner.ask("$esc/subscribe", &durable(1)).unwrap();
    assert_eq!(owner.take(1, 1)[0].payload, b"1");
    engine.drain().assert_balanced();
}

#[test]
fn what_is_not_kept_any_more_is_told_of() {
    let folder = DataFolder::new();
    let storage = folder.storage("segment_bytes: 1048576, retention_bytes: 2097152") + LIMITS;
    let engine = Setup::default().config(&storage).start();
    publish(&engine, "a/b", &[b"first"]);
    let mut owner = Consumer::subscribed(engine.tcp_port(), durable(1));
    let first = owner.event().unwrap();
    owner.unsubscribe(1);
    let large = vec![7; 200_000];
    publish(&engine, "a/b", &vec![&large[..]; 40]);
    engine.wait_until("segments that are gone", |status| status["counters"]["log_segments_removed"].as_u64() > Some(2));
    owner.ask("$esc/subscribe", &durable(2)).unwrap();
    let Received::Control(topic, gap) = owner.received().unwrap() else { panic!("no gap") };
    assert_eq!((&topic[..], &gap["sub"], &gap["from"]), ("$esc/gap", &json!(2), &json!(first.offset)), "{gap}");
    let to = gap["to"].as_u64().unwrap();
    assert_eq!(gap["count"].as_u64(), Some(to - first.offset));
    let Received::Event(next) = owner.received().unwrap() else { panic!("another gap") };
    assert!(next.offset >= to && next.payload == large);
    engine.drain().assert_balanced();
}
