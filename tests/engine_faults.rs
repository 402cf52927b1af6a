//! A ledger that always balances proves nothing: an engine built to drop one event, or to count one twice, must say that
//! it does not, whichever stage does it.

use std::net::UdpSocket;

use eventstream::fault::Stage;
use eventstream::frame::Priority;
use eventstream_tests::client::{event, publish};
use eventstream_tests::engine_process::{Ended, Setup, count};

const OF_EACH: u64 = 1_000;
/// Fewer than the link to the dead letter queue holds.
const SHED: u64 = 100;

/// Events of every class through every stage, some of them into the dead letter queue.
fn run(fault: Option<&str>) -> Ended {
    let mut setup = Setup::default();
    if let Some(fault) = fault {
        setup = setup.environment("EVENTSTREAM_FAULT", fault);
    }
    let engine = setup.start();
    let mut published = 0;
    let mut publish_and_wait = |priority, events| {
        publish(engine.tcp_port(), priority, events);
        published += events;
        engine.wait_until("the events", |report| {
            count(report, "/tcp_frames/accepted") == published && count(report, "/stages/ingest_queue") == 0
        });
    };
    for priority in [Priority::Critical, Priority::Medium, Priority::Batch] {
        publish_and_wait(priority, OF_EACH);
    }
    engine.set_state("dropping");
    // Only datagrams are shed.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..SHED {
        socket.send_to(&event(Priority::Batch, "t", b"shed"), ("127.0.0.1", engine.udp_port())).unwrap();
    }
    engine.wait_until("the datagrams", |report| {
        count(report, "/datagrams/socket_received") == SHED && count(report, "/stages/ingest_queue") == 0
    });
    engine.drain()
}

#[test]
fn without_a_fault_the_faulty_build_is_balanced() {
    let ended = run(None);
    ended.assert_balanced();
    for class in ["realtime", "transactional", "batch"] {
        assert_eq!(ended.count(&format!("/events/processed/{class}")), OF_EACH);
    }
    assert_eq!(ended.count("/events/dead_lettered/shed_dropping"), SHED);
    assert_eq!((ended.count("/dlq/received"), ended.count("/dlq/held")), (SHED, SHED));
}

fn is_noticed_at_every_stage(kind: &str) {
    for stage in Stage::ALL {
        let fault = format!("{kind}:{}", stage.name());
        let ended = run(Some(&fault));
        let ledger = &ended.report["ledger"];
        assert_eq!(ledger["balanced"], false, "{fault}: {ledger:#}");
        assert_eq!(ended.status.code(), Some(1), "{fault}");
        assert!(ledger["imbalances"].as_array().is_some_and(|list| !list.is_empty()), "it says where: {ledger:#}");
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

/// Datagrams and streams are counted in two places.
#[test]
fn a_miscounted_datagram_is_noticed_as_well() {
    for fault in ["drop:ingest", "double:ingest"] {
        let setup = Setup::default().environment("EVENTSTREAM_FAULT", fault);
        let engine = setup.start();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let datagram = event(Priority::High, "sensor/temp", b"23.5").repeat(10);
        socket.send_to(&datagram, ("127.0.0.1", engine.udp_port())).unwrap();
        engine.wait_until("the datagram", |report| count(report, "/datagrams/parsed") == 1);
        let ended = engine.drain();
        assert_eq!(ended.report["ledger"]["balanced"], false, "{fault}");
        assert_eq!(ended.status.code(), Some(1), "{fault}");
    }
}
