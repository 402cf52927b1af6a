//! What a new engine knows of what an earlier one had.

use std::io::Write as _;

use eventstream::frame::Priority;
use eventstream_tests::acks::{Reader, asking};
use eventstream_tests::client::connect;
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::{Engine, Setup};
use eventstream_tests::publisher::{DUPLICATE, DURABLE, PROCESSED, payload_of};

use super::config;

const EVENTS: u64 = 300;

/// Sends events with these ids and gives the statuses that there were.
pub(super) fn statuses(engine: &Engine, priority: Priority, topic: &str, ids: std::ops::Range<u64>) -> Vec<u8> {
    let mut stream = connect(engine.tcp_port());
    let mut reader = Reader::new(&stream);
    let count = ids.clone().count();
    let frames: Vec<u8> = ids.flat_map(|id| asking(priority, Some(id), topic, &payload_of(id))).collect();
    stream.write_all(&frames).unwrap();
    let mut statuses: Vec<u8> = reader.read(count).acks.iter().map(|ack| ack.status).collect();
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

#[test]
fn ids_in_the_log_are_duplicates_after_a_restart_and_others_are_not() {
    let folder = DataFolder::new();
    let config = config(&folder, "fsync: always") + "dedup: {classes: [realtime, transactional]}\n";
    let setup = Setup::default().config(&config);
    let logged = [(Priority::Medium, "log/transactional"), (Priority::Batch, "log/windows"), (Priority::Low, "else")];
    let ids_of = |index: usize| index as u64 * EVENTS..(index as u64 + 1) * EVENTS;
    let realtime = |engine: &Engine| statuses(engine, Priority::High, "realtime", ids_of(7));

    let engine = setup.start();
    for (index, (priority, topic)) in logged.iter().enumerate() {
        assert_eq!(statuses(&engine, *priority, topic, ids_of(index)), [DURABLE], "{topic}");
        assert_eq!(statuses(&engine, *priority, topic, ids_of(index)), [DUPLICATE | DURABLE], "{topic}");
    }
    assert_eq!(realtime(&engine), [PROCESSED]);
    assert_eq!(realtime(&engine), [DUPLICATE | PROCESSED]);
    // Once in order, once not.
    let ended = engine.drain();
    ended.assert_balanced();
    let (syncs, timed) = (&ended.report["counters"]["log_syncs"], &ended.report["latency_ns"]["log_sync"]["count"]);
    assert!(syncs == timed && syncs.as_u64() > Some(0), "{syncs} {timed}");
    for _ in 0..2 {
        let engine = setup.start();
        for (index, (priority, topic)) in logged.iter().enumerate() {
            assert_eq!(statuses(&engine, *priority, topic, ids_of(index)), [DUPLICATE | DURABLE], "{topic}");
        }
        assert_eq!(realtime(&engine), [PROCESSED], "realtime ids are not remembered");
        engine.kill();
    }
    let (records, findings) = folder.read();
    assert_eq!((records.len() as u64, findings.is_damage()), (3 * EVENTS, false));
}

/// Only what claims an id while the engine runs claims it after a restart: of topics and classes that are not deduplicated the
/// log has ids that others may use, and that may come again.
#[test]
fn ids_in_the_log_that_nobody_claimed_are_free_after_a_restart() {
    let folder = DataFolder::new();
    let config = config(&folder, "fsync: always")
        .replace("topics:\n", "topics:\n  - {name: log/plain, class: transactional, dedup: false}\n")
        + "dedup: {classes: [transactional]}\n";
    let setup = Setup::default().config(&config);
    let plain = [(Priority::Medium, "log/plain"), (Priority::Batch, "else")];
    let ids_of = |index: usize| index as u64 * EVENTS..(index as u64 + 1) * EVENTS;

    let engine = setup.start();
    for (index, (priority, topic)) in plain.iter().enumerate() {
        for _ in 0..2 {
            assert_eq!(statuses(&engine, *priority, topic, ids_of(index)), [DURABLE], "{topic}");
        }
    }
    assert_eq!(statuses(&engine, Priority::Low, "else", ids_of(2)), [DURABLE]);
    engine.drain().assert_balanced();
    let engine = setup.start();
    for (index, (priority, topic)) in plain.iter().enumerate() {
        assert_eq!(statuses(&engine, *priority, topic, ids_of(index)), [DURABLE], "{topic}");
        assert_eq!(statuses(&engine, Priority::Medium, "log/transactional", ids_of(index)), [DURABLE], "{topic}");
    }
    assert_eq!(statuses(&engine, Priority::Low, "else", ids_of(2)), [DUPLICATE | DURABLE]);
    engine.drain().assert_balanced();
}
