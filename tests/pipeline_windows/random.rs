//! Runs made from a seed: whatever closes windows and whatever handlers answer, each topic's events are handled in order, each
//! ends once, and windows are no larger than they may be.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use eventstream::dispatch::TopicEntry;
use eventstream::frame::{FrameHeader, Priority, encode};
use eventstream::worker::Outcome;
use eventstream_tests::pipeline::{FnHandler, Pipeline, PipelineSpec};
use eventstream_tests::random::Random;

use super::{closed, dead, limits, strict, windowed};

const TOPICS: usize = 8;
const SEEDS: u64 = 60;
const STEPS: usize = 800;

/// Topic and sequence of every event that was handled for good, in order.
type Log = Arc<Mutex<Vec<(String, u32)>>>;

/// Handles windows, and sometimes has them retried or refuses one of their events.
fn handler(log: &Log, seed: u64) -> FnHandler {
    let (log, mut random) = (log.clone(), Random::new(seed));
    FnHandler::new(|_, _| Outcome::Done).with_windows(move |window| {
        assert!(window.len() <= 7 && (window.bytes() <= 1000 || window.len() == 1), "{}", window.len());
        if random.one_in(4) {
            return Outcome::Retry;
        }
        for event in window.events() {
            if random.one_in(20) {
                event.settle(Outcome::Reject("by chance"));
            } else {
                let sequence = u32::from_be_bytes(*event.payload().first_chunk().expect("a sequence"));
                log.lock().unwrap().push((event.topic().to_owned(), sequence));
            }
        }
        Outcome::Done
    })
}

struct Run {
    random: Random,
    pipeline: Pipeline,
    log: Log,
    sequences: HashMap<usize, u32>,
}

impl Run {
    /// The first topics are in strict order, the last have no entry.
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let entry = |number: usize| -> TopicEntry {
            let name = format!("t{number}");
            if number < 4 { strict(&name, 3 + number as u32) } else { windowed(&name, 7) }
        };
        let spec = PipelineSpec {
            topics: (0..6).map(entry).collect(),
            unnamed_window: Some(limits(5)),
            window_slots: 2 + random.below(6),
            window_events: 8 + random.below(60),
            dead_letter_depth: 16,
            source_slots: 256,
            spsc_depth: 1024,
            mpsc_depth: 4096,
            ..PipelineSpec::default()
        };
        let log = Log::default();
        let pipeline = Pipeline::new(&spec, |_, _| handler(&log, random.draw()));
        Self { random, pipeline, log, sequences: HashMap::new() }
    }

    fn send(&mut self) {
        let mut bytes = Vec::new();
        let count = 1 + self.random.below(5);
        for _ in 0..count {
            let topic = self.random.below(TOPICS);
            let sequence = self.sequences.entry(topic).or_default();
            let mut payload = sequence.to_be_bytes().to_vec();
            payload.resize(4 + self.random.below(380), 0);
            encode(&mut bytes, &FrameHeader::new(Priority::Batch), format!("t{topic}").as_bytes(), &payload);
            *sequence += 1;
        }
        self.pipeline.send(0, &bytes, count as u64, None);
    }

    fn step(&mut self) {
        if self.random.one_in(3) {
            self.send();
        }
        self.pipeline.advance(self.random.below(4_000_000) as u64);
        let agent = self.random.pick(&self.pipeline.agents).clone();
        self.pipeline.step_one(&agent);
    }
}

fn check(seed: u64) -> [u64; 5] {
    let mut run = Run::new(seed);
    (0..STEPS).for_each(|_| run.step());
    let ledger = run.pipeline.finish();
    let log = run.log.lock().unwrap();
    let mut last: HashMap<&str, u32> = HashMap::new();
    for (topic, sequence) in log.iter().filter(|(topic, _)| ["t0", "t1", "t2", "t3"].contains(&topic.as_str())) {
        if let Some(before) = last.insert(topic, *sequence) {
            assert!(before < *sequence, "seed {seed}: {topic} {sequence} after {before}");
        }
    }
    let mut distinct: Vec<_> = log.iter().collect();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), log.len(), "seed {seed}: an event was handled for good twice");
    let failed: u64 =
        ["rejected", "retries_exhausted", "retry_overflow"].map(|reason| dead(&ledger, reason)).iter().sum();
    assert_eq!(ledger.events.accepted, log.len() as u64 + failed + lost(&ledger), "seed {seed}: {:?}", ledger.events);
    closed(&run.pipeline)
}

/// Single events refused while the link to the dead letter queue is full.
fn lost(ledger: &eventstream::metrics::Ledger) -> u64 {
    ledger.events.lost.values().sum()
}

#[test]
fn each_event_ends_once_and_in_order_whatever_closes_its_window() {
    let closed = (0..SEEDS).map(check).fold([0; 5], |sum, of| std::array::from_fn(|cause| sum[cause] + of[cause]));
    assert!(closed.iter().all(|count| *count > 100), "every cause plays a part: {closed:?}");
}
