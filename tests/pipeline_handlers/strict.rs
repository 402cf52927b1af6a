//! Topics in strict order: a retry holds back what comes after it, and only that.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};

use eventstream::dispatch::TopicEntry;
use eventstream::frame::{Class, FrameHeader, Priority};
use eventstream::metrics::{Counter, Ledger};
use eventstream::worker::{Outcome, RetryPolicy};
use eventstream_tests::pipeline::{FnHandler, Pipeline, PipelineSpec, topic};

use super::{dead, ends, id, send, with_id};

const MS: u64 = 1_000_000;

/// Payload and attempt of every call of a handler.
type Calls = Arc<Mutex<Vec<String>>>;

/// Does what the payload's first letter says: `r` retries for ever, `o` once, `p` panics on its second attempt, `x` is rejected
/// then, and all else is done at once.
fn obedient(calls: &Calls) -> FnHandler {
    let calls = calls.clone();
    FnHandler::new(move |event, _| {
        let payload = String::from_utf8_lossy(event.payload()).into_owned();
        calls.lock().unwrap().push(format!("{payload}{}", event.attempt()));
        match (payload.as_bytes()[0], event.attempt()) {
            (b'r', _) | (b'o' | b'p' | b'x', 1) => Outcome::Retry,
            (b'p', _) => resume_unwind(Box::new("as asked")),
            (b'x', _) => Outcome::Reject("as asked"),
            _ => Outcome::Done,
        }
    })
}

/// `strict` and `loose` are topics of one class, and go to one worker.
fn pipeline(class: Class, spec: PipelineSpec) -> (Pipeline, Calls) {
    let calls = Calls::default();
    let topics = vec![TopicEntry { strict: true, ..topic("strict", class) }, topic("loose", class)];
    (Pipeline::new(&PipelineSpec { topics, ..spec }, |_, _| obedient(&calls)), calls)
}

fn send_all(pipeline: &mut Pipeline, events: &[(&str, &str)]) {
    for (topic, payload) in events {
        send(pipeline, &FrameHeader::new(Priority::Medium), topic, payload.as_bytes());
    }
}

fn called(calls: &Calls) -> String {
    std::mem::take(&mut *calls.lock().unwrap()).join(" ")
}

/// Settles after each of so many pauses.
fn wait(pipeline: &mut Pipeline, pauses: &[u64]) {
    for pause in pauses {
        pipeline.advance(pause * MS);
        pipeline.settle();
    }
}

#[test]
fn a_retry_holds_back_its_topic_and_no_other() {
    for class in [Class::Transactional, Class::Batch] {
        let (mut pipeline, calls) = pipeline(class, PipelineSpec::default());
        let burst =
            [("strict", "a"), ("strict", "o"), ("strict", "b"), ("loose", "o"), ("loose", "c"), ("strict", "d")];
        send_all(&mut pipeline, &burst);
        pipeline.settle();
        assert_eq!(called(&calls), "a1 o1 o1 c1");
        // A later burst finds the topic waiting.
        send_all(&mut pipeline, &[("strict", "e"), ("loose", "f")]);
        wait(&mut pipeline, &[9]);
        assert_eq!(called(&calls), "f1");
        assert_eq!((pipeline.ledger().events.in_flight, pipeline.sum(Counter::EVENTS_HELD_BACK)), (5, 3));
        wait(&mut pipeline, &[1]);
        assert_eq!(called(&calls), "o2 o2 b1 d1 e1");
        assert_eq!(pipeline.sum(Counter::COPIED_OUT), 5);
        // Nothing waits any more.
        send_all(&mut pipeline, &[("strict", "g")]);
        pipeline.settle();
        assert_eq!(called(&calls), "g1");
        assert_eq!(pipeline.finish().events.processed.total(), 9);
    }
}

