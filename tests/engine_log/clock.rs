//! A wall clock that is set forth and back, while the engine runs and while it does not.

use std::fs;
use std::path::PathBuf;

use eventstream::frame::Priority;
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::{Engine, Setup};
use eventstream_tests::publisher::{DUPLICATE, DURABLE};

use super::config;
use super::restart::statuses;

const DAY: i64 = 86_400;
const TOPIC: &str = "log/transactional";
const EACH: u64 = 100;

/// A wall clock that the engine reads.
struct WallClock(PathBuf);

impl WallClock {
    fn new(folder: &DataFolder) -> Self {
        let this = Self(folder.path().with_file_name("clock"));
        this.set(0);
        this
    }

    /// By so much it is wrong from now on. It is never seen half set.
    fn set(&self, seconds: i64) {
        let new = self.0.with_extension("new");
        fs::write(&new, seconds.to_string()).unwrap();
        fs::rename(new, &self.0).unwrap();
    }
}

/// Publishers that know how many of their events are durable.
struct Published(u64);

impl Published {
    /// Events that are new are taken, those that came before are duplicates.
    fn go_on(&mut self, engine: &Engine, when: &str) {
        self.repeat(engine, when);
        let ids = self.0..self.0 + EACH;
        assert_eq!(statuses(engine, Priority::Medium, TOPIC, ids.clone()), [DURABLE], "{when}");
        self.0 = ids.end;
        self.repeat(engine, when);
    }

    fn repeat(&self, engine: &Engine, when: &str) {
        for first in (0..self.0).step_by(EACH as usize) {
            let ids = first..first + EACH;
            assert_eq!(statuses(engine, Priority::Medium, TOPIC, ids), [DUPLICATE | DURABLE], "{first} {when}");
        }
    }
}

/// Until the log has been looked through for what is too old, twice.
fn retention_passes(engine: &Engine) {
    let seconds = |report: &serde_json::Value| report["seconds"].as_f64().expect("a number");
    let from = seconds(&engine.status());
    engine.wait_until("retention", |report| seconds(report) > from + 2.5);
}

#[test]
fn steps_of_the_wall_clock_cost_no_event_and_forget_no_id() {
    let folder = DataFolder::new();
    let clock = WallClock::new(&folder);
    let config = config(&folder, "fsync: always, retention_age_ms: 86400000") + "dedup: {window_ms: 600000}\n";
    let setup = Setup::default().config(&config).environment("EVENTSTREAM_CLOCK_FAULT", clock.0.to_str().unwrap());
    let mut published = Published(0);
    // What the clock is at the start, and to what it is set while the engine runs.
    let steps = [(0, 0), (0, -5 * DAY), (400 * DAY, -5 * DAY), (0, 400 * DAY), (-5 * DAY, -5 * DAY), (0, 0)];
    for (at_start, later) in steps {
        clock.set(at_start);
        let engine = setup.start();
        published.go_on(&engine, &format!("started at {at_start} s"));
        clock.set(later);
        published.go_on(&engine, &format!("set from {at_start} s to {later} s"));
        if later != 0 {
            retention_passes(&engine);
        }
        let ended = engine.drain();
        ended.assert_balanced();
        assert_eq!(ended.report["counters"].get("log_segments_removed"), None, "{at_start} {later}");
    }
    let (records, findings) = folder.read();
    assert!(records.len() as u64 == published.0 && !findings.is_damage(), "{} {findings:?}", records.len());
    assert!(records.is_sorted_by(|a, b| a.offset < b.offset));
    assert_eq!(folder.read_by_indexes(), records);
}
