//! Done, retry, reject, panic.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};

use eventstream::control::State;
use eventstream::frame::{FrameHeader, Priority};
use eventstream::metrics::{Counter, Processed};
use eventstream::runtime::clock::Nanos;
use eventstream::worker::Outcome;
use eventstream_tests::pipeline::{FnHandler, Pipeline, PipelineSpec};

use super::{dead, ends, id, send, with_id};

const MS: Nanos = 1_000_000;

/// Answers as the payload says, and notes which attempt it was asked for.
fn obedient(attempts: &Arc<Mutex<Vec<u32>>>) -> FnHandler {
    let attempts = attempts.clone();
    FnHandler::new(move |event, _| {
        attempts.lock().unwrap().push(event.attempt());
        match event.payload() {
            b"done" => Outcome::Done,
            b"reject" => Outcome::Reject("as asked"),
            b"done at last" if event.attempt() == 3 => Outcome::Done,
            b"retry" | b"done at last" => Outcome::Retry,
            b"reject later" if event.attempt() > 1 => Outcome::Reject("as asked"),
            b"panic later" if event.attempt() > 1 => resume_unwind(Box::new("as asked")),
            b"reject later" | b"panic later" => Outcome::Retry,
            // Not `panic!`: its message would stand among the results as if something were wrong.
            _ => resume_unwind(Box::new("as asked")),
        }
    })
}

fn pipeline(spec: &PipelineSpec) -> (Pipeline, Arc<Mutex<Vec<u32>>>) {
    let attempts = Arc::default();
    (Pipeline::new(spec, |_, _| obedient(&attempts)), attempts)
}

fn retries(spec: PipelineSpec, max_attempts: u32) -> PipelineSpec {
    PipelineSpec { retry: eventstream::worker::RetryPolicy { max_attempts, ..spec.retry }, ..spec }
}

#[test]
fn each_class_ends_an_event_as_its_handler_says() {
    let (mut pipeline, _) = pipeline(&PipelineSpec::default());
    for priority in [Priority::Critical, Priority::Medium, Priority::Batch] {
        for payload in [&b"done"[..], b"done", b"reject", b"panic", b"done"] {
            send(&mut pipeline, &FrameHeader::new(priority), "t", payload);
        }
    }
    let ledger = pipeline.finish();
    assert_eq!(ledger.events.processed, Processed { realtime: 3, transactional: 3, batch: 3 });
    assert_eq!((dead(&ledger, "rejected"), dead(&ledger, "handler_panic")), (3, 3));
    assert_eq!(pipeline.sum(Counter::HANDLER_PANICS), 3);
}

#[test]
fn realtime_events_are_not_retried() {
    let (mut pipeline, attempts) = pipeline(&PipelineSpec::default());
    send(&mut pipeline, &FrameHeader::new(Priority::Critical), "t", b"retry");
    let ledger = pipeline.finish();
    assert_eq!(dead(&ledger, "retries_exhausted"), 1);
    assert_eq!(*attempts.lock().unwrap(), [1]);
}

#[test]
fn retries_wait_twice_as_long_each_time_and_are_bounded() {
    for priority in [Priority::Medium, Priority::Batch] {
        let (mut pipeline, attempts) = pipeline(&retries(PipelineSpec::default(), 4));
        send(&mut pipeline, &FrameHeader::new(priority), "t", b"retry");
        pipeline.settle();
        for (made, pause_ms) in [(1, 10), (2, 20), (3, 40)] {
            assert_eq!(attempts.lock().unwrap().len(), made);
            assert_eq!(pipeline.ledger().stages.waiting_for_retry, 1);
            pipeline.advance(pause_ms * MS - 1);
            pipeline.settle();
            assert_eq!(attempts.lock().unwrap().len(), made, "too early");
            pipeline.advance(1);
            pipeline.settle();
        }
        assert_eq!(*attempts.lock().unwrap(), [1, 2, 3, 4]);
        let ledger = pipeline.finish();
        assert_eq!(dead(&ledger, "retries_exhausted"), 1);
        assert_eq!(pipeline.sum(Counter::HANDLER_RETRIES), 4);
        assert_eq!(pipeline.sum(Counter::COPIED_OUT), 1, "it waits outside its frame");
    }
}

