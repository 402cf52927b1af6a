//! How a bucket's word, a cell's meta word and an arena's floor are packed into 64 bits each.
//!
//! Pure arithmetic; who may read and write the words, and in which order, stands in `table`.
#![forbid(unsafe_code)]

/// Words in a bucket: one cache line. Two under loom, where every word multiplies the interleavings and two already
/// show wrap and overflow.
pub(super) const SLOTS: usize = if cfg!(loom_model) { 2 } else { 8 };

/// Bits of a cell's number: arena and index together, so at most 2^30 cells (32 GiB of them).
pub(super) const CELL_BITS: u32 = 30;
/// Bits of a lap: how often a cell has been used, modulo 4096.
const LAP_BITS: u32 = 12;
const TAG_BITS: u32 = 19;

const CELL_MASK: u64 = (1 << CELL_BITS) - 1;
const LAP_MASK: u64 = (1 << LAP_BITS) - 1;
const TAG_SHIFT: u32 = CELL_BITS + LAP_BITS;
const TAG_MASK: u64 = ((1 << TAG_BITS) - 1) << TAG_SHIFT;
const PRESENT: u64 = 1 << 61;
pub(super) const OVERFLOW: u64 = 1 << 62;
pub(super) const TURN: u64 = 1 << 63;
/// What a probe is compared with.
pub(super) const PROBED: u64 = TAG_MASK | PRESENT;

/// A reference to one use of one cell: cell number (30 bits), lap (12), fingerprint of the id (19), whether there is
/// one at all, whether older entries hang behind it, and the bucket's turn. Zero is the empty word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Word(pub(super) u64);

impl Word {
    pub(super) const EMPTY: Self = Self(0);

    #[inline]
    pub(super) fn new(cell: u32, lap: u32, probe: u64) -> Self {
        Self(u64::from(cell) | (u64::from(lap) & LAP_MASK) << CELL_BITS | probe)
    }

    /// What a word must agree with to be worth a look: present, and the fingerprint.
    /// The low bits of the hash; the high ones choose the bucket.
    #[inline]
    pub(super) fn probe(hash: u64) -> u64 {
        PRESENT | (hash << TAG_SHIFT & TAG_MASK)
    }

    #[inline]
    pub(super) fn matches(self, probe: u64) -> bool {
        (self.0 ^ probe) & PROBED == 0
    }

    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[inline]
    pub(super) fn cell(self) -> u32 {
        (self.0 & CELL_MASK) as u32
    }

    #[inline]
    pub(super) fn lap(self) -> u32 {
        (self.0 >> CELL_BITS & LAP_MASK) as u32
    }

    #[inline]
    pub(super) fn has_overflow(self) -> bool {
        self.0 & OVERFLOW != 0
    }

    /// The turn bit: flips each time the bucket's ring comes round to this slot.
    #[inline]
    pub(super) fn turn(self) -> bool {
        self.0 & TURN != 0
    }

    /// This word as the successor of `replaced` in the same slot; `overflow`: that one is still reachable behind it.
    #[inline]
    pub(super) fn in_place_of(self, replaced: Word, overflow: bool) -> Self {
        let turn = !replaced.0 & TURN;
        Self(self.0 & !(TURN | OVERFLOW) | turn | if overflow { OVERFLOW } else { 0 })
    }
}

/// What a cell holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum State {
    /// Never used, or being written by its owner.
    Free = 0,
    Pending = 1,
    Done = 2,
    DeadLettered = 3,
    /// Given up, so that a resend is taken as new; or lost the race for its bucket and was never linked.
    Released = 4,
}

const STATE_BITS: u32 = 3;
const TIME_SHIFT: u32 = STATE_BITS + LAP_BITS;
const TIME_BITS: u32 = 64 - TIME_SHIFT;

/// Times are kept in ticks of 1024 ns. 49 bits of them wrap after 18 years; ages are taken modulo that.
const TICK_SHIFT: u32 = 10;

