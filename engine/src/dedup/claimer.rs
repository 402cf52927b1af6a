//! A thread's end of the table: it claims ids, one by one or in batches whose cache misses overlap.
#![forbid(unsafe_code)]

use std::cell::Cell as NotSync;
use std::marker::PhantomData;
use std::sync::Arc;

use super::bucket::{Bucket, View};
use super::id::EventId;
use super::layout::{Meta, State, Word};
use super::ring::Ring;
use super::table::{DedupTable, Glance, Sole};
use super::types::{ClaimState, ClaimToken, Outcome, PendingClaim, claim_state};
use crate::memory::prefetch;

/// Ids taken together; the largest burst of a worker. Their buckets lie in L1 until their turn comes.
const BATCH: usize = 256;

/// The answer to a claim.
#[derive(Debug)]
pub enum Claim {
    /// The first copy: process it, then report the outcome with the token.
    Won(ClaimToken),
    /// Another copy is under way; what it comes to [`DedupTable::settled`] will tell.
    Pending(PendingClaim),
    /// Another copy has been processed.
    Done,
    /// Another copy is in the dead letter queue.
    DeadLettered,
}

impl Claim {
    /// Of an id that was there.
    fn met(word: Word, meta: Meta) -> Self {
        match claim_state(meta) {
            ClaimState::Pending => Self::Pending(PendingClaim::new(word)),
            ClaimState::Done => Self::Done,
            ClaimState::DeadLettered => Self::DeadLettered,
        }
    }
}

/// An id of a batch, and where it belongs.
#[derive(Clone, Copy, Default)]
struct Aimed {
    id: EventId,
    probe: u64,
    bucket: u32,
    /// What the caller knows it by.
    tag: u32,
}

/// Claims ids for one thread.
pub struct Claimer {
    table: Arc<DedupTable>,
    ring: Ring,
    /// In a table that has this claimer alone.
    sole: Option<Sole>,
    batch: Box<[Aimed; BATCH]>,
    /// Ids of the batch whose bucket led to cells, which are fetched while the rest goes on.
    deferred: Vec<u16>,
    _not_sync: PhantomData<NotSync<()>>,
}

impl Claimer {
    pub(super) fn new(table: Arc<DedupTable>, arena: u32, sole: Option<Sole>) -> Self {
        let ring = Ring::new(arena, &table);
        let batch = Box::new([Aimed::default(); BATCH]);
        Self { table, ring, sole, batch, deferred: Vec::with_capacity(BATCH), _not_sync: PhantomData }
    }

    pub fn table(&self) -> &Arc<DedupTable> {
        &self.table
    }

    /// Claims one id. `now_ns` may be behind other claimers' by up to 1/64 of the window.
    #[inline]
    pub fn claim(&mut self, id: EventId, now_ns: u64) -> Claim {
        let Self { table, ring, sole, .. } = self;
        claim_one(table, ring, sole, aim(table, id, 0), now_ns)
    }

    /// Claims ids, each under a tag by which `each` is told its answer: the same as one claim after another, but the misses of
    /// many overlap. Answers come nearly in the order of the ids, not quite. If an id occurs twice, one of the two wins;
    /// not always the first.
    #[inline]
    pub fn claim_each(
        &mut self,
        ids: impl IntoIterator<Item = (u32, EventId)>,
        now_ns: u64,
        mut each: impl FnMut(u32, Claim),
    ) {
        let mut count = 0;
        ids.into_iter().for_each(|(tag, id)| {
            let aimed = aim(&self.table, id, tag);
            prefetch(self.table.bucket(aimed.bucket));
            self.batch[count] = aimed;
            count += 1;
            if count == BATCH {
                self.claim_aimed(count, now_ns, &mut each);
                count = 0;
            }
        });
        self.claim_aimed(count, now_ns, &mut each);
    }

