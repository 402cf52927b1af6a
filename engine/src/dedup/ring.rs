//! The owner's side of an arena: which cell is next, and what is forgotten for it.
//!
//! The arena is used in the order of time. `head` is where the next entry goes; `floor` follows it, past what is
//! expired, a bounded number of cells per insertion, and at the latest when `head` comes round to it. There is no
//! sweep: a cell that is not needed again keeps its expired entry, which no look-up accepts.
//!
//! A pending cell is passed over by `head`, and keeps its lap while its neighbours go on. So does a cell through whose
//! `next` a pending one is reached, or the bucket would lose sight of it.
#![forbid(unsafe_code)]

use super::cell::Cell;
use super::claimer::Claim;
use super::layout::{Floor, Meta, Position, State, Word, ticks_to_ns};
use super::table::DedupTable;
use super::types::ClaimToken;
use crate::memory::prefetch;
use crate::sync::Ordering;

/// Insertions between two moves of the floor: one store to a line that other claimers read, spread over as many.
const HOUSEKEEP_EVERY: u32 = if cfg!(loom_model) { 1 } else { 16 };
/// Cells the floor may pass in one move; twice the insertions between two, so that it catches up.
const HOUSEKEEP_CELLS: u32 = 2 * HOUSEKEEP_EVERY;
/// One in the models, whose atomics are larger.
const CELLS_A_LINE: usize = if size_of::<Cell>() < 64 { 64 / size_of::<Cell>() } else { 1 };
/// Pending cells passed over in one claim before it is admitted without being remembered. The next claim goes on from
/// there, so that a run of any length is got over at a bounded cost each.
const PASS_OVER_MAX: u32 = 32;

pub(super) struct Ring {
    arena: u32,
    /// The arena's first cell among all of the table's.
    base: u32,
    head: Position,
    /// How many cells `head` is ahead of the floor.
    occupied: u32,
    /// While `head` is before this, some cell before the floor may be pending.
    pinned_until: Position,
    until_housekeeping: u32,
    evicted_early: u64,
    unremembered: u64,
    pending_passed_over: u64,
    /// What was last forgotten to make room, and when, if that was early.
    last_evicted: Option<(Meta, u64)>,
}

impl Ring {
    pub(super) fn new(arena: u32, table: &DedupTable) -> Self {
        Self {
            arena,
            base: arena * table.arena_len,
            head: Position::START,
            occupied: 0,
            pinned_until: Position::START,
            until_housekeeping: HOUSEKEEP_EVERY,
            evicted_early: 0,
            unremembered: 0,
            pending_passed_over: 0,
            last_evicted: None,
        }
    }

