//! Events of one topic and class from one source arrive in order, whoever runs when, also while topics move between
//! classes, and while events of topics in strict order are retried.
//!
//! Each run is made from a seed: what is sent, which agent runs next, when the topic table changes. `EVENTSTREAM_SEED`
//! repeats one.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use eventstream::control::State;
use eventstream::dispatch::TopicEntry;
use eventstream::frame::{Class, FrameHeader, Priority, encode};
use eventstream::metrics::{Counter, Ledger};
use eventstream::worker::Outcome;
use eventstream_tests::pipeline::{FnHandler, Pipeline, PipelineSpec, topic};
use eventstream_tests::random::Random;

const SOURCES: usize = 3;
const TOPICS: usize = 10;
const SEEDS: u64 = 150;
const STEPS: usize = 600;

/// A handled event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handled {
    source: u16,
    topic: usize,
    sequence: u32,
    class: Class,
}

type Log = Arc<Mutex<Vec<Handled>>>;

fn name(topic: usize) -> String {
    format!("topic/{topic}")
}

/// A topic without entry takes its class from this: the same for all of its events, so that only a reload moves it.
fn priority(topic: usize) -> Priority {
    Priority::ALL[topic % Priority::ALL.len()]
}

/// A handler that notes what it has handled. With a seed it first asks for retries, and refuses some for good.
fn recorder(log: &Log, seed: Option<u64>) -> FnHandler {
    let (log, mut random) = (log.clone(), seed.map(Random::new));
    FnHandler::new(move |event, _| {
        if let Some(random) = &mut random {
            if random.one_in(4) {
                return Outcome::Retry;
            }
            if random.one_in(20) {
                return Outcome::Reject("by chance");
            }
        }
        let topic = event.topic().strip_prefix("topic/").and_then(|number| number.parse().ok());
        log.lock().unwrap().push(Handled {
            source: event.source().port(),
            topic: topic.expect("a topic of this test"),
            sequence: u32::from_be_bytes(event.payload().try_into().expect("a sequence")),
            class: event.class(),
        });
        Outcome::Done
    })
}

/// How a run is set up.
#[derive(Clone, Copy)]
struct Plan {
    /// Links, pools and spill large enough that nothing is ever refused room.
    ample: bool,
    reloads: bool,
    /// All topics are in strict order, and handlers ask for retries.
    retries: bool,
}

/// The topics of a run with retries, of the classes that have them.
fn strict_topics() -> Vec<TopicEntry> {
    let class = |number: usize| if number.is_multiple_of(2) { Class::Transactional } else { Class::Batch };
    (0..TOPICS).map(|number| TopicEntry { strict: true, ..topic(&name(number), class(number)) }).collect()
}

fn spec(plan: Plan) -> PipelineSpec {
    let tight = PipelineSpec {
        sources: SOURCES,
        workers: [2, 2, 1],
        spsc_depth: 16,
        dedup: [false; 3],
        topics: if plan.retries { strict_topics() } else { Vec::new() },
        ..PipelineSpec::default()
    };
    if plan.ample {
        let ample = PipelineSpec { spsc_depth: 1 << 14, spill_slots: 512, retry_depth: 4096, ..tight };
        PipelineSpec { source_slots: 256, mpsc_depth: 4096, ..ample }
    } else {
        tight
    }
}

/// One run: a pipeline, its log, and what the seed makes of them.
struct Run {
    random: Random,
    plan: Plan,
    pipeline: Pipeline,
    log: Log,
    next_sequence: HashMap<(usize, usize), u32>,
    table: Vec<TopicEntry>,
}

impl Run {
    fn new(seed: u64, plan: Plan) -> Self {
        let log = Log::default();
        let mut seeds = Random::new(seed ^ 1);
        let spec = spec(plan);
        let pipeline = Pipeline::new(&spec, |_, _| recorder(&log, plan.retries.then(|| seeds.draw())));
        Self { random: Random::new(seed), plan, pipeline, log, next_sequence: HashMap::new(), table: spec.topics }
    }

