//! One thread against an oracle; threads against each other are in `tests/verification`.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// Windows and times of the tests are multiples of the table's tick, so that ages are exact.
const TICK: u64 = 1024;
const WINDOW: u64 = 100 * TICK;

fn table(capacity: usize, claimers: usize) -> (Arc<DedupTable>, Vec<Claimer>) {
    DedupTable::new(DedupConfig { capacity, window_ns: WINDOW, claimers }).expect("valid sizes")
}

fn id(n: u64) -> EventId {
    EventId::from_parts(n >> 32, n)
}

fn won(claim: Claim) -> ClaimToken {
    match claim {
        Claim::Won(token) => token,
        other => panic!("expected to win, got {other:?}"),
    }
}

#[test]
fn an_id_is_won_once_and_each_outcome_shows() {
    let (table, mut claimers) = table(16, 1);
    let claimer = &mut claimers[0];
    let token = won(claimer.claim(id(1), 0));
    assert!(matches!(claimer.claim(id(1), 5), Claim::Pending(_)));
    claimer.finish(token);
    assert!(matches!(claimer.claim(id(1), WINDOW), Claim::Done));
    let token = won(claimer.claim(id(2), 0));
    claimer.dead_letter(token);
    assert!(matches!(claimer.claim(id(2), 0), Claim::DeadLettered));
    let token = won(claimer.claim(id(3), 0));
    claimer.release(token);
    assert_eq!(table.lookup(id(3), 0), None);
    let _pending = won(claimer.claim(id(3), 0));
    assert_eq!(table.lookup(id(3), 0), Some(ClaimState::Pending));
    assert_eq!(table.lookup(id(4), 0), None);
}

#[test]
fn an_id_is_forgotten_after_the_window_but_never_while_pending() {
    let (_, mut claimers) = table(16, 1);
    let claimer = &mut claimers[0];
    let token = won(claimer.claim(id(1), TICK));
    claimer.finish(token);
    assert!(matches!(claimer.claim(id(1), TICK + WINDOW), Claim::Done));
    let token = won(claimer.claim(id(1), 2 * TICK + WINDOW));
    assert!(matches!(claimer.claim(id(1), 50 * WINDOW), Claim::Pending(_)));
    claimer.finish(token);
    let _token = won(claimer.claim(id(1), 50 * WINDOW));
}

#[test]
fn who_met_a_pending_claim_learns_what_becomes_of_it_however_late() {
    let (table, mut claimers) = table(4, 1);
    let claimer = &mut claimers[0];
    let pending = |claimer: &mut Claimer, n| {
        let token = won(claimer.claim(id(n), 0));
        let Claim::Pending(met) = claimer.claim(id(n), 0) else { panic!("the first is under way") };
        assert_eq!(table.settled(met), None);
        (token, met)
    };
    let [done, dead, lost] = [1, 2, 3].map(|n| pending(claimer, n));
    claimer.finish(done.0);
    claimer.dead_letter(dead.0);
    claimer.release(lost.0);
    let settled = [done.1, dead.1, lost.1].map(|met| table.settled(met));
    assert_eq!(settled, [Some(Settled::Done), Some(Settled::DeadLettered), Some(Settled::Released)]);
    assert_eq!(table.lookup(id(1), 2 * WINDOW), None, "forgotten as an id, not as what it was");
    for n in 10..20 {
        let token = won(claimer.claim(id(n), 2 * WINDOW));
        claimer.finish(token);
    }
    assert_eq!(table.settled(done.1), Some(Settled::Forgotten), "its cell is another's");
}

#[test]
fn a_clock_slightly_behind_sees_the_claim_of_one_ahead() {
    let (_, mut claimers) = table(16, 2);
    let token = won(claimers[0].claim(id(1), 500 * TICK));
    assert!(matches!(claimers[1].claim(id(1), 499 * TICK), Claim::Pending(_)));
    claimers[1].finish(token);
    assert!(matches!(claimers[1].claim(id(1), 499 * TICK), Claim::Done));
}

