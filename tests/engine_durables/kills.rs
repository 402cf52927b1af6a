//! Killed at any moment, the engine and its subscriber, again and again, and every other time the power is cut with the engine.
//!
//! `KEPT_ROUNDS` says how many times, `KEPT_SEED` repeats what was drawn, if not what the scheduler did.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use eventstream::frame::Priority;
use eventstream_tests::acks::asking;
use eventstream_tests::client::{PATIENCE, connect};
use eventstream_tests::consumer::{Consumer, Delivered};
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::Setup;
use eventstream_tests::publisher::{Publisher, payload_of};
use eventstream_tests::random::Random;
use serde_json::{Value, json};

use super::LIMITS;

const PUBLISHERS: u64 = 2;
const TOPICS: [&str; 2] = ["kept/orders", "kept/plant"];
const MAX_IN_FLIGHT: usize = 64;
/// Half a second goes by before one is written, and some time until it is on a disk that syncs for the log all the time.
const POSITIONS_AGE: Duration = Duration::from_secs(1);
/// The last event of all.
const LAST: u64 = u64::MAX;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{variable}: {error}")))
}

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let seed = number("KEPT_SEED").unwrap_or_else(now);
    println!("KEPT_SEED={seed}");
    seed
}

/// What a subscriber remembers, and what the engine has told it twice.
#[derive(Default)]
struct Memory {
    /// The id at each position.
    seen: HashMap<(u32, u64), u64>,
    ids: HashSet<u64>,
    again: Vec<u64>,
    /// When anything was seen.
    times: Vec<Instant>,
    clients_killed: u64,
    is_over: bool,
}

impl Memory {
    fn take(&mut self, event: &Delivered) {
        assert_eq!(event.payload, payload_of(event.id), "event {}", event.id);
        match self.seen.insert((event.epoch, event.offset), event.id) {
            None => assert!(self.ids.insert(event.id), "event {} has two positions", event.id),
            Some(id) => {
                assert_eq!(id, event.id, "offset {} was another event's", event.offset);
                self.again.push(event.offset);
            }
        }
        self.times.push(Instant::now());
        self.is_over |= event.id == LAST;
    }
}

