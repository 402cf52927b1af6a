//! Claims in a table that remembers 10 million ids, one in ten of them a duplicate of an id drawn from the younger half of
//! what is remembered.
//!
//! With expiry every table is full and in balance: for each new id an old one expires. Ours is told the time and does
//! the rest; a claim that is won is also finished, which the maps have no need of. Without expiry the tables begin at
//! the same size and grow by what the rounds add. Memory is what the heap has given out once all ids are in.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use eventstream::dedup::{Claim, ClaimToken, Claimer, DedupConfig, DedupTable, EventId};
use foldhash::fast::RandomState;

use crate::case::{Case, Comparison, Fact, Made, Round, Scale};
use crate::ids::{BATCH, Batch, Plan, Stream};
use crate::machine;
use crate::maps::{Key, Map, MapClaims};
use crate::transfer::wait_until;

/// What the contestants of one case take together for each id, and some.
const BYTES_AN_ID: u64 = 500;
/// For all ids together: about 170,000 events a second.
const WINDOW_NS: u64 = 60_000_000_000;
const NAMES: &[&str] = &["ours", "papaya", "dashmap", "scc", "ours, one by one"];
const NAMES_NO_EXPIRY: &[&str] = &["ours without expiry", "papaya", "dashmap", "scc", "ours with expiry"];
/// The maps among the names.
const MAPS: [usize; 3] = [1, 2, 3];
const LAST: usize = 4;

/// One thread's end of a table.
pub trait Claims: Send {
    /// Claims at most [`BATCH`] ids, and says how many were won.
    fn claim(&mut self, ids: &[EventId], now_ns: u64) -> u64;
    /// Called between rounds.
    fn check(&self) {}
}

struct Ours {
    claimer: Claimer,
    tokens: Vec<ClaimToken>,
    single: bool,
}

impl Ours {
    /// Ends with room for `ids` altogether. An id is kept 1/64 longer than the window, in case clocks differ: that much
    /// more room is needed, and some.
    fn ends(plan: Plan, ids: u64, window_ns: u64, single: bool) -> Vec<Self> {
        let capacity = (ids + ids / 32) as usize + 4 * BATCH;
        let config = DedupConfig { capacity, window_ns, claimers: plan.threads as usize };
        let (_, claimers) = DedupTable::new(config).expect("a table within its limits");
        let end = |claimer| Self { claimer, tokens: Vec::with_capacity(BATCH), single };
        claimers.into_iter().map(end).collect()
    }
}

impl Claims for Ours {
    #[inline]
    fn claim(&mut self, ids: &[EventId], now_ns: u64) -> u64 {
        let mut won = 0;
        if self.single {
            for id in ids {
                if let Claim::Won(token) = self.claimer.claim(*id, now_ns) {
                    self.claimer.finish(token);
                    won += 1;
                }
            }
            return won;
        }
        let tokens = &mut self.tokens;
        self.claimer.claim_each((0..).zip(ids.iter().copied()), now_ns, |_, claim| {
            if let Claim::Won(token) = claim {
                tokens.push(token);
            }
        });
        won += tokens.len() as u64;
        tokens.drain(..).for_each(|token| self.claimer.finish(token));
        won
    }

    fn check(&self) {
        let stats = self.claimer.table().stats();
        assert_eq!((stats.evicted_early, stats.unremembered), (0, 0), "ids were forgotten within the window");
    }
}

/// One contestant: a table's ends, and the ids each will claim.
struct Contest<C> {
    ends: Vec<(C, Stream)>,
    each: usize,
}

impl<C: Claims> Contest<C> {
    /// Fills a table made by `make`, and says how many bytes of heap that took.
    fn filled(plan: Plan, each: usize, make: impl FnOnce() -> Vec<C>) -> (Self, u64) {
        let before = machine::heap_bytes();
        let streams = (0..plan.threads).map(|thread| Stream::new(plan, thread));
        let mut ends: Vec<_> = make().into_iter().zip(streams).collect();
        thread::scope(|scope| {
            for (index, (claims, stream)) in ends.iter_mut().enumerate() {
                scope.spawn(move || {
                    machine::pin_producer(index);
                    while stream.next() < plan.remembered_each() {
                        let batch = stream.fresh();
                        let won = claims.claim(&batch.ids, batch.now_ns);
                        assert_eq!(won, BATCH as u64, "a new id was taken for a duplicate");
                    }
                });
            }
        });
        let bytes = machine::heap_bytes().saturating_sub(before);
        (Self { ends, each }, bytes)
    }