#[test]
fn a_full_table_forgets_the_oldest_and_says_so() {
    let (table, mut claimers) = table(1000, 1);
    let claimer = &mut claimers[0];
    for n in 0..1500 {
        let token = won(claimer.claim(id(n), n * 10));
        claimer.finish(token);
    }
    claimer.housekeep(15_000);
    let stats = table.stats();
    assert_eq!((stats.evicted_early, stats.unremembered, stats.capacity), (500, 0, 1000));
    assert!((8_000..=11_000).contains(&stats.effective_window_ns), "{stats:?}");
    assert_eq!(stats.occupied, 1000);
    for n in 0..1500 {
        assert_eq!(table.lookup(id(n), 15_000).is_some(), n >= 500, "{n}");
    }
    // Once what is reused has expired, the whole window is remembered again.
    for n in 2000..3000 {
        let token = won(claimer.claim(id(n), 3 * WINDOW));
        claimer.finish(token);
    }
    claimer.housekeep(3 * WINDOW);
    let stats = table.stats();
    assert_eq!((stats.evicted_early, stats.effective_window_ns), (500, WINDOW));
}

#[test]
fn ids_claimed_in_batches_and_settled_afterwards_keep_their_window() {
    let (table, mut claimers) = table(4096, 1);
    let claimer = &mut claimers[0];
    for first in (0..4000).step_by(200) {
        let ids: Vec<_> = (first..first + 200).map(id).collect();
        let mut claims: Vec<Option<Claim>> = ids.iter().map(|_| None).collect();
        let tagged = (0..).zip(ids.iter().copied());
        claimer.claim_each(tagged, TICK, |index, claim| claims[index as usize] = Some(claim));
        claims.drain(..).for_each(|claim| claimer.finish(won(claim.expect("claimed"))));
    }
    claimer.housekeep(TICK);
    assert_eq!(table.stats().evicted_early, 0);
    assert!((0..4000).all(|n| table.lookup(id(n), TICK) == Some(ClaimState::Done)));
}

#[test]
fn pending_claims_outlast_a_full_table_and_a_stuck_one_costs_one_cell() {
    let (table, mut claimers) = table(256, 1);
    let claimer = &mut claimers[0];
    let stuck: Vec<_> = (0..20).map(|n| won(claimer.claim(id(n), 0))).collect();
    for n in 1000..100_000 {
        let token = won(claimer.claim(id(n), 1));
        assert!(token.is_remembered());
        claimer.finish(token);
        if n % 97 == 0 {
            assert!((0..20).all(|n| matches!(claimer.claim(id(n), 1), Claim::Pending(_))), "after {n}");
        }
    }
    claimer.housekeep(1);
    assert!(table.stats().pending_passed_over > 0);
    stuck.into_iter().for_each(|token| claimer.finish(token));
    assert!((0..20).all(|n| matches!(claimer.claim(id(n), 1), Claim::Done)));
}

#[test]
fn with_every_cell_pending_events_are_admitted_unremembered() {
    let (table, mut claimers) = table(64, 1);
    let claimer = &mut claimers[0];
    let held: Vec<_> = (0..64).map(|n| won(claimer.claim(id(n), 0))).collect();
    for _ in 0..2 {
        let token = won(claimer.claim(id(100), 0));
        assert!(!token.is_remembered());
        claimer.finish(token);
    }
    assert_eq!(table.lookup(id(100), 0), None);
    assert!((0..64).all(|n| matches!(claimer.claim(id(n), 0), Claim::Pending(_))));
    claimer.housekeep(0);
    assert_eq!(table.stats().unremembered, 2);
    held.into_iter().for_each(|token| claimer.release(token));
    assert!(won(claimer.claim(id(100), 0)).is_remembered());
}

#[test]
fn dead_letters_are_retaken_or_released_once() {
    let (table, mut claimers) = table(16, 1);
    let claimer = &mut claimers[0];
    for n in 1..=2 {
        let token = won(claimer.claim(id(n), 0));
        claimer.dead_letter(token);
    }
    let token = table.retake_dead_lettered(id(1), 0).expect("dead-lettered");
    assert!(table.retake_dead_lettered(id(1), 0).is_none());
    assert!(!table.release_dead_lettered(id(1), 0), "it is pending now");
    claimer.finish(token);
    assert!(matches!(claimer.claim(id(1), 0), Claim::Done));
    assert!(table.release_dead_lettered(id(2), 0) && !table.release_dead_lettered(id(2), 0));
    let _token = won(claimer.claim(id(2), 0));
}