    /// Claims the first `count` of the batch.
    #[inline(never)]
    fn claim_aimed(&mut self, count: usize, now_ns: u64, each: &mut impl FnMut(u32, Claim)) {
        let Self { table, ring, sole, batch, deferred, .. } = self;
        let table = &**table;
        deferred.clear(); // not empty only if `each` has panicked
        for (index, aimed) in batch[..count].iter().enumerate() {
            let bucket = table.bucket(aimed.bucket);
            if let Some(sole) = sole {
                let glance = Glance::alone(bucket, aimed.probe, sole);
                if !glance.needs_cells || !table.fetch_cells(bucket, aimed.probe) {
                    each(aimed.tag, insert_alone(table, ring, sole, bucket, glance.oldest, aimed, now_ns));
                    continue;
                }
            } else {
                let mut view = bucket.collect(aimed.probe);
                if !view.glance.needs_cells {
                    each(aimed.tag, claim_among(table, ring, bucket, &mut view, aimed, now_ns));
                    continue;
                }
                table.fetch_cells(bucket, aimed.probe);
            }
            deferred.push(index as u16);
        }
        for aimed in deferred.drain(..).map(|index| batch[usize::from(index)]) {
            each(aimed.tag, claim_one(table, ring, sole, aimed, now_ns));
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
            Claim::Pending(_) | Claim::Done => false,
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

#[inline(always)]
fn aim(table: &DedupTable, id: EventId, tag: u32) -> Aimed {
    let (bucket, probe) = table.aim(id);
    Aimed { id, probe, bucket, tag }
}

/// Claims an id that may be there.
#[inline(never)]
fn claim_one(table: &DedupTable, ring: &mut Ring, sole: &mut Option<Sole>, aimed: Aimed, now_ns: u64) -> Claim {
    let Aimed { id, probe, .. } = aimed;
    let bucket = table.bucket(aimed.bucket);
    let mut view = bucket.collect(probe);
    let Some(sole) = sole else {
        return claim_among(table, ring, bucket, &mut view, &aimed, now_ns);
    };
    if view.glance.needs_cells
        && let Some((word, meta)) = table.resolve(&view, id, probe, now_ns)
    {
        return Claim::met(word, meta);
    }
    insert_alone(table, ring, sole, bucket, view.glance.oldest, &aimed, now_ns)
}

/// Inserts an id that is not there, for the only claimer of the table: what it has seen of the bucket stays so.
#[inline(always)]
fn insert_alone(
    table: &DedupTable,
    ring: &mut Ring,
    sole: &mut Sole,
    bucket: &Bucket,
    oldest: usize,
    aimed: &Aimed,
    now_ns: u64,
) -> Claim {
    let replaced = bucket.word(oldest);
    let (next, left_out) = table.keep(replaced, now_ns);
    let Some((position, cell)) = ring.take_cell(table, now_ns) else {
        return ring.admit_unremembered();
    };
    let meta = Meta::new(State::Pending, position.short_lap(), now_ns);
    cell.write(aimed.id, meta, next);
    let number = ring.cell_number(position.index);
    let word = Word::new(number, meta.lap(), aimed.probe).in_place_of(replaced, !next.is_empty());
    bucket.replace(oldest, word, sole);
    ring.inserted(table, left_out, now_ns);
    Claim::Won(ClaimToken::new(number, meta.lap()))
}

/// Claims an id against other claimers, given a first reading of its bucket.
#[inline(never)]
fn claim_among(
    table: &DedupTable,
    ring: &mut Ring,
    bucket: &Bucket,
    view: &mut View,
    aimed: &Aimed,
    now_ns: u64,
) -> Claim {
    let Aimed { id, probe, .. } = *aimed;
    let mut written: Option<(u32, Meta)> = None;
    // Each turn after the first means that another claimer's insertion succeeded.
    loop {
        if view.glance.needs_cells
            && let Some((word, meta)) = table.resolve(view, id, probe, now_ns)
        {
            if let Some((index, _)) = written {
                ring.cell(table, index).abandon();
            }
            return Claim::met(word, meta);
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
        let number = ring.cell_number(index);
        let word = Word::new(number, meta.lap(), probe).in_place_of(replaced, !next.is_empty());
        if bucket.insert(view, word) {
            ring.inserted(table, left_out, now_ns);
            return Claim::Won(ClaimToken::new(number, meta.lap()));
        }
        *view = bucket.collect(probe);
    }
}