#[test]
fn what_is_held_back_follows_however_the_first_one_ends_and_may_itself_wait() {
    let (mut pipeline, calls) = pipeline(Class::Transactional, PipelineSpec::default());
    send_all(&mut pipeline, &["x", "p", "r", "o", "b"].map(|payload| ("strict", payload)));
    pipeline.settle();
    assert_eq!(called(&calls), "x1");
    wait(&mut pipeline, &[10]);
    assert_eq!(called(&calls), "x2 p1");
    wait(&mut pipeline, &[10]);
    assert_eq!(called(&calls), "p2 r1");
    wait(&mut pipeline, &[10, 20]);
    assert_eq!(called(&calls), "r2 r3 o1");
    wait(&mut pipeline, &[10]);
    assert_eq!(called(&calls), "o2 b1");
    let ledger = pipeline.finish();
    let reasons = ["rejected", "handler_panic", "retries_exhausted"].map(|reason| dead(&ledger, reason));
    assert_eq!((reasons, ledger.events.processed.transactional), ([1, 1, 1], 2));
}

#[test]
fn what_finds_no_room_behind_a_retry_is_dead_lettered() {
    let (mut pipeline, calls) =
        pipeline(Class::Transactional, PipelineSpec { retry_depth: 16, ..PipelineSpec::default() });
    send_all(&mut pipeline, &[("strict", "o")]);
    send_all(&mut pipeline, &[("strict", "b"); 20]);
    pipeline.settle();
    let ledger = pipeline.ledger();
    assert_eq!((dead(&ledger, "retry_overflow"), ledger.events.in_flight), (5, 16));
    wait(&mut pipeline, &[10]);
    assert_eq!(called(&calls), format!("o1 o2{}", " b1".repeat(15)));
    pipeline.finish();
}

/// A first one that is not to wait, or finds no room, has ended when its burst does: what is behind it in the same burst
/// goes on.
#[test]
fn nothing_waits_behind_what_does_not_wait_itself() {
    let once = RetryPolicy { max_attempts: 1, ..PipelineSpec::default().retry };
    let (mut pipeline, calls) = pipeline(Class::Transactional, PipelineSpec { retry: once, ..PipelineSpec::default() });
    send_all(&mut pipeline, &[("strict", "o"), ("strict", "b"), ("strict", "o"), ("strict", "c")]);
    pipeline.settle();
    assert_eq!(called(&calls), "o1 b1 o1 c1");
    assert_eq!(dead(&pipeline.finish(), "retries_exhausted"), 2);

    let (mut pipeline, calls) = self::pipeline(Class::Transactional, PipelineSpec::default());
    send_all(&mut pipeline, &[("loose", "r"); 16]);
    pipeline.settle();
    called(&calls);
    send_all(&mut pipeline, &[("strict", "o"), ("strict", "b"), ("strict", "c")]);
    pipeline.settle();
    assert_eq!(called(&calls), "o1 b1 c1");
    assert_eq!(dead(&pipeline.finish(), "retry_overflow"), 1);
}

#[test]
fn a_drain_gives_what_is_held_back_its_attempts_too() {
    let (mut pipeline, calls) = pipeline(Class::Batch, PipelineSpec::default());
    send_all(&mut pipeline, &["r", "o", "b"].map(|payload| ("strict", payload)));
    pipeline.settle();
    let ledger: Ledger = pipeline.finish();
    assert_eq!(called(&calls), "r1 r2 r3 o1 o2 b1");
    assert_eq!((ledger.events.processed.batch, dead(&ledger, "retries_exhausted")), (2, 1));
}

#[test]
fn ids_are_claimed_while_their_events_are_held_back() {
    let spec = PipelineSpec::default();
    let topics = vec![TopicEntry { strict: true, dedup: true, ..topic("strict", Class::Transactional) }];
    let calls = Calls::default();
    let mut pipeline = Pipeline::new(&PipelineSpec { topics, ..spec }, |_, _| obedient(&calls));
    for (sequence, payload) in [(1, "o"), (2, "b"), (2, "b"), (1, "o")] {
        send(&mut pipeline, &with_id(Priority::Medium, id(1, sequence)), "strict", payload.as_bytes());
        pipeline.settle();
    }
    wait(&mut pipeline, &[10]);
    send(&mut pipeline, &with_id(Priority::Medium, id(1, 2)), "strict", b"b");
    pipeline.settle();
    assert_eq!(called(&calls), "o1 o2 b1");
    assert_eq!(ends(&pipeline.finish()), (3, 0));
}
