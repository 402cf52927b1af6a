//! What a queue of dead letters promises.

use super::super::disk::{FaultyDisk, power_cut};
use super::super::format::reason_of;
use super::super::scratch::{Scratch, frame};
use super::*;
use proptest::prelude::*;

fn options(bytes: u64) -> LetterOptions {
    LetterOptions { fsync: Fsync::Always, bytes, buffer_bytes: 32 << 10, frame_bytes: 1024, after_crash: false }
}

struct Place {
    scratch: Scratch,
    disk: FaultyDisk,
}

impl Place {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let disk = FaultyDisk::new(&scratch.path().join("journal")).unwrap();
        Self { scratch, disk }
    }

    fn open(&self, bytes: u64) -> Letters {
        let directory = self.scratch.path().join("failed");
        Letters::open(Arc::new(self.disk.clone()), &directory, LetterQueue::Failed, &options(bytes)).unwrap().0
    }
}

fn put(letters: &mut Letters, number: u64, reason: DeadLetterReason, bytes: usize) -> Position {
    let frame = frame("t", &vec![1; bytes]);
    let letter = Letter { class: Class::Batch, reason, arrival_ns: 7, frame: &frame };
    let position = letters.append(&letter, number).unwrap();
    letters.write(number).unwrap();
    letters.sync(number).unwrap();
    position
}

fn held_times(letters: &Letters) -> Vec<u64> {
    let mut reader = letters.letters().reader().unwrap();
    let mut times = Vec::new();
    while let Some(letter) = reader.read().unwrap() {
        times.push(letter.time_ns);
    }
    times
}

fn assert_books(letters: &Letters) {
    let LetterCounts { held_at_start, received, replayed, purged, evicted } = letters.counts();
    assert_eq!(held_at_start + received, replayed + purged + evicted + letters.held());
}

#[test]
fn letters_are_held_until_they_are_removed_and_over_a_restart() {
    let place = Place::new("letters");
    let mut letters = place.open(1 << 20);
    let positions: Vec<Position> =
        (0..10).map(|number| put(&mut letters, number, DeadLetterReason::Rejected, 10)).collect();
    assert_eq!(letters.remove(positions[3], true, 0), Ok(true));
    assert_eq!(letters.remove(positions[5], false, 0), Ok(true));
    assert_eq!(letters.remove(positions[3], true, 0), Ok(false), "once is enough");
    let of_another_epoch = Position { epoch: 9, ..positions[4] };
    assert_eq!(letters.remove(of_another_epoch, true, 0), Ok(false));
    let expected = [0, 1, 2, 4, 6, 7, 8, 9];
    assert_eq!(held_times(&letters), expected);
    assert_eq!((letters.counts().replayed, letters.counts().purged), (1, 1));
    assert_books(&letters);
    letters.close(0).unwrap();
    let letters = place.open(1 << 20);
    assert_eq!((letters.held(), letters.counts().held_at_start), (8, 8));
    assert_eq!(held_times(&letters), expected);
    let mut reader = letters.letters().reader().unwrap();
    let letter = reader.read().unwrap().unwrap();
    assert_eq!((letter.arrival_ns, reason_of(letter.reason)), (Some(7), Some(DeadLetterReason::Rejected)));
}

#[test]
fn the_oldest_are_evicted_by_segments_and_counted_one_by_one() {
    let place = Place::new("evicted");
    let bytes = 1 << 20;
    let mut letters = place.open(bytes);
    let (mut positions, mut gone) = (Vec::new(), Vec::new());
    for number in 0..3000 {
        positions.push(put(&mut letters, number, DeadLetterReason::Rejected, 1000));
        if number % 2 == 0 {
            letters.remove(positions[number as usize], false, 0).unwrap();
        }
        letters.retain(number, |letter| gone.push(letter.time_ns)).unwrap();
        assert_books(&letters);
    }
    let counts = letters.counts();
    assert_eq!(gone.len() as u64, counts.evicted);
    assert!(
        gone.iter().zip((1..).step_by(2)).all(|(time, expected)| *time == expected),
        "each that was held, in order"
    );
    assert!(counts.evicted > 500 && counts.purged == 1500, "{counts:?}");
    let folder = place.scratch.path().join("failed");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    let (total, index) = (files.sum::<u64>(), 64 << 10);
    assert!(total <= bytes + 8 * index, "{total}");
    let held = held_times(&letters);
    assert_eq!(held.len() as u64, letters.held());
    assert!(held.iter().all(|time| time % 2 == 1) && held.last() == Some(&2999));
}

