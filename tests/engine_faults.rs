//! A ledger that always balances proves nothing: an engine built to drop one event, or to count one twice, must say that
//! it does not, whichever stage does it.

use eventstream::fault::Stage;
use eventstream::frame::Priority;
use eventstream_tests::binaries;
use eventstream_tests::client::publish;
use eventstream_tests::engine_process::{Ended, Setup, count};

const OF_EACH: u64 = 1_000;

/// Events of every class through every stage, some of them into the dead letter queue.
fn run(fault: Option<&str>) -> Ended {
    let mut setup = Setup::default().binary(binaries::faulty_engine());
    if let Some(fault) = fault {
        setup = setup.environment("EVENTSTREAM_FAULT", fault);
    }
    let engine = setup.start();
    let publish_and_wait = |priority, frames: u64| {
        publish(engine.tcp_port(), priority, OF_EACH);
        engine.wait_until("the events", |report| count(report, "/tcp_frames/accepted") == frames);
    };
    for (step, priority) in [Priority::Critical, Priority::Medium, Priority::Batch].into_iter().enumerate() {
        publish_and_wait(priority, (step as u64 + 1) * OF_EACH);
    }
    // Shed events are dead-lettered by the dispatcher. Those before have left it by now or are behind it soon.
    engine.set_state("dropping");
    publish_and_wait(Priority::Batch, 4 * OF_EACH);
    engine.drain()
}

#[test]
fn without_a_fault_the_faulty_build_is_balanced() {
    let ended = run(None);
    ended.assert_balanced();
    let shed = ended.count("/events/dead_lettered/shed_dropping");
    assert!(shed > 0 && ended.count("/dlq/received") == shed, "{:#}", ended.report["ledger"]);
    assert_eq!((ended.count("/events/accepted"), ended.processed()), (4 * OF_EACH, 4 * OF_EACH - shed));
    for class in ["realtime", "transactional", "batch"] {
        assert!(ended.count(&format!("/events/processed/{class}")) > 0, "{class}");
    }
}

fn is_noticed_at_every_stage(kind: &str) {
    for stage in Stage::ALL {
        let fault = format!("{kind}:{}", stage.name());
        let ended = run(Some(&fault));
        let ledger = &ended.report["ledger"];
        assert_eq!(ledger["balanced"], false, "{fault}: {ledger:#}");
        assert_eq!(ended.status.code(), Some(1), "{fault}");
        // One event on one side of an equation, and nothing else.
        assert!(ledger["imbalances"].as_array().is_some_and(|list| !list.is_empty()), "{fault}: {ledger:#}");
    }
}

#[test]
fn one_event_dropped_is_noticed_at_every_stage() {
    is_noticed_at_every_stage("drop");
}

#[test]
fn one_event_counted_twice_is_noticed_at_every_stage() {
    is_noticed_at_every_stage("double");
}
