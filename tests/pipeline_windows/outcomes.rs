//! What becomes of the events of a window.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};

use eventstream::dispatch::TopicEntry;
use eventstream::frame::{FrameHeader, Priority};
use eventstream::metrics::Counter;
use eventstream::worker::Outcome;
use eventstream_tests::pipeline::{FnHandler, Pipeline, PipelineSpec, datagram};

use super::{called, dead, done, send, spec, strict, wait, watched, windowed};

#[test]
fn a_window_that_is_refused_is_dead_lettered_event_by_event() {
    let (mut pipeline, _) = watched(&spec(vec![windowed("a", 3)]), |_| Outcome::Reject("as asked"));
    send(&mut pipeline, "a", &["1", "2", "3", "4"]);
    let ledger = pipeline.finish();
    assert_eq!((dead(&ledger, "rejected"), ledger.dlq.held), (4, 4));
}

#[test]
fn a_window_is_tried_again_as_a_whole_with_growing_pauses() {
    let (mut pipeline, calls) = watched(&spec(vec![windowed("a", 2)]), |_| Outcome::Retry);
    send(&mut pipeline, "a", &["1", "2"]);
    // Others are not held up.
    send(&mut pipeline, "a", &["3"]);
    for (pause, call) in [(9, ""), (1, "a: 1 2 (2)"), (19, ""), (1, "a: 1 2 (3)")] {
        called(&calls);
        wait(&mut pipeline, pause);
        assert_eq!(called(&calls).concat(), call);
    }
    let ledger = pipeline.finish();
    assert_eq!(called(&calls), ["a: 3", "a: 3 (2)", "a: 3 (3)"]);
    assert_eq!(dead(&ledger, "retries_exhausted"), 3);
    assert_eq!(pipeline.sum(Counter::HANDLER_RETRIES), 9);
}

#[test]
fn single_events_of_a_window_can_end_otherwise_than_the_rest() {
    let (mut pipeline, calls) = watched(&spec(vec![windowed("a", 5)]), |window| {
        for event in window.events() {
            match (event.payload(), event.attempt()) {
                (b"x", _) => event.settle(Outcome::Reject("as asked")),
                (b"o", 1) | (b"r", _) => event.settle(Outcome::Retry),
                _ => {}
            }
        }
        Outcome::Done
    });
    send(&mut pipeline, "a", &["1", "x", "o", "2", "r"]);
    wait(&mut pipeline, 10);
    wait(&mut pipeline, 20);
    assert_eq!(called(&calls), ["a: 1 x o 2 r", "a: o r (2)", "a: r (3)"]);
    let ledger = pipeline.finish();
    assert_eq!(
        (ledger.events.processed.batch, dead(&ledger, "rejected"), dead(&ledger, "retries_exhausted")),
        (3, 1, 1)
    );
}

#[test]
fn a_panic_ends_the_window_it_was_about() {
    let (mut pipeline, calls) = watched(&spec(vec![windowed("a", 2)]), |window| {
        if window.events().any(|event| event.payload() == b"p") {
            resume_unwind(Box::new("as asked"));
        }
        Outcome::Done
    });
    send(&mut pipeline, "a", &["1", "p", "2", "3"]);
    assert_eq!(called(&calls), ["a: 1 p", "a: 2 3"]);
    let ledger = pipeline.finish();
    assert_eq!((ledger.events.processed.batch, dead(&ledger, "handler_panic")), (2, 2));
    assert_eq!(pipeline.sum(Counter::HANDLER_PANICS), 1);
}

#[test]
fn windows_of_a_strict_topic_wait_for_the_one_before() {
    let (mut pipeline, calls) = watched(&spec(vec![strict("a", 2), windowed("b", 2)]), |window| {
        let failing = window.events().any(|event| event.payload() == b"o" && event.attempt() == 1);
        if failing { Outcome::Retry } else { Outcome::Done }
    });
    send(&mut pipeline, "a", &["1", "o", "2", "3", "o", "4", "5"]);
    send(&mut pipeline, "b", &["x", "o", "y", "z"]);
    assert_eq!(called(&calls), ["a: 1 o", "b: x o", "b: y z"]);
    assert_eq!(pipeline.sum(Counter::EVENTS_HELD_BACK), 4);
    wait(&mut pipeline, 10);
    assert_eq!(called(&calls), ["a: 1 o (2)", "b: x o (2)", "a: 2 3", "a: o 4"]);
    send(&mut pipeline, "a", &["6", "7"]);
    assert_eq!(called(&calls).len(), 0);
    let ledger = pipeline.finish();
    assert_eq!(called(&calls), ["a: o 4 (2)", "a: 5 6", "a: 7"]);
    assert_eq!(ledger.events.processed.batch, 13);
}

