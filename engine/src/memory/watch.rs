//! Debug builds' account of every slot: who got it where, what became of it, and how many values still stand for it.
//!
//! A token or an event cannot be duplicated, but it can be lost: dropped, forgotten, or kept for ever. Each holds a
//! [`Share`] that has to be ended by the call that gives it up. A share that is dropped instead fails there and then; one
//! that was forgotten is found when nobody is left who could give it up, at the end of the pool. Release builds have
//! `watch/off.rs` in this file's place, whose types are empty.
//!
//! What is noted here orders nothing for anybody else: it is read for reports only.

use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::runtime::clock::Nanos;

/// What a slot is, as far as its owner's calls say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    Kernel,
    /// The owner has the token.
    Held,
    Open,
    /// Nothing is added to it any more; it comes back with the last of its events.
    Sealed,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    place: Place,
    acquired: Option<&'static Location<'static>>,
    arrival_ns: Nanos,
    /// Made of it since it was acquired.
    events: u32,
    /// At the pool's end: references that are left of it, and whether a slot without any is on its way back.
    ended: Option<(u32, bool)>,
}

const UNUSED: Record = Record { place: Place::Free, acquired: None, arrival_ns: 0, events: 0, ended: None };

#[derive(Debug)]
struct SlotWatch {
    index: u32,
    record: Mutex<Record>,
    /// Values that stand for the slot: a token, or events.
    shares: AtomicU32,
    pool: Arc<PoolWatch>,
}

#[derive(Debug)]
struct PoolWatch {
    name: Mutex<String>,
    /// Somebody else asks for what is lost, and decides what to make of it.
    judged_elsewhere: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PoolWatch {
    fn fails(&self) -> bool {
        // A failure on its way tells more than what it leaves behind.
        !self.judged_elsewhere.load(Ordering::Relaxed) && !std::thread::panicking()
    }
}

impl SlotWatch {
    fn describe(&self) -> LostSlot {
        let record = *lock(&self.record);
        let shares = self.shares.load(Ordering::Relaxed);
        let (references, returned) = record.ended.unwrap_or((shares, true));
        LostSlot { pool: lock(&self.pool.name).clone(), slot: self.index, record, references, returned, shares }
    }
}

/// Of one pool; shared by its owner and its gauges.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    slots: Arc<[Arc<SlotWatch>]>,
    pool: Arc<PoolWatch>,
}

impl Watch {
    /// The pool's number is its name until it gets a better one.
    pub(super) fn new(pool: u8, slots: u32) -> Self {
        let name = Mutex::new(pool.to_string());
        let pool = Arc::new(PoolWatch { name, judged_elsewhere: AtomicBool::new(false) });
        let slot = |index| {
            let (record, shares) = (Mutex::new(UNUSED), AtomicU32::new(0));
            Arc::new(SlotWatch { index, record, shares, pool: pool.clone() })
        };
        Self { slots: (0..slots).map(slot).collect(), pool }
    }

    pub(super) fn number(&self, pool: u8) {
        self.name(&pool.to_string());
    }

    pub(super) fn name(&self, name: &str) {
        name.clone_into(&mut lock(&self.pool.name));
    }

    pub(super) fn judge_later(&self) {
        // Relaxed: whoever drops a share afterwards is ordered by what told it to end.
        self.pool.judged_elsewhere.store(true, Ordering::Relaxed);
    }

    fn slot(&self, slot: u32) -> &SlotWatch {
        &self.slots[slot as usize]
    }

    fn moved(&self, slot: u32, place: Place) {
        lock(&self.slot(slot).record).place = place;
    }

    /// A token is made; its caller is who will be named.
    #[track_caller]
    pub(super) fn acquired(&self, slot: u32) -> Share {
        *lock(&self.slot(slot).record) = Record { place: Place::Held, acquired: Some(Location::caller()), ..UNUSED };
        self.share(slot)
    }

    /// One more value stands for the slot.
    pub(super) fn share(&self, slot: u32) -> Share {
        let slot = self.slots[slot as usize].clone();
        slot.shares.fetch_add(1, Ordering::Relaxed);
        Share(Some(slot))
    }

    pub(super) fn freed(&self, slot: u32) {
        self.moved(slot, Place::Free);
    }

