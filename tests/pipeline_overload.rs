//! A class that falls behind, or stands still for good, costs the others nothing, and everything is accounted for.

#[path = "pipeline_overload/slow_class.rs"]
mod slow_class;
#[path = "pipeline_overload/stuck_handler.rs"]
mod stuck_handler;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use eventstream::config::Config;
use eventstream::frame::{Class, FrameHeader, Priority};
use eventstream::metrics::Counter;
use eventstream::worker::Outcome;
use eventstream_tests::local;
use eventstream_tests::pipeline::{FnHandler, Pipeline, PipelineSpec, datagram};

/// A small engine with threads and sockets, in which the workers of these classes have threads of their own: a handler that waits
/// takes with it what shares its thread.
fn apart(classes: &[&str], more: &str) -> Config {
    const SMALL: &str = "
udp: {slots: 128}
queues: {mpsc_depth: 4096, spsc_depth: 1024}
spill: {bytes_per_class: 262144}
layout:
  mode: explicit
  runners:
    - {name: rest, cpu: null, agents: ['*']}
";
    let runner = |class: &&str| format!("    - {{name: {class}, cpu: null, agents: [{class}-0]}}\n");
    let runners: String = classes.iter().map(runner).collect();
    local::config(&format!("{SMALL}{runners}{more}"))
}

/// Deep links and few frames: frames are what runs out.
fn spec() -> PipelineSpec {
    PipelineSpec {
        spsc_depth: 1024,
        source_slots: 64,
        spill_slots: 4,
        spill_slot_bytes: 1024,
        ..PipelineSpec::default()
    }
}

/// One class may pin this many frames of a source.
const PIN_LIMIT: u64 = 64 / 4;
/// Copies that fit the spill pool: frame of 3 + 1 + 100 bytes and the sender's 18, packed.
const COPIES: u64 = 4 * (1024 / (3 + 1 + 100 + 18));

fn from(number: u64) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 1000 + number as u16))
}

/// A pipeline whose handlers note which senders' events they were given, by class.
fn watched(spec: &PipelineSpec) -> (Pipeline, Arc<Mutex<[Vec<u16>; 3]>>) {
    let seen: Arc<Mutex<[Vec<u16>; 3]>> = Arc::default();
    let pipeline = Pipeline::new(spec, |class, _| {
        let seen = seen.clone();
        FnHandler::new(move |event, _| {
            seen.lock().unwrap()[class as usize].push(event.source().port());
            Outcome::Done
        })
    });
    (pipeline, seen)
}

/// Sends `count` events, each in a frame and from a sender of its own.
fn send(pipeline: &mut Pipeline, priority: Priority, count: u64) {
    for _ in 0..count {
        let number = pipeline.sent_events();
        pipeline.send(0, &datagram(&FrameHeader::new(priority), "t", &[0; 100]), 1, Some(from(number)));
    }
}

/// Steps everybody but `asleep` until nobody has anything to do.
fn settle_without(pipeline: &mut Pipeline, asleep: &[&str]) {
    let awake: Vec<String> =
        pipeline.agents.iter().filter(|agent| !asleep.contains(&agent.as_str())).cloned().collect();
    while awake.iter().map(|agent| pipeline.step_one(agent)).sum::<usize>() > 0 {}
    for agent in &awake {
        pipeline.step_one(agent);
    }
}

fn in_flight(pipeline: &Pipeline, pool: &str) -> u64 {
    pipeline.frames_in_flight().into_iter().find(|(name, _)| *name == pool).expect("a pool of that name").1
}

#[test]
fn a_class_that_stands_still_pins_its_share_then_is_copied_out_then_dead_lettered() {
    let (mut pipeline, seen) = watched(&spec());
    let batch = PIN_LIMIT + COPIES + 30;
    for _ in 0..batch {
        send(&mut pipeline, Priority::Batch, 1);
        send(&mut pipeline, Priority::Critical, 1);
        settle_without(&mut pipeline, &["batch-0"]);
        assert!(in_flight(&pipeline, "source-0") <= PIN_LIMIT);
    }
    assert_eq!(in_flight(&pipeline, "source-0"), PIN_LIMIT);
    assert_eq!(pipeline.sum(Counter::COPIED_OUT), COPIES);
    let ledger = pipeline.ledger();
    assert_eq!(ledger.events.dead_lettered["link_full"], 30);
    assert_eq!(ledger.events.in_flight, PIN_LIMIT + COPIES);
    assert_eq!(ledger.events.processed.realtime, batch, "the others go on");
    let ledger = pipeline.finish();
    assert_eq!(ledger.events.processed.batch, PIN_LIMIT + COPIES);
    let senders: Vec<_> = (0..PIN_LIMIT + COPIES).map(|number| from(2 * number).port()).collect();
    assert_eq!(seen.lock().unwrap()[Class::Batch as usize], senders, "in order, copies with their own senders");
}

