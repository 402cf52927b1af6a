//! The shared part of deduplication: buckets, cells, and every read and write of them that crosses threads.
//!
//! # Entries
//! An entry is a cell that a bucket leads to. A claimer writes the entry into a cell of its own arena and then puts a
//! word for it into the bucket by one compare-and-swap; a plain store if it is the table's only claimer. A bucket is a ring of `SLOTS` words in one cache line; words
//! are placed strictly in turn, so all claimers that would insert at the same moment compete for the same slot, and
//! one that loses has something new to read. That is what keeps one id from getting in twice: there is no free choice
//! of a slot, hence no two places for it.
//!
//! A word that is replaced while its entry is still remembered becomes `next` of the replacing cell, and the new word
//! says so (`OVERFLOW`). Most buckets never need it: with 20 bytes of words per cell, 3.2 entries share 8 slots on
//! average, and a claim touches one cache line of the bucket and none of any cell but its own.
//!
//! # Forgetting
//! Each arena publishes a floor: what was claimed before it is forgotten. It lets a claimer see from a word alone,
//! without touching its cell, that the entry is gone. Entries behind a forgotten one (`next`) were inserted before it
//! and are forgotten with it. Ages differ between claimers by what their clocks differ, hence `slack`: an id counts
//! as expired after `window`, but nothing is cut off before `window + slack`.
//! A pending entry is kept where it is: its claimer passes over its cell, and over a cell through which it is reached,
//! until a new word in that slot leads to it directly.
//!
//! # Memory
//! 32 bytes a cell and 20 of bucket: 52 bytes per id of capacity, all of it allocated and touched by `new`.

mod glance;

use std::sync::Arc;

use crossbeam_utils::CachePadded;

pub(super) use glance::{Glance, Sole};

use super::bucket::{Bucket, View};
use super::cell::Cell;
use super::claimer::Claimer;
use super::id::{EventId, Seed};
use super::layout::{CELL_BITS, Floor, Meta, Position, SLOTS, State, Verdict, Word, ticks_ceil};
use super::types::{ClaimState, ClaimToken, DedupConfig, DedupError, DedupStats, PendingClaim, Settled, claim_state};
use crate::memory::{Slab, prefetch};
use crate::sync::{AtomicU64, Ordering};

/// More entries than this behind one word mean that something other than chance fills a bucket; a walk ends there
/// rather than hold up its thread. With a keyed hash even eight are not met in the life of a table.
const CHAIN_MAX: u32 = 256;

/// One claimer's published numbers; written by that claimer alone.
pub(super) struct Arena {
    pub(super) floor: AtomicU64,
    pub(super) occupied: AtomicU64,
    pub(super) evicted_early: AtomicU64,
    pub(super) unremembered: AtomicU64,
    pub(super) pending_passed_over: AtomicU64,
    pub(super) effective_window_ns: AtomicU64,
}

/// The table, shared by its claimers and by whoever looks ids up.
pub struct DedupTable {
    buckets: Slab<Bucket>,
    cells: Slab<Cell>,
    pub(super) arenas: Box<[CachePadded<Arena>]>,
    pub(super) arena_len: u32,
    seed: Seed,
    window_ns: u64,
    window_ticks: u64,
    surely_ticks: u64,
}

impl DedupTable {
    /// Allocates everything, and makes the claimers, one for each thread that will claim.
    pub fn new(config: DedupConfig) -> Result<(Arc<Self>, Vec<Claimer>), DedupError> {
        let DedupConfig { capacity, window_ns, claimers } = config;
        if capacity == 0 || window_ns == 0 || claimers == 0 {
            return Err(DedupError::Zero);
        }
        let arena_len = capacity.div_ceil(claimers);
        let cells = arena_len.saturating_mul(claimers);
        if cells > 1 << CELL_BITS {
            return Err(DedupError::TooLarge);
        }
        // One bucket in the models: that is where threads meet.
        let buckets = if cfg!(loom_model) { 1 } else { Self::bucket_count(cells) };
        let arena = || Arena {
            floor: AtomicU64::new(Floor::new(Position::START, false).0),
            occupied: AtomicU64::new(0),
            evicted_early: AtomicU64::new(0),
            unremembered: AtomicU64::new(0),
            pending_passed_over: AtomicU64::new(0),
            effective_window_ns: AtomicU64::new(window_ns),
        };
        let table = Arc::new(Self {
            buckets: Slab::from_fn(buckets, |_| Bucket::default()),
            cells: Slab::from_fn(cells, |_| Cell::default()),
            arenas: (0..claimers).map(|_| CachePadded::new(arena())).collect(),
            arena_len: arena_len as u32,
            seed: Seed::random(),
            window_ns,
            window_ticks: ticks_ceil(window_ns),
            surely_ticks: ticks_ceil(window_ns.saturating_add(window_ns / 64)),
        });
        let sole = || (claimers == 1).then(Sole::new);
        let claimers = (0..claimers as u32).map(|arena| Claimer::new(Arc::clone(&table), arena, sole())).collect();
        Ok((table, claimers))
    }

