//! An engine that ends while its disk is dead, and does not hide what that costs; several streams, of which some fail.

use std::collections::HashSet;
use std::io::Write as _;

use eventstream::frame::Priority;
use eventstream_tests::acks::{Ack, Reader, asking};
use eventstream_tests::client::connect;
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::{Engine, Setup, sum};
use eventstream_tests::publisher::{DUPLICATE, DURABLE, payload_of};

use super::{TOPICS, config, times_logged};

const LOST: u8 = 5;
/// The reason of a lost event that the log could not take.
const LOG_DISK: u8 = 6;
/// Few enough to be read though nothing is written, and to be answered in one go.
const EVENTS: u64 = 600;

fn frames(ids: std::ops::Range<u64>) -> Vec<u8> {
    let frame = |id: u64| asking(Priority::Medium, Some(id), TOPICS[id as usize % 3], &payload_of(id));
    ids.flat_map(frame).collect()
}

fn ids_of(acks: &[Ack], status: u8) -> HashSet<u64> {
    let with = acks.iter().filter(|ack| ack.status == status);
    with.map(|ack| u128::from_be_bytes(ack.id) as u64).collect()
}

fn set_up(folder: &mut DataFolder, more: &str) -> Setup {
    let told = folder.next_run();
    let config = config(folder, "fsync: always") + more;
    Setup::default().config(&config).environment("EVENTSTREAM_DISK_FAULT", &told)
}