    /// A datagram of one to twelve events of random topics, each with its topic's next sequence at this source.
    fn send(&mut self) {
        let source = self.random.below(SOURCES);
        let count = 1 + self.random.below(12);
        let mut bytes = Vec::new();
        for _ in 0..count {
            let topic = self.random.below(TOPICS);
            let sequence = self.next_sequence.entry((source, topic)).or_default();
            encode(&mut bytes, &FrameHeader::new(priority(topic)), name(topic).as_bytes(), &sequence.to_be_bytes());
            *sequence += 1;
        }
        let from = SocketAddr::from(([127, 0, 0, 1], source as u16 + 1));
        self.pipeline.send(source, &bytes, count as u64, Some(from));
    }

    /// A table of other topics, some of them in other classes than before.
    fn reload(&mut self) {
        self.table.clear();
        for number in 0..TOPICS {
            if !self.random.one_in(3) {
                let class = *self.random.pick(&Class::ALL);
                self.table.push(topic(&name(number), class));
            }
        }
        self.pipeline.topics.publish(&self.table);
    }

    fn step(&mut self, asleep: &str) {
        if self.random.one_in(4) {
            self.send();
        }
        if self.plan.reloads && self.random.one_in(25) {
            self.reload();
        }
        if !self.plan.ample && self.random.one_in(40) {
            let states = [State::Running, State::Running, State::Dropping, State::Emergency];
            self.pipeline.state.set(*self.random.pick(&states));
        }
        if self.plan.retries {
            self.pipeline.advance(self.random.below(2_000_000) as u64);
        }
        if self.random.one_in(50) {
            self.pipeline.topics.retire();
        }
        let agent = self.random.pick(&self.pipeline.agents).clone();
        if agent != asleep {
            self.pipeline.step_one(&agent);
        }
    }
}

/// Runs a seed to its end; the ledger, and what was handled in the order of handling.
fn run(seed: u64, plan: Plan) -> (Ledger, Vec<Handled>) {
    let mut run = Run::new(seed, plan);
    let mut asleep = String::new();
    for step in 0..STEPS {
        if step % 60 == 0 {
            // For a while one agent does not get to run at all: what is in front of it fills up.
            asleep = run.random.pick(&run.pipeline.agents).clone();
        }
        run.step(&asleep);
    }
    run.pipeline.state.set(State::Running);
    run.pipeline.settle();
    check_last_table(&mut run);
    let ledger = run.pipeline.finish();
    assert!(
        !(plan.retries && plan.ample) || run.pipeline.sum(Counter::EVENTS_HELD_BACK) > 100,
        "seed {seed}: hardly a retry mattered"
    );
    assert_eq!(run.pipeline.topics.retire(), 1, "a replaced table is still held");
    let handled = run.log.lock().unwrap().clone();
    (ledger, handled)
}

/// Once everything has ended, topics are where the newest table says.
fn check_last_table(run: &mut Run) {
    // One change ends, the last table is taken, its change ends.
    for _ in 0..4 {
        run.pipeline.invoker.step(run.pipeline.now());
    }
    let before = run.log.lock().unwrap().len();
    for _ in 0..10 {
        run.send();
        run.pipeline.settle();
    }
    for handled in &run.log.lock().unwrap()[before..] {
        let entry = run.table.iter().find(|entry| entry.name == name(handled.topic));
        let wanted = entry.map_or(priority(handled.topic).class(), |entry| entry.class);
        assert_eq!(handled.class, wanted, "class of {} after the last reload", name(handled.topic));
    }
}