/// `ns` in ticks, rounded up; at most the greatest age there is, nine years.
pub(super) fn ticks_ceil(ns: u64) -> u64 {
    ns.div_ceil(1 << TICK_SHIFT).min((1 << (TIME_BITS - 1)) - 1)
}

/// `ticks` in nanoseconds.
pub(super) fn ticks_to_ns(ticks: u64) -> u64 {
    ticks.saturating_mul(1 << TICK_SHIFT)
}

/// A cell's state (3 bits), lap (12) and claim time (49).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Meta(pub(super) u64);

impl Meta {
    #[inline]
    pub(super) fn new(state: State, lap: u32, time_ns: u64) -> Self {
        Self(time_ns >> TICK_SHIFT << TIME_SHIFT | (u64::from(lap) & LAP_MASK) << STATE_BITS | state as u64)
    }

    #[inline]
    pub(super) fn state(self) -> State {
        match self.0 & ((1 << STATE_BITS) - 1) {
            1 => State::Pending,
            2 => State::Done,
            3 => State::DeadLettered,
            4 => State::Released,
            _ => State::Free,
        }
    }

    /// Whether it is of this state and lap.
    #[inline]
    pub(super) fn is(self, state: State, lap: u32) -> bool {
        (self.0 ^ Self::new(state, lap, 0).0) & ((1 << TIME_SHIFT) - 1) == 0
    }

    #[inline]
    pub(super) fn with_state(self, state: State) -> Self {
        Self(self.0 & !((1 << STATE_BITS) - 1) | state as u64)
    }

    #[inline]
    pub(super) fn lap(self) -> u32 {
        (self.0 >> STATE_BITS & LAP_MASK) as u32
    }

    /// Age in ticks at `now_ns`; zero for a claim that another thread's slightly later clock has stamped.
    #[inline]
    pub(super) fn age_ticks(self, now_ns: u64) -> u64 {
        let age = (now_ns >> TICK_SHIFT).wrapping_sub(self.0 >> TIME_SHIFT) << TIME_SHIFT;
        ((age as i64) >> TIME_SHIFT).max(0) as u64
    }

    /// Whether the claim is more than so many ticks old at `now_ns`; they come from `ticks_ceil`.
    #[inline]
    pub(super) fn is_older(self, now_ns: u64, ticks: u64) -> bool {
        // In the place where the time stands in the word, the wrap of its 49 bits is that of the 64.
        let age = (now_ns >> TICK_SHIFT << TIME_SHIFT).wrapping_sub(self.0 >> TIME_SHIFT << TIME_SHIFT);
        age as i64 > (ticks << TIME_SHIFT) as i64
    }

    /// The claim time, given any `now_ns` within nine years of it.
    pub(super) fn time_ns(self, now_ns: u64) -> u64 {
        let now = now_ns >> TICK_SHIFT;
        let behind = now.wrapping_sub(self.0 >> TIME_SHIFT) << TIME_SHIFT;
        now.wrapping_sub(((behind as i64) >> TIME_SHIFT) as u64) << TICK_SHIFT
    }
}

const _: () = assert!(TIME_BITS == 49);

/// A place in an arena's endless time order: the lap round the ring, and the index in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Position {
    pub(super) lap: u64,
    pub(super) index: u32,
}

impl Position {
    pub(super) const START: Self = Self { lap: 1, index: 0 };

    #[inline]
    pub(super) fn advance(&mut self, arena_len: u32) {
        self.index += 1;
        if self.index == arena_len {
            *self = Self { lap: self.lap + 1, index: 0 };
        }
    }

    /// The lap as cells and words hold it.
    #[inline]
    pub(super) fn short_lap(self) -> u32 {
        (self.lap & LAP_MASK) as u32
    }

    /// The same place one lap later.
    pub(super) fn lap_later(self) -> Self {
        Self { lap: self.lap + 1, ..self }
    }
}

/// What an arena's floor says about a word that points into that arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Live,
    Dead,
    /// Only the cell itself can tell.
    Look,
}

