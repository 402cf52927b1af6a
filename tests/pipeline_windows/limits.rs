//! When a window closes, and what it holds until then.

use eventstream::frame::{Class, FrameHeader, Priority};
use eventstream::worker::Outcome;
use eventstream_tests::pipeline::{PipelineSpec, datagram, topic};

use super::{MS, called, closed, dead, done, limits, send, spec, wait, watched, windowed};

#[test]
fn a_window_closes_with_its_last_event() {
    let (mut pipeline, calls) = watched(&spec(vec![windowed("a", 3), windowed("b", 2)]), done);
    send(&mut pipeline, "a", &["1", "2"]);
    send(&mut pipeline, "b", &["x"]);
    assert_eq!((called(&calls).len(), pipeline.ledger().events.in_flight), (0, 3));
    send(&mut pipeline, "a", &["3", "4"]);
    send(&mut pipeline, "b", &["y"]);
    assert_eq!(called(&calls), ["a: 1 2 3", "b: x y"]);
    let ledger = pipeline.finish();
    assert_eq!(called(&calls), ["a: 4"], "a drain waits for nothing");
    assert_eq!((ledger.events.processed.batch, closed(&pipeline)), (6, [2, 0, 0, 0, 1]));
}

#[test]
fn a_window_closes_when_its_first_event_is_old_enough() {
    let (mut pipeline, calls) = watched(&spec(vec![windowed("a", 100), windowed("b", 100)]), done);
    send(&mut pipeline, "a", &["1"]);
    wait(&mut pipeline, 60);
    send(&mut pipeline, "a", &["2"]);
    send(&mut pipeline, "b", &["x"]);
    wait(&mut pipeline, 39);
    assert_eq!(called(&calls).len(), 0);
    wait(&mut pipeline, 1);
    assert_eq!(called(&calls), ["a: 1 2"]);
    wait(&mut pipeline, 59);
    assert_eq!(called(&calls).len(), 0);
    wait(&mut pipeline, 1);
    assert_eq!(called(&calls), ["b: x"]);
    pipeline.finish();
    assert_eq!(closed(&pipeline), [0, 0, 2, 0, 0]);
}

#[test]
fn a_window_never_has_more_bytes_than_it_may_but_for_a_single_event() {
    // A frame is 3 bytes, the topic and the payload.
    let (mut pipeline, calls) = watched(&spec(vec![windowed("a", 100)]), done);
    let payload = |bytes: usize| "p".repeat(bytes - 4);
    let sizes = |calls: Vec<String>| calls.iter().map(|call| call.matches('p').count()).collect::<Vec<_>>();
    send(&mut pipeline, "a", &[&payload(400), &payload(400), &payload(201)]);
    assert_eq!(sizes(called(&calls)), [792], "the third has no room");
    send(&mut pipeline, "a", &[&payload(799)]);
    assert_eq!(sizes(called(&calls)), [197 + 795], "it is full to the last byte");
    send(&mut pipeline, "a", &[&payload(10), &payload(1500), &payload(10)]);
    assert_eq!(sizes(called(&calls)), [6, 1496]);
    pipeline.finish();
    assert_eq!(closed(&pipeline), [0, 4, 0, 0, 1]);
}

/// A slot of window memory has 2048 bytes here.
#[test]
fn what_no_slot_can_hold_is_a_window_of_its_own_in_order() {
    let spec = PipelineSpec { source_slot_bytes: 8192, ..spec(vec![windowed("a", 100)]) };
    let (mut pipeline, calls) = watched(&spec, |window| {
        if window.bytes() > 3000 && window.len() == 1 { Outcome::Reject("too large") } else { Outcome::Done }
    });
    send(&mut pipeline, "a", &["1", "2", &"x".repeat(4000), "3"]);
    let calls_made = called(&calls);
    assert_eq!((calls_made.len(), calls_made[0].as_str(), calls_made[1].len()), (2, "a: 1 2", 4003));
    let ledger = pipeline.finish();
    assert_eq!(called(&calls), ["a: 3"]);
    assert_eq!((ledger.events.processed.batch, dead(&ledger, "rejected")), (3, 1));
}