    /// Two and a half words a cell. A claim must look for the cells of words that have overflow: in a full table 44 of 100 do
    /// at 1.5 words a cell, 17 at two and 7 at two and a half, of which the floor settles four.
    const fn bucket_count(cells: usize) -> usize {
        (cells * 5).div_ceil(2 * SLOTS)
    }

    /// Memory of a table for so many ids.
    pub const fn bytes(capacity: usize) -> usize {
        Slab::<Bucket>::bytes(Self::bucket_count(capacity)) + Slab::<Cell>::bytes(capacity)
    }

    pub fn window_ns(&self) -> u64 {
        self.window_ns
    }

    /// What is remembered of an id. Wait-free.
    pub fn lookup(&self, id: EventId, now_ns: u64) -> Option<ClaimState> {
        self.find(id, now_ns).map(|(_, meta)| claim_state(meta))
    }

    /// What a claim that was met pending has come to; `None` as long as it is pending. Whether its id is still remembered
    /// does not matter.
    pub fn settled(&self, claim: PendingClaim) -> Option<Settled> {
        let word = claim.word();
        let Some(entry) = self.cell_of(word).read(word.lap()) else { return Some(Settled::Forgotten) };
        match entry.meta.state() {
            State::Pending => None,
            State::Done => Some(Settled::Done),
            State::DeadLettered => Some(Settled::DeadLettered),
            State::Released => Some(Settled::Released),
            State::Free => Some(Settled::Forgotten),
        }
    }

    /// The event is durable, or handled if it is of no logged class.
    pub fn finish(&self, token: ClaimToken) {
        self.settle(token, State::Done);
    }

    /// The event is in the dead letter queue.
    pub fn dead_letter(&self, token: ClaimToken) {
        self.settle(token, State::DeadLettered);
    }

    /// The event is lost: a resend is taken as new.
    pub fn release(&self, token: ClaimToken) {
        self.settle(token, State::Released);
    }

    /// For the replay of a dead letter: takes its claim up again. One of any number that try gets the token.
    pub fn retake_dead_lettered(&self, id: EventId, now_ns: u64) -> Option<ClaimToken> {
        let (word, meta) = self.find(id, now_ns)?;
        let retaken = meta.state() == State::DeadLettered && self.cell_of(word).move_on(meta, State::Pending);
        retaken.then(|| ClaimToken::new(word.cell(), word.lap()))
    }

    /// For a dead letter that is purged or evicted: a resend is taken as new. False if the claim is not dead-lettered.
    pub fn release_dead_lettered(&self, id: EventId, now_ns: u64) -> bool {
        self.find(id, now_ns).is_some_and(|(word, meta)| {
            meta.state() == State::DeadLettered && self.cell_of(word).move_on(meta, State::Released)
        })
    }

    /// Shows every id remembered at `now_ns`, with the time of its claim, while claims go on: one claimed or settled
    /// meanwhile may be shown in its old state, its new one, or not at all.
    pub fn visit(&self, now_ns: u64, mut show: impl FnMut(EventId, ClaimState, u64)) {
        for cell in self.cells.iter() {
            let Some(entry) = cell.read(cell.meta().lap()) else {
                continue;
            };
            // A cell by itself may be one that is being linked, or that lost and never was: the bucket decides.
            if self.remembers(entry.meta, now_ns) && self.find(entry.id, now_ns).is_some_and(|(_, m)| m == entry.meta) {
                show(entry.id, claim_state(entry.meta), entry.meta.time_ns(now_ns));
            }
        }
    }

