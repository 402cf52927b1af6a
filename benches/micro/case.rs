//! Contestants measured in turns.
//!
//! Criterion measures one benchmark after the other; on a machine that other work disturbs, the later one then meets
//! another machine than the first. Here a round runs every contestant once, beginning with another one each time, and
//! criterion is handed the rounds' results whenever it asks for a sample of a contestant.

use std::cell::RefCell;
use std::time::Duration;

use xtask::bench::row::{Better, Row};

/// What criterion takes for one iteration: single operations of a few nanoseconds would be rounded.
pub const OPERATIONS: u64 = 1_000;

/// How long criterion warms up: the first round does that for all contestants.
pub const WARM_UP: Duration = Duration::from_millis(1);

/// How much is done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Full,
    Quick,
    /// Only what comes out matters, not how long it takes.
    Test,
}

impl Scale {
    /// `cargo bench` says so on the command line; without it criterion too takes the run for a test.
    pub fn of_process(quick: &str) -> Self {
        let has = |name: &str| std::env::args().any(|argument| argument == name);
        if has("--test") || !has("--bench") {
            Self::Test
        } else if std::env::var_os(quick).is_some() {
            Self::Quick
        } else {
            Self::Full
        }
    }

    pub fn samples(self) -> usize {
        if self == Self::Full { 25 } else { 10 }
    }

    pub fn pick<T>(self, full: T, quick: T, test: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
            Self::Test => test,
        }
    }
}

/// What one round of a contestant took.
pub struct Round {
    pub operations: u64,
    pub time: Duration,
}

/// A contestant, ready to run. It checks its own results and panics when they are wrong.
pub type Run = Box<dyn FnMut() -> Round>;

/// A fact about a contestant that is no time, such as its memory.
pub struct Fact {
    pub metric: &'static str,
    pub unit: &'static str,
    pub value: f64,
}

/// A contestant as it was made, with the facts found on the way.
pub struct Made {
    pub run: Run,
    pub facts: Vec<Fact>,
}

impl From<Run> for Made {
    fn from(run: Run) -> Self {
        Self { run, facts: Vec::new() }
    }
}

/// One row of a comparison: which contestant is ours, and which it is held against.
pub struct Comparison {
    pub case: &'static str,
    pub ours: usize,
    pub baselines: Vec<usize>,
}

pub struct Case {
    pub name: &'static str,
    pub contestants: Vec<&'static str>,
    pub comparisons: Vec<Comparison>,
    /// Makes the contestants, in the same order. Called when the case is really run: tables are large.
    make: Box<dyn Fn() -> Vec<Made>>,
}

impl Case {
    /// The first contestant is ours, and is compared with all others.
    pub fn new(name: &'static str, contestants: &[&'static str], make: impl Fn() -> Vec<Made> + 'static) -> Self {
        let comparisons = vec![Comparison { case: name, ours: 0, baselines: (1..contestants.len()).collect() }];
        Self { name, contestants: contestants.to_vec(), comparisons, make: Box::new(make) }
    }

    pub fn with_comparisons(self, comparisons: Vec<Comparison>) -> Self {
        Self { comparisons, ..self }
    }

    pub fn turns(&self) -> RefCell<Turns<'_>> {
        let count = self.contestants.len();
        RefCell::new(Turns {
            make: &self.make,
            made: Vec::new(),
            rounds: vec![Vec::new(); count],
            shown: vec![0; count],
        })
    }

    pub fn rows(&self, turns: &Turns) -> Vec<Row> {
        let mut rows = Vec::new();
        for comparison in &self.comparisons {
            let ours = turns.measured(comparison.ours);
            for &index in &comparison.baselines {
                let theirs = turns.measured(index);
                if !ours.is_empty() {
                    rows.push(of_times(comparison.case, ours, self.contestants[index], theirs));
                }
            }
        }
        if let Some((ours, others)) = turns.made.split_first() {
            for fact in &ours.facts {
                for (made, name) in others.iter().zip(&self.contestants[1..]) {
                    let same = made.facts.iter().find(|other| other.metric == fact.metric);
                    rows.extend(same.map(|other| of_facts(self.name, fact, name, other.value)));
                }
            }
        }
        rows
    }
}

/// The rounds of a case while it is measured.
pub struct Turns<'a> {
    make: &'a dyn Fn() -> Vec<Made>,
    made: Vec<Made>,
    /// Nanoseconds an operation in every round, for each contestant.
    rounds: Vec<Vec<f64>>,
    /// How many of them criterion has been shown, for each contestant.
    shown: Vec<usize>,
}

impl Turns<'_> {
    /// The time of a round, scaled to as many iterations as criterion believes it asked for. For the first contestant a
    /// new round is run; the others are shown their part of those rounds afterwards, again from the start if need be.
    pub fn sample(&mut self, index: usize, iterations: u64) -> Duration {
        if index == 0 || self.rounds[index].is_empty() {
            self.round();
        } else {
            // Criterion warms up until a millisecond has passed, and asks for twice as much each time.
            std::thread::sleep(WARM_UP);
        }
        let rounds = &self.rounds[index];
        let nanoseconds = rounds[self.shown[index] % rounds.len()];
        self.shown[index] += 1;
        Duration::from_secs_f64(nanoseconds * OPERATIONS as f64 * iterations as f64 / 1e9)
    }

    /// Every round but the first, in which caches and branch predictors are cold.
    fn measured(&self, index: usize) -> &[f64] {
        self.rounds[index].get(1..).unwrap_or_default()
    }

    fn round(&mut self) {
        if self.made.is_empty() {
            self.made = (self.make)();
            assert_eq!(self.made.len(), self.rounds.len(), "a name for each contestant");
        }
        let (count, begun) = (self.made.len(), self.rounds[0].len());
        for index in (0..count).map(|turn| (begun + turn) % count) {
            let round = (self.made[index].run)();
            self.rounds[index].push(round.time.as_nanos() as f64 / round.operations as f64);
        }
    }
}

/// From nanoseconds an operation, round by round.
fn of_times(case: &str, ours: &[f64], baseline: &str, theirs: &[f64]) -> Row {
    let rates = |nanoseconds: &[f64]| nanoseconds.iter().map(|ns| 1e3 / ns).collect::<Vec<_>>();
    Row::of_rounds((case, "throughput", "M/s"), &rates(ours), baseline, &rates(theirs), Better::More)
}

/// For what is better the less it is, and the same in every round.
fn of_facts(case: &str, fact: &Fact, baseline: &str, theirs: f64) -> Row {
    Row::of_rounds((case, fact.metric, fact.unit), &[fact.value], baseline, &[theirs], Better::Less)
}