/// More events than the link to the dead letter queue takes at once.
#[test]
fn dead_letters_of_a_large_window_wait_for_room() {
    let large = TopicEntry { window: Some(super::limits(100)), ..strict("a", 100) };
    let spec = PipelineSpec { dead_letter_depth: 8, ..spec(vec![large]) };
    let (mut pipeline, _) = watched(&spec, |window| {
        let first = window.events().next();
        if first.is_some_and(|event| event.payload() == b"0") { Outcome::Reject("as asked") } else { Outcome::Done }
    });
    let payloads: Vec<String> = (0..120).map(|number| number.to_string()).collect();
    send(&mut pipeline, "a", &payloads.iter().map(String::as_str).collect::<Vec<_>>());
    let ledger = pipeline.finish();
    assert_eq!((dead(&ledger, "rejected"), ledger.events.lost.len(), ledger.events.processed.batch), (100, 0, 20));
}

#[test]
fn ids_are_settled_when_their_window_has_ended() {
    let topics = vec![TopicEntry { dedup: true, ..windowed("a", 2) }];
    let (mut pipeline, calls) =
        watched(&spec(topics), |window| if window.attempt() == 1 { Outcome::Retry } else { Outcome::Done });
    let send_id = |pipeline: &mut Pipeline, sequence: u8, topic: &str| {
        let header = FrameHeader { id: Some([sequence; 16]), ..FrameHeader::new(Priority::Batch) };
        pipeline.send(0, &datagram(&header, topic, &[b'0' + sequence]), 1, None);
        pipeline.settle();
    };
    for sequence in [1, 1, 2, 2, 3] {
        send_id(&mut pipeline, sequence, "a");
    }
    assert_eq!(called(&calls), ["a: 1 2"]);
    wait(&mut pipeline, 10);
    for sequence in [1, 2, 3] {
        send_id(&mut pipeline, sequence, "a");
    }
    assert_eq!(called(&calls), ["a: 1 2 (2)"]);
    let ledger = pipeline.finish();
    assert_eq!((ledger.events.duplicate, ledger.events.processed.batch), (5, 3));
}

/// Payload, attempt and mark of every event that a handler without windows was given.
fn obedient(calls: &Arc<Mutex<Vec<String>>>) -> FnHandler {
    let calls = calls.clone();
    FnHandler::new(move |event, end_of_batch| {
        let payload = String::from_utf8_lossy(event.payload()).into_owned();
        let mark = if end_of_batch { "." } else { "" };
        calls.lock().unwrap().push(format!("{payload}{}{mark}", event.attempt()));
        match (payload.as_str(), event.attempt()) {
            ("r", _) | ("o", 1) => Outcome::Retry,
            ("x", _) => Outcome::Reject("as asked"),
            ("p", _) => resume_unwind(Box::new("as asked")),
            _ => Outcome::Done,
        }
    })
}

fn one_by_one(topic: TopicEntry) -> (Pipeline, Arc<Mutex<Vec<String>>>) {
    let calls = Arc::default();
    (Pipeline::new(&spec(vec![topic]), |_, _| obedient(&calls)), calls)
}

#[test]
fn a_handler_without_windows_ends_each_event_by_itself() {
    let (mut pipeline, calls) = one_by_one(windowed("a", 7));
    send(&mut pipeline, "a", &["1", "o", "p", "x", "2", "r", "3"]);
    assert_eq!(called(&calls).join(" "), "11 o1 p1 x1 21 r1 31.");
    wait(&mut pipeline, 10);
    wait(&mut pipeline, 20);
    assert_eq!(called(&calls).join(" "), "o2 r2. r3.");
    let ledger = pipeline.finish();
    assert_eq!(ledger.events.processed.batch, 4);
    let reasons = ["handler_panic", "rejected", "retries_exhausted"];
    assert_eq!(reasons.map(|reason| dead(&ledger, reason)), [1, 1, 1]);
}

#[test]
fn a_handler_without_windows_keeps_a_strict_topics_order() {
    let (mut pipeline, calls) = one_by_one(strict("a", 6));
    send(&mut pipeline, "a", &["1", "o", "p", "r", "o", "2"]);
    assert_eq!(called(&calls).join(" "), "11 o1");
    wait(&mut pipeline, 10);
    assert_eq!(called(&calls).join(" "), "o2 p1 r1");
    wait(&mut pipeline, 10);
    assert_eq!(called(&calls).join(" "), "r2");
    wait(&mut pipeline, 20);
    assert_eq!(called(&calls).join(" "), "r3 o1");
    wait(&mut pipeline, 10);
    assert_eq!(called(&calls).join(" "), "o2 21.");
    let ledger = pipeline.finish();
    assert_eq!(
        (ledger.events.processed.batch, dead(&ledger, "handler_panic"), dead(&ledger, "retries_exhausted")),
        (4, 1, 1)
    );
}

#[test]
fn an_idle_window_memory_is_home() {
    let (mut pipeline, _) = watched(&spec(vec![windowed("a", 2)]), done);
    for _ in 0..1000 {
        send(&mut pipeline, "a", &["1"]);
    }
    assert_eq!((pipeline.ledger().events.in_flight, pipeline.sum(Counter::COPIED_OUT)), (0, 1000));
    pipeline.finish();
}
