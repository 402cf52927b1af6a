//! Gap tracking: which sequences of a producer have not come.
//!
//! Role: for ids made of producer and sequence, tell a loss at or before the sender from one of our own.
//! Thread: one; whoever owns the table. A producer whose events reach several tables looks full of gaps to each.
//! In: event ids in the order of arrival. Out: totals, and each producer's counts.
//! Overload: the number of producers is fixed. A new one takes the place of the one of its set that has been silent
//! longest; what that one missed stays in the totals, and `evicted_producers` counts it. Ids that are not made this
//! way look like producers of one event each: they evict, and count no gaps.
//! Invariant: for each producer still held, sequences seen once + missing = highest − first + 1, while none is late
//! by more than `WINDOW`.
#![forbid(unsafe_code)]

use super::id::{EventId, Seed};

/// Sequences behind the highest one of which each is known to have come or not: 64 bytes of a producer's 128. A later
/// one can only be counted as `too_late`.
pub const WINDOW: u64 = 512;
const WORDS: usize = (WINDOW / 64) as usize;
/// Producers in a set: their numbers fill one cache line, which a look-up scans.
const WAYS: usize = 8;

/// What has been seen of all producers, evicted ones included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GapTotals {
    /// Producers held now.
    pub producers: u64,
    /// Sequences passed over and not come since.
    pub missing: u64,
    /// Sequences that came after a higher one, for the first time.
    pub late: u64,
    /// Sequences that came again.
    pub repeated: u64,
    /// Sequences too far behind the highest one to tell whether they are late or repeated.
    pub too_late: u64,
    pub evicted_producers: u64,
}

