//! What a table is made from, and what it answers.
#![forbid(unsafe_code)]

use std::num::NonZeroU64;

use super::layout::{Meta, State, Word};

/// Sizes of a table, all of its memory following from them.
#[derive(Clone, Copy, Debug)]
pub struct DedupConfig {
    /// Ids remembered at once, divided evenly among the claimers.
    pub capacity: usize,
    /// How long an id is remembered, from its claim.
    pub window_ns: u64,
    /// Threads that will claim.
    pub claimers: usize,
}

/// Why a table cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DedupError {
    /// Capacity, window or claimers is zero.
    Zero,
    /// Capacity and claimers together need more than 2^30 cell numbers.
    TooLarge,
}

impl std::fmt::Display for DedupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Zero => "deduplication needs a capacity, a window and a number of claimers above zero",
            Self::TooLarge => {
                "deduplication is limited to 2^30 ids, claimers and ids per claimer rounded up to powers of two"
            }
        })
    }
}

impl std::error::Error for DedupError {}

/// The right to say what became of a claim: held by whoever won it, used once, from any thread.
/// One that is dropped leaves its claim pending for ever.
#[must_use = "a claim stays pending until its token is used"]
#[derive(Debug)]
pub struct ClaimToken(NonZeroU64);

impl ClaimToken {
    /// Names no cell: a word for one has its "present" bit set.
    const UNREMEMBERED: u64 = 1 << 63;

    pub(super) fn new(cell: u32, lap: u32) -> Self {
        // The word's "present" bit makes it non-zero.
        Self(NonZeroU64::new(Word::new(cell, lap, Word::probe(0)).0).expect("a word for a cell is not zero"))
    }

    pub(super) fn unremembered() -> Self {
        Self(NonZeroU64::new(Self::UNREMEMBERED).expect("one bit is set"))
    }

    pub(super) fn word(&self) -> Word {
        Word(self.0.get())
    }

    /// Whether the table had room for the claim. If not, later copies of the event will be taken as new.
    pub fn is_remembered(&self) -> bool {
        self.0.get() != Self::UNREMEMBERED
    }
}

/// Another's claim that was pending when it was met: for who wants to know what becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PendingClaim(Word);

impl PendingClaim {
    pub(super) fn new(word: Word) -> Self {
        Self(word)
    }

    pub(super) fn word(self) -> Word {
        self.0
    }
}

/// What a claim that was pending has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    Done,
    DeadLettered,
    /// Its event was lost; a resend is taken as new.
    Released,
    /// The table was full and its place went to another id, so that nobody can tell.
    Forgotten,
}

/// What a remembered id's first copy has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimState {
    Pending,
    Done,
    DeadLettered,
}

/// How an event ended that is entered at start from log or dead letter records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Done,
    DeadLettered,
}

/// Gauges and counters of a table, summed over its claimers. Each claimer publishes every 16 insertions and in
/// `Claimer::housekeep`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DedupStats {
    pub capacity: u64,
    /// Cells whose entry is not known to be forgotten.
    pub occupied: u64,
    /// Ids forgotten before their window was over, the table being full.
    pub evicted_early: u64,
    /// Events admitted without being remembered, every cell at hand being pending.
    pub unremembered: u64,
    /// Times a cell was passed over because it, or one reached through it, was still pending.
    pub pending_passed_over: u64,
    /// How far back ids are remembered: the configured window, or less while the table is full.
    pub effective_window_ns: u64,
    pub memory_bytes: u64,
}

#[inline]
pub(super) fn claim_state(meta: Meta) -> ClaimState {
    match meta.state() {
        State::Done => ClaimState::Done,
        State::DeadLettered => ClaimState::DeadLettered,
        State::Pending | State::Free | State::Released => ClaimState::Pending,
    }
}