#[test]
fn two_classes_that_stand_still_leave_the_third_half_the_frames() {
    let (mut pipeline, _) = watched(&spec());
    for _ in 0..200 {
        send(&mut pipeline, Priority::Batch, 1);
        send(&mut pipeline, Priority::Medium, 1);
        send(&mut pipeline, Priority::High, 1);
        settle_without(&mut pipeline, &["batch-0", "transactional-0"]);
    }
    assert_eq!(in_flight(&pipeline, "source-0"), 2 * PIN_LIMIT);
    assert_eq!(pipeline.ledger().events.processed.realtime, 200);
    let ledger = pipeline.finish();
    assert_eq!(ledger.events.dead_lettered["link_full"], 2 * (200 - PIN_LIMIT - COPIES));
}

#[test]
fn a_copy_that_has_ended_makes_room_for_the_next() {
    let (mut pipeline, _) = watched(&spec());
    for round in 1..=20 {
        send(&mut pipeline, Priority::Batch, PIN_LIMIT + COPIES);
        settle_without(&mut pipeline, &["batch-0"]);
        assert_eq!(pipeline.sum(Counter::COPIED_OUT), round * COPIES);
        pipeline.settle();
        // The spill slots' releases are taken in by the dispatcher's housekeeping.
        pipeline.step_one("dispatcher");
        assert_eq!(in_flight(&pipeline, "spill batch"), 0);
    }
    assert!(pipeline.finish().events.dead_lettered.is_empty());
}

#[test]
fn a_full_link_dead_letters_what_has_no_room_and_no_frame_waits_for_it() {
    let (mut pipeline, _) = watched(&PipelineSpec { spsc_depth: 8, ..spec() });
    for _ in 0..100 {
        send(&mut pipeline, Priority::Batch, 1);
        send(&mut pipeline, Priority::High, 1);
        settle_without(&mut pipeline, &["batch-0"]);
    }
    assert_eq!(in_flight(&pipeline, "source-0"), 8);
    let ledger = pipeline.finish();
    assert_eq!((ledger.events.processed.realtime, ledger.events.processed.batch), (100, 8));
    assert_eq!(ledger.events.dead_lettered["link_full"], 92);
}

#[test]
fn a_slow_class_leaves_frames_of_a_sender_that_can_wait_to_the_others() {
    let spec = PipelineSpec { reliable: true, spill_slots: 16, ..spec() };
    let (mut pipeline, seen) = watched(&spec);
    let copies = 16 / 4 * COPIES;
    let batch = PIN_LIMIT + copies;
    assert!(batch > spec.source_slots as u64, "in their frames they would stop the source");
    for round in 1..=batch {
        send(&mut pipeline, Priority::Batch, 1);
        send(&mut pipeline, Priority::High, 1);
        // No time passes: the worker is slow, it has not stalled.
        settle_without(&mut pipeline, &["batch-0"]);
        assert!(in_flight(&pipeline, "source-0") <= PIN_LIMIT);
        assert_eq!(pipeline.ledger().events.processed.realtime, round);
    }
    assert_eq!((pipeline.sum(Counter::COPIED_OUT), pipeline.settled(0)), (copies, copies + batch));
    // The spill pool is full: what comes now stays in its frame, and keeps its credit.
    send(&mut pipeline, Priority::Batch, 5);
    settle_without(&mut pipeline, &["batch-0"]);
    assert_eq!((in_flight(&pipeline, "source-0"), pipeline.settled(0)), (PIN_LIMIT + 5, copies + batch));
    let ledger = pipeline.finish();
    assert!(ledger.events.dead_lettered.is_empty());
    assert_eq!((ledger.events.processed.realtime, ledger.events.processed.batch), (batch, batch + 5));
    let in_turn = (0..batch).map(|number| 2 * number).chain(2 * batch..2 * batch + 5);
    let senders: Vec<_> = in_turn.map(|number| from(number).port()).collect();
    assert_eq!(seen.lock().unwrap()[Class::Batch as usize], senders, "in order, copied or not");
}

#[test]
fn a_copy_takes_no_place_on_a_ring_that_credits_were_given_for() {
    let spec = PipelineSpec { reliable: true, spsc_depth: 64, reserved: 32, spill_slots: 16, ..spec() };
    let (mut pipeline, _) = watched(&spec);
    send(&mut pipeline, Priority::Batch, 32 + 28);
    settle_without(&mut pipeline, &["batch-0"]);
    let copies = 32 - PIN_LIMIT;
    assert_eq!((pipeline.sum(Counter::COPIED_OUT), pipeline.settled(0)), (copies, copies));
    assert_eq!(in_flight(&pipeline, "source-0"), PIN_LIMIT + 28);
    assert!(pipeline.finish().events.dead_lettered.is_empty());
}