#[test]
fn segments_without_letters_cost_none() {
    let place = Place::new("emptied");
    let mut letters = place.open(1 << 20);
    for number in 0..3000 {
        let position = put(&mut letters, number, DeadLetterReason::Rejected, 1000);
        letters.remove(position, true, 0).unwrap();
        letters.retain(0, |_| {}).unwrap();
    }
    assert_eq!((letters.counts().evicted, letters.held(), letters.counts().replayed), (0, 0, 3000));
    assert!(letters.log().view().segments().len() <= 2);
}

#[test]
fn a_full_disk_still_takes_letters() {
    let place = Place::new("full-disk");
    let mut letters = place.open(1 << 20);
    put(&mut letters, 0, DeadLetterReason::Rejected, 1000);
    place.disk.faults().fill(true);
    // Of the segment that is written the most is left, and another has been set aside.
    for number in 1..200 {
        put(&mut letters, number, DeadLetterReason::Rejected, 1000);
    }
    assert_eq!(held_times(&letters).len(), 200);
}

#[test]
fn filters_go_by_reason_topic_and_time() {
    let place = Place::new("letter-filter");
    let mut letters = place.open(1 << 20);
    for (number, topic) in (0..).zip(["a/1", "a/2", "b/1", "a/1"]) {
        let reason = if number == 3 { DeadLetterReason::HandlerPanic } else { DeadLetterReason::Rejected };
        let frame = frame(topic, b"");
        letters.append(&Letter { class: Class::Batch, reason, arrival_ns: 0, frame: &frame }, number).unwrap();
    }
    letters.write(0).unwrap();
    letters.sync(0).unwrap();
    let matching = |filter: &LetterFilter| {
        let (mut reader, mut times) = (letters.letters().reader().unwrap(), Vec::new());
        while let Some(letter) = reader.read().unwrap() {
            if filter.matches(&letter) {
                times.push(letter.time_ns);
            }
        }
        times
    };
    let none = LetterFilter::default();
    assert_eq!(matching(&none), [0, 1, 2, 3]);
    assert_eq!(matching(&LetterFilter { reason: Some(DeadLetterReason::HandlerPanic), ..none.clone() }), [3]);
    assert_eq!(matching(&LetterFilter { topic: TopicFilter::parse("a/#").ok(), ..none.clone() }), [0, 1, 3]);
    assert_eq!(matching(&LetterFilter { since_ns: Some(1), until_ns: Some(3), ..none }), [1, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Letters that are durable are held after a power cut, and none comes back whose removal was.
    #[test]
    fn a_power_cut_costs_no_letter(steps in prop::collection::vec((any::<bool>(), 0..60usize), 1..60), seed in any::<u64>()) {
        let place = Place::new("letter-cut");
        let mut letters = place.open(1 << 20);
        let (mut held, mut all) = (std::collections::BTreeSet::new(), Vec::new());
        for (number, (removes, which)) in (0..).zip(steps) {
            match all.get(which).filter(|_| removes) {
                Some(position) => {
                    letters.remove(*position, true, number).unwrap();
                    held.remove(&(position.offset));
                }
                None => {
                    let position = put(&mut letters, number, DeadLetterReason::Rejected, 500);
                    held.insert(position.offset);
                    all.push(position);
                }
            }
            letters.write(number).unwrap();
            letters.sync(number).unwrap();
        }
        drop(letters);
        power_cut(&place.scratch.path().join("journal"), &place.scratch.path().join("failed"), seed).unwrap();
        let letters = place.open(1 << 20);
        let mut found = std::collections::BTreeSet::new();
        let mut reader = letters.letters().reader().unwrap();
        while let Some(letter) = reader.read().unwrap() {
            found.insert(letter.offset);
        }
        prop_assert_eq!(found, held);
    }
}
