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
//! `collect` reads the words; where the turn bit changes is the oldest word `f`, the slot before it holds the newest,
//! `k`. If the id is not found, `unchanged` reads all words again, and the insertion swaps `f` for the new word.
//! When that succeeds the bucket still is what was read:
//! - Word `k` was read with acquire, so every insertion before `k`'s was visible to the second reading; since that one
//!   found the same words, none of them was older than `k`'s insertion made it.
//! - Any insertion after `k`'s would have replaced `f` first. Had one come between the two readings of `f`, they would
//!   differ; had one come before the first reading of `f`, so far ahead that the turn bit looks old again (9 or more
//!   insertions), `k` would have been replaced too, and its second reading would differ. Afterwards the swap fails.
//! - The same word cannot come back to a slot, as it names a cell and its lap, unless the arena is used 4096 times
//!   over while one claimer stands between its two readings and its swap, and then hits the same slot.
#![forbid(unsafe_code)]

use super::layout::{SLOTS, Word};
use super::sync::{AtomicU64, Ordering};

/// A ring of words in one cache line.
#[repr(align(64))]
#[cfg_attr(loom, derive(Default))]
pub(super) struct Bucket {
    words: [AtomicU64; SLOTS],
}

/// What `Bucket::collect` saw.
pub(super) struct View {
    pub(super) words: [Word; SLOTS],
    /// Bit per slot: the fingerprint agrees.
    pub(super) matches: u32,
    /// Bit per slot: older entries hang behind the word.
    pub(super) overflow: u32,
    oldest: usize,
}

impl View {
    #[inline]
    pub(super) fn oldest(&self) -> Word {
        self.words[self.oldest]
    }

    /// Whether any cell must be looked into to tell that the id is not there.
    #[inline]
    pub(super) fn needs_cells(&self) -> bool {
        self.matches | self.overflow != 0
    }
}

impl Bucket {
    #[inline]
    pub(super) fn collect(&self, probe: u64) -> View {
        let mut view = View {
            words: [Word::EMPTY; SLOTS],
            matches: 0,
            overflow: 0,
            oldest: 0,
        };
        let mut turns = 0u32;
        for (slot, word) in self.words.iter().enumerate() {
            // Acquire: pairs with the release of the swap in `insert`, which published the cell and, through the
            // inserter's own collect, all words before it.
            let word = Word(word.load(Ordering::Acquire));
            view.words[slot] = word;
            view.matches |= u32::from(word.matches(probe)) << slot;
            view.overflow |= u32::from(word.has_overflow()) << slot;
            turns |= u32::from(word.turn()) << slot;
        }
        // Slots before the oldest have been written in the current turn, and agree with slot 0; if all agree, slot 0
        // is the oldest.
        let current = if turns & 1 == 0 { turns } else { !turns };
        let all = 1u32 << SLOTS;
        view.oldest = (current & (all - 1) | all).trailing_zeros() as usize % SLOTS;
        view
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
        self.words[view.oldest]
            .compare_exchange(
                view.oldest().0,
                word.0,
                Ordering::Release,
                Ordering::Relaxed,
            )
            .is_ok()
    }
}