    pub fn stats(&self) -> DedupStats {
        let mut stats = DedupStats {
            capacity: self.cells.len() as u64,
            effective_window_ns: self.window_ns,
            memory_bytes: (size_of_val(&*self.cells) + size_of_val(&*self.buckets)) as u64,
            ..DedupStats::default()
        };
        for arena in &self.arenas {
            // Relaxed: numbers for people, each by itself.
            stats.occupied += arena.occupied.load(Ordering::Relaxed);
            stats.evicted_early += arena.evicted_early.load(Ordering::Relaxed);
            stats.unremembered += arena.unremembered.load(Ordering::Relaxed);
            stats.pending_passed_over += arena.pending_passed_over.load(Ordering::Relaxed);
            let effective = arena.effective_window_ns.load(Ordering::Relaxed);
            stats.effective_window_ns = stats.effective_window_ns.min(effective);
        }
        stats
    }

    /// The number of the bucket where an id belongs, and how a word for it is told from others there.
    #[inline]
    pub(super) fn aim(&self, id: EventId) -> (u32, u64) {
        let hash = self.seed.hash(id);
        // The high bits of the hash, scaled to any number of buckets; the fingerprint is made of the low ones.
        let bucket = (u128::from(hash) * self.buckets.len() as u128) >> 64;
        (bucket as u32, Word::probe(hash))
    }

    #[inline]
    pub(super) fn bucket(&self, number: u32) -> &Bucket {
        &self.buckets[number as usize]
    }

    /// Fetches the cells that a claim has to read, and says whether there are any: not those of entries which the floor alone
    /// tells to be forgotten, as are the ones behind them.
    #[inline(never)]
    pub(super) fn fetch_cells(&self, bucket: &Bucket, probe: u64) -> bool {
        let mut any = false;
        for word in &bucket.collect(probe).words {
            if (word.matches(probe) || word.has_overflow()) && self.judge(*word) != Verdict::Dead {
                prefetch(self.cell_of(*word));
                any = true;
            }
        }
        any
    }

    /// An arena's cells are numbered one behind the other, and the arenas too.
    #[inline]
    pub(super) fn cell(&self, number: u32) -> &Cell {
        &self.cells[number as usize]
    }

    #[inline]
    pub(super) fn cell_of(&self, word: Word) -> &Cell {
        self.cell(word.cell())
    }

    /// Whether the entry may still be remembered; if not, neither is any behind it.
    #[inline]
    pub(super) fn may_be_live(&self, word: Word) -> bool {
        if word.is_empty() {
            return false;
        }
        match self.judge(word) {
            Verdict::Live => true,
            Verdict::Dead => false,
            Verdict::Look => self.cell_of(word).meta().lap() == word.lap(),
        }
    }

    #[inline]
    fn judge(&self, word: Word) -> Verdict {
        let number = word.cell();
        // The usual table of one arena is spared the divisions.
        let (arena, index) =
            if self.arenas.len() == 1 { (0, number) } else { (number / self.arena_len, number % self.arena_len) };
        // Relaxed: what is before the floor is so for good, and an older floor only says less.
        let floor = self.arenas[arena as usize].floor.load(Ordering::Relaxed);
        Floor(floor).judge(word.lap(), index)
    }

    /// Whether an id in this state answers a claim.
    #[inline]
    fn remembers(&self, meta: Meta, now_ns: u64) -> bool {
        match meta.state() {
            // However old: two copies must not be under way at once.
            State::Pending => true,
            State::Done | State::DeadLettered => !self.expired(meta, now_ns),
            State::Free | State::Released => false,
        }
    }

    /// Whether every thread's clock agrees that the window is over.
    #[inline]
    pub(super) fn surely_expired(&self, meta: Meta, now_ns: u64) -> bool {
        meta.is_older(now_ns, self.surely_ticks)
    }

    /// Whether the window is over by this clock.
    #[inline]
    pub(super) fn expired(&self, meta: Meta, now_ns: u64) -> bool {
        meta.is_older(now_ns, self.window_ticks)
    }

    fn find(&self, id: EventId, now_ns: u64) -> Option<(Word, Meta)> {
        let (bucket, probe) = self.aim(id);
        self.resolve(&self.bucket(bucket).collect(probe), id, probe, now_ns)
    }

