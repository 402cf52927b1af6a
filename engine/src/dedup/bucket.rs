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
use super::sync::{AtomicU64, Ordering};

/// A ring of words in one cache line.
#[repr(align(64))]
#[cfg_attr(loom_model, derive(Default))]
pub(super) struct Bucket {
    words: [AtomicU64; SLOTS],
}

/// What `Bucket::collect` saw.
pub(super) struct View {
    pub(super) words: [Word; SLOTS],
    /// The top bit: some fingerprint agrees.
    matches: u64,
    /// All words together: their overflow bit says whether older entries hang behind any.
    union: u64,
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
        self.matches >> 63 != 0 || self.has_overflow()
    }

    #[inline]
    pub(super) fn has_overflow(&self) -> bool {
        Word(self.union).has_overflow()
    }
}

impl Bucket {
    /// First reading. It only counts turns and gathers bits: which words agree is asked when any does.
    #[inline]
    pub(super) fn collect(&self, probe: u64) -> View {
        let mut view = View { words: [Word::EMPTY; SLOTS], matches: 0, union: 0, oldest: 0 };
        let mut turns = 0;
        for (slot, word) in self.words.iter().enumerate() {
            // Acquire: pairs with the release of the swap in `insert`, which published the cell and, through the
            // inserter's own readings, all words before it.
            let word = Word(word.load(Ordering::Acquire));
            view.words[slot] = word;
            view.matches |= word.mismatch(probe).wrapping_sub(1);
            view.union |= word.0;
            turns += usize::from(word.turn());
        }
        // The slots before the oldest agree with the first one, as they have been written in the current turn. If all
        // agree, it is the first.
        let current = if view.words[0].turn() { turns } else { SLOTS - turns };
        view.oldest = current % SLOTS;
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
        self.words[view.oldest].compare_exchange(view.oldest().0, word.0, Ordering::Release, Ordering::Relaxed).is_ok()
    }
}
