//! A thread's end of the table: it claims ids, one by one or in batches whose cache misses overlap.
#![forbid(unsafe_code)]

use std::cell::Cell as NotSync;
use std::marker::PhantomData;
use std::sync::Arc;

use super::bucket::View;
use super::id::EventId;
use super::layout::{Meta, State, Word};
use super::ring::Ring;
use super::table::{DedupTable, prefetch};
use super::types::{ClaimState, ClaimToken, Outcome, claim_state};

/// Claims whose buckets are under way at once: about what a core's miss buffers hold.
const PREFETCH_AHEAD: usize = 24;
/// Ids taken together; the largest burst of a worker.
const BATCH: usize = 256;

/// The answer to a claim.
#[derive(Debug)]
pub enum Claim {
    /// The first copy: process it, then report the outcome with the token.
    Won(ClaimToken),
    /// Another copy is under way.
    Pending,
    /// Another copy has been processed.
    Done,
    /// Another copy is in the dead letter queue.
    DeadLettered,
}

impl From<ClaimState> for Claim {
    fn from(state: ClaimState) -> Self {
        match state {
            ClaimState::Pending => Self::Pending,
            ClaimState::Done => Self::Done,
            ClaimState::DeadLettered => Self::DeadLettered,
        }
    }
}

/// Claims ids for one thread.
pub struct Claimer {
    table: Arc<DedupTable>,
    ring: Ring,
    _not_sync: PhantomData<NotSync<()>>,
}

impl Claimer {
    pub(super) fn new(table: Arc<DedupTable>, arena: u32) -> Self {
        let ring = Ring::new(arena, &table);
        Self { table, ring, _not_sync: PhantomData }
    }

    pub fn table(&self) -> &Arc<DedupTable> {
        &self.table
    }

    /// Claims one id. `now_ns` may be behind other claimers' by up to 1/64 of the window.
    #[inline]
    pub fn claim(&mut self, id: EventId, now_ns: u64) -> Claim {
        self.claim_hashed(id, self.table.hash(id), now_ns)
    }

    /// Claims `ids`, and tells `each` the index and the answer of every one: the same as one claim after another, but the
    /// misses of many overlap. Answers come nearly in the order of the ids, not quite. If an id occurs twice, one of the two wins;
    /// not always the first.
    #[inline]
    pub fn claim_batch(&mut self, ids: &[EventId], now_ns: u64, mut each: impl FnMut(usize, Claim)) {
        for (chunk, ids) in ids.chunks(BATCH).enumerate() {
            self.claim_chunk(ids, now_ns, |index, claim| each(chunk * BATCH + index, claim));
        }
    }

    #[inline]
    fn claim_chunk(&mut self, ids: &[EventId], now_ns: u64, mut each: impl FnMut(usize, Claim)) {
        let mut hashes = [0u64; BATCH];
        // Ids whose bucket led to other cells, which are fetched while the rest goes on.
        let mut deferred = [0u16; BATCH];
        let mut deferred_count = 0;
        for ahead in 0..ids.len() + PREFETCH_AHEAD {
            if let Some(id) = ids.get(ahead) {
                hashes[ahead] = self.table.hash(*id);
                prefetch(self.table.bucket(hashes[ahead]));
            }
            let Some(index) = ahead.checked_sub(PREFETCH_AHEAD) else {
                continue;
            };
            let (hash, probe) = (hashes[index], Word::probe(hashes[index]));
            let mut view = self.table.bucket(hash).collect(probe);
            if view.needs_cells() {
                self.fetch_cells(&view, probe);
                deferred[deferred_count] = index as u16;
                deferred_count += 1;
            } else {
                each(index, self.claim_from(&mut view, ids[index], hash, now_ns));
            }
        }
        for index in deferred[..deferred_count].iter().map(|&index| usize::from(index)) {
            each(index, self.claim_hashed(ids[index], hashes[index], now_ns));
        }
    }

    /// Fetches the cells that a claim has to read.
    #[inline]
    fn fetch_cells(&self, view: &View, probe: u64) {
        for word in &view.words {
            if word.matches(probe) || word.has_overflow() {
                prefetch(self.table.cell_of(*word));
            }
        }
    }

    /// Enters an id at start, from a record of the log or of the dead letter queue. With several claimers, enter
    /// through each in turn, oldest record first: a claimer holds its share of the capacity.
    /// False if the id is known already; done then prevails over dead-lettered.
    pub fn insert_at(&mut self, id: EventId, time_ns: u64, outcome: Outcome) -> bool {
        match self.claim(id, time_ns) {
            Claim::Won(token) => {
                match outcome {
                    Outcome::Done => self.finish(token),
                    Outcome::DeadLettered => self.dead_letter(token),
                }
                true
            }
            Claim::DeadLettered => {
                if outcome == Outcome::Done
                    && let Some(token) = self.table.retake_dead_lettered(id, time_ns)
                {
                    self.finish(token);
                }
                false
            }
            Claim::Pending | Claim::Done => false,
        }
    }

    pub fn lookup(&self, id: EventId, now_ns: u64) -> Option<ClaimState> {
        self.table.lookup(id, now_ns)
    }

    #[inline]
    pub fn finish(&self, token: ClaimToken) {
        self.table.finish(token);
    }

    pub fn dead_letter(&self, token: ClaimToken) {
        self.table.dead_letter(token);
    }

    pub fn release(&self, token: ClaimToken) {
        self.table.release(token);
    }

    #[inline]
    fn claim_hashed(&mut self, id: EventId, hash: u64, now_ns: u64) -> Claim {
        let mut view = self.table.bucket(hash).collect(Word::probe(hash));
        self.claim_from(&mut view, id, hash, now_ns)
    }

    /// Claims an id, given a first reading of its bucket.
    #[inline]
    fn claim_from(&mut self, view: &mut View, id: EventId, hash: u64, now_ns: u64) -> Claim {
        let probe = Word::probe(hash);
        let Self { table, ring, .. } = self;
        let bucket = table.bucket(hash);
        let mut written: Option<(u32, Meta)> = None;
        // Each turn after the first means that another claimer's insertion succeeded.
        loop {
            if view.needs_cells()
                && let Some((_, meta)) = table.resolve(view, id, probe, now_ns)
            {
                if let Some((index, _)) = written {
                    ring.cell(table, index).abandon();
                }
                return claim_state(meta).into();
            }
            if !table.has_one_claimer() && !bucket.unchanged(view) {
                *view = bucket.collect(probe);
                continue;
            }
            let replaced = view.oldest();
            let (next, left_out) = table.keep(replaced, now_ns);
            let (index, meta) = match written {
                Some((index, meta)) => {
                    ring.cell(table, index).relink(next);
                    (index, meta)
                }
                None => {
                    let Some((position, cell)) = ring.take_cell(table, now_ns) else {
                        return ring.admit_unremembered();
                    };
                    let meta = Meta::new(State::Pending, position.short_lap(), now_ns);
                    cell.write(id, meta, next);
                    written = Some((position.index, meta));
                    (position.index, meta)
                }
            };
            let number = ring.cell_number(table, index);
            let word = Word::new(number, meta.lap(), hash).in_place_of(replaced, !next.is_empty());
            if bucket.insert(view, word) {
                ring.inserted(table, left_out, now_ns);
                return Claim::Won(ClaimToken::new(number, meta.lap()));
            }
            *view = bucket.collect(probe);
        }
    }

    /// Moves the floor and publishes the numbers. Claims do it as they go; a worker calls it when it has been idle.
    pub fn housekeep(&mut self, now_ns: u64) {
        self.ring.housekeep(&self.table, now_ns);
    }
}
