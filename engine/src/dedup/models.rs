//! Loom's exploration of the interleavings, on tables of a few cells with buckets of two words.
#![forbid(unsafe_code)]

use std::sync::Arc;

use loom::thread;

use super::cell::Cell;
use super::layout::{Meta, State, Word};
use super::*;

const TICK: u64 = 1024;
const WINDOW: u64 = 64 * TICK;

/// Every interleaving with up to three preemptions: more find nothing new here, and take hours.
fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(run);
}

fn table(cells_each: usize, claimers: usize) -> (Arc<DedupTable>, Vec<Claimer>) {
    let config = DedupConfig { capacity: cells_each * claimers, window_ns: WINDOW, claimers };
    DedupTable::new(config).expect("valid sizes")
}

fn id(n: u64) -> EventId {
    EventId::from_parts(0, n)
}

fn fill(claimer: &mut Claimer, n: u64, now_ns: u64) {
    match claimer.claim(id(n), now_ns) {
        Claim::Won(token) => claimer.finish(token),
        other => panic!("{n}: {other:?}"),
    }
}

#[test]
fn one_of_two_claimers_wins() {
    model(|| {
        let (table, mut claimers) = table(2, 2);
        let mut second = claimers.pop().expect("two");
        let mut first = claimers.pop().expect("two");
        let other = thread::spawn(move || matches!(second.claim(id(1), 0), Claim::Won(_)));
        let mine = matches!(first.claim(id(1), 0), Claim::Won(_));
        let theirs = other.join().expect("no panic");
        assert!(mine ^ theirs);
        assert_eq!(table.lookup(id(1), 0), Some(ClaimState::Pending));
    });
}

/// Different ids may share the bucket: both get in, neither is lost.
#[test]
fn two_ids_both_get_in() {
    model(|| {
        let (table, mut claimers) = table(1, 2);
        let mut second = claimers.pop().expect("two");
        let mut first = claimers.pop().expect("two");
        let other = thread::spawn(move || matches!(second.claim(id(2), 0), Claim::Won(_)));
        assert!(matches!(first.claim(id(1), 0), Claim::Won(_)));
        assert!(other.join().expect("no panic"));
        assert!(table.lookup(id(1), 0).is_some() && table.lookup(id(2), 0).is_some());
    });
}

/// Two claimers of one id whose old entry expires between their clocks, in a bucket that is full of expired entries
/// whose cells they reuse. Who still sees the old entry answers that it is done.
#[test]
fn two_claimers_race_an_expiry_in_the_same_bucket() {
    model(|| {
        let (table, mut claimers) = table(1, 2);
        let mut second = claimers.pop().expect("two");
        let mut first = claimers.pop().expect("two");
        fill(&mut second, 2, 0);
        fill(&mut first, 1, 0);
        let other = thread::spawn(move || {
            let claim = second.claim(id(1), WINDOW + TICK);
            matches!(claim, Claim::Won(_))
        });
        let mine = match first.claim(id(1), WINDOW + TICK) {
            Claim::Won(_) => true,
            Claim::Pending(_) => false,
            other => panic!("{other:?}"),
        };
        assert!(mine ^ other.join().expect("no panic"));
        assert_eq!(table.lookup(id(1), WINDOW + TICK), Some(ClaimState::Pending));
    });
}

/// One claimer's clock is behind: for it the old entry is done, for the other it has expired.
#[test]
fn clocks_that_disagree_about_an_expiry_give_at_most_one_winner() {
    model(|| {
        let (table, mut claimers) = table(2, 2);
        let mut second = claimers.pop().expect("two");
        let mut first = claimers.pop().expect("two");
        fill(&mut first, 1, 0);
        let other = thread::spawn(move || matches!(second.claim(id(1), WINDOW), Claim::Won(_)));
        let mine = matches!(first.claim(id(1), WINDOW + TICK), Claim::Won(_));
        let theirs = other.join().expect("no panic");
        assert!(mine && !theirs);
        assert!(table.lookup(id(1), WINDOW + TICK).is_some());
    });
}

