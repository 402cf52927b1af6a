//! What an event looks like to a handler.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use eventstream::frame::{Class, FrameHeader, Priority, encode};
use eventstream::worker::{EventView, Outcome};
use eventstream_tests::pipeline::{FnHandler, Pipeline, PipelineSpec, START_NS, datagram, topic};

use super::{Log, id, payloads, recorder, send, with_id};

/// Everything a handler can read of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    topic: String,
    payload: Vec<u8>,
    priority: Priority,
    class: Class,
    id: Option<[u8; 16]>,
    sent_time_ns: Option<u64>,
    arrival_ns: u64,
    source: SocketAddr,
    connection: Option<u32>,
    attempt: u32,
}

impl Seen {
    fn new(event: &EventView<'_>) -> Self {
        assert_eq!(event.topic().as_bytes(), event.topic_bytes());
        Self {
            topic: event.topic().into(),
            payload: event.payload().into(),
            priority: event.priority(),
            class: event.class(),
            id: event.id(),
            sent_time_ns: event.sent_time_ns(),
            arrival_ns: event.arrival_ns(),
            source: event.source(),
            connection: event.connection(),
            attempt: event.attempt(),
        }
    }
}

/// A pipeline whose handler notes what it sees and asks for a retry of what says so.
fn watched(spec: &PipelineSpec) -> (Pipeline, Arc<Mutex<Vec<Seen>>>) {
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let pipeline = Pipeline::new(spec, |_, _| {
        let seen = seen.clone();
        FnHandler::new(move |event, _| {
            seen.lock().unwrap().push(Seen::new(event));
            if event.payload() == b"retry" && event.attempt() == 1 { Outcome::Retry } else { Outcome::Done }
        })
    });
    (pipeline, seen)
}

#[test]
fn the_handler_sees_what_was_sent_and_where_it_came_from() {
    let spec = PipelineSpec { topics: vec![topic("fixed", Class::Batch)], ..PipelineSpec::default() };
    let (mut pipeline, seen) = watched(&spec);
    let from: SocketAddr = "[2001:db8::7]:4000".parse().unwrap();
    let header = FrameHeader { sent_time_ns: Some(77), flags: 0x20, ..with_id(Priority::Critical, id(1, 2)) };
    let mut bytes = datagram(&header, "fixed", b"payload");
    encode(&mut bytes, &FrameHeader::new(Priority::Low), "größe/π".as_bytes(), b"");
    pipeline.advance(5);
    pipeline.send(0, &bytes, 2, Some(from));
    pipeline.settle();
    let first = Seen {
        topic: "fixed".into(),
        payload: b"payload".into(),
        priority: Priority::Critical,
        class: Class::Batch,
        id: Some(id(1, 2)),
        sent_time_ns: Some(77),
        arrival_ns: START_NS + 5,
        source: from,
        connection: None,
        attempt: 1,
    };
    let second = Seen {
        topic: "größe/π".into(),
        payload: Vec::new(),
        priority: Priority::Low,
        class: Class::Transactional,
        id: None,
        sent_time_ns: None,
        ..first.clone()
    };
    let mut got = seen.lock().unwrap().clone();
    got.sort_by_key(|event| std::cmp::Reverse(event.priority));
    assert_eq!(got, [first, second]);
    pipeline.finish();
}

#[test]
fn a_listeners_limit_caps_the_priority_and_with_it_the_class() {
    let (mut pipeline, seen) = watched(&PipelineSpec { max_priority: Priority::Medium, ..PipelineSpec::default() });
    for priority in Priority::ALL {
        send(&mut pipeline, &FrameHeader::new(priority), "t", b"");
        pipeline.settle();
    }
    let seen = seen.lock().unwrap();
    let priorities: Vec<_> = seen.iter().map(|event| event.priority).collect();
    use Priority::{Batch, Low, Medium};
    assert_eq!(priorities, [Batch, Low, Medium, Medium, Medium]);
    assert!(seen[1..].iter().all(|event| event.class == Class::Transactional));
    drop(seen);
    pipeline.finish();
}

#[test]
fn a_retried_event_is_the_same_but_for_its_attempt() {
    let (mut pipeline, seen) = watched(&PipelineSpec::default());
    let froms: Vec<SocketAddr> = ["192.0.2.1:1", "192.0.2.2:2", "[::1]:3"].map(|from| from.parse().unwrap()).into();
    for (number, from) in froms.iter().enumerate() {
        let header = FrameHeader { sent_time_ns: Some(9), ..with_id(Priority::Medium, id(3, number as u64)) };
        pipeline.send(0, &datagram(&header, &format!("t/{number}"), b"retry"), 1, Some(*from));
        pipeline.advance(1_000);
        pipeline.settle();
    }
    pipeline.advance(10_000_000);
    pipeline.settle();
    let seen = seen.lock().unwrap().clone();
    let (first, second) = seen.split_at(3);
    assert_eq!(first.iter().map(|event| event.source).collect::<Vec<_>>(), froms);
    let expected: Vec<_> = first.iter().map(|event| Seen { attempt: 2, ..event.clone() }).collect();
    assert_eq!(second, expected, "also their senders, though they waited in one slot");
    pipeline.finish();
}

/// Which of the handled events were marked as the last of a batch.
fn marks(log: &Log) -> Vec<usize> {
    log.lock().unwrap().iter().enumerate().filter(|(_, (_, end))| *end).map(|(index, _)| index).collect()
}

#[test]
fn the_last_event_at_hand_is_marked() {
    let log = Log::default();
    let spec = PipelineSpec { spsc_depth: 1024, mpsc_depth: 2048, source_slots: 2048, ..PipelineSpec::default() };
    let mut pipeline = Pipeline::new(&spec, |_, _| recorder(&log));
    for batch in [1, 5, 300] {
        let mut bytes = Vec::new();
        for _ in 0..batch {
            bytes.clear();
            encode(&mut bytes, &FrameHeader::new(Priority::High), b"t", b"");
            pipeline.send(0, &bytes, 1, None);
        }
        // All of it is there before the worker looks.
        while pipeline.step_one("source-0") + pipeline.step_one("dispatcher") > 0 {}
        pipeline.settle();
    }
    // A batch ends at the worker's burst of 256 too.
    assert_eq!(marks(&log), [0, 5, 261, 305]);
    pipeline.finish();
}

#[test]
fn duplicates_at_the_end_of_a_batch_do_not_hide_the_mark() {
    let log = Log::default();
    let mut pipeline = Pipeline::new(&PipelineSpec::default(), |_, _| recorder(&log));
    for sequence in [1, 2, 2, 1] {
        let payload = sequence.to_string();
        send(&mut pipeline, &with_id(Priority::Medium, id(1, sequence)), "t", payload.as_bytes());
    }
    pipeline.settle();
    assert_eq!(payloads(&log), ["1", "2"]);
    assert_eq!(marks(&log), [1]);
    assert_eq!(pipeline.finish().events.duplicate, 2);
}
