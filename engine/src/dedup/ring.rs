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
use crate::sync::Ordering;

/// Insertions between two moves of the floor: one store to a line that other claimers read, spread over as many.
const HOUSEKEEP_EVERY: u32 = if cfg!(loom_model) { 1 } else { 64 };
/// Cells the floor may pass in one move; twice the insertions between two, so that it catches up.
const HOUSEKEEP_CELLS: u32 = 2 * HOUSEKEEP_EVERY;
/// Pending cells passed over in one claim before it is admitted without being remembered. The next claim goes on from
/// there, so that a run of any length is got over at a bounded cost each.
const PASS_OVER_MAX: u32 = 32;

pub(super) struct Ring {
    arena: u32,
    head: Position,
    floor: Position,
    /// While `head` is before this, some cell before the floor may be pending.
    pinned_until: Position,
    until_housekeeping: u32,
    evicted_early: u64,
    unremembered: u64,
    pending_passed_over: u64,
    effective_window_ns: u64,
}

impl Ring {
    pub(super) fn new(arena: u32, table: &DedupTable) -> Self {
        Self {
            arena,
            head: Position::START,
            floor: Position::START,
            pinned_until: Position::START,
            until_housekeeping: HOUSEKEEP_EVERY,
            evicted_early: 0,
            unremembered: 0,
            pending_passed_over: 0,
            effective_window_ns: table.window_ns(),
        }
    }

    #[inline]
    pub(super) fn cell<'t>(&self, table: &'t DedupTable, index: u32) -> &'t Cell {
        table.cell(self.arena, index)
    }

    #[inline]
    pub(super) fn cell_number(&self, table: &DedupTable, index: u32) -> u32 {
        table.cell_number(self.arena, index)
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
    #[inline]
    pub(super) fn take_cell<'t>(&mut self, table: &'t DedupTable, now_ns: u64) -> Option<(Position, &'t Cell)> {
        self.try_take(table, now_ns).or_else(|| self.take_later(table, now_ns))
    }

    /// The cell at `head`, if it may be reused.
    #[inline(always)]
    fn try_take<'t>(&mut self, table: &'t DedupTable, now_ns: u64) -> Option<(Position, &'t Cell)> {
        let position = self.head;
        let cell = self.cell(table, position.index);
        let found = cell.meta();
        let taken = self.reusable(table, position.index, cell, found, now_ns) && cell.take(found, position.short_lap());
        taken.then(|| {
            self.advance_head(table);
            (position, cell)
        })
    }

    #[cold]
    fn take_later<'t>(&mut self, table: &'t DedupTable, now_ns: u64) -> Option<(Position, &'t Cell)> {
        (0..PASS_OVER_MAX).find_map(|_| {
            self.pass_over(table);
            self.try_take(table, now_ns)
        })
    }

    /// Whether the cell may be reused; counts what is forgotten by that.
    #[inline(always)]
    fn reusable(&mut self, table: &DedupTable, index: u32, cell: &Cell, found: Meta, now_ns: u64) -> bool {
        if found.state() == State::Pending {
            return false;
        }
        let remembered_behind = match cell.next() {
            Word::EMPTY => 0,
            next => match self.remembered_behind(table, index, cell, next, now_ns) {
                Some(count) => count,
                None => return false,
            },
        };
        if matches!(found.state(), State::Done | State::DeadLettered) {
            if table.expired(found, now_ns) {
                self.effective_window_ns = table.window_ns();
            } else {
                self.evicted_early += 1 + remembered_behind;
                self.effective_window_ns = ticks_to_ns(found.age_ticks(now_ns)).min(table.window_ns());
            }
        }
        true
    }

    /// How many entries that are reached through the cell a claimer would still answer for. None if one of them is pending:
    /// then the cell must stay.
    #[inline(never)]
    fn remembered_behind(&self, table: &DedupTable, index: u32, cell: &Cell, next: Word, now_ns: u64) -> Option<u64> {
        let (pending, remembered) = table.behind(next, now_ns);
        let stays = pending && table.reachable(self.cell_number(table, index), cell);
        (!stays).then_some(remembered)
    }

    #[inline]
    fn advance_head(&mut self, table: &DedupTable) {
        let arena_len = table.arena_len;
        // The cell at `head` in its previous lap is gone now, or pinned: the floor cannot stay before it.
        if self.floor.lap_later() == self.head {
            self.floor.advance(arena_len);
        }
        self.head.advance(arena_len);
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
        for _ in 0..HOUSEKEEP_CELLS {
            if self.floor == self.head {
                break;
            }
            let found = self.cell(table, self.floor.index).meta();
            let current = found.lap() == self.floor.short_lap();
            match found.state() {
                // A pending one too: claims of one batch are settled after the last, and then have a window before them.
                State::Pending | State::Done | State::DeadLettered
                    if current && !table.surely_expired(found, now_ns) =>
                {
                    break;
                }
                State::Pending => self.pin(table),
                _ => {
                    let next = self.cell(table, self.floor.index).next();
                    if !next.is_empty() && table.behind(next, now_ns).0 {
                        self.pin(table);
                    }
                }
            }
            self.floor.advance(table.arena_len);
        }
        self.publish(table);
    }

    fn publish(&self, table: &DedupTable) {
        let arena = &table.arenas[self.arena as usize];
        let pinned = self.head < self.pinned_until;
        let laps = self.head.lap - self.floor.lap;
        let occupied = laps * u64::from(table.arena_len) + u64::from(self.head.index) - u64::from(self.floor.index);
        // Relaxed, all: each number stands by itself. An old floor is a lower one, and says less.
        arena.floor.store(Floor::new(self.floor, pinned).0, Ordering::Relaxed);
        arena.occupied.store(occupied, Ordering::Relaxed);
        arena.evicted_early.store(self.evicted_early, Ordering::Relaxed);
        arena.unremembered.store(self.unremembered, Ordering::Relaxed);
        arena.pending_passed_over.store(self.pending_passed_over, Ordering::Relaxed);
        arena.effective_window_ns.store(self.effective_window_ns, Ordering::Relaxed);
    }
}