    fn round(&mut self) -> Round {
        let each = self.each;
        let common = self.ends.iter().map(|(_, stream)| stream.next()).min().unwrap_or_default();
        let work = self.ends.iter_mut().map(|(claims, stream)| {
            let (batches, fresh) = stream.mixed(each, common);
            (claims, batches, fresh)
        });
        let mut work: Vec<_> = work.collect();
        let operations = (work.len() * (each / BATCH * BATCH)) as u64;
        let mut here = work.pop();
        let others = work.len();
        let ready = AtomicUsize::new(0);
        machine::pin_consumer();
        let time = thread::scope(|scope| {
            let ready = &ready;
            let spawned: Vec<_> = (work.into_iter().enumerate())
                .map(|(index, (claims, batches, fresh))| {
                    scope.spawn(move || {
                        machine::pin_producer(index);
                        ready.fetch_add(1, Ordering::Relaxed);
                        wait_until(|| ready.load(Ordering::Relaxed) == others + 1);
                        claim_all(claims, &batches, fresh)
                    })
                })
                .collect();
            wait_until(|| ready.load(Ordering::Relaxed) == others);
            let started = Instant::now();
            ready.fetch_add(1, Ordering::Relaxed);
            let ended = here.as_mut().map(|(claims, batches, fresh)| claim_all(*claims, batches, *fresh));
            let ends = spawned.into_iter().map(|thread| thread.join().expect("it has not panicked"));
            ends.chain(ended).max().unwrap_or(started) - started
        });
        self.ends.iter().for_each(|(claims, _)| claims.check());
        Round { operations, time }
    }
}

#[inline(never)]
fn claim_all<C: Claims>(claims: &mut C, batches: &[Batch], fresh: u64) -> Instant {
    let won: u64 = batches.iter().map(|batch| claims.claim(&batch.ids, batch.now_ns)).sum();
    let ended = Instant::now();
    assert_eq!(won, fresh, "each new id is won, and no other");
    ended
}

fn contestant<C: Claims + 'static>(plan: Plan, each: usize, make: impl FnOnce() -> Vec<C>) -> Made {
    let (mut contest, bytes) = Contest::filled(plan, each, make);
    let memory = Fact { metric: "memory", unit: "B/id", value: bytes as f64 / plan.remembered as f64 };
    Made { run: Box::new(move || contest.round()), facts: vec![memory] }
}

/// Enough for the largest case.
pub fn bytes_needed(scale: Scale) -> u64 {
    remembered(scale) * BYTES_AN_ID
}

fn remembered(scale: Scale) -> u64 {
    scale.pick(10_000_000, 1_000_000, 20_000)
}

pub fn cases(scale: Scale) -> Vec<Case> {
    let one = Plan { threads: 1, remembered: remembered(scale), window_ns: WINDOW_NS };
    let two = Plan { threads: 2, ..one };
    let claims = scale.pick(512, 512, 20) * BATCH;
    // Criterion takes one sample more than it is asked for, to warm up; in a quick run perhaps some more.
    let growth = ((scale.samples() + 6) * claims) as u64;
    vec![
        expiring(one, claims, ["dedup_1t_10pct_dup", "dedup_1t_10pct_dup_single"]),
        expiring(two, claims / 2, ["dedup_2t_10pct_dup", "dedup_2t_10pct_dup_single"]),
        growing(one, claims, growth, ["dedup_1t_10pct_dup_no_expiry", "dedup_1t_expiry_cost"]),
        growing(two, claims / 2, growth, ["dedup_2t_10pct_dup_no_expiry", "dedup_2t_expiry_cost"]),
    ]
}

fn expiring(plan: Plan, each: usize, names: [&'static str; 2]) -> Case {
    let make = move || {
        let ours = |single| contestant(plan, each, || Ours::ends(plan, plan.remembered, plan.window_ns, single));
        // Memory is told of the way an engine claims.
        let single = Made { facts: Vec::new(), ..ours(true) };
        let window = Some(plan.window_ns);
        vec![
            ours(false),
            map::<papaya::HashMap<Key, u64, RandomState>>(plan, each, plan.remembered, window),
            map::<dashmap::DashMap<Key, u64, RandomState>>(plan, each, plan.remembered, window),
            map::<scc::HashMap<Key, u64, RandomState>>(plan, each, plan.remembered, window),
            single,
        ]
    };
    Case::new(names[0], NAMES, make).with_comparisons(vec![
        Comparison { case: names[0], ours: 0, baselines: MAPS.to_vec() },
        Comparison { case: names[1], ours: LAST, baselines: MAPS.to_vec() },
    ])
}

fn growing(plan: Plan, each: usize, growth: u64, names: [&'static str; 2]) -> Case {
    let make = move || {
        let capacity = plan.remembered + growth;
        let ours = |capacity, window_ns| contestant(plan, each, || Ours::ends(plan, capacity, window_ns, false));
        let made = [
            ours(capacity, 100 * plan.window_ns),
            map::<papaya::HashMap<Key, u64, RandomState>>(plan, each, capacity, None),
            map::<dashmap::DashMap<Key, u64, RandomState>>(plan, each, capacity, None),
            map::<scc::HashMap<Key, u64, RandomState>>(plan, each, capacity, None),
            // As full as the one without expiry is on average: in fuller buckets more ids meet.
            ours(plan.remembered * capacity / (plan.remembered + growth / 2), plan.window_ns),
        ];
        // Memory with room to grow says nothing.
        made.into_iter().map(|made| Made { facts: Vec::new(), ..made }).collect()
    };
    Case::new(names[0], NAMES_NO_EXPIRY, make).with_comparisons(vec![
        Comparison { case: names[0], ours: 0, baselines: MAPS.to_vec() },
        Comparison { case: names[1], ours: LAST, baselines: vec![0] },
    ])
}

fn map<M: Map>(plan: Plan, each: usize, remembered: u64, window_ns: Option<u64>) -> Made {
    contestant(plan, each, || MapClaims::<M>::new(plan.threads as usize, remembered as usize, window_ns))
}
