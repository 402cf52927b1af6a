//! What a handler is told, and what becomes of its answer.

#[path = "pipeline_handlers/outcomes.rs"]
mod outcomes;
#[path = "pipeline_handlers/shedding.rs"]
mod shedding;
#[path = "pipeline_handlers/strict.rs"]
mod strict;
#[path = "pipeline_handlers/view.rs"]
mod view;

use std::sync::{Arc, Mutex};

use eventstream::dispatch::TopicEntry;
use eventstream::frame::{Class, FrameHeader, Priority};
use eventstream::metrics::{Counter, Ledger};
use eventstream::worker::Outcome;
use eventstream_tests::pipeline::{FnHandler, Pipeline, PipelineSpec, datagram, topic};

/// An id of producer and sequence.
fn id(producer: u64, sequence: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&producer.to_be_bytes());
    id[8..].copy_from_slice(&sequence.to_be_bytes());
    id
}

fn with_id(priority: Priority, id: [u8; 16]) -> FrameHeader {
    FrameHeader { id: Some(id), ..FrameHeader::new(priority) }
}

fn send(pipeline: &mut Pipeline, header: &FrameHeader, topic: &str, payload: &[u8]) {
    pipeline.send(0, &datagram(header, topic, payload), 1, None);
}

/// Payload and end-of-batch flag of every handled event, in order.
type Log = Arc<Mutex<Vec<(Vec<u8>, bool)>>>;

fn recorder(log: &Log) -> FnHandler {
    let log = log.clone();
    FnHandler::new(move |event, end_of_batch| {
        log.lock().unwrap().push((event.payload().to_vec(), end_of_batch));
        Outcome::Done
    })
}

fn payloads(log: &Log) -> Vec<String> {
    log.lock().unwrap().iter().map(|(payload, _)| String::from_utf8_lossy(payload).into_owned()).collect()
}

fn dead(ledger: &Ledger, reason: &str) -> u64 {
    ledger.events.dead_lettered.get(reason).copied().unwrap_or(0)
}

/// The counts of duplicates, and of everything dead-lettered.
fn ends(ledger: &Ledger) -> (u64, u64) {
    (ledger.events.duplicate, ledger.events.dead_lettered.values().sum())
}

#[test]
fn an_id_is_handled_once_whatever_its_topic() {
    let log = Log::default();
    let mut pipeline = Pipeline::new(&PipelineSpec::default(), |_, _| recorder(&log));
    let one = with_id(Priority::Medium, id(1, 1));
    send(&mut pipeline, &one, "a", b"first");
    send(&mut pipeline, &one, "b", b"same id, other topic, same burst");
    pipeline.settle();
    send(&mut pipeline, &one, "a", b"again");
    send(&mut pipeline, &with_id(Priority::Medium, id(1, 2)), "a", b"second");
    send(&mut pipeline, &FrameHeader::new(Priority::Medium), "a", b"no id");
    send(&mut pipeline, &FrameHeader::new(Priority::Medium), "a", b"no id");
    send(&mut pipeline, &with_id(Priority::Critical, id(1, 1)), "a", b"realtime does not ask");
    let ledger = pipeline.finish();
    let mut handled = payloads(&log);
    handled.sort();
    assert_eq!(handled, ["first", "no id", "no id", "realtime does not ask", "second"]);
    assert_eq!(ends(&ledger), (2, 0));
}

#[test]
fn an_id_is_remembered_for_its_window() {
    let log = Log::default();
    let mut pipeline = Pipeline::new(&PipelineSpec::default(), |_, _| recorder(&log));
    let one = with_id(Priority::Medium, id(1, 1));
    for (wait_ns, expected) in [(0, 1), (59_000_000_000, 1), (2_000_000_000, 2)] {
        pipeline.advance(wait_ns);
        send(&mut pipeline, &one, "a", b"x");
        pipeline.settle();
        assert_eq!(log.lock().unwrap().len(), expected);
    }
    assert_eq!(ends(&pipeline.finish()), (1, 0));
}

#[test]
fn an_id_that_was_dead_lettered_is_a_duplicate_too() {
    let mut pipeline = Pipeline::new(&PipelineSpec::default(), |_, _| FnHandler::new(|_, _| Outcome::Reject("no")));
    for _ in 0..3 {
        send(&mut pipeline, &with_id(Priority::Medium, id(1, 1)), "a", b"x");
        pipeline.settle();
    }
    assert_eq!(ends(&pipeline.finish()), (2, 1));
}

#[test]
fn an_id_that_was_lost_is_new_again() {
    // A link for one dead letter, which nobody takes: the second is lost.
    let spec = PipelineSpec { dead_letter_depth: 1, ..PipelineSpec::default() };
    let mut pipeline = Pipeline::new(&spec, |_, _| FnHandler::new(|_, _| Outcome::Reject("no")));
    for sequence in [1, 2] {
        send(&mut pipeline, &with_id(Priority::Medium, id(1, sequence)), "a", b"x");
    }
    pipeline.settle();
    send(&mut pipeline, &with_id(Priority::Medium, id(1, 1)), "a", b"x");
    send(&mut pipeline, &with_id(Priority::Medium, id(1, 2)), "a", b"x");
    let ledger = pipeline.finish();
    assert_eq!(ends(&ledger), (1, 2));
    assert_eq!(ledger.events.lost["dead_letter_link_full"], 1);
}

#[test]
fn a_topics_own_word_on_deduplication_wins_over_its_class() {
    let log = Log::default();
    let topics = vec![
        TopicEntry { dedup: false, ..topic("never", Class::Transactional) },
        TopicEntry { dedup: true, ..topic("always", Class::Realtime) },
    ];
    let spec = PipelineSpec { topics, ..PipelineSpec::default() };
    let mut pipeline = Pipeline::new(&spec, |_, _| recorder(&log));
    for _ in 0..2 {
        for (number, topic) in ["never", "always", "neither"].into_iter().enumerate() {
            send(&mut pipeline, &with_id(Priority::High, id(1, number as u64)), topic, topic.as_bytes());
        }
        pipeline.settle();
    }
    let ledger = pipeline.finish();
    let mut handled = payloads(&log);
    handled.sort();
    assert_eq!(handled, ["always", "neither", "neither", "never", "never"]);
    assert_eq!(ends(&ledger), (1, 0));
}

#[test]
fn gaps_in_a_producers_sequence_are_counted() {
    let spec = PipelineSpec { gaps: true, ..PipelineSpec::default() };
    let mut pipeline = Pipeline::new(&spec, |_, _| FnHandler::new(|_, _| Outcome::Done));
    // 3 and 4 are passed over; 3 comes late, 4 never; 6 comes twice. The other producer misses nothing.
    for (place, sequence) in [1, 2, 5, 6, 3, 6, 7].into_iter().enumerate() {
        send(&mut pipeline, &with_id(Priority::Critical, id(1, sequence)), "a", b"x");
        send(&mut pipeline, &with_id(Priority::Medium, id(2, place as u64)), "b", b"x");
    }
    let ledger = pipeline.finish();
    assert_eq!(ledger.events.processed.total(), 14);
    let gaps = [Counter::GAP_MISSING, Counter::GAP_LATE, Counter::GAP_REPEATED];
    assert_eq!(gaps.map(|counter| pipeline.sum(counter)), [1, 1, 1]);
}