#[test]
fn a_retried_event_can_still_end_well_be_rejected_or_panic() {
    let (mut pipeline, attempts) = pipeline(&PipelineSpec::default());
    for payload in [&b"done at last"[..], b"reject later", b"panic later", b"done"] {
        send(&mut pipeline, &FrameHeader::new(Priority::Medium), "t", payload);
    }
    for _ in 0..3 {
        pipeline.settle();
        pipeline.advance(20 * MS);
    }
    assert_eq!(*attempts.lock().unwrap(), [1, 1, 1, 1, 2, 2, 2, 3]);
    let ledger = pipeline.finish();
    assert_eq!(ledger.events.processed.transactional, 2);
    assert_eq!((dead(&ledger, "rejected"), dead(&ledger, "handler_panic")), (1, 1));
}

#[test]
fn what_finds_the_retry_queue_full_is_dead_lettered() {
    let (mut pipeline, _) = pipeline(&PipelineSpec { retry_depth: 16, ..PipelineSpec::default() });
    for _ in 0..20 {
        send(&mut pipeline, &FrameHeader::new(Priority::Medium), "t", b"retry");
    }
    pipeline.settle();
    let ledger = pipeline.ledger();
    assert_eq!((dead(&ledger, "retry_overflow"), ledger.events.in_flight), (4, 16));
    pipeline.advance(10 * MS);
    pipeline.settle();
    pipeline.advance(20 * MS);
    pipeline.settle();
    let ledger = pipeline.finish();
    assert_eq!((dead(&ledger, "retry_overflow"), dead(&ledger, "retries_exhausted")), (4, 16));
}

#[test]
fn a_drain_gives_waiting_events_their_attempts_without_the_pauses() {
    let (mut pipeline, attempts) = pipeline(&PipelineSpec::default());
    send(&mut pipeline, &FrameHeader::new(Priority::Medium), "t", b"retry");
    send(&mut pipeline, &FrameHeader::new(Priority::Medium), "t", b"done at last");
    pipeline.settle();
    pipeline.state.set(State::Draining);
    let ledger = pipeline.finish();
    assert_eq!(*attempts.lock().unwrap(), [1, 1, 2, 2, 3, 3]);
    assert_eq!((ledger.events.processed.transactional, dead(&ledger, "retries_exhausted")), (1, 1));
}

#[test]
fn copies_of_an_event_that_waits_for_a_retry_are_duplicates() {
    let (mut pipeline, attempts) = pipeline(&PipelineSpec::default());
    for _ in 0..3 {
        send(&mut pipeline, &with_id(Priority::Medium, id(1, 1)), "t", b"done at last");
        pipeline.settle();
    }
    assert_eq!(*attempts.lock().unwrap(), [1]);
    let ledger = pipeline.finish();
    assert_eq!(ends(&ledger), (2, 0));
    assert_eq!(ledger.events.processed.transactional, 1);
}

#[test]
fn a_thousand_panics_cost_neither_the_worker_nor_a_frame() {
    let (mut pipeline, attempts) = pipeline(&PipelineSpec::default());
    for round in 0..1000_u32 {
        let payload: &[u8] = if round % 3 == 0 { b"done" } else { b"panic" };
        let priority = Priority::ALL[round as usize % Priority::ALL.len()];
        send(&mut pipeline, &FrameHeader::new(priority), "t", payload);
        if round % 10 == 0 {
            pipeline.settle();
        }
    }
    let ledger = pipeline.finish();
    assert_eq!((ledger.events.processed.total(), dead(&ledger, "handler_panic")), (334, 666));
    assert_eq!(attempts.lock().unwrap().len(), 1000);
}
