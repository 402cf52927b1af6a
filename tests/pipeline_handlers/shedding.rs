//! What the states keep from the handlers, and what the dead letter queue keeps of it.

use eventstream::control::State;
use eventstream::frame::{Class, FrameHeader, Priority};
use eventstream::metrics::{Counter, Ledger};
use eventstream::worker::Outcome;
use eventstream_tests::pipeline::{FnHandler, Pipeline, PipelineSpec, topic};

use super::{Log, dead, payloads, recorder, send};

/// Sends one event of each priority in `state`; the ledger and the priorities that were handled.
fn one_of_each(state: State, spec: &PipelineSpec) -> (Ledger, Vec<String>) {
    let log = Log::default();
    let mut pipeline = Pipeline::new(spec, |_, _| recorder(&log));
    pipeline.state.set(state);
    for priority in Priority::ALL {
        send(&mut pipeline, &FrameHeader::new(priority), "t", priority.as_str().as_bytes());
        pipeline.settle();
    }
    (pipeline.finish(), payloads(&log))
}

#[test]
fn each_state_sheds_what_it_says_with_its_own_reason() {
    let spec = PipelineSpec::default();
    let (ledger, handled) = one_of_each(State::Running, &spec);
    assert_eq!(handled, ["batch", "low", "medium", "high", "critical"]);
    assert!(ledger.events.dead_lettered.is_empty());
    let (ledger, handled) = one_of_each(State::Dropping, &spec);
    assert_eq!(handled, ["medium", "high", "critical"]);
    assert_eq!(dead(&ledger, "shed_dropping"), 2);
    let (ledger, handled) = one_of_each(State::Emergency, &spec);
    assert_eq!(handled, ["critical"]);
    assert_eq!(dead(&ledger, "shed_emergency"), 4);
}

#[test]
fn the_wire_priority_decides_what_is_shed_whatever_class_the_topic_has() {
    let spec = PipelineSpec { topics: vec![topic("t", Class::Realtime)], ..PipelineSpec::default() };
    assert_eq!(one_of_each(State::Dropping, &spec).1, ["medium", "high", "critical"]);
    let spec = PipelineSpec { topics: vec![topic("t", Class::Batch)], ..PipelineSpec::default() };
    assert_eq!(one_of_each(State::Emergency, &spec).1, ["critical"]);
}

#[test]
fn nothing_is_taken_in_while_paused_and_nothing_is_missing_afterwards() {
    let log = Log::default();
    let mut pipeline = Pipeline::new(&PipelineSpec::default(), |_, _| recorder(&log));
    send(&mut pipeline, &FrameHeader::new(Priority::High), "t", b"before");
    pipeline.step_one("source-0");
    pipeline.state.set(State::Paused);
    send(&mut pipeline, &FrameHeader::new(Priority::High), "t", b"while");
    pipeline.settle();
    assert_eq!(payloads(&log), ["before"], "what is in flight finishes");
    assert_eq!(pipeline.ledger().events.accepted, 1);
    pipeline.state.set(State::Running);
    pipeline.settle();
    assert_eq!(payloads(&log), ["before", "while"]);
    pipeline.finish();
}

fn rejecting(spec: &PipelineSpec) -> Pipeline {
    Pipeline::new(spec, |_, _| FnHandler::new(|_, _| Outcome::Reject("no")))
}

#[test]
fn the_oldest_dead_letters_make_room_and_a_flood_of_shed_events_evicts_no_failed_one() {
    // A record is 14 bytes and the frame: 3 bytes, topic, payload.
    let record = 14 + 3 + 1 + 46;
    let spec = PipelineSpec { failed_bytes: 4 * record, shed_bytes: 2 * record, ..PipelineSpec::default() };
    let mut pipeline = rejecting(&spec);
    for _ in 0..3 {
        send(&mut pipeline, &FrameHeader::new(Priority::High), "t", &[0; 46]);
    }
    pipeline.settle();
    pipeline.state.set(State::Emergency);
    for _ in 0..10 {
        send(&mut pipeline, &FrameHeader::new(Priority::High), "t", &[0; 46]);
    }
    pipeline.settle();
    assert_eq!(pipeline.dead_letters_held(), (3, 2));
    pipeline.state.set(State::Running);
    for _ in 0..3 {
        send(&mut pipeline, &FrameHeader::new(Priority::High), "t", &[0; 46]);
    }
    pipeline.settle();
    assert_eq!(pipeline.dead_letters_held(), (4, 2));
    let ledger = pipeline.finish();
    assert_eq!((dead(&ledger, "rejected"), dead(&ledger, "shed_emergency")), (6, 10));
    assert_eq!((ledger.dlq.received, ledger.dlq.evicted, ledger.dlq.held), (16, 2 + 8, 6));
}

#[test]
fn a_dead_letter_larger_than_the_queue_is_its_own_eviction() {
    let mut pipeline = rejecting(&PipelineSpec { failed_bytes: 128, ..PipelineSpec::default() });
    send(&mut pipeline, &FrameHeader::new(Priority::High), "t", b"small");
    send(&mut pipeline, &FrameHeader::new(Priority::High), "t", &[0; 200]);
    let ledger = pipeline.finish();
    assert_eq!((ledger.dlq.received, ledger.dlq.evicted, ledger.dlq.held), (2, 1, 1));
}

#[test]
fn shed_events_above_the_budget_are_lost_and_the_budget_comes_back_with_time() {
    // Ten frames of 100 bytes a second.
    let spec = PipelineSpec { shed_bytes_per_s: 1000, ..PipelineSpec::default() };
    let mut pipeline = rejecting(&spec);
    let shed = |pipeline: &mut Pipeline, count: usize| {
        pipeline.state.set(State::Emergency);
        for _ in 0..count {
            send(pipeline, &FrameHeader::new(Priority::High), "t", &[0; 96]);
        }
        pipeline.settle();
        let ledger = pipeline.ledger();
        let lost = ledger.events.lost.get("shed_over_budget").copied().unwrap_or(0);
        (dead(&ledger, "shed_emergency"), lost)
    };
    assert_eq!(shed(&mut pipeline, 25), (10, 15));
    pipeline.advance(500_000_000);
    assert_eq!(shed(&mut pipeline, 10), (15, 20));
    pipeline.advance(3_600_000_000_000);
    assert_eq!(shed(&mut pipeline, 15), (25, 25), "it gathers for one second at most");
    // Events that failed are no load to be shed: the budget is not for them.
    pipeline.state.set(State::Running);
    send(&mut pipeline, &FrameHeader::new(Priority::High), "t", &[0; 96]);
    let ledger = pipeline.finish();
    assert_eq!(dead(&ledger, "rejected"), 1);
    assert_eq!(pipeline.sum(Counter::DISPATCHER_LOST), 25);
}

#[test]
fn what_finds_the_link_to_the_dead_letter_queue_full_is_lost_and_counted() {
    let mut pipeline = rejecting(&PipelineSpec { dead_letter_depth: 8, ..PipelineSpec::default() });
    for _ in 0..20 {
        send(&mut pipeline, &FrameHeader::new(Priority::High), "t", b"x");
    }
    while pipeline.step_one("source-0") + pipeline.step_one("dispatcher") + pipeline.step_one("realtime-0") > 0 {}
    let ledger = pipeline.ledger();
    assert_eq!((dead(&ledger, "rejected"), ledger.stages.dead_letter_queues), (8, 8));
    assert_eq!(ledger.events.lost["dead_letter_link_full"], 12);
    assert_eq!(pipeline.finish().dlq.held, 8);
}
