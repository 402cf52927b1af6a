//! Dead letters that are replayed while the disk fails, and the power cut with the engine: each is in the log once in the end.

use std::net::UdpSocket;
use std::process::Stdio;

use eventstream::frame::{FrameHeader, Priority, encode};
use eventstream_tests::acks::wire_id;
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::{Engine, Setup, count, sum};
use eventstream_tests::publisher::payload_of;
use serde_json::Value;

use super::failures::{counter, grows};
use super::{TOPICS, config, times_logged};

const LETTERS: u64 = 2000;
/// Far more time than the faults take.
const PER_SECOND: &str = "150";

fn start(folder: &mut DataFolder, policy: &str) -> Engine {
    let told = folder.next_run();
    Setup::default().config(&config(folder, policy)).environment("EVENTSTREAM_DISK_FAULT", &told).start()
}

/// Has them shed, some at a time: no more than a socket holds.
fn fill(engine: &Engine) {
    engine.set_state("dropping");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for id in 0..LETTERS {
        let mut datagram = Vec::new();
        let header = FrameHeader { id: Some(wire_id(id)), ..FrameHeader::new(Priority::Low) };
        encode(&mut datagram, &header, TOPICS[0].as_bytes(), &payload_of(id));
        socket.send_to(&datagram, ("127.0.0.1", engine.udp_port())).unwrap();
        if (id + 1).is_multiple_of(100) {
            engine.wait_until("letters", |status| count(status, "/dlq/held") == id + 1);
        }
    }
    engine.set_state("running");
}

/// Replays go on under these, and then stand still.
fn fail(engine: &Engine, folder: &mut DataFolder) {
    let processed = |status: &Value| count(status, "/events/processed/transactional");
    let goes_on = || {
        let before = processed(&engine.status());
        engine.wait_until("the replay goes on", |status| processed(status) > before + 10);
    };
    for fault in ["sync=1", "sync=3"] {
        let failures = || counter(&engine.status(), "log_failures");
        let before = failures();
        // Some of the syncs are those of the letters.
        for _ in 0..20 {
            folder.fault(fault);
            goes_on();
            if failures() > before {
                break;
            }
        }
    }
    for fault in ["write=EIO", "write=ENOSPC"] {
        grows(engine, "log_failures", 3, || folder.fault(fault));
        let before = engine.status();
        grows(engine, "log_failures", 2, || {});
        assert_eq!(processed(&engine.status()), processed(&before), "nothing is durable meanwhile");
        folder.fault("");
        goes_on();
    }
    let status = engine.status();
    assert_eq!((sum(&status, "/events/lost"), sum(&status, "/events/duplicate")), (0, 0));
    assert_eq!(count(&status, "/dlq/received"), 0);
    assert!(counter(&status, "log_segments_abandoned") > 0);
    grows(engine, "log_failures", 2, || folder.fault("write=EIO"));
}

fn replayed_while_the_disk_fails(policy: &str, seed: u64) {
    let mut folder = DataFolder::new();
    let engine = start(&mut folder, policy);
    fill(&engine);
    engine.drain().assert_balanced();
    let engine = start(&mut folder, policy);
    let mut replaying = engine.command(&["dlq", "replay", "--rate", PER_SECOND]);
    let mut replaying = replaying.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    fail(&engine, &mut folder);
    engine.kill();
    assert!(!replaying.wait().unwrap().success(), "it was under way still");
    let changed_files = folder.power_cut(seed);
    let engine = start(&mut folder, policy);
    let held = count(&engine.status(), "/dlq/held");
    assert!((1..LETTERS - 40).contains(&held), "{held}");
    let replayed = engine.ask(&["dlq", "replay"]);
    let expected = format!("{held} letters replayed: {held} processed, 0 duplicates, 0 failed again; 0 kept");
    assert_eq!(replayed.trim(), expected, "{changed_files} files were changed");
    assert_eq!(engine.ask(&["dlq", "list"]), "");
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.count("/dlq/held"), 0);
    let times = times_logged(&folder.read().0);
    assert_eq!(times.len() as u64, LETTERS);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}

#[test]
fn letters_replayed_to_a_disk_that_fails_are_logged_once() {
    replayed_while_the_disk_fails("fsync: always", 1);
}

#[test]
fn and_so_they_are_where_syncs_come_at_intervals() {
    replayed_while_the_disk_fails("fsync: every, fsync_every_ms: 2", 2);
}
