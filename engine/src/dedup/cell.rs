//! A cell: one entry, read by any thread while its owner may reuse it.
//!
//! Reading is that of a sequence lock: lap, fields, lap again. The writer changes the lap, then stores the fields with
//! release; the reader loads them with acquire, then checks the lap. Who sees any field of a later use sees its lap.
#![forbid(unsafe_code)]

use super::id::EventId;
use super::layout::{Meta, State, Word};
use crate::sync::{AtomicU64, Ordering};

/// An entry. Written by the claimer that owns the arena; `meta`'s state also by the holder of the token, and, once it
/// is dead-lettered, by anyone through compare-and-swap.
#[repr(align(32))]
#[derive(Default)]
pub(super) struct Cell {
    meta: AtomicU64,
    id: [AtomicU64; 2],
    next: AtomicU64,
}

/// A consistent reading of a cell.
pub(super) struct Reading {
    pub(super) id: EventId,
    pub(super) meta: Meta,
    pub(super) next: Word,
}

impl Cell {
    /// By the owner: the state it finds before it reuses the cell. Relaxed, as only `meta` decides, and whatever the
    /// owner stores next comes after what it has read here in the order of this one word.
    #[inline]
    pub(super) fn meta(&self) -> Meta {
        Meta(self.meta.load(Ordering::Relaxed))
    }

    /// By the owner, who alone writes it.
    #[inline]
    pub(super) fn next(&self) -> Word {
        Word(self.next.load(Ordering::Relaxed))
    }

    /// By the owner: takes the cell for a new lap. Fails only if somebody took a dead-lettered claim up again.
    #[inline]
    pub(super) fn take(&self, found: Meta, lap: u32) -> bool {
        let taken = Meta::new(State::Free, lap, 0).0;
        // Relaxed: `write` stores the fields with release after it, which is what readers of the fields rely on.
        if found.state() == State::DeadLettered {
            return self.meta.compare_exchange(found.0, taken, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        }
        self.meta.store(taken, Ordering::Relaxed);
        true
    }

    /// By the owner, on a cell it has taken: the whole entry.
    #[inline]
    pub(super) fn write(&self, id: EventId, meta: Meta, next: Word) {
        let [one, other] = id.halves();
        // Release, all three: pairs with the acquire loads in `read`. A reader that sees one of these sees that the
        // cell had been taken before, and finds the lap changed.
        self.id[0].store(one, Ordering::Release);
        self.id[1].store(other, Ordering::Release);
        self.next.store(next.0, Ordering::Release);
        // Release: pairs with the first load in `read` for readers that come by no word (`DedupTable::visit`).
        self.meta.store(meta.0, Ordering::Release);
    }

    /// By the owner, on an entry not yet linked.
    #[inline]
    pub(super) fn relink(&self, next: Word) {
        self.next.store(next.0, Ordering::Release); // pairs as in `write`
    }

    /// By the owner, on an entry it gives up before linking it.
    #[inline]
    pub(super) fn abandon(&self) {
        let meta = Meta(self.meta.load(Ordering::Relaxed));
        self.meta.store(meta.with_state(State::Released).0, Ordering::Relaxed);
    }

    /// The entry of this lap, or nothing if the cell has been reused since.
    #[inline]
    pub(super) fn read(&self, lap: u32) -> Option<Reading> {
        // Acquire: pairs with the release in `settle`, so that who sees an outcome sees what led to it, and with the
        // release of `meta` in `write`.
        let meta = Meta(self.meta.load(Ordering::Acquire));
        if meta.lap() != lap {
            return None;
        }
        // Acquire, all three: pairs with the release stores in `write`; keeps the second look at `meta` behind them.
        let one = self.id[0].load(Ordering::Acquire);
        let other = self.id[1].load(Ordering::Acquire);
        let next = Word(self.next.load(Ordering::Acquire));
        if Meta(self.meta.load(Ordering::Relaxed)).lap() != lap {
            return None;
        }
        Some(Reading { id: EventId::from_halves([one, other]), meta, next })
    }

    /// By the token's holder: the claim's outcome.
    pub(super) fn settle(&self, lap: u32, state: State) {
        let meta = Meta(self.meta.load(Ordering::Relaxed));
        let pending = meta.is(State::Pending, lap);
        debug_assert!(pending, "a token of another table");
        if pending {
            // A plain store: while a claim is pending only the one holder of its token writes here.
            // Release: pairs with the first acquire in `read`.
            self.meta.store(meta.with_state(state).0, Ordering::Release);
        }
    }

    /// By anyone: moves a dead-lettered claim on, if it still is as it was read.
    pub(super) fn move_on(&self, found: Meta, state: State) -> bool {
        // Release as in `settle`; acquire: pairs with the `settle` that dead-lettered it.
        self.meta.compare_exchange(found.0, found.with_state(state).0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}