/// What has been seen of one producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProducerGaps {
    pub first: u64,
    pub highest: u64,
    pub missing: u64,
    pub late: u64,
    pub repeated: u64,
    pub too_late: u64,
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Producer {
    gaps: ProducerGaps,
    last_used: u64,
    /// Bit `sequence % WINDOW`: it has come. Holds the `WINDOW` sequences up to `highest`.
    seen: [u64; WORDS],
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Set([u64; WAYS]);

/// Gap tracking for a bounded number of producers.
pub struct GapTable {
    seed: Seed,
    /// Producer numbers, `WAYS` to a set; meaningful where the producer's `last_used` is not zero.
    numbers: Box<[Set]>,
    producers: Box<[Producer]>,
    /// The producer observed last: events come in runs.
    last: usize,
    clock: u64,
    totals: GapTotals,
}

impl GapTable {
    /// Room for `producers`, rounded up to a power of two of at least 8; 136 bytes each, allocated here.
    pub fn new(producers: usize) -> Self {
        let count = producers.max(WAYS).next_power_of_two();
        Self {
            seed: Seed::random(),
            numbers: vec![Set::default(); count / WAYS].into(),
            producers: vec![Producer::default(); count].into(),
            last: 0,
            clock: 0,
            totals: GapTotals::default(),
        }
    }

    /// Takes note of an id.
    #[inline]
    pub fn observe(&mut self, id: EventId) {
        let (number, sequence) = id.parts();
        self.clock += 1;
        let same = self.numbers[self.last / WAYS].0[self.last % WAYS] == number;
        let known = same && self.producers[self.last].last_used != 0;
        if !known && !self.select(number, sequence) {
            return;
        }
        let producer = &mut self.producers[self.last];
        producer.last_used = self.clock;
        if producer.gaps.highest.checked_add(1) == Some(sequence) {
            producer.gaps.highest = sequence;
            producer.mark(sequence);
        } else {
            out_of_order(producer, sequence, &mut self.totals);
        }
    }

    pub fn totals(&self) -> GapTotals {
        self.totals
    }

    /// The producers held, with their numbers, in no order.
    pub fn producers(&self) -> impl Iterator<Item = (u64, ProducerGaps)> {
        let numbers = self.numbers.iter().flat_map(|set| set.0);
        numbers.zip(&self.producers).filter(|(_, p)| p.last_used != 0).map(|(number, p)| (number, p.gaps))
    }

    /// Makes `number` the last one. If it had to be entered, its first sequence is dealt with: false.
    fn select(&mut self, number: u64, sequence: u64) -> bool {
        let hash = self.seed.hash(EventId::from_parts(number, 0));
        let set = hash as usize & (self.numbers.len() - 1);
        let base = set * WAYS;
        let mut oldest = 0;
        for (way, held) in self.numbers[set].0.iter().enumerate() {
            let last_used = self.producers[base + way].last_used;
            if *held == number && last_used != 0 {
                self.last = base + way;
                return true;
            }
            if last_used < self.producers[base + oldest].last_used {
                oldest = way;
            }
        }
        self.last = base + oldest;
        self.enter(number, sequence);
        false
    }

    #[cold]
    fn enter(&mut self, number: u64, sequence: u64) {
        let producer = &mut self.producers[self.last];
        if producer.last_used == 0 {
            self.totals.producers += 1;
        } else {
            self.totals.evicted_producers += 1;
        }
        let gaps = ProducerGaps { first: sequence, highest: sequence, ..ProducerGaps::default() };
        *producer = Producer { gaps, last_used: self.clock, seen: [0; WORDS] };
        producer.mark(sequence);
        self.numbers[self.last / WAYS].0[self.last % WAYS] = number;
    }
}

impl Producer {
    #[inline]
    fn mark(&mut self, sequence: u64) {
        self.seen[(sequence / 64) as usize % WORDS] |= 1 << (sequence % 64);
    }

    fn is_marked(&self, sequence: u64) -> bool {
        self.seen[(sequence / 64) as usize % WORDS] & 1 << (sequence % 64) != 0
    }

    fn unmark(&mut self, sequence: u64) {
        self.seen[(sequence / 64) as usize % WORDS] &= !(1 << (sequence % 64));
    }
}

/// Any sequence but the one after the highest.
#[cold]
fn out_of_order(producer: &mut Producer, sequence: u64, totals: &mut GapTotals) {
    let highest = producer.gaps.highest;
    if sequence > highest {
        let skipped = sequence - highest - 1;
        producer.gaps.missing = producer.gaps.missing.saturating_add(skipped);
        totals.missing = totals.missing.saturating_add(skipped);
        for offset in 1..=skipped.min(WINDOW) {
            producer.unmark(sequence - offset);
        }
        producer.gaps.highest = sequence;
        producer.mark(sequence);
    } else if highest - sequence >= WINDOW {
        producer.gaps.too_late += 1;
        totals.too_late += 1;
    } else if producer.is_marked(sequence) {
        producer.gaps.repeated += 1;
        totals.repeated += 1;
    } else {
        producer.mark(sequence);
        producer.gaps.late += 1;
        totals.late += 1;
        // What came before the first one seen had not been counted as missing.
        if sequence > producer.gaps.first {
            producer.gaps.missing -= 1;
            totals.missing -= 1;
        }
    }
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn observe(table: &mut GapTable, producer: u64, sequences: impl IntoIterator<Item = u64>) {
        sequences.into_iter().for_each(|sequence| table.observe(EventId::from_parts(producer, sequence)));
    }

    #[test]
    fn gaps_are_missing_until_they_come_late() {
        let mut table = GapTable::new(8);
        observe(&mut table, 1, [10, 11, 15, 13, 13, 15, 9]);
        let expected = GapTotals { producers: 1, missing: 2, late: 2, repeated: 2, ..GapTotals::default() };
        assert_eq!(table.totals(), expected);
        observe(&mut table, 1, [15 + WINDOW, 15, 16]);
        assert_eq!(table.totals(), GapTotals { missing: 2 + WINDOW - 2, late: 3, too_late: 1, ..expected });
        let (number, gaps) = table.producers().next().expect("one");
        assert_eq!((number, gaps.first, gaps.highest, gaps.too_late), (1, 10, 15 + WINDOW, 1));
    }

    #[test]
    fn the_ends_of_the_number_range_are_no_special_case() {
        let mut table = GapTable::new(8);
        observe(&mut table, 0, [0, u64::MAX, u64::MAX, 0]);
        observe(&mut table, u64::MAX, [u64::MAX, u64::MAX - 1]);
        let totals = table.totals();
        assert_eq!((totals.missing, totals.repeated, totals.late, totals.too_late), (u64::MAX - 1, 1, 1, 1));
    }

    #[test]
    fn the_longest_silent_producer_makes_room() {
        let mut table = GapTable::new(8);
        for producer in 0..8 {
            observe(&mut table, producer, [1, 3]);
        }
        observe(&mut table, 0, [4]);
        observe(&mut table, 100, [1]);
        let totals = table.totals();
        assert_eq!((totals.producers, totals.evicted_producers, totals.missing), (8, 1, 8));
        let held: BTreeSet<_> = table.producers().map(|(number, _)| number).collect();
        assert!(held.contains(&0) && held.contains(&100) && !held.contains(&1));
    }

    #[test]
    fn random_ids_stay_within_bounds() {
        let mut table = GapTable::new(64);
        for n in 0..10_000u64 {
            let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            observe(&mut table, mixed, [mixed.rotate_left(32)]);
        }
        let totals = table.totals();
        assert_eq!((totals.producers + totals.evicted_producers, totals.missing), (10_000, 0));
        assert!(totals.producers <= 64);
    }

    proptest! {
        /// Within the window the counts are those of a set of all sequences.
        #[test]
        fn agrees_with_a_set(events in prop::collection::vec((0u64..4, 1_000u64..1_400), 1..600)) {
            let mut table = GapTable::new(8);
            let mut seen: [BTreeSet<u64>; 4] = Default::default();
            let (mut first, mut highest, mut late, mut repeated) = ([0; 4], [0; 4], 0, 0);
            for (producer, sequence) in events {
                table.observe(EventId::from_parts(producer, sequence));
                let which = producer as usize;
                if seen[which].is_empty() {
                    first[which] = sequence;
                }
                if !seen[which].insert(sequence) {
                    repeated += 1;
                } else if sequence < highest[which] {
                    late += 1;
                }
                highest[which] = highest[which].max(sequence);
            }
            let missing: u64 = (0..4).filter(|&p| !seen[p].is_empty())
                .map(|p| highest[p] - first[p] + 1 - seen[p].range(first[p]..).count() as u64)
                .sum();
            let producers = seen.iter().filter(|set| !set.is_empty()).count() as u64;
            let expected = GapTotals { producers, missing, late, repeated, too_late: 0, evicted_producers: 0 };
            prop_assert_eq!(table.totals(), expected);
        }
    }
}