    pub(super) fn given_to_kernel(&self, slot: u32) {
        self.moved(slot, Place::Kernel);
    }

    pub(super) fn opened(&self, slot: u32, arrival_ns: Nanos) {
        let mut record = lock(&self.slot(slot).record);
        (record.place, record.arrival_ns) = (Place::Open, arrival_ns);
    }

    pub(super) fn added(&self, slot: u32, events: u32) {
        lock(&self.slot(slot).record).events += events;
    }

    pub(super) fn closed(&self, slot: u32) {
        self.moved(slot, Place::Sealed);
    }

    pub(super) fn sealed(&self, slot: u32, events: u32, arrival_ns: Nanos) {
        let mut record = lock(&self.slot(slot).record);
        (record.place, record.arrival_ns, record.events) = (Place::Sealed, arrival_ns, events);
    }

    pub(super) fn lost(&self) -> Vec<LostSlot> {
        self.slots.iter().map(|slot| slot.describe()).filter(LostSlot::is_lost).collect()
    }

    /// Nobody is left who could give a slot back: `references` says how many are left of each, `returned` which slots are
    /// on the way back to the owner.
    ///
    /// # Panics
    /// When a slot is lost, unless that is judged elsewhere.
    pub(super) fn end(&self, references: impl Fn(u32) -> u32, returned: impl Iterator<Item = u32>) {
        for slot in self.slots.iter() {
            lock(&slot.record).ended = Some((references(slot.index), false));
        }
        // A stack that runs in a circle is a defect too, and ends here.
        for slot in returned.take(self.slots.len()) {
            lock(&self.slot(slot).record).ended = Some((references(slot), true));
        }
        if self.pool.fails() {
            let lost = self.lost();
            assert!(lost.is_empty(), "lost for ever:\n{}", Lines(&lost));
        }
    }
}

/// What a value that stands for a slot has to show for it; empty once it was given up.
pub(super) struct Share(Option<Arc<SlotWatch>>);

impl Share {
    /// The value is given up as it should be.
    pub(super) fn end(mut self) {
        if let Some(slot) = self.0.take() {
            slot.shares.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = self.0.as_ref();
        f.debug_tuple("Share").field(&slot.map(|slot| slot.index)).finish()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(slot) = &self.0 else { return };
        // What outlives its pool has been named with it, and is of no use to anybody.
        let is_over = lock(&slot.record).ended.is_some();
        assert!(is_over || !slot.pool.fails(), "dropped without being given up: {}", slot.describe());
    }
}

/// A slot that is neither free, nor the kernel's, nor on its way back.
#[derive(Clone, Debug)]
pub struct LostSlot {
    pool: String,
    slot: u32,
    record: Record,
    /// As its events count them; while the pool is in use, as its values do.
    references: u32,
    /// Whether it is on its way back if it has no references.
    returned: bool,
    /// Values that stand for it.
    shares: u32,
}

impl LostSlot {
    fn is_lost(&self) -> bool {
        match self.record.place {
            Place::Free | Place::Kernel => self.shares > 0,
            Place::Held => true,
            Place::Open | Place::Sealed => self.references > 0 || !self.returned,
        }
    }
}

impl fmt::Display for LostSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, slot, record, references, shares, .. } = self;
        let Record { place, acquired, arrival_ns, events, .. } = record;
        write!(f, "pool {pool}, slot {slot}")?;
        if let Some(location) = acquired {
            write!(f, ", acquired at {location}")?;
        }
        let made = |f: &mut fmt::Formatter<'_>, how| write!(f, ", {how} with {events} events since {arrival_ns} ns");
        match place {
            Place::Free | Place::Kernel => write!(f, ", at home with {shares} values that stand for it"),
            Place::Held => write!(f, ", its token neither given back nor used"),
            Place::Open => {
                made(f, "open")?;
                write!(f, ", {references} references left with the owner's, {shares} values that stand for them")
            }
            Place::Sealed if *references == 0 => {
                made(f, "sealed")?;
                write!(f, ", all ended, but not on its way back")
            }
            Place::Sealed => {
                made(f, "sealed")?;
                write!(f, ", {references} references left, {shares} events that stand for them")
            }
        }
    }
}

struct Lines<'a>(&'a [LostSlot]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|lost| writeln!(f, "{lost}"))
    }
}