    #[inline]
    pub(super) fn cell<'t>(&self, table: &'t DedupTable, index: u32) -> &'t Cell {
        table.cell(self.cell_number(index))
    }

    #[inline]
    pub(super) fn cell_number(&self, index: u32) -> u32 {
        self.base + index
    }

    /// An entry has been linked, and `left_out` others have been left out of its bucket by that.
    #[inline]
    pub(super) fn inserted(&mut self, table: &DedupTable, left_out: u64, now_ns: u64) {
        self.evicted_early += left_out;
        self.until_housekeeping -= 1;
        if self.until_housekeeping == 0 {
            self.housekeep(table, now_ns);
        }
    }

    /// No cell could be had.
    #[cold]
    pub(super) fn admit_unremembered(&mut self) -> Claim {
        self.unremembered += 1;
        Claim::Won(ClaimToken::unremembered())
    }

    /// The next cell of the arena that may be reused, taken.
    #[inline(always)]
    pub(super) fn take_cell<'t>(&mut self, table: &'t DedupTable, now_ns: u64) -> Option<(Position, &'t Cell)> {
        let position = self.head;
        let cell = self.cell(table, position.index);
        let found = cell.meta();
        // What most cells are found as: nothing but their own entry depends on them.
        let plain = matches!(found.state(), State::Free | State::Done | State::Released);
        if !plain || !cell.next().is_empty() || !cell.take(found, position.short_lap()) {
            return self.take_with_care(table, now_ns);
        }
        // What the floor has passed has expired.
        if self.occupied == table.arena_len && found.state() == State::Done {
            self.evict(table, found, 0, now_ns);
        }
        self.advance_head(table);
        Some((position, cell))
    }

    #[inline(never)]
    fn take_with_care<'t>(&mut self, table: &'t DedupTable, now_ns: u64) -> Option<(Position, &'t Cell)> {
        for passed_over in 0..=PASS_OVER_MAX {
            let position = self.head;
            let cell = self.cell(table, position.index);
            let found = cell.meta();
            if let Some(behind) = self.remembered_behind(table, position.index, cell, found, now_ns)
                && cell.take(found, position.short_lap())
            {
                if matches!(found.state(), State::Done | State::DeadLettered) {
                    self.evict(table, found, behind, now_ns);
                }
                self.advance_head(table);
                return Some((position, cell));
            }
            if passed_over < PASS_OVER_MAX {
                self.pass_over(table);
            }
        }
        None
    }

    /// Notes that an entry is forgotten, and others that are reached through it alone.
    #[inline(always)]
    fn evict(&mut self, table: &DedupTable, found: Meta, behind: u64, now_ns: u64) {
        let early = !table.expired(found, now_ns);
        self.evicted_early += if early { 1 + behind } else { 0 };
        self.last_evicted = early.then_some((found, now_ns));
    }

    /// How many entries that are reached through the cell a claimer would still answer for. None if its own, or one of those,
    /// is pending: then the cell must stay.
    fn remembered_behind(&self, table: &DedupTable, index: u32, cell: &Cell, found: Meta, now_ns: u64) -> Option<u64> {
        if found.state() == State::Pending {
            return None;
        }
        let (pending, remembered) = match cell.next() {
            Word::EMPTY => (false, 0),
            next => table.behind(next, now_ns),
        };
        let stays = pending && table.reachable(self.cell_number(index), cell);
        (!stays).then_some(remembered)
    }

    #[inline]
    fn advance_head(&mut self, table: &DedupTable) {
        // The cell at `head` in its previous lap is gone now, or pinned: should the floor be there, it moves on as well.
        self.occupied = (self.occupied + 1).min(table.arena_len);
        self.head.advance(table.arena_len);
    }

    #[cold]
    fn pass_over(&mut self, table: &DedupTable) {
        self.pending_passed_over += 1;
        self.pin(table);
        self.advance_head(table);
    }

    /// A cell before the floor is, or leads to, a pending one: until `head` has been everywhere once.
    fn pin(&mut self, table: &DedupTable) {
        self.pinned_until = self.head.lap_later();
        self.pinned_until.advance(table.arena_len);
    }

    /// Moves the floor, and publishes it with the numbers.
    pub(super) fn housekeep(&mut self, table: &DedupTable, now_ns: u64) {
        self.until_housekeeping = HOUSEKEEP_EVERY;
        let mut floor = self.floor(table);
        for _ in 0..HOUSEKEEP_CELLS.min(self.occupied) {
            if !self.floor_may_pass(table, floor, now_ns) {
                break;
            }
            floor.advance(table.arena_len);
            self.occupied -= 1;
        }
        // Where the floor stands next time: its cells have left the caches long ago.
        for ahead in (0..HOUSEKEEP_EVERY).step_by(CELLS_A_LINE) {
            prefetch(self.cell(table, (floor.index + ahead).min(table.arena_len - 1)));
        }
        self.publish(table);
    }

    /// Whether the entry at the floor is forgotten.
    #[inline(always)]
    fn floor_may_pass(&mut self, table: &DedupTable, floor: Position, now_ns: u64) -> bool {
        let cell = self.cell(table, floor.index);
        let found = cell.meta();
        if found.is(State::Done, floor.short_lap()) && cell.next().is_empty() {
            return table.surely_expired(found, now_ns);
        }
        self.floor_may_pass_with_care(table, floor, now_ns)
    }

    #[inline(never)]
    fn floor_may_pass_with_care(&mut self, table: &DedupTable, floor: Position, now_ns: u64) -> bool {
        let cell = self.cell(table, floor.index);
        let found = cell.meta();
        let current = found.lap() == floor.short_lap();
        match found.state() {
            // A pending one too: claims of one batch are settled after the last, and then have a window before them.
            State::Pending | State::Done | State::DeadLettered if current && !table.surely_expired(found, now_ns) => {
                return false;
            }
            State::Pending => self.pin(table),
            _ => {
                let next = cell.next();
                if !next.is_empty() && table.behind(next, now_ns).0 {
                    self.pin(table);
                }
            }
        }
        true
    }

    fn floor(&self, table: &DedupTable) -> Position {
        let Position { lap, index } = self.head;
        match index.checked_sub(self.occupied) {
            Some(index) => Position { lap, index },
            None => Position { lap: lap - 1, index: index + (table.arena_len - self.occupied) },
        }
    }

    fn publish(&self, table: &DedupTable) {
        let arena = &table.arenas[self.arena as usize];
        let pinned = self.head < self.pinned_until;
        let effective = match self.last_evicted {
            Some((found, at)) if self.occupied == table.arena_len => {
                ticks_to_ns(found.age_ticks(at)).min(table.window_ns())
            }
            _ => table.window_ns(),
        };
        // Relaxed, all: each number stands by itself. An old floor is a lower one, and says less.
        arena.floor.store(Floor::new(self.floor(table), pinned).0, Ordering::Relaxed);
        arena.occupied.store(u64::from(self.occupied), Ordering::Relaxed);
        arena.evicted_early.store(self.evicted_early, Ordering::Relaxed);
        arena.unremembered.store(self.unremembered, Ordering::Relaxed);
        arena.pending_passed_over.store(self.pending_passed_over, Ordering::Relaxed);
        arena.effective_window_ns.store(effective, Ordering::Relaxed);
    }
}