#[test]
fn the_window_that_is_due_next_makes_room() {
    // Places for four events, slots for more.
    let spec = PipelineSpec { window_events: 4, ..spec(vec![windowed("a", 100), windowed("b", 100)]) };
    let (mut pipeline, calls) = watched(&spec, done);
    send(&mut pipeline, "a", &["1", "2"]);
    pipeline.advance(MS);
    send(&mut pipeline, "b", &["x", "y"]);
    assert_eq!(called(&calls).len(), 0);
    send(&mut pipeline, "b", &["z"]);
    assert_eq!(called(&calls), ["a: 1 2"]);
    send(&mut pipeline, "a", &["3", "4"]);
    assert_eq!(called(&calls), ["b: x y z"]);
    pipeline.finish();
    assert_eq!(closed(&pipeline), [0, 0, 0, 2, 1]);

    // Two slots of copies, places for more; and one window for each of the topics but one.
    let large = "x".repeat(900);
    let spec = PipelineSpec { window_slots: 2, ..super::spec(vec![windowed("a", 100), windowed("b", 100)]) };
    let (mut pipeline, _) = watched(&spec, done);
    for _ in 0..50 {
        send(&mut pipeline, "a", &[&large]);
        send(&mut pipeline, "b", &[&large]);
    }
    assert_eq!(pipeline.finish().events.processed.batch, 100);

    let names: Vec<String> = (0..17).map(|number| format!("t{number}")).collect();
    let (mut pipeline, calls) = watched(&super::spec(names.iter().map(|name| windowed(name, 100)).collect()), done);
    for name in &names {
        send(&mut pipeline, name, &["1"]);
    }
    assert_eq!(called(&calls), ["t0: 1"]);
    pipeline.finish();
    assert_eq!(closed(&pipeline), [0, 0, 0, 1, 16]);
}

#[test]
fn what_finds_no_room_behind_windows_that_wait_is_handled_alone() {
    let spec = PipelineSpec { window_events: 2, ..spec(vec![windowed("a", 2), windowed("b", 100)]) };
    let (mut pipeline, calls) = watched(&spec, |window| {
        if window.topic() == Some("a") && window.attempt() == 1 { Outcome::Retry } else { Outcome::Done }
    });
    send(&mut pipeline, "a", &["1", "2"]);
    send(&mut pipeline, "b", &["x", "y"]);
    // One that would have to be retried has no room to wait in.
    send(&mut pipeline, "a", &["3"]);
    assert_eq!(called(&calls), ["a: 1 2", "b: x", "b: y", "a: 3"]);
    wait(&mut pipeline, 10);
    assert_eq!(called(&calls), ["a: 1 2 (2)"]);
    let ledger = pipeline.finish();
    assert_eq!((ledger.events.processed.batch, dead(&ledger, "retry_overflow")), (4, 1));
}

#[test]
fn topics_without_windows_are_handled_one_by_one_beside_them() {
    let other = [topic("loose", Class::Batch), windowed("a", 2)];
    let (mut pipeline, calls) = watched(&spec(other.into()), done);
    for (topic, payload) in [("a", "1"), ("loose", "x"), ("none", "y"), ("a", "2"), ("loose", "z")] {
        pipeline.send(0, &datagram(&FrameHeader::new(Priority::Batch), topic, payload.as_bytes()), 1, None);
    }
    pipeline.settle();
    assert_eq!(called(&calls), ["[x]", "[y]", "[z]", "a: 1 2"]);
    assert_eq!(pipeline.finish().events.processed.batch, 5);
}

#[test]
fn topics_without_entry_have_the_windows_of_the_class() {
    let spec = PipelineSpec { unnamed_window: Some(limits(2)), ..spec(vec![topic("loose", Class::Batch)]) };
    let (mut pipeline, calls) = watched(&spec, done);
    send(&mut pipeline, "loose", &["x"]);
    send(&mut pipeline, "none", &["1", "2", "3"]);
    pipeline.send(0, &datagram(&FrameHeader::new(Priority::High), "none", b"realtime"), 1, None);
    pipeline.settle();
    assert_eq!(called(&calls), ["[x]", "?: 1 2", "[realtime]"]);
    pipeline.finish();
    assert_eq!(called(&calls), ["?: 3"]);
}

#[test]
fn a_reload_changes_windows_and_keeps_the_order() {
    let (mut pipeline, calls) = watched(&spec(vec![windowed("a", 3)]), done);
    send(&mut pipeline, "a", &["1"]);
    // From now on none; what is open goes on to its end.
    pipeline.topics.publish(&[topic("a", Class::Batch)]);
    for _ in 0..3 {
        pipeline.invoker.step(pipeline.now());
    }
    send(&mut pipeline, "a", &["2"]);
    assert_eq!(called(&calls).len(), 0);
    send(&mut pipeline, "a", &["3", "4"]);
    // The fourth was on its way while the window was still open: it comes behind it.
    assert_eq!(called(&calls), ["a: 1 2 3", "a: 4"]);
    send(&mut pipeline, "a", &["5"]);
    assert_eq!(called(&calls), ["[5]"]);
    pipeline.topics.publish(&[windowed("a", 2)]);
    for _ in 0..3 {
        pipeline.invoker.step(pipeline.now());
    }
    send(&mut pipeline, "a", &["6", "7"]);
    assert_eq!(called(&calls), ["a: 6 7"]);
    pipeline.finish();
}