/// Three claims through a bucket of two words: older entries move behind newer ones while others read.
#[test]
fn overflow_loses_nothing_while_it_is_read() {
    model(|| {
        let (table, mut claimers) = table(2, 2);
        let mut second = claimers.pop().expect("two");
        let mut first = claimers.pop().expect("two");
        let _held = first.claim(id(1), 0);
        let other = thread::spawn(move || {
            let _claims = [second.claim(id(2), 0), second.claim(id(3), 0)];
            assert!(matches!(second.claim(id(1), 0), Claim::Pending(_)));
        });
        assert_eq!(table.lookup(id(1), 0), Some(ClaimState::Pending));
        assert!(matches!(first.claim(id(4), 0), Claim::Won(_)));
        other.join().expect("no panic");
        assert!((1..=4).all(|n| table.lookup(id(n), 0) == Some(ClaimState::Pending)));
    });
}

/// The only claimer of a table inserts without asking; others still look at it.
#[test]
fn a_lone_claimer_overflows_a_bucket_that_is_read() {
    model(|| {
        let (table, mut claimers) = table(3, 1);
        let mut claimer = claimers.pop().expect("one");
        let _held = [claimer.claim(id(1), 0), claimer.claim(id(2), 0)];
        let reader = Arc::clone(&table);
        let other = thread::spawn(move || assert_eq!(reader.lookup(id(1), 0), Some(ClaimState::Pending)));
        assert!(matches!(claimer.claim(id(3), 0), Claim::Won(_)));
        other.join().expect("no panic");
    });
}

/// One slot is read before, the other after two insertions, the first of them of the same id: the reading shows a
/// bucket that never was, and without a second one the id would get in twice.
#[test]
fn a_reading_torn_by_two_insertions_is_noticed() {
    model(|| {
        let (_, mut claimers) = table(2, 2);
        let mut second = claimers.pop().expect("two");
        let mut first = claimers.pop().expect("two");
        let other = thread::spawn(move || {
            let theirs = matches!(second.claim(id(1), 0), Claim::Won(_));
            let _another = second.claim(id(2), 0);
            theirs
        });
        let mine = matches!(first.claim(id(1), 0), Claim::Won(_));
        assert!(mine ^ other.join().expect("no panic"));
    });
}

/// The sequence lock by itself: a reading is of one lap in every field, also for a reader that no word led here.
#[test]
fn a_cell_is_read_whole_or_not_at_all() {
    model(|| {
        let entry = |lap: u32| (EventId::from_parts(lap.into(), lap.into()), Word(lap.into()));
        let write = |cell: &Cell, lap| {
            let (id, next) = entry(lap);
            assert!(cell.take(cell.meta(), lap));
            cell.write(id, Meta::new(State::Done, lap, 0), next);
        };
        let cell = Arc::new(Cell::default());
        write(&cell, 1);
        let reader = Arc::clone(&cell);
        let other = thread::spawn(move || {
            for lap in [1, 2] {
                if let Some(reading) = reader.read(lap).filter(|reading| reading.meta.state() == State::Done) {
                    assert_eq!((reading.id, reading.next), entry(lap));
                }
            }
        });
        write(&cell, 2);
        other.join().expect("no panic");
    });
}

/// What the owner changes before it links the entry is as much of the new lap as the rest.
#[test]
fn a_cell_relinked_under_a_reader_is_not_mixed_up() {
    model(|| {
        let cell = Arc::new(Cell::default());
        let write = |cell: &Cell, lap: u32| {
            assert!(cell.take(cell.meta(), lap));
            cell.write(EventId::from_parts(1, 1), Meta::new(State::Done, lap, 0), Word(1));
        };
        write(&cell, 1);
        let reader = Arc::clone(&cell);
        let other = thread::spawn(move || {
            if let Some(reading) = reader.read(1) {
                assert_eq!(reading.next, Word(1));
            }
        });
        write(&cell, 2);
        cell.relink(Word(2));
        other.join().expect("no panic");
    });
}

/// A reader stands on a cell while its owner reuses it: it sees the old id or none, never a mixture.
#[test]
fn a_cell_reused_under_a_reader_is_not_mixed_up() {
    model(|| {
        // Halves that would, mixed, be ids that are looked for.
        let (old, new) = (EventId::from_parts(1, 1), EventId::from_parts(2, 2));
        let (table, mut claimers) = table(1, 1);
        let mut claimer = claimers.pop().expect("one");
        match claimer.claim(old, 0) {
            Claim::Won(token) => claimer.finish(token),
            other => panic!("{other:?}"),
        }
        let reader = Arc::clone(&table);
        let other = thread::spawn(move || {
            reader.visit(0, |id, _, _| assert!(id == old || id == new, "{id:?}"));
            reader.lookup(old, 0)
        });
        assert!(matches!(claimer.claim(new, 0), Claim::Won(_)));
        assert_ne!(other.join().expect("no panic"), Some(ClaimState::Pending));
        assert_eq!((table.lookup(old, 0), table.lookup(new, 0)), (None, Some(ClaimState::Pending)));
    });
}

