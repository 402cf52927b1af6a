//! A bucket: a ring of `SLOTS` words in one cache line, each leading to an entry.
//!
//! Words are placed strictly in turn, so all claimers that would insert at the same moment compete for the same slot,
//! and one that loses has something new to read. That is what keeps one id from getting in twice: there is no free
//! choice of a slot, hence no two places for it.
//!
//! A word that is replaced while its entry is still remembered becomes `next` of the replacing cell, and the new word
//! says so (`has_overflow`).
//!
//! # Inserting
//! `collect` reads the words; where the turn bit changes is the oldest one. If the id is not found, `unchanged` reads
//! all words again, and the insertion swaps the oldest word for the new one. When that succeeds, the bucket still is
//! what was read:
//! - Let `M` be the last of the insertions whose words the first reading saw. That word was read with acquire, and its
//!   inserter had read all words before it with acquire, so the second reading sees every slot as `M` left it, or
//!   newer. Since it found the words of the first, of which none is newer, it found the bucket exactly as `M` left it.
//! - Any insertion after `M` replaces the oldest word first; then the swap fails.
//! - The same word cannot come back to a slot, as it names a cell and its lap, unless the arena is used 4096 times
//!   over while one claimer stands between its first reading and its swap, and then hits the same slot.
#![forbid(unsafe_code)]

use super::layout::{SLOTS, Word};
use super::table::{Glance, Sole};
use crate::sync::{AtomicU64, Ordering};

/// A ring of words in one cache line.
#[repr(align(64))]
#[derive(Default)]
pub(super) struct Bucket {
    words: [AtomicU64; SLOTS],
}

/// What `Bucket::collect` saw.
pub(super) struct View {
    pub(super) words: [Word; SLOTS],
    pub(super) glance: Glance,
}

impl View {
    #[inline]
    pub(super) fn oldest(&self) -> Word {
        self.words[self.glance.oldest]
    }
}

impl Bucket {
    /// First reading.
    #[inline]
    pub(super) fn collect(&self, probe: u64) -> View {
        let mut words = [Word::EMPTY; SLOTS];
        let glance = Glance::of(
            |slot| {
                words[slot] = self.word(slot);
                words[slot]
            },
            probe,
        );
        View { words, glance }
    }

    #[inline(always)]
    pub(super) fn words(&self) -> &[AtomicU64; SLOTS] {
        &self.words
    }

    #[inline(always)]
    pub(super) fn word(&self, slot: usize) -> Word {
        // Acquire: pairs with the release in `insert` and `replace`, which published the cell and, through the inserter's own
        // readings, all words before it.
        Word(self.words[slot].load(Ordering::Acquire))
    }

    /// Second reading: whether the words still are what `collect` saw.
    #[inline]
    pub(super) fn unchanged(&self, view: &View) -> bool {
        let mut difference = 0;
        for (slot, word) in self.words.iter().enumerate() {
            // Relaxed: nothing is read through these words. That they are no older than the newest word of the first
            // reading follows from its acquire.
            difference |= word.load(Ordering::Relaxed) ^ view.words[slot].0;
        }
        difference == 0
    }

    /// Puts `word` in place of the oldest one, unless the bucket has changed.
    #[inline]
    pub(super) fn insert(&self, view: &View, word: Word) -> bool {
        // Release: publishes the cell; pairs with the acquire in `collect`. On failure everything is read again.
        let oldest = &self.words[view.glance.oldest];
        oldest.compare_exchange(view.oldest().0, word.0, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Puts `word` in the place of the one in `slot`, the oldest. By the only claimer of the table: nobody else inserts.
    #[inline]
    pub(super) fn replace(&self, slot: usize, word: Word, _: &mut Sole) {
        // Release: publishes the cell; pairs with the acquire in `word`.
        self.words[slot].store(word.0, Ordering::Release);
    }
}