#[test]
fn credits_held_by_a_stalled_worker_come_back() {
    // Without any room for copies on the ring.
    let spec = PipelineSpec { reliable: true, stall_ns: 1000, reserved: 1024, ..spec() };
    let (mut pipeline, _) = watched(&spec);
    send(&mut pipeline, Priority::Batch, PIN_LIMIT + 5);
    settle_without(&mut pipeline, &["batch-0"]);
    assert_eq!((in_flight(&pipeline, "source-0"), pipeline.settled(0)), (PIN_LIMIT + 5, 0));
    assert_eq!(pipeline.stalled_links(), 0);
    pipeline.advance(1001);
    settle_without(&mut pipeline, &["batch-0"]);
    assert_eq!(pipeline.settled(0), PIN_LIMIT + 5, "its credits come back for other classes' events");
    assert_eq!(pipeline.stalled_links(), 1);
    send(&mut pipeline, Priority::Batch, 5);
    send(&mut pipeline, Priority::High, 5);
    settle_without(&mut pipeline, &["batch-0"]);
    assert_eq!(pipeline.sum(Counter::COPIED_OUT), 5, "a ring whose credits were written off takes copies");
    assert_eq!(pipeline.settled(0), PIN_LIMIT + 15);
    let ledger = pipeline.finish();
    assert_eq!((ledger.events.processed.realtime, ledger.events.processed.batch), (5, PIN_LIMIT + 10));
    assert_eq!(pipeline.stalled_links(), 0);
}

#[test]
fn beyond_the_share_of_a_stalled_worker_nothing_stays_in_frames_of_those_who_can_wait() {
    let (mut pipeline, _) = watched(&PipelineSpec { reliable: true, stall_ns: 1000, ..spec() });
    send(&mut pipeline, Priority::Batch, PIN_LIMIT + COPIES);
    settle_without(&mut pipeline, &["batch-0"]);
    assert!(pipeline.progress(0).full.has(Class::Batch));
    pipeline.advance(1001);
    send(&mut pipeline, Priority::Batch, 5);
    settle_without(&mut pipeline, &["batch-0"]);
    assert!(pipeline.progress(0).full.is_empty(), "nobody waits for it");
    assert_eq!(in_flight(&pipeline, "source-0"), PIN_LIMIT);
    let ledger = pipeline.finish();
    assert_eq!(ledger.events.dead_lettered["link_full"], 5);
    assert_eq!(ledger.events.processed.batch, PIN_LIMIT + COPIES);
}

#[test]
fn a_source_is_told_which_classes_have_their_share() {
    // By credits, and by slots.
    for (class_credits, share) in [(10, 10), (u64::MAX, PIN_LIMIT)] {
        let (mut pipeline, _) = watched(&PipelineSpec { reliable: true, class_credits, ..spec() });
        send(&mut pipeline, Priority::Batch, share - 1);
        send(&mut pipeline, Priority::High, 50);
        settle_without(&mut pipeline, &["batch-0"]);
        let progress = pipeline.progress(0);
        assert_eq!((progress.dispatched, progress.settled), (share + 49, 50));
        assert!(progress.full.is_empty());
        send(&mut pipeline, Priority::Batch, 1);
        settle_without(&mut pipeline, &["batch-0"]);
        let full = pipeline.progress(0).full;
        assert_eq!(Class::ALL.map(|class| full.has(class)), [false, false, true]);
        pipeline.settle();
        assert!(pipeline.progress(0).full.is_empty());
        pipeline.finish();
    }
}

#[test]
fn a_worker_that_stands_still_leaves_its_class_the_other_workers_shares() {
    for reliable in [false, true] {
        let spec = PipelineSpec { reliable, workers: [1, 1, 2], ..spec() };
        let mut pipeline = Pipeline::new(&spec, |_, _| FnHandler::new(|_, _| Outcome::Done));
        let mut expected = 0;
        for number in 0..200 {
            let before = pipeline.ledger().stages.worker_queues.batch;
            pipeline.send(0, &datagram(&FrameHeader::new(Priority::Batch), &format!("t/{number}"), b"x"), 1, None);
            settle_without(&mut pipeline, &["batch-0"]);
            expected += u64::from(pipeline.ledger().stages.worker_queues.batch == before);
            let full = pipeline.progress(0).full;
            assert_eq!(full.has(Class::Batch), in_flight(&pipeline, "source-0") >= PIN_LIMIT / 2);
        }
        assert!(expected > 50, "topics of both workers");
        assert_eq!(in_flight(&pipeline, "source-0"), PIN_LIMIT / 2);
        assert_eq!(pipeline.ledger().events.processed.batch, expected);
        pipeline.finish();
    }
}

#[test]
fn a_full_ingest_queue_makes_sources_wait_and_loses_nothing() {
    let (mut pipeline, seen) = watched(&PipelineSpec { source_slots: 512, ..spec() });
    for number in 0..90 {
        let bytes = datagram(&FrameHeader::new(Priority::High), "t", b"x").repeat(10);
        pipeline.send(0, &bytes, 10, Some(from(number)));
    }
    while pipeline.step_one("source-0") > 0 {}
    let ledger = pipeline.ledger();
    // 512 cells hold 51 datagrams; the next one's events wait at ingest, and none after it is taken in.
    assert_eq!((ledger.stages.ingest_queue, ledger.stages.waiting_at_ingest, ledger.events.accepted), (510, 10, 520));
    assert!(pipeline.sum(Counter::MPSC_BACKPRESSURED) > 0);
    pipeline.finish();
    let senders: Vec<_> = (0..900).map(|event| from(event / 10).port()).collect();
    assert_eq!(seen.lock().unwrap()[Class::Realtime as usize], senders);
}