/// What the first copy did before it finished is visible to whoever is answered `Done`.
#[test]
fn done_publishes_what_led_to_it() {
    model(|| {
        let (_, mut claimers) = table(1, 2);
        let mut second = claimers.pop().expect("two");
        let mut first = claimers.pop().expect("two");
        let effect = Arc::new(loom::sync::atomic::AtomicU64::new(0));
        let seen = Arc::clone(&effect);
        let Claim::Won(token) = first.claim(id(1), 0) else { panic!("alone") };
        let other = thread::spawn(move || {
            if matches!(second.claim(id(1), 0), Claim::Done) {
                assert_eq!(seen.load(loom::sync::atomic::Ordering::Relaxed), 1);
            }
        });
        effect.store(1, loom::sync::atomic::Ordering::Relaxed);
        first.finish(token);
        other.join().expect("no panic");
    });
}

/// The owner reuses the cell of a dead letter while a replay takes it up.
#[test]
fn a_replay_races_the_reuse_of_its_cell() {
    model(|| {
        let (table, mut claimers) = table(1, 1);
        let mut claimer = claimers.pop().expect("one");
        match claimer.claim(id(1), 0) {
            Claim::Won(token) => claimer.dead_letter(token),
            other => panic!("{other:?}"),
        }
        let replay = Arc::clone(&table);
        let other = thread::spawn(move || replay.retake_dead_lettered(id(1), 0).is_some());
        let Claim::Won(token) = claimer.claim(id(2), 0) else { panic!("new") };
        let retaken = other.join().expect("no panic");
        assert_eq!(token.is_remembered(), !retaken);
        assert_eq!(table.lookup(id(1), 0).is_some(), retaken);
    });
}

/// Two replays, one after the other: the second sees what the first did before it gave the letter back.
#[test]
fn a_dead_letter_goes_from_one_replay_to_the_next() {
    use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
    model(|| {
        let (table, mut claimers) = table(1, 1);
        let Claim::Won(token) = claimers[0].claim(id(1), 0) else { panic!("alone") };
        table.dead_letter(token);
        let attempts = Arc::new(AtomicU64::new(0));
        let replay = |table: &DedupTable, attempts: &AtomicU64| {
            let token = table.retake_dead_lettered(id(1), 0)?;
            // No addition of its own: only one at a time is here.
            attempts.store(attempts.load(Relaxed) + 1, Relaxed);
            table.dead_letter(token);
            Some(())
        };
        let (other_table, other_attempts) = (Arc::clone(&table), Arc::clone(&attempts));
        let other = thread::spawn(move || replay(&other_table, &other_attempts).is_some());
        let mine = replay(&table, &attempts).is_some();
        let theirs = other.join().expect("no panic");
        assert_eq!(attempts.load(Relaxed), u64::from(mine) + u64::from(theirs));
    });
}

/// Who claims an id because its dead letter has been purged sees what the purge did first.
#[test]
fn a_purge_publishes_what_led_to_it() {
    use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
    model(|| {
        let (table, mut claimers) = table(2, 1);
        let mut claimer = claimers.pop().expect("one");
        let Claim::Won(token) = claimer.claim(id(1), 0) else { panic!("alone") };
        claimer.dead_letter(token);
        let purged = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&purged);
        let other = thread::spawn(move || {
            if matches!(claimer.claim(id(1), 0), Claim::Won(_)) {
                assert_eq!(seen.load(Relaxed), 1);
            }
        });
        purged.store(1, Relaxed);
        assert!(table.release_dead_lettered(id(1), 0));
        other.join().expect("no panic");
    });
}

/// A released id, claimed again by two: one wins.
#[test]
fn a_released_id_is_won_again_once() {
    model(|| {
        let (_, mut claimers) = table(2, 2);
        let mut second = claimers.pop().expect("two");
        let mut first = claimers.pop().expect("two");
        let Claim::Won(token) = first.claim(id(1), 0) else { panic!("alone") };
        first.release(token);
        let other = thread::spawn(move || matches!(second.claim(id(1), 0), Claim::Won(_)));
        let mine = matches!(first.claim(id(1), 0), Claim::Won(_));
        assert!(mine ^ other.join().expect("no panic"));
    });
}