#[test]
fn rebuilding_enters_outcomes_with_their_times() {
    let (table, mut claimers) = table(64, 2);
    for n in 0..40 {
        assert!(claimers[n as usize % 2].insert_at(id(n), n * TICK, Outcome::DeadLettered));
    }
    assert!(!claimers[0].insert_at(id(39), 40 * TICK, Outcome::Done));
    assert!(!claimers[0].insert_at(id(39), 40 * TICK, Outcome::DeadLettered));
    let now = 20 * TICK + WINDOW;
    let mut seen = HashMap::new();
    table.visit(now, |id, state, time| assert!(seen.insert(id, (state, time)).is_none()));
    assert_eq!(seen.len(), 20);
    for n in 20..40 {
        let state = if n == 39 { ClaimState::Done } else { ClaimState::DeadLettered };
        assert_eq!(seen[&id(n)], (state, n * TICK));
    }
    assert!(matches!(claimers[1].claim(id(39), now), Claim::Done));
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let make = |capacity, claimers| {
        DedupTable::new(DedupConfig { capacity, window_ns: 1, claimers }).map(|(table, _)| table.stats().capacity)
    };
    assert_eq!(make(0, 1), Err(DedupError::Zero));
    assert_eq!(make(1, 0), Err(DedupError::Zero));
    assert_eq!(make((1 << 30) + 1, 1), Err(DedupError::TooLarge));
    assert_eq!(make(1 << 30, 3), Err(DedupError::TooLarge));
    assert_eq!(make(1, 1), Ok(1));
    assert_eq!(make(1000, 3), Ok(1002));
}

#[test]
fn memory_per_id_is_52_bytes_and_handles_are_small() {
    let (table, _claimers) = table(1 << 20, 1);
    assert_eq!(table.stats().memory_bytes, 52 << 20);
    assert_eq!((size_of::<ClaimToken>(), size_of::<Option<Claim>>()), (8, 16));
    fn is_send<T: Send>() {}
    is_send::<Claimer>();
    is_send::<ClaimToken>();
}

#[derive(Clone, Debug)]
enum Op {
    Claim(u8),
    Batch(Vec<u8>),
    Settle(u8, u8),
    Retake(u8),
    Purge(u8),
    Tick(u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any::<u8>().prop_map(Op::Claim),
        2 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Op::Batch),
        4 => (any::<u8>(), 0u8..3).prop_map(|(n, how)| Op::Settle(n, how)),
        1 => any::<u8>().prop_map(Op::Retake),
        1 => any::<u8>().prop_map(Op::Purge),
        2 => (0u16..60).prop_map(Op::Tick),
    ]
}

/// What a table without limits would remember: claim time, state and the token of each pending id.
#[derive(Default)]
struct Oracle {
    entries: HashMap<u8, (u64, ClaimState, Option<ClaimToken>)>,
    now: u64,
}

impl Oracle {
    fn state(&self, n: u8) -> Option<ClaimState> {
        let (time, state, _) = self.entries.get(&n)?;
        (*state == ClaimState::Pending || self.now - time <= WINDOW).then_some(*state)
    }

    fn check(&mut self, n: u8, claim: Claim) {
        match (claim, self.state(n)) {
            (Claim::Won(token), None) => {
                self.entries.insert(n, (self.now, ClaimState::Pending, Some(token)));
            }
            (Claim::Pending(_), Some(ClaimState::Pending))
            | (Claim::Done, Some(ClaimState::Done))
            | (Claim::DeadLettered, Some(ClaimState::DeadLettered)) => {}
            (claim, expected) => panic!("id {n}: {claim:?}, expected {expected:?}"),
        }
    }