/// Subscribes, works, goes without a word now and then, and comes back, until the engine is gone or everything was seen.
fn subscriber(port: u16, memory: &mut Memory, random: &mut Random, gone: &AtomicBool) {
    let subscription = json!({
        "sub": 1, "filter": "kept/#", "durable": "books", "start": "earliest", "max_in_flight": MAX_IN_FLIGHT,
    });
    while !memory.is_over && !gone.load(Ordering::Relaxed) {
        let Ok(mut consumer) = Consumer::try_connect(port) else { return };
        match consumer.try_ask("$esc/subscribe", &subscription) {
            // The engine has not noticed yet that the connection before is no more.
            Ok(Err(refused)) if refused["code"] == "durable_in_use" => {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            Ok(answer) => _ = answer.unwrap_or_else(|refused| panic!("{refused}")),
            Err(_) => return,
        }
        let (mut undone, mut left) = (Vec::new(), 20 + random.below(2_000));
        while left > 0 && !memory.is_over {
            let Ok(event) = consumer.event() else { return };
            memory.take(&event);
            undone.push(event.offset);
            left -= 1;
            if undone.len() == MAX_IN_FLIGHT || random.one_in(9) {
                // In any order, and not always all.
                let kept = if random.one_in(2) { undone.pop() } else { None };
                if consumer.done(1, &undone).is_err() {
                    return;
                }
                undone = kept.into_iter().collect();
            }
        }
        memory.clients_killed += 1;
    }
}

/// What the engine has on disk of its one name: everything before the first number is done, but for the others.
fn kept(folder: &DataFolder) -> Option<(u64, HashSet<u64>)> {
    let text = std::fs::read_to_string(folder.path().join("subscriptions/positions")).ok()?;
    let line = text.lines().nth(1)?;
    let saved: Value = serde_json::from_str(&line[9..]).expect("JSON behind the checksum");
    let undone = saved["undone"].as_array().expect("a list");
    Some((saved["next"].as_u64()?, undone.iter().map(|one| one[0].as_u64().expect("an offset")).collect()))
}

struct Kills {
    folder: DataFolder,
    publishers: Vec<Publisher>,
    random: Random,
    memory: Memory,
    /// As it was when the engine was killed last.
    kept: (u64, HashSet<u64>),
    /// Offsets seen by then, and how many were seen, or seen again, in [`POSITIONS_AGE`] before.
    seen: HashSet<u64>,
    seen_last: usize,
    again_after_kills: usize,
    rounds: u64,
    changed_files: usize,
}

impl Kills {
    fn setup(&mut self) -> Setup {
        const REST: &str = "
topics:
  - {name: kept/orders, class: transactional}
  - {name: kept/plant, class: batch, dedup: true, window: {max_events: 50, max_ms: 5}}
";
        let config = self.folder.storage("segment_bytes: 1048576, fsync: always") + LIMITS + REST;
        Setup::default().config(&config).environment("EVENTSTREAM_DISK_FAULT", &self.folder.next_run())
    }

    /// Load, until a position was written that is not the last one; some more of it, and the end.
    fn kill(&mut self) {
        let engine = self.setup().start();
        let (port, stop) = (engine.tcp_port(), AtomicBool::new(false));
        let more = Duration::from_micros(self.random.below(400_000) as u64);
        let (memory, random, folder) = (&mut self.memory, &mut self.random, &self.folder);
        let (before, waited) = (self.kept.0, Instant::now());
        let mut killed = waited;
        std::thread::scope(|scope| {
            let stop = &stop;
            for publisher in &mut self.publishers {
                scope.spawn(move || publisher.publish(port, stop));
            }
            scope.spawn(move || subscriber(port, memory, random, stop));
            while kept(folder).is_none_or(|(next, _)| next <= before) {
                assert!(waited.elapsed() < PATIENCE, "no position is written");
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(more);
            stop.store(true, Ordering::Relaxed);
            killed = Instant::now();
            engine.kill();
        });
        if self.rounds.is_multiple_of(2) {
            self.changed_files += self.folder.power_cut(self.random.draw());
        }
        self.rounds += 1;
        self.check();
        self.seen = self.memory.seen.keys().map(|(_, offset)| *offset).collect();
        let is_late = |time: &&Instant| killed.saturating_duration_since(**time) <= POSITIONS_AGE;
        self.seen_last = self.memory.times.iter().rev().take_while(is_late).count();
        self.kept = kept(&self.folder).expect("it was written");
        assert!(self.kept.1.len() <= MAX_IN_FLIGHT, "{:?}", self.kept.1);
    }

    /// What was done when the position was written did not come again, and of what was seen before the kill no more than may have been
    /// under way, and was seen since the position was taken.
    fn check(&mut self) {
        let (next, undone) = &self.kept;
        let again = std::mem::take(&mut self.memory.again);
        let wrong: Vec<&u64> = again.iter().filter(|offset| *offset < next && !undone.contains(offset)).collect();
        assert!(wrong.is_empty(), "{wrong:?} came again, though everything before {next} was done but {undone:?}");
        let before: HashSet<u64> = again.iter().copied().filter(|offset| self.seen.contains(offset)).collect();
        let most = MAX_IN_FLIGHT + self.seen_last;
        assert!(before.len() <= most, "{} came again, {most} may have", before.len());
        self.again_after_kills += again.len();
    }

    /// A last run, in which everything is acknowledged, and seen.
    fn end(&mut self) {
        let engine = self.setup().start();
        let (port, stop) = (engine.tcp_port(), AtomicBool::new(true));
        let (memory, random) = (&mut self.memory, &mut self.random);
        std::thread::scope(|scope| {
            let publish = |publisher| scope.spawn(|| Publisher::publish(publisher, port, &stop));
            let publishing: Vec<_> = self.publishers.iter_mut().map(publish).collect();
            let gone = AtomicBool::new(false);
            let subscribing = scope.spawn(move || subscriber(port, memory, random, &gone));
            publishing.into_iter().for_each(|thread| assert!(thread.join().unwrap()));
            let last = asking(Priority::Medium, Some(LAST), TOPICS[0], &payload_of(LAST));
            connect(port).write_all(&last).unwrap();
            subscribing.join().unwrap();
        });
        self.check();
        engine.drain().assert_balanced();
    }
}

#[test]
fn every_acknowledged_event_is_seen_and_none_of_what_was_done_comes_again() {
    let (rounds, seed) = (number("KEPT_ROUNDS").unwrap_or(3), seed());
    let mut kills = Kills {
        folder: DataFolder::new(),
        publishers: (1..=PUBLISHERS).map(|number| Publisher::new(number, seed, &TOPICS)).collect(),
        random: Random::new(seed),
        memory: Memory::default(),
        kept: (0, HashSet::new()),
        seen: HashSet::new(),
        seen_last: 0,
        again_after_kills: 0,
        rounds: 0,
        changed_files: 0,
    };
    (0..rounds).for_each(|_| kills.kill());
    kills.end();
    let Kills { folder, publishers, memory, again_after_kills, changed_files, .. } = kills;
    assert!(memory.is_over, "the last event was not seen");
    let acknowledged: Vec<u64> = publishers.iter().flat_map(Publisher::ids).collect();
    let missing: Vec<&u64> = acknowledged.iter().filter(|id| !memory.ids.contains(id)).collect();
    assert!(missing.is_empty(), "{} of {} were not seen: {missing:?}", missing.len(), acknowledged.len());
    let (records, _) = folder.read();
    let positions: HashSet<u64> = memory.seen.keys().map(|(_, offset)| *offset).collect();
    assert!(records.iter().all(|record| positions.contains(&record.offset)), "records that nobody was given");
    assert!(changed_files > 0, "power cuts that change nothing");
    println!(
        "{rounds} kills of the engine, {changed_files} files changed by power cuts, {} of the subscriber: {} events, none missing; {again_after_kills} came again",
        memory.clients_killed,
        memory.ids.len()
    );
}