/// Packed for one atomic: everything before the position is forgotten, except pending cells (and what leads to
/// them), of which there can be some only if `pinned`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Floor(pub(super) u64);

const PINNED: u64 = 1 << (CELL_BITS + LAP_BITS);
const POSITION_BITS: u32 = CELL_BITS + LAP_BITS;
/// A word this many laps behind is surely not one from 4096 laps later. Older words cannot be told by arithmetic.
const LAPS_BEHIND: u64 = 16;

impl Floor {
    pub(super) fn new(position: Position, pinned: bool) -> Self {
        let packed = (position.lap & LAP_MASK) << CELL_BITS | u64::from(position.index);
        Self(packed | if pinned { PINNED } else { 0 })
    }

    /// Judges the word for `index` of this arena, used in `lap`.
    #[inline]
    pub(super) fn judge(self, lap: u32, index: u32) -> Verdict {
        let word = u64::from(lap) << CELL_BITS | u64::from(index);
        let ahead = word.wrapping_sub(self.0) & ((1 << POSITION_BITS) - 1);
        if ahead < 2 << CELL_BITS {
            // A claimer's head is at most one lap before its floor.
            Verdict::Live
        } else if ahead >= (1 << POSITION_BITS) - (LAPS_BEHIND << CELL_BITS) && self.0 & PINNED == 0 {
            Verdict::Dead
        } else {
            Verdict::Look
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_metas_round_trip_at_their_limits() {
        let word = Word::new((1 << CELL_BITS) - 1, 4095, Word::probe(u64::MAX));
        assert_eq!((word.cell(), word.lap()), ((1 << CELL_BITS) - 1, 4095));
        assert!(word.matches(Word::probe(u64::MAX)) && !word.matches(Word::probe(0)));
        assert!(!Word::EMPTY.matches(Word::probe(0)), "an empty slot matches no fingerprint, not even zero");
        let placed = word.in_place_of(Word::EMPTY, true);
        assert!(placed.turn() && placed.has_overflow() && !word.in_place_of(placed, false).turn());
        let meta = Meta::new(State::Pending, 4095, u64::MAX).with_state(State::Released);
        assert_eq!((meta.state(), meta.lap()), (State::Released, 4095));
    }

    #[test]
    fn ages_survive_the_wrap_of_the_stored_time() {
        let wrap = 1u64 << (TIME_BITS + TICK_SHIFT);
        for base in [0, wrap - 2048, 3 * wrap - 1024, 1_800_000_000_000_000_000] {
            let meta = Meta::new(State::Done, 1, base);
            assert_eq!(meta.age_ticks(base + 10 * 1024), 10);
            assert_eq!(meta.age_ticks(base.saturating_sub(5000)), 0);
            assert!(meta.is_older(base + 10 * 1024, 9) && !meta.is_older(base + 10 * 1024, 10));
            assert!(!meta.is_older(base.saturating_sub(5000), 0) && !meta.is_older(base + 1024, ticks_ceil(u64::MAX)));
            assert_eq!(meta.time_ns(base + 4096), base >> TICK_SHIFT << TICK_SHIFT);
        }
    }

    #[test]
    fn a_floor_tells_dead_from_live_across_the_wrap_of_the_lap() {
        for lap in [1, 4094, 4095, 4096, 8191] {
            let at = |lap: u64| (lap & 4095) as u32;
            let floor = Floor::new(Position { lap, index: 10 }, false);
            assert_eq!(floor.judge(at(lap), 10), Verdict::Live);
            assert_eq!(floor.judge(at(lap + 1), 9), Verdict::Live);
            assert_eq!(floor.judge(at(lap), 9), Verdict::Dead);
            assert_eq!(floor.judge(at(lap.wrapping_sub(1)), 11), Verdict::Dead);
            assert_eq!(floor.judge(at(lap.wrapping_sub(20)), 11), Verdict::Look);
            assert_eq!(Floor::new(Position { lap, index: 10 }, true).judge(at(lap), 9), Verdict::Look);
        }
    }
}
