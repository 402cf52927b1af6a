//! A disk that fails for a while, or is slow: what is acknowledged is in the log once, and realtime events do not wait.

use std::sync::atomic::{AtomicBool, Ordering};

use eventstream::frame::Priority;
use eventstream_tests::client::publish;
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::{Engine, Setup, count};
use eventstream_tests::publisher::Publisher;
use serde_json::Value;

use super::{Realtime, TOPICS, assert_each_once, config};

pub(super) fn counter(report: &Value, name: &str) -> u64 {
    report["counters"][name].as_u64().unwrap_or(0)
}

/// Does something and waits until a counter has grown by so many from before.
pub(super) fn grows(engine: &Engine, name: &str, by: u64, once: impl FnOnce()) {
    let from = counter(&engine.status(), name);
    once();
    engine.wait_until(name, |report| counter(report, name) >= from + by);
}

/// Waits until the log goes on.
fn goes_on(engine: &Engine) {
    grows(engine, "log_records_appended", 1000, || {});
}

/// Does it while publishers publish, and then has all acknowledged and the books balanced.
fn under_load(policy: &str, faults: impl FnOnce(&Engine, &mut DataFolder, &mut Realtime)) -> Value {
    let mut folder = DataFolder::new();
    let config = config(&folder, policy);
    let setup = Setup::default().config(&config).environment("EVENTSTREAM_DISK_FAULT", &folder.next_run());
    let engine = setup.start();
    let port = engine.tcp_port();
    let mut publishers: Vec<_> = (1..3).map(|number| Publisher::new(number, 0, &TOPICS)).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publish = |publisher| scope.spawn(|| Publisher::publish(publisher, port, &stop));
        let publishing: Vec<_> = publishers.iter_mut().map(publish).collect();
        // Also when a fault was not survived: publishers would go on for ever.
        let stops = Stops(&stop);
        faults(&engine, &mut folder, &mut Realtime::connect(port));
        drop(stops);
        publishing.into_iter().for_each(|thread| assert!(thread.join().unwrap()));
    });
    let ended = engine.drain();
    ended.assert_balanced();
    assert_each_once(&folder, &publishers);
    ended.report
}

struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn failing_for_a_while(policy: &str) {
    let report = under_load(policy, |engine, folder, realtime| {
        goes_on(engine);
        for syncs in [1, 3] {
            let abandoned = || counter(&engine.status(), "log_segments_abandoned");
            let before = abandoned();
            // Most hit a segment that is written. A new one that cannot be made, or an index, is not given up.
            for _ in 0..100 {
                folder.fault(&format!("sync={syncs}"));
                goes_on(engine);
                if abandoned() > before {
                    break;
                }
            }
        }
        for errno in ["EIO", "ENOSPC"] {
            grows(engine, "log_failures", 4, || folder.fault(&format!("write={errno}")));
            let before = engine.status();
            realtime.is_served(100);
            let after = engine.status();
            assert_eq!(counter(&after, "log_bytes_written"), counter(&before, "log_bytes_written"), "it stands still");
            folder.fault("");
            goes_on(engine);
        }
        assert!(engine.log().iter().any(|line| line.contains("are not read until it works again")));
        assert!(engine.log().iter().any(|line| line.contains("can be written again")));
    });
    // Then a new one was begun.
    let [begun, abandoned] = ["log_segments_begun", "log_segments_abandoned"].map(|name| counter(&report, name));
    assert!(abandoned >= 2 && begun > abandoned, "{begun} {abandoned}");
}

#[test]
fn a_disk_that_fails_for_a_while_costs_nothing() {
    failing_for_a_while("fsync: always");
}

#[test]
fn nor_does_it_where_syncs_come_at_intervals() {
    failing_for_a_while("fsync: every, fsync_every_ms: 2");
}

#[test]
fn a_slow_disk_holds_up_nobody_else() {
    under_load("fsync: always", |engine, folder, realtime| {
        grows(engine, "log_syncs", 4, || folder.fault("slow_ms=50"));
        realtime.is_served(100);
        grows(engine, "log_syncs", 4, || {});
    });
}

/// An interval is cut short before what waits for it stands in the way of more: here nothing would be durable for a minute.
#[test]
fn a_long_interval_holds_up_nobody() {
    let folder = DataFolder::new();
    // More events than a worker may have outstanding, in less than half of the buffer, and in one segment.
    let policy = "fsync: every, fsync_every_ms: 60000, buffer_bytes: 134217728";
    let engine = Setup::default().config(&folder.storage(policy)).start();
    const COUNT: u64 = 300_000;
    publish(engine.tcp_port(), Priority::Medium, COUNT);
    engine.wait_until("half of the outstanding", |status| {
        count(status, "/events/accepted") == COUNT && count(status, "/events/processed/transactional") >= 1 << 17
    });
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.count("/events/processed/transactional"), COUNT);
}
