//! A look at a bucket: whether it may hold an id, and where the next word goes. The hottest lines of a claim.

use super::super::bucket::Bucket;
use super::super::layout::{SLOTS, Word};

/// The only right to insert that a table of one claimer gives out: its holder alone changes the words of the buckets.
/// Belongs to the table it was made with, and is kept beside it.
pub(in super::super) struct Sole(());

impl Sole {
    /// For the table's only claimer.
    pub(super) fn new() -> Self {
        Self(())
    }
}

/// What a look at a bucket tells without its words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Glance {
    /// Whether any cell must be looked into to tell that the id is not there: a fingerprint agrees, or older entries hang
    /// behind a word.
    pub(in super::super) needs_cells: bool,
    /// The slot of the oldest word: where the next one goes.
    pub(in super::super) oldest: usize,
}

impl Glance {
    /// Looks at the words in the order of their slots. It only counts turns and gathers bits: which words agree is asked when
    /// any does.
    #[inline(always)]
    pub(in super::super) fn of(mut word_of: impl FnMut(usize) -> Word, probe: u64) -> Self {
        let (mut needs_cells, mut turns, mut first) = (false, 0, false);
        for slot in 0..SLOTS {
            let word = word_of(slot);
            needs_cells |= word.matches(probe) | word.has_overflow();
            turns += usize::from(word.turn());
            first = if slot == 0 { word.turn() } else { first };
        }
        // The slots before the oldest agree with the first one, as they have been written in the current turn. If all
        // agree, it is the first.
        let current = if first { turns } else { SLOTS - turns };
        Self { needs_cells, oldest: current % SLOTS }
    }

    /// The same of a bucket that nobody else writes.
    #[inline(always)]
    pub(in super::super) fn alone(bucket: &Bucket, probe: u64, sole: &Sole) -> Self {
        #[cfg(all(target_arch = "x86_64", not(any(loom_model, shuttle_model))))]
        {
            // SAFETY: SSE2 is part of x86_64.
            unsafe { sse2::glance(&words_alone(bucket, sole), probe) }
        }
        #[cfg(not(all(target_arch = "x86_64", not(any(loom_model, shuttle_model)))))]
        {
            let _ = sole;
            Self::of(|slot| bucket.word(slot), probe)
        }
    }
}

/// The words as plain memory.
#[cfg(all(target_arch = "x86_64", not(any(loom_model, shuttle_model))))]
#[inline(always)]
fn words_alone(bucket: &Bucket, _: &Sole) -> [u64; SLOTS] {
    let words = std::ptr::from_ref(bucket.words()).cast::<[u64; SLOTS]>();
    // SAFETY: an `AtomicU64` is laid out as a `u64`. Words are written through `Bucket::insert`, by claimers of a table that has several,
    // and through `Bucket::replace`, which needs the table's `Sole` to itself while it is borrowed here: no write is concurrent.
    unsafe { words.read() }
}

/// The fingerprint, the overflow bit and the turn all lie in a word's upper half, so that four words fit a register.
#[cfg(all(target_arch = "x86_64", not(any(loom_model, shuttle_model))))]
mod sse2 {
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_castps_si128, _mm_castsi128_ps, _mm_cmpeq_epi32, _mm_movemask_ps, _mm_or_si128,
        _mm_set_epi64x, _mm_set1_epi32, _mm_shuffle_ps, _mm_slli_epi32,
    };

    use super::super::super::layout::{OVERFLOW, PROBED, SLOTS, TURN};
    use super::Glance;

    const _: () = assert!(SLOTS == 8 && PROBED as u32 == 0 && TURN == 1 << 63 && OVERFLOW << 1 == TURN);

    #[target_feature(enable = "sse2")]
    #[inline]
    pub(super) fn glance(words: &[u64; SLOTS], probe: u64) -> Glance {
        let (front, back) = (upper(&words[..4]), upper(&words[4..]));
        let probed = _mm_set1_epi32((PROBED >> 32) as i32);
        let wanted = _mm_set1_epi32((probe >> 32) as i32);
        let agreeing = |half| _mm_cmpeq_epi32(_mm_and_si128(half, probed), wanted);
        let overflowing = _mm_slli_epi32::<1>(_mm_or_si128(front, back));
        let needing = _mm_or_si128(_mm_or_si128(agreeing(front), agreeing(back)), overflowing);
        let turns = top_bits(front) | top_bits(back) << 4;
        // The oldest is the first slot whose turn is not that of slot 0.
        let other = if turns & 1 == 0 { turns } else { !turns };
        let oldest = (other | 1 << SLOTS).trailing_zeros() as usize % SLOTS;
        Glance { needs_cells: top_bits(needing) != 0, oldest }
    }

    /// The upper halves of four words.
    #[target_feature(enable = "sse2")]
    #[inline]
    fn upper(words: &[u64]) -> __m128i {
        let pair = |at: usize| _mm_castsi128_ps(_mm_set_epi64x(words[at + 1] as i64, words[at] as i64));
        _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(pair(0), pair(2)))
    }

    #[target_feature(enable = "sse2")]
    #[inline]
    fn top_bits(lanes: __m128i) -> u32 {
        _mm_movemask_ps(_mm_castsi128_ps(lanes)) as u32
    }
}

#[cfg(all(test, not(any(loom_model, shuttle_model))))]
mod tests {
    use proptest::prelude::*;

    use super::super::super::layout::{OVERFLOW, PROBED, TURN};
    use super::*;

    proptest! {
        /// Words as they come to lie in a bucket: each slot in turn.
        #[test]
        fn both_ways_of_looking_see_the_same(
            bits in proptest::array::uniform8(any::<u64>()),
            written in 0usize..24,
            overflowing in proptest::option::weighted(0.2, 0usize..8),
            agreeing in proptest::option::weighted(0.3, 0usize..8),
            hash: u64,
        ) {
            let probe = Word::probe(hash);
            let bucket = Bucket::default();
            let mut sole = Sole::new();
            for count in 0..written {
                let slot = count % SLOTS;
                let mut word = Word(bits[slot] & !(OVERFLOW | TURN));
                if agreeing == Some(slot) {
                    word = Word(word.0 & !PROBED | probe);
                }
                let word = word.in_place_of(bucket.word(slot), overflowing == Some(slot));
                prop_assert_eq!(Glance::alone(&bucket, probe, &sole).oldest, slot);
                bucket.replace(slot, word, &mut sole);
            }
            let there = |slot: Option<usize>| slot.is_some_and(|slot| slot < written);
            let glance = Glance::alone(&bucket, probe, &sole);
            prop_assert_eq!(glance, Glance::of(|slot| bucket.word(slot), probe));
            prop_assert!(glance.needs_cells || !there(overflowing) && !there(agreeing));
        }
    }
}
