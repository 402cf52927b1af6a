//! A thread's end of the table: it claims ids, one by one or in batches whose cache misses overlap.
#![forbid(unsafe_code)]

use std::cell::Cell as NotSync;
use std::marker::PhantomData;
use std::sync::Arc;

use super::bucket::View;
use super::id::EventId;
use super::layout::{Meta, State, Word};
use super::ring::Ring;
use super::table::{Aim, DedupTable, prefetch};
use super::types::{ClaimState, ClaimToken, Outcome, claim_state};

/// Claims whose buckets are under way at once: about what a core's miss buffers hold.
const PREFETCH_AHEAD: usize = 32;
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
    /// Ids of a batch whose bucket led to cells, which are fetched while the rest goes on.
    deferred: Vec<u16>,
    _not_sync: PhantomData<NotSync<()>>,
}

impl Claimer {
    pub(super) fn new(table: Arc<DedupTable>, arena: u32) -> Self {
        let ring = Ring::new(arena, &table);
        Self { table, ring, deferred: Vec::with_capacity(BATCH), _not_sync: PhantomData }
    }

    pub fn table(&self) -> &Arc<DedupTable> {
        &self.table
    }

    /// Claims one id. `now_ns` may be behind other claimers' by up to 1/64 of the window.
    #[inline]
    pub fn claim(&mut self, id: EventId, now_ns: u64) -> Claim {
        let Self { table, ring, .. } = self;
        claim_at(table, ring, table.aim(id), id, now_ns)
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
        let Self { table, ring, deferred, .. } = self;
        let table = &**table;
        let Some(first) = ids.first() else { return };
        let alone = table.has_one_claimer();
        // What is on its way into the cache, by index modulo the length.
        let mut aims = [table.aim(*first); PREFETCH_AHEAD];
        for (aim, id) in aims.iter_mut().zip(ids) {
            *aim = table.aim(*id);
            prefetch(aim.bucket);
        }
        for (index, id) in ids.iter().enumerate() {
            let aim = aims[index % PREFETCH_AHEAD];
            if let Some(id) = ids.get(index + PREFETCH_AHEAD) {
                let ahead = table.aim(*id);
                prefetch(ahead.bucket);
                aims[index % PREFETCH_AHEAD] = ahead;
            }
            if alone {
                let glance = aim.bucket.glance(aim.probe);
                if !glance.needs_cells() || !table.fetch_cells(aim) {
                    each(index, insert_alone(table, ring, aim, glance.oldest, *id, now_ns));
                    continue;
                }
            } else {
                let mut view = aim.bucket.collect(aim.probe);
                if !view.glance.needs_cells() {
                    each(index, claim_among(table, ring, aim, &mut view, *id, now_ns));
                    continue;
                }
                table.fetch_cells(aim);
            }
            deferred.push(index as u16);
        }
        for index in deferred.drain(..).map(usize::from) {
            each(index, claim_at(table, ring, table.aim(ids[index]), ids[index], now_ns));
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

    /// Moves the floor and publishes the numbers. Claims do it as they go; a worker calls it when it has been idle.
    pub fn housekeep(&mut self, now_ns: u64) {
        self.ring.housekeep(&self.table, now_ns);
    }
}

/// Claims an id where it belongs.
#[inline]
fn claim_at(table: &DedupTable, ring: &mut Ring, aim: Aim<'_>, id: EventId, now_ns: u64) -> Claim {
    let mut view = aim.bucket.collect(aim.probe);
    if !table.has_one_claimer() {
        return claim_among(table, ring, aim, &mut view, id, now_ns);
    }
    if view.glance.needs_cells()
        && let Some((_, meta)) = table.resolve(&view, id, aim.probe, now_ns)
    {
        return claim_state(meta).into();
    }
    insert_alone(table, ring, aim, view.glance.oldest, id, now_ns)
}

/// Inserts an id that is not there, for the only claimer of the table: what it has seen of the bucket stays so.
#[inline]
fn insert_alone(table: &DedupTable, ring: &mut Ring, aim: Aim<'_>, oldest: usize, id: EventId, now_ns: u64) -> Claim {
    let replaced = aim.bucket.word(oldest);
    let (next, left_out) = table.keep(replaced, now_ns);
    let Some((position, cell)) = ring.take_cell(table, now_ns) else {
        return ring.admit_unremembered();
    };
    let meta = Meta::new(State::Pending, position.short_lap(), now_ns);
    cell.write(id, meta, next);
    let number = ring.cell_number(table, position.index);
    let word = Word::new(number, meta.lap(), aim.probe).in_place_of(replaced, !next.is_empty());
    aim.bucket.replace(oldest, word);
    ring.inserted(table, left_out, now_ns);
    Claim::Won(ClaimToken::new(number, meta.lap()))
}

/// Claims an id against other claimers, given a first reading of its bucket.
#[inline(never)]
fn claim_among(table: &DedupTable, ring: &mut Ring, aim: Aim<'_>, view: &mut View, id: EventId, now_ns: u64) -> Claim {
    let Aim { bucket, probe } = aim;
    let mut written: Option<(u32, Meta)> = None;
    // Each turn after the first means that another claimer's insertion succeeded.
    loop {
        if view.glance.needs_cells()
            && let Some((_, meta)) = table.resolve(view, id, probe, now_ns)
        {
            if let Some((index, _)) = written {
                ring.cell(table, index).abandon();
            }
            return claim_state(meta).into();
        }
        if !bucket.unchanged(view) {
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
        let word = Word::new(number, meta.lap(), probe).in_place_of(replaced, !next.is_empty());
        if bucket.insert(view, word) {
            ring.inserted(table, left_out, now_ns);
            return Claim::Won(ClaimToken::new(number, meta.lap()));
        }
        *view = bucket.collect(probe);
    }
}