/// How often a line with all of these words was logged.
fn said(log: &[String], words: &[&str]) -> usize {
    log.iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

fn counter(engine: &Engine, name: &str) -> u64 {
    engine.status()["counters"][name].as_u64().unwrap_or(0)
}

#[test]
fn a_drain_whose_disk_stays_dead_says_what_is_lost_and_a_resend_is_taken() {
    let mut folder = DataFolder::new();
    let engine = set_up(&mut folder, "").start();
    let mut client = connect(engine.tcp_port());
    let mut reader = Reader::new(&client);
    client.write_all(&frames(0..EVENTS)).unwrap();
    let before = reader.read(EVENTS as usize).acks;
    assert_eq!(ids_of(&before, DURABLE).len() as u64, EVENTS);

    folder.fault("write=EIO");
    client.write_all(&frames(EVENTS..2 * EVENTS)).unwrap();
    engine.wait_until("all are in", |report| report["ledger"]["acks"]["asked"] == 2 * EVENTS);
    engine.wait_until("a dead disk", |report| report["counters"]["log_failures"].as_u64() >= Some(2));
    let reading = std::thread::spawn(move || reader.read_to_end().acks);
    let ended = engine.drain();
    let after = reading.join().unwrap();

    let lost = ids_of(&after, LOST);
    assert_eq!((after.len() as u64, lost.len() as u64), (EVENTS, EVENTS), "{:#}", ended.report);
    assert!(after.iter().all(|ack| ack.reason == LOG_DISK), "{after:?}");
    assert_eq!((ended.count("/events/lost/log_disk"), sum(&ended.report, "/events/lost")), (EVENTS, EVENTS));
    assert_eq!(ended.report["ledger"]["imbalances"], serde_json::json!([]), "{:#}", ended.report);
    assert_eq!((ended.status.code(), ended.count("/acks/undeliverable")), (Some(3), 0), "{:#?}", ended.log);
    assert_eq!(said(&ended.log, &["these events were lost", &format!("events={EVENTS}")]), 1, "{:#?}", ended.log);
    assert_eq!(said(&ended.log, &["what is not on disk is lost"]), 1, "{:#?}", ended.log);
    let logged = times_logged(&folder.read().0);
    assert!((0..EVENTS).all(|id| logged.contains_key(&id)) && logged.len() as u64 == EVENTS, "{}", logged.len());

    // The disk works again: what was lost is new, what was not is not.
    let engine = set_up(&mut folder, "").start();
    let mut client = connect(engine.tcp_port());
    client.write_all(&frames(0..2 * EVENTS)).unwrap();
    let told = Reader::new(&client).read(2 * EVENTS as usize).acks;
    assert_eq!(ids_of(&told, DUPLICATE | DURABLE), (0..EVENTS).collect());
    assert_eq!(ids_of(&told, DURABLE), lost);
    engine.drain().assert_balanced();
    let (records, findings) = folder.read();
    assert!(records.len() as u64 == 2 * EVENTS && !findings.is_damage(), "{findings:?}");
}

#[test]
fn a_drain_waits_for_a_disk_that_comes_back() {
    let mut folder = DataFolder::new();
    let engine = set_up(&mut folder, "drain: {timeout_ms: 600000}\n").start();
    let mut client = connect(engine.tcp_port());
    folder.fault("write=EIO");
    client.write_all(&frames(0..EVENTS)).unwrap();
    engine.wait_until("a dead disk", |report| report["counters"]["log_failures"].as_u64() >= Some(2));
    engine.wait_until("all are in", |report| report["ledger"]["acks"]["asked"] == EVENTS);
    let reading = std::thread::spawn(move || Reader::new(&client).read_to_end().acks);
    let draining = std::thread::spawn(move || engine.drain());
    std::thread::sleep(std::time::Duration::from_millis(300));
    folder.fault("");
    let ended = draining.join().unwrap();
    ended.assert_balanced();
    assert_eq!(ids_of(&reading.join().unwrap(), DURABLE).len() as u64, EVENTS);
}

/// What is lost is what the dead stream had; the other's is on disk, and each says for itself how it is.
#[test]
fn each_stream_fails_and_is_given_up_by_itself() {
    let mut folder = DataFolder::new();
    let streams = "fsync: always, streams: [{name: left, topics: [log/windows]}, {name: right, topics: [log/batch]}]";
    let told = folder.next_run();
    let setup = Setup::default().config(&config(&folder, streams)).environment("EVENTSTREAM_DISK_FAULT", &told);
    let engine = setup.start();
    let mut client = connect(engine.tcp_port());
    let mut reader = Reader::new(&client);
    let mut sent = 0..0;
    let mut send = |count: u64| {
        sent = sent.end..sent.end + count;
        client.write_all(&frames(sent.clone())).unwrap();
    };
    let fails = |stream: &str| vec!["are not read until it works again".to_owned(), format!("stream={stream}")];
    let works = |stream: &str| vec!["can be written again".to_owned(), format!("stream={stream}")];
    // What is said may come a little later than what follows from it.
    let says = |engine: &Engine, words: Vec<String>, times: usize| {
        let count = || said(&engine.log(), &words.iter().map(String::as_str).collect::<Vec<_>>());
        engine.wait_until("words", |_| count() >= times);
        assert_eq!(count(), times, "{words:?}: {:#?}", engine.log());
    };
    // One after the other, so that one fails while another does already.
    for (fault, failing) in
        [("write=EIO,only=log/left", ["left"].as_slice()), ("write=EIO", &["left", "right", "default"])]
    {
        let before = counter(&engine, "log_failures");
        folder.fault(fault);
        send(60);
        engine.wait_until("tries", |report| report["counters"]["log_failures"].as_u64() > Some(before + 4));
        for stream in ["left", "right", "default"] {
            says(&engine, fails(stream), usize::from(failing.contains(&stream)));
        }
    }
    folder.fault("");
    assert_eq!(ids_of(&reader.read(120).acks, DURABLE).len(), 120);
    for stream in ["left", "right", "default"] {
        says(&engine, fails(stream), 1);
        says(&engine, works(stream), 1);
    }
    folder.fault("write=EIO,only=log/right");
    send(EVENTS);
    engine.wait_until("a dead stream", |report| report["ledger"]["acks"]["asked"] == EVENTS + 120);
    let reading = std::thread::spawn(move || reader.read_to_end().acks);
    let ended = engine.drain();
    let told = reading.join().unwrap();
    let expected =
        |on_right: bool| (120..120 + EVENTS).filter(move |id| (TOPICS[*id as usize % 3] == "log/batch") == on_right);
    assert_eq!(ids_of(&told, LOST), expected(true).collect());
    assert_eq!(ids_of(&told, DURABLE), expected(false).collect());
    assert_eq!((ended.status.code(), ended.count("/events/lost/log_disk")), (Some(3), EVENTS / 3));
    assert_eq!(ended.report["ledger"]["balanced"], true, "{:#}", ended.report);
}
