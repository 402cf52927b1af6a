//! Property tests of the queues against one model of what a bounded queue is.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{mpsc, spsc};

const CAPACITY: usize = 8;

/// Cells in the order they were taken by producers, each shown to the consumer once it and all before it are published.
#[derive(Default)]
struct Oracle {
    cells: VecDeque<(u64, bool)>,
    /// Taken out and not yet released.
    taken: usize,
    /// Cells ever taken by producers: the next one's value.
    next: u64,
}

impl Oracle {
    fn room(&self) -> usize {
        CAPACITY - self.cells.len() - self.taken
    }

    fn add(&mut self) -> u64 {
        self.cells.push_back((self.next, false));
        self.next += 1;
        self.next - 1
    }

    fn publish(&mut self, value: u64) {
        self.cells.iter_mut().filter(|cell| cell.0 == value).for_each(|cell| cell.1 = true);
    }

    fn shown(&self) -> usize {
        self.cells.iter().take_while(|cell| cell.1).count()
    }

    fn take(&mut self) -> Option<u64> {
        let value = self.cells.pop_front_if(|cell| cell.1)?.0;
        self.taken += 1;
        Some(value)
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// So many values at once; by one of two producers where there are two.
    Write(usize, usize),
    /// Both producers claim so many, then fill their cells in this order.
    Overlap([usize; 2], Vec<bool>),
    Publish,
    Look(usize),
    Take,
    TakeEach(usize),
    Release,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0usize..2, 1usize..5).prop_map(|(producer, count)| Step::Write(producer, count)),
        1 => ([0usize..4, 0..4], vec(any::<bool>(), 8)).prop_map(|(counts, order)| Step::Overlap(counts, order)),
        2 => Just(Step::Publish),
        1 => (1usize..12).prop_map(Step::Look),
        4 => Just(Step::Take),
        2 => (1usize..8).prop_map(Step::TakeEach),
        2 => Just(Step::Release),
    ];
    vec(step, 0..400)
}

proptest! {
    #[test]
    fn the_ring_agrees(steps in steps()) {
        let (mut producer, mut consumer) = spsc::ring::<u64>(CAPACITY);
        let mut oracle = Oracle::default();
        for step in steps {
            match step {
                // As a batch, or one by one.
                Step::Write(1, count) => {
                    let (room, first) = (oracle.room(), oracle.next);
                    prop_assert_eq!(producer.push_each(count, |index| first + index as u64), count.min(room));
                    for _ in 0..count.min(room) {
                        oracle.add();
                    }
                }
                Step::Write(_, count) => for _ in 0..count {
                    let room = oracle.room();
                    let pushed = producer.push(oracle.next).is_ok();
                    prop_assert_eq!(pushed, room > 0);
                    if pushed {
                        oracle.add();
                    }
                }
                Step::Publish | Step::Overlap(..) => {
                    let hidden: Vec<u64> = oracle.cells.iter().filter(|cell| !cell.1).map(|cell| cell.0).collect();
                    prop_assert_eq!(producer.publish() as usize, hidden.len());
                    hidden.into_iter().for_each(|value| oracle.publish(value));
                }
                Step::Look(limit) => {
                    let available = consumer.available(limit);
                    prop_assert_eq!(available, oracle.shown().min(limit));
                    prop_assert!(consumer.peek(0..available).eq(oracle.cells.iter().map(|cell| &cell.0).take(available)));
                }
                Step::Take => prop_assert_eq!(consumer.take(), oracle.take()),
                Step::TakeEach(count) => {
                    let count = consumer.available(count);
                    consumer.take_each(count, |value| assert_eq!(Some(value), oracle.take()));
                }
                Step::Release => {
                    consumer.release();
                    oracle.taken = 0;
                }
            }
            prop_assert_eq!(producer.sequence(), oracle.next);
            prop_assert_eq!(consumer.depth().len() as usize, oracle.shown() + oracle.taken);
        }
    }

    /// Each lane is a queue of its own; what comes out is of some lane, in that lane's order.
    #[test]
    fn the_queue_agrees(steps in steps()) {
        let (mut producers, mut consumer) = mpsc::queue::<(usize, u64)>(CAPACITY, 2);
        let mut oracles = [Oracle::default(), Oracle::default()];
        for step in steps {
            match step {
                Step::Write(lane, count) => {
                    let (room, oracle) = (oracles[lane].room(), &mut oracles[lane]);
                    let claim = producers[lane].claim(count);
                    prop_assert_eq!(claim.is_some(), count <= room);
                    if let Some(claim) = claim {
                        claim.fill_with(|_| (lane, oracle.add()));
                        (oracle.next - count as u64..oracle.next).for_each(|value| oracle.publish(value));
                    }
                }
                Step::Overlap(counts, order) => {
                    let mut claims = producers.iter_mut().zip(counts).map(|(producer, count)| Some((producer.claim(count)?, count)));
                    let mut claims = [claims.next().unwrap(), claims.next().unwrap()];
                    for lane in order.into_iter().map(usize::from).chain([0; 4]).chain([1; 4]) {
                        if let Some((claim, left)) = &mut claims[lane] && *left > 0 {
                            *left -= 1;
                            claim.write((lane, oracles[lane].add()));
                        }
                    }
                    drop(claims);
                    oracles.iter_mut().for_each(|oracle| (0..oracle.next).for_each(|value| oracle.publish(value)));
                }
                Step::Publish | Step::Look(_) => {}
                Step::Take => {
                    let shown = oracles.iter().any(|oracle| oracle.shown() > 0);
                    let taken = consumer.take();
                    prop_assert_eq!(taken.is_some(), shown);
                    if let Some((lane, value)) = taken {
                        prop_assert_eq!(Some(value), oracles[lane].take());
                    }
                }
                Step::TakeEach(limit) => {
                    let shown: usize = oracles.iter().map(Oracle::shown).sum();
                    // Looked at or taken out, every other time: what is only looked at goes all the same.
                    let count = consumer.take_each(limit, |taken| {
                        let (lane, value) = *taken;
                        assert_eq!(Some(value), oracles[lane].take());
                        if value % 2 == 0 {
                            assert_eq!(taken.take(), (lane, value));
                        }
                    });
                    prop_assert_eq!(count, shown.min(limit));
                }
                Step::Release => {
                    consumer.release();
                    oracles.iter_mut().for_each(|oracle| oracle.taken = 0);
                }
            }
            let depth: usize = oracles.iter().map(|oracle| oracle.cells.len() + oracle.taken).sum();
            prop_assert_eq!(consumer.depth().len() as usize, depth);
        }
    }
}