fn check(seed: u64, plan: Plan) {
    let (ledger, handled) = run(seed, plan);
    let mut last: BTreeMap<(u16, usize), Handled> = BTreeMap::new();
    for event in &handled {
        if let Some(before) = last.insert((event.source, event.topic), *event) {
            assert!(before.sequence < event.sequence, "seed {seed}: {event:?} after {before:?}");
        }
    }
    assert_eq!(ledger.events.processed.total(), handled.len() as u64, "seed {seed}");
    if plan.ample && plan.retries {
        let failed = ["rejected", "retries_exhausted"].map(|reason| ledger.events.dead_lettered[reason]);
        assert_eq!(
            ledger.events.accepted,
            handled.len() as u64 + failed.iter().sum::<u64>(),
            "seed {seed}: {ledger:?}"
        );
    } else if plan.ample {
        assert_eq!(ledger.events.accepted, handled.len() as u64, "seed {seed}: {:?}", ledger.events);
    }
}

fn check_seeds(plan: Plan) {
    match std::env::var("EVENTSTREAM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => check(seed, plan),
        None => (0..SEEDS).for_each(|seed| check(seed, plan)),
    }
}

#[test]
fn each_topic_of_a_source_is_handled_in_order_and_nothing_is_missing() {
    check_seeds(Plan { ample: true, reloads: false, retries: false });
}

#[test]
fn the_order_stands_while_links_overflow_and_states_change() {
    check_seeds(Plan { ample: false, reloads: false, retries: false });
}

#[test]
fn the_order_stands_across_reloads_that_move_topics_and_nothing_is_missing() {
    check_seeds(Plan { ample: true, reloads: true, retries: false });
}

#[test]
fn the_order_stands_across_reloads_while_links_overflow_and_states_change() {
    check_seeds(Plan { ample: false, reloads: true, retries: false });
}

#[test]
fn strict_order_stands_while_events_are_retried_and_nothing_is_missing() {
    check_seeds(Plan { ample: true, reloads: false, retries: true });
}

#[test]
fn strict_order_stands_while_events_are_retried_links_overflow_and_states_change() {
    check_seeds(Plan { ample: false, reloads: false, retries: true });
}

/// The other way round: what is not in strict order is overtaken in such runs.
#[test]
fn without_strict_order_a_retry_is_overtaken() {
    let overtaken = |seed| {
        let plan = Plan { ample: true, reloads: false, retries: true };
        let mut run = Run::new(seed, plan);
        let relaxed = strict_topics().into_iter().map(|topic| TopicEntry { strict: false, ..topic });
        run.pipeline.topics.publish(&relaxed.collect::<Vec<_>>());
        (0..200).for_each(|_| run.step(""));
        run.pipeline.finish();
        let mut last: HashMap<(u16, usize), u32> = HashMap::new();
        let handled = run.log.lock().unwrap();
        handled.iter().filter(|e| last.insert((e.source, e.topic), e.sequence).is_some_and(|l| l > e.sequence)).count()
    };
    assert!((0..10).all(|seed| overtaken(seed) > 0));
}

#[test]
fn a_seed_repeats_its_run() {
    let plan = Plan { ample: false, reloads: true, retries: false };
    assert_eq!(run(7, plan), run(7, plan));
    assert_ne!(run(7, plan).1, run(8, plan).1);
}

/// The other way round: a run in which reloads really do move topics under load, or the tests above prove little.
#[test]
fn the_runs_move_topics_with_events_on_their_way() {
    let moved = |handled: &[Handled]| {
        let mut classes: HashMap<(u16, usize), Class> = HashMap::new();
        handled.iter().filter(|e| classes.insert((e.source, e.topic), e.class).is_some_and(|c| c != e.class)).count()
    };
    let moves: usize =
        (0..20).map(|seed| moved(&run(seed, Plan { ample: true, reloads: true, retries: false }).1)).sum();
    assert!(moves > 200, "{moves} moves");
    let run = run(3, Plan { ample: false, reloads: true, retries: false }).0;
    assert!(run.events.dead_lettered.contains_key("link_full"), "{:?}", run.events);
}