    fn settle(&mut self, n: u8, how: u8, claimer: &Claimer) {
        let Some((_, state, token)) = self.entries.get_mut(&n) else {
            return;
        };
        let Some(token) = token.take() else { return };
        match how {
            0 => {
                claimer.finish(token);
                *state = ClaimState::Done;
            }
            1 => {
                claimer.dead_letter(token);
                *state = ClaimState::DeadLettered;
            }
            _ => {
                claimer.release(token);
                self.entries.remove(&n);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    /// Large enough never to fill, small enough for laps: 256 ids cannot all be claimed twice in a window.
    #[test]
    fn agrees_with_an_oracle(ops in prop::collection::vec((op(), 0usize..3), 0..400)) {
        // 400 operations of at most 40 claims fit into each arena within one window.
        let (table, mut claimers) = table(3 * 16_384, 3);
        let mut oracle = Oracle { now: 7 * TICK, ..Oracle::default() };
        for (op, who) in ops {
            let claimer = &mut claimers[who];
            match op {
                Op::Claim(n) => oracle.check(n, claimer.claim(id(n.into()), oracle.now)),
                Op::Batch(mut ns) => {
                    // Which of two copies in a batch wins is open, so each comes once here.
                    ns.sort_unstable();
                    ns.dedup();
                    let ids: Vec<_> = ns.iter().map(|&n| id(n.into())).collect();
                    let mut claims: Vec<_> = ids.iter().map(|_| None).collect();
                    let tagged = (0..).zip(ids.iter().copied());
                    claimer.claim_each(tagged, oracle.now, |index, claim| claims[index as usize] = Some(claim));
                    for (n, claim) in ns.into_iter().zip(claims) {
                        oracle.check(n, claim.expect("each is answered"));
                    }
                }
                Op::Settle(n, how) => oracle.settle(n, how, claimer),
                Op::Retake(n) => {
                    let token = table.retake_dead_lettered(id(n.into()), oracle.now);
                    prop_assert_eq!(token.is_some(), oracle.state(n) == Some(ClaimState::DeadLettered));
                    if token.is_some() {
                        let entry = oracle.entries.get_mut(&n).expect("it has a state");
                        (entry.1, entry.2) = (ClaimState::Pending, token);
                    }
                }
                Op::Purge(n) => {
                    let released = table.release_dead_lettered(id(n.into()), oracle.now);
                    prop_assert_eq!(released, oracle.state(n) == Some(ClaimState::DeadLettered));
                    if released {
                        oracle.entries.remove(&n);
                    }
                }
                Op::Tick(ticks) => oracle.now += u64::from(ticks) * TICK,
            }
        }
        for n in 0..=255 {
            prop_assert_eq!(table.lookup(id(n.into()), oracle.now), oracle.state(n));
        }
    }

    /// A table that fills at every turn: whatever it has forgotten, it has counted, and it forgets nothing pending.
    #[test]
    fn forgets_early_only_what_it_counts(capacity in 16usize..200, span in 1u64..400, seed in any::<u64>()) {
        let (table, mut claimers) = table(capacity, 2);
        let (mut state, mut forgotten) = (seed, 0u64);
        let mut claimed = HashMap::<u64, (u64, Option<ClaimToken>)>::new();
        for step in 0..4000u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (n, who) = ((state >> 33) % span, (state >> 60) as usize % 2);
            let now = step * TICK / 8;
            match claimers[who].claim(id(n), now) {
                Claim::Won(token) => {
                    if let Some((time, pending)) = claimed.get(&n) {
                        prop_assert!(pending.is_none(), "a pending id was forgotten");
                        forgotten += u64::from(now / TICK - time / TICK <= 100);
                    }
                    let keep = token.is_remembered() && state >> 40 & 31 == 0;
                    claimed.insert(n, (now, None));
                    if keep {
                        claimed.insert(n, (now, Some(token)));
                    } else {
                        claimers[who].finish(token);
                    }
                }
                Claim::Pending(_) => prop_assert!(claimed[&n].1.is_some()),
                Claim::Done => prop_assert!(claimed[&n].1.is_none()),
                Claim::DeadLettered => prop_assert!(false),
            }
            if state >> 45 & 15 == 0 && let Some(token) = claimed.get_mut(&n).and_then(|entry| entry.1.take()) {
                claimers[who].finish(token);
            }
        }
        claimers.iter_mut().for_each(|claimer| claimer.housekeep(500 * TICK));
        let stats = table.stats();
        prop_assert!(forgotten <= stats.evicted_early + stats.unremembered, "{forgotten} forgotten, {stats:?}");
    }
}
