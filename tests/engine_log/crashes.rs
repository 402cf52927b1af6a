//! Killed at any moment, and the power cut with it, again and again.
//!
//! `CRASH_ROUNDS` says how many times, `CRASH_SEED` repeats what was drawn, if not what the scheduler did.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::Setup;
use eventstream_tests::publisher::{DUPLICATE, DURABLE, Publisher, WRITTEN};
use eventstream_tests::random::Random;

use super::{TOPICS, assert_each_once, config, times_logged};

const PUBLISHERS: u64 = 4;

struct Crashes {
    folder: DataFolder,
    publishers: Vec<Publisher>,
    random: Random,
    policy: &'static str,
    changed_files: usize,
    killed_while_starting: usize,
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{variable}: {error}")))
}

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let seed = number("CRASH_SEED").unwrap_or_else(now);
    println!("CRASH_SEED={seed}");
    seed
}

impl Crashes {
    fn new(seed: u64, policy: &'static str) -> Self {
        Self {
            folder: DataFolder::new(),
            publishers: (1..=PUBLISHERS).map(|number| Publisher::new(number, seed, &TOPICS)).collect(),
            random: Random::new(seed),
            policy,
            changed_files: 0,
            killed_while_starting: 0,
        }
    }

    fn setup(&mut self) -> Setup {
        let told = self.folder.next_run();
        let config = config(&self.folder, self.policy);
        Setup::default().config(&config).environment("EVENTSTREAM_DISK_FAULT", &told)
    }

    fn cut(&mut self) {
        self.changed_files += self.folder.power_cut(self.random.draw());
    }

    /// Load, perhaps with a disk that fails for a while, the end, and perhaps another one before the next start is complete.
    fn crash(&mut self) {
        let engine = self.setup().start();
        let (port, stop) = (engine.tcp_port(), AtomicBool::new(false));
        let mut pause = |bound: usize| Duration::from_micros(self.random.below(bound) as u64);
        let (before, after) = (pause(150_000), pause(50_000));
        let fault = ["sync=1", "sync=3", "write=EIO", "write=ENOSPC"].get(self.random.below(8));
        std::thread::scope(|scope| {
            for publisher in &mut self.publishers {
                let stop = &stop;
                scope.spawn(move || publisher.publish(port, stop));
            }
            std::thread::sleep(before);
            if let Some(fault) = fault {
                self.folder.fault(fault);
                std::thread::sleep(after);
                self.folder.fault("");
                std::thread::sleep(after);
            }
            engine.kill();
        });
        self.cut();
        if self.random.one_in(4) {
            let engine = self.setup().launch();
            std::thread::sleep(Duration::from_micros(self.random.below(60_000) as u64));
            engine.kill();
            self.cut();
            self.killed_while_starting += 1;
        }
    }

    /// A last run, in which everything is acknowledged.
    fn end(&mut self) {
        let engine = self.setup().start();
        let (port, stop) = (engine.tcp_port(), AtomicBool::new(true));
        std::thread::scope(|scope| {
            let publish = |publisher| scope.spawn(|| Publisher::publish(publisher, port, &stop));
            let publishing: Vec<_> = self.publishers.iter_mut().map(publish).collect();
            publishing.into_iter().for_each(|thread| assert!(thread.join().unwrap()));
        });
        let ended = engine.drain();
        ended.assert_balanced();
    }

    fn told(&self, status: u8) -> u64 {
        self.publishers.iter().filter_map(|publisher| publisher.statuses().get(&status)).sum()
    }
}

fn acknowledged_events_survive(policy: &'static str, usually: u64) {
    let rounds = number("CRASH_ROUNDS").unwrap_or(usually);
    let mut crashes = Crashes::new(seed(), policy);
    (0..rounds).for_each(|_| crashes.crash());
    crashes.end();
    let records = assert_each_once(&crashes.folder, &crashes.publishers);
    let (durable, duplicates) = (crashes.told(DURABLE), crashes.told(DUPLICATE | DURABLE));
    println!(
        "{rounds} rounds, {} more killed while starting, {} files changed by power cuts: {} events, {durable} acknowledged as durable, {duplicates} as duplicates; none missing, none twice",
        crashes.killed_while_starting,
        crashes.changed_files,
        records.len(),
    );
    assert_eq!(crashes.told(WRITTEN) + crashes.told(DUPLICATE | WRITTEN), 0);
    assert!(durable > rounds * 100 && duplicates > rounds, "{durable} {duplicates}");
    assert!(crashes.changed_files as u64 > rounds / 2, "power cuts that change nothing: {}", crashes.changed_files);
}

#[test]
fn what_is_acknowledged_survives_every_power_cut() {
    acknowledged_events_survive("fsync: always", 12);
}

/// There another thread syncs, while more is written to the same file.
#[test]
fn and_so_it_does_where_syncs_come_at_intervals() {
    acknowledged_events_survive("fsync: every, fsync_every_ms: 2", 6);
}

/// The same cuts where nothing is synced cost events that were acknowledged as written: the tests above can fail.
#[test]
fn what_is_only_written_does_not() {
    let mut crashes = Crashes::new(seed(), "fsync: never");
    (0..4).for_each(|_| crashes.crash());
    crashes.end();
    assert_eq!(crashes.told(DURABLE) + crashes.told(DUPLICATE | DURABLE), 0);
    let times = times_logged(&crashes.folder.read().0);
    assert!(times.values().all(|times| *times == 1));
    let acknowledged: Vec<u64> =
        crashes.publishers.iter().flat_map(|publisher| publisher.acknowledged().ids()).collect();
    let lost = acknowledged.iter().filter(|id| !times.contains_key(id)).count();
    println!("{lost} of {} lost", acknowledged.len());
    assert!(lost > 100, "{lost} of {}", acknowledged.len());
}