    /// The remembered entry for `id` among those a view leads to. An entry never moves from one slot's chain to
    /// another, so one reading of each slot misses none that was there before.
    pub(super) fn resolve(&self, view: &View, id: EventId, probe: u64, now_ns: u64) -> Option<(Word, Meta)> {
        let check = |word: Word| {
            let entry = self.cell_of(word).read(word.lap())?;
            (entry.id == id && self.remembers(entry.meta, now_ns)).then_some((word, entry.meta))
        };
        for word in &view.words {
            if word.matches(probe)
                && let Some(found) = check(*word)
            {
                return Some(found);
            }
        }
        for word in view.words.iter().filter(|word| word.has_overflow()) {
            let found = self.chain(*word).filter(|word| word.matches(probe)).find_map(check);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// The words behind a word, newest first, as far as they may be remembered.
    fn chain(&self, mut word: Word) -> impl Iterator<Item = Word> {
        let mut left = CHAIN_MAX;
        std::iter::from_fn(move || {
            if left == 0 || !word.has_overflow() || !self.may_be_live(word) {
                return None;
            }
            left -= 1;
            word = self.cell_of(word).read(word.lap())?.next;
            self.may_be_live(word).then_some(word)
        })
    }

    /// Among the entries from `next` on: whether one is pending, and how many a claimer would still answer for.
    pub(super) fn behind(&self, next: Word, now_ns: u64) -> (bool, u64) {
        let (mut pending, mut remembered) = (false, 0);
        if !self.may_be_live(next) {
            return (false, 0);
        }
        for word in std::iter::once(next).chain(self.chain(next)) {
            if let Some(entry) = self.cell_of(word).read(word.lap()) {
                pending |= entry.meta.state() == State::Pending;
                remembered += u64::from(self.remembers(entry.meta, now_ns));
            }
        }
        (pending, remembered)
    }

    /// What a word that takes the place of `replaced` must lead to: the first entry from there on that is remembered
    /// or may be. Also how many were passed that a claimer would still answer for.
    ///
    /// Entries before the floor that are not pending are left out, though their cells may not be reused yet: cells
    /// passed over because they lead to a pending one would otherwise hang one before the other, one more each lap.
    #[inline]
    pub(super) fn keep(&self, replaced: Word, now_ns: u64) -> (Word, u64) {
        if replaced.is_empty() {
            return (Word::EMPTY, 0);
        }
        match self.judge(replaced) {
            Verdict::Live => (replaced, 0),
            Verdict::Dead => (Word::EMPTY, 0),
            Verdict::Look => self.keep_looking(replaced, now_ns),
        }
    }

    #[cold]
    fn keep_looking(&self, replaced: Word, now_ns: u64) -> (Word, u64) {
        let mut left_out = 0;
        for word in std::iter::once(replaced).chain(self.chain(replaced)) {
            let Some(entry) = self.cell_of(word).read(word.lap()) else {
                break;
            };
            if entry.meta.state() == State::Pending || self.judge(word) == Verdict::Live {
                return (word, left_out);
            }
            left_out += u64::from(self.remembers(entry.meta, now_ns));
        }
        (Word::EMPTY, left_out)
    }

    /// For the owner of a cell: whether its bucket still leads to the entry in it. No to yes is impossible: a new
    /// word leads only to what the word it replaces led to. A bucket that changes under the walk counts as yes.
    #[cold]
    pub(super) fn reachable(&self, cell: u32, entry: &Cell) -> bool {
        let lap = entry.meta().lap();
        let Some(id) = entry.read(lap).map(|entry| entry.id) else {
            return false;
        };
        let (bucket, probe) = self.aim(id);
        let bucket = self.bucket(bucket);
        let view = bucket.collect(probe);
        let leads_here = |word: Word| !word.is_empty() && word.cell() == cell && word.lap() == lap;
        view.words.iter().any(|word| leads_here(*word) || self.chain(*word).any(leads_here)) || !bucket.unchanged(&view)
    }

    #[inline]
    fn settle(&self, token: ClaimToken, state: State) {
        if token.is_remembered() {
            let word = token.word();
            self.cell_of(word).settle(word.lap(), state);
        }
    }
}
