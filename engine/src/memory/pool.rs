//! A frame pool: a region cut into slots with one owner, and a lock-free way back for everyone else.
//!
//! - **Threads**: [`FramePool`] belongs to one ingest agent; events are released from any thread.
//! - **In**: the last release of a slot's events pushes it onto the return stack. **Out**: the owner takes the
//!   whole stack at once ([`FramePool::reclaim`]).
//! - **Overload**: `acquire` on an empty pool answers `None`; the owner stops taking in.
//! - **Invariant**: `free + kernel + in flight = slots`.
//!
//! The return path is Treiber's stack with "take all" as its only pop, which has no ABA problem: nobody compares the
//! head with a value it read earlier in order to unlink a single node.

use std::sync::Arc;
use std::sync::atomic::AtomicU64; // of the gauges, which order nothing: models need not watch them

use crossbeam_utils::CachePadded;

use super::event::EventMaker;
use super::peer::Peer;
use super::prefetch::prefetch;
use super::region::Region;
use super::slot::{OpenSlot, Slot};
use super::watch::{LostSlot, Watch};
use crate::runtime::clock::Nanos;
use crate::sync::{AtomicBool, AtomicU32, Ordering, UnsafeCell};

/// End of the return stack. No slot has this number: a region is at most 4 GiB and a slot at least 64 bytes.
const NONE: u32 = u32::MAX;

/// Two slots' state on one line would make releases of neighbours fight over it: one slot, one line.
pub(super) struct SlotState {
    pub(super) references: AtomicU32,
    next: AtomicU32,
    /// Written by the owner before the first event of the slot is published, read by those who hold one.
    pub(super) arrival_ns: UnsafeCell<Nanos>,
    pub(super) peer: UnsafeCell<Peer>,
}

/// What every holder of an event needs of the pool it came from.
pub(super) struct PoolShared {
    pub(super) region: Region,
    pub(super) states: Box<[CachePadded<SlotState>]>,
    pub(super) slot_shift: u32,
    pub(super) index: u8,
    pub(super) reliable: bool,
    /// Each event has its own peer in the bytes before it, in place of one for the slot.
    pub(super) peer_per_event: AtomicBool,
    returned: CachePadded<AtomicU32>,
    gauges: Arc<PoolGauges>,
}

// SAFETY: the two `UnsafeCell`s are written only by the owner while it alone holds the slot (a `Slot` token), and
// read only through events of the slot, which the owner publishes afterwards through a Release store.
unsafe impl Sync for PoolShared {}
// SAFETY: as above; nothing in it is tied to a thread.
unsafe impl Send for PoolShared {}

impl PoolShared {
    pub(super) fn watch(&self) -> &Watch {
        &self.gauges.watch
    }

    /// How long the kernel had seen an event before it arrived, if that is what its delta says: in a slot that gathers
    /// several arrivals it is the time since the first of them.
    #[inline(always)]
    pub(super) fn waited_ns(&self, arrival_delta_ns: u32) -> u32 {
        if arrival_delta_ns == 0 { 0 } else { self.waited_if_alone_ns(arrival_delta_ns) }
    }

    #[cold]
    fn waited_if_alone_ns(&self, arrival_delta_ns: u32) -> u32 {
        // Relaxed: set before the first event of the pool was made.
        let gathers = self.reliable || self.peer_per_event.load(Ordering::Relaxed);
        if gathers { 0 } else { arrival_delta_ns }
    }

    /// Gives up `count` references; the last one returns the slot.
    #[inline]
    pub(super) fn release(&self, slot: u32, count: u32) {
        let state = &self.states[slot as usize];
        // Release: our reads of the frame come before the owner's reuse. The Acquire of the last one (below, by the
        // RMW itself) collects the other releasers' reads.
        let before = state.references.fetch_sub(count, Ordering::AcqRel);
        debug_assert!(before >= count, "slot {slot} released more often than it was referenced");
        if before == count {
            self.give_back(slot);
        }
    }

    #[cold]
    #[inline(never)]
    fn give_back(&self, slot: u32) {
        let mut head = self.returned.load(Ordering::Relaxed);
        loop {
            self.states[slot as usize].next.store(head, Ordering::Relaxed);
            // Release: paired with the Acquire swap in `reclaim`; carries `next` and the end of all reads.
            match self.returned.compare_exchange_weak(head, slot, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

/// Debug builds look for what is missing when nobody is left who could give a slot back.
#[cfg(debug_assertions)]
impl Drop for PoolShared {
    fn drop(&mut self) {
        // Relaxed, here and below: nobody else has the pool any more.
        let state = |slot: u32| self.states.get(slot as usize);
        let following = |slot: &u32| state(*slot).map(|state| state.next.load(Ordering::Relaxed));
        let returned = std::iter::successors(Some(self.returned.load(Ordering::Relaxed)), following);
        let references = |slot| state(slot).map_or(0, |state| state.references.load(Ordering::Relaxed));
        self.watch().end(references, returned.take_while(|slot| *slot != NONE));
    }
}

/// Levels of a pool, published by its owner between duty cycles.
#[derive(Debug)]
pub struct PoolGauges {
    pub slots: AtomicU64,
    pub free: AtomicU64,
    pub kernel: AtomicU64,
    pub in_flight: AtomicU64,
    watch: Watch,
}

impl PoolGauges {
    /// Slots that are neither free, nor the kernel's, nor on their way back. When nothing is in flight each is a defect.
    /// Release builds keep no account of them and always answer that there is none.
    pub fn lost(&self) -> Vec<LostSlot> {
        self.watch.lost()
    }

    /// From now on debug builds do not fail by themselves over what is dropped or missing: the caller asks what is
    /// [`lost`](Self::lost) when the pool has ended, and knows whether that is a defect.
    pub fn judge_later(&self) {
        self.watch.judge_later();
    }
}

/// How a pool is set up.
#[derive(Clone, Debug)]
pub struct PoolSpec {
    pub slot_bytes: usize,
    /// Whether its source can be made to wait (TCP) instead of losing events.
    pub reliable: bool,
}

/// The owner's end.
pub struct FramePool {
    shared: Arc<PoolShared>,
    free: Vec<u32>,
    in_kernel: Box<[bool]>,
    kernel_count: u32,
    /// Slots outside both `free` and the kernel: tokens the owner holds and slots with events on their way.
    /// Counted by its own moves, so that the invariant is a check and not a definition.
    in_flight: u32,
}

impl FramePool {
    /// Cuts `region` into slots; `index` is its place among the [`Frames`](super::Frames).
    ///
    /// # Panics
    /// When the slot size is not a power of two of at least 64 bytes or the region is above 4 GiB: both come from
    /// validated configuration.
    pub fn new(index: u8, region: Region, spec: &PoolSpec) -> Self {
        assert!(spec.slot_bytes.is_power_of_two() && spec.slot_bytes >= 64, "slot of {} bytes", spec.slot_bytes);
        assert!(region.bytes() as u64 <= 1 << 32, "region of {} bytes", region.bytes());
        let slots = (region.bytes() / spec.slot_bytes) as u32;
        let state = || SlotState {
            references: AtomicU32::new(0),
            next: AtomicU32::new(NONE),
            arrival_ns: UnsafeCell::new(0),
            peer: UnsafeCell::new(Peer::NONE),
        };
        let level = || AtomicU64::new(0);
        let watch = Watch::new(index, slots);
        let gauges = PoolGauges { slots: level(), free: level(), kernel: level(), in_flight: level(), watch };
        let shared = PoolShared {
            region,
            states: (0..slots).map(|_| CachePadded::new(state())).collect(),
            slot_shift: spec.slot_bytes.trailing_zeros(),
            index,
            reliable: spec.reliable,
            peer_per_event: AtomicBool::new(false),
            returned: CachePadded::new(AtomicU32::new(NONE)),
            gauges: Arc::new(gauges),
        };
        let pool = Self {
            shared: Arc::new(shared),
            free: (0..slots).rev().collect(),
            in_kernel: vec![false; slots as usize].into(),
            kernel_count: 0,
            in_flight: 0,
        };
        pool.publish_gauges();
        pool
    }

    pub fn index(&self) -> u8 {
        self.shared.index
    }

    /// Gives the pool its place among the [`Frames`](super::Frames) once that is known.
    ///
    /// # Panics
    /// When there are `Frames` or slots of it already: their tokens carry the old number.
    pub fn renumber(&mut self, index: u8) {
        assert!(self.in_flight == 0, "slots of pool {} are out", self.shared.index);
        Arc::get_mut(&mut self.shared).expect("a pool is renumbered before it is shared").index = index;
        self.shared.watch().number(index);
    }

    /// Events made from now on have the [bytes](Peer::to_bytes) of their peer right before them: for slots that gather
    /// events of several senders.
    pub fn keep_peer_per_event(&self) {
        // Relaxed: the queue's publication of the events orders it before any reading.
        self.shared.peer_per_event.store(true, Ordering::Relaxed);
    }

    pub fn slots(&self) -> usize {
        self.shared.states.len()
    }

    pub fn slot_bytes(&self) -> usize {
        1 << self.shared.slot_shift
    }

    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Slots the kernel has.
    #[inline]
    pub fn kernel(&self) -> usize {
        self.kernel_count as usize
    }

    pub fn backing(&self) -> super::Backing {
        self.shared.region.backing()
    }

    /// Where the region is, to tell it from every other living one.
    #[inline]
    pub fn region_address(&self) -> usize {
        self.shared.region.address()
    }

    pub fn gauges(&self) -> Arc<PoolGauges> {
        self.shared.gauges.clone()
    }

    pub(super) fn shared(&self) -> Arc<PoolShared> {
        self.shared.clone()
    }

    /// Says whose it is: debug builds name it so when they miss a slot.
    pub fn name(&self, owner: &str) {
        self.shared.watch().name(owner);
    }

    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn acquire(&mut self) -> Option<Slot> {
        if self.free.is_empty() {
            self.reclaim();
        }
        let index = self.free.pop()?;
        self.in_flight += 1;
        Some(Slot { index, pool: self.shared.index, share: self.shared.watch().acquired(index) })
    }

    /// Puts back a slot that carried no event.
    #[inline]
    pub fn give_back(&mut self, slot: Slot) {
        self.check(slot.pool);
        self.in_flight -= 1;
        slot.share.end();
        self.shared.watch().freed(slot.index);
        self.free.push(slot.index); // never grows: capacity is the number of slots
    }

    /// Takes in all that others have released; returns how many slots came back.
    #[inline]
    pub fn reclaim(&mut self) -> usize {
        if self.shared.returned.load(Ordering::Relaxed) == NONE {
            return 0;
        }
        // Acquire: paired with the Release in `give_back`; all reads of the frames are over.
        let mut slot = self.shared.returned.swap(NONE, Ordering::Acquire);
        let before = self.free.len();
        while slot != NONE {
            self.shared.watch().freed(slot);
            self.free.push(slot);
            slot = self.shared.states[slot as usize].next.load(Ordering::Relaxed);
        }
        let count = self.free.len() - before;
        self.in_flight -= count as u32;
        count
    }

    /// Marks the slot as handed to the kernel and returns its index.
    #[inline]
    pub fn into_kernel(&mut self, slot: Slot) -> u32 {
        self.check(slot.pool);
        self.in_kernel[slot.index as usize] = true;
        self.kernel_count += 1;
        self.in_flight -= 1;
        slot.share.end();
        self.shared.watch().given_to_kernel(slot.index);
        slot.index
    }

    /// Takes back the slot that holds byte `position`, if the kernel has it: a descriptor is input and is believed only
    /// so far.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn from_kernel(&mut self, position: u64) -> Option<Slot> {
        let index = usize::try_from(position >> self.shared.slot_shift).ok()?;
        let held = self.in_kernel.get_mut(index)?;
        if !std::mem::take(held) {
            return None;
        }
        self.kernel_count -= 1;
        self.in_flight += 1;
        let share = self.shared.watch().acquired(index as u32);
        Some(Slot { index: index as u32, pool: self.shared.index, share })
    }

    /// Where the slot begins in the region.
    #[inline]
    pub fn position(&self, slot: &Slot) -> usize {
        (slot.index as usize) << self.shared.slot_shift
    }

    #[inline]
    pub fn bytes<'a>(&'a self, slot: &'a Slot) -> &'a [u8] {
        self.check(slot.pool);
        // SAFETY: the token says that nobody else has the slot, and its borrow keeps the owner from writing.
        unsafe { self.shared.region.slice(self.position(slot), self.slot_bytes()) }
    }

    #[inline]
    pub fn bytes_mut<'a>(&'a self, slot: &'a mut Slot) -> &'a mut [u8] {
        self.check(slot.pool);
        // SAFETY: the token is borrowed mutably and unique, so the bytes are ours alone.
        unsafe { self.shared.region.slice_mut(self.position(slot), self.slot_bytes()) }
    }

    #[inline]
    pub fn prefetch(&self, position: usize) {
        self.shared.region.prefetch(position);
    }

    /// Hints the cache that bytes of a slot will be read soon.
    #[inline]
    pub fn prefetch_range(&self, slot: &Slot, offset: usize, length: usize) {
        let start = self.position(slot) + offset;
        (start..start + length).step_by(64).for_each(|position| self.prefetch(position));
    }

    /// Hints the cache that a slot will be [sealed](Self::seal) soon. With many slots what is written then has left the cache since
    /// the last time, and the events behind it wait for it in the core's store buffer until that is full.
    #[inline]
    pub fn prefetch_state(&self, slot: &Slot) {
        prefetch(&self.shared.states[slot.index as usize]);
    }

    /// Turns a filled slot into `events` events. With no events the slot goes back at once.
    #[inline]
    pub fn seal(&mut self, slot: Slot, events: u32, arrival_ns: Nanos, peer: Peer) -> EventMaker<'_> {
        self.check(slot.pool);
        slot.share.end();
        if events == 0 {
            self.in_flight -= 1;
            self.shared.watch().freed(slot.index);
            self.free.push(slot.index);
        } else {
            self.shared.watch().sealed(slot.index, events, arrival_ns);
            self.stamp(slot.index, arrival_ns, peer);
            // Relaxed: the queue's publication orders this before any release.
            self.shared.states[slot.index as usize].references.store(events, Ordering::Relaxed);
        }
        EventMaker::new(&self.shared, slot.index, events)
    }

    /// Opens a slot that will be written to and published piece by piece.
    #[inline]
    pub fn open(&mut self, slot: Slot, arrival_ns: Nanos, peer: Peer) -> OpenSlot {
        self.check(slot.pool);
        self.stamp(slot.index, arrival_ns, peer);
        // One reference is the owner's, so that the slot cannot come back while it is open.
        self.shared.states[slot.index as usize].references.store(1, Ordering::Relaxed);
        self.shared.watch().opened(slot.index, arrival_ns);
        OpenSlot { index: slot.index, pool: slot.pool, sealed: 0, share: slot.share }
    }

    /// The part of an open slot that nobody else reads yet.
    #[inline]
    pub fn spare_mut<'a>(&'a self, open: &'a mut OpenSlot) -> &'a mut [u8] {
        self.check(open.pool);
        let start = ((open.index as usize) << self.shared.slot_shift) + open.sealed as usize;
        // SAFETY: events of this slot end at or before `sealed` (checked by `EventMaker::make`); what lies behind
        // belongs to the one `OpenSlot`, borrowed mutably.
        unsafe { self.shared.region.slice_mut(start, self.slot_bytes() - open.sealed as usize) }
    }

    /// Fixes the next `bytes` of an open slot and turns them into `events` events.
    #[inline]
    pub fn seal_part(&mut self, open: &mut OpenSlot, bytes: usize, events: u32) -> EventMaker<'_> {
        self.check(open.pool);
        let sealed = open.sealed as usize + bytes;
        assert!(sealed <= self.slot_bytes(), "sealed past the slot's end");
        open.sealed = sealed as u32;
        self.shared.states[open.index as usize].references.fetch_add(events, Ordering::Relaxed);
        self.shared.watch().added(open.index, events);
        EventMaker::new_open(&self.shared, open.index, events, open.sealed)
    }

    /// Whether every event made of the open slot has ended.
    pub fn is_idle(&self, open: &OpenSlot) -> bool {
        self.check(open.pool);
        // Relaxed: only whether the owner's own reference is the last; `close` and `reclaim` order the memory.
        self.shared.states[open.index as usize].references.load(Ordering::Relaxed) == 1
    }

    /// Whether events of the slot are on their way, or it is open. Of a slot that the owner has the token of it says nothing.
    pub fn is_referenced(&self, index: u32) -> bool {
        // Relaxed: `reclaim` orders the memory before the slot is used again.
        self.shared.states.get(index as usize).is_some_and(|state| state.references.load(Ordering::Relaxed) > 0)
    }

    /// Gives up the owner's reference.
    #[inline]
    pub fn close(&mut self, open: OpenSlot) {
        self.check(open.pool);
        open.share.end();
        self.shared.watch().closed(open.index);
        self.shared.release(open.index, 1);
    }

    /// When the first bytes of an open slot arrived.
    pub fn arrival_ns(&self, open: &OpenSlot) -> Nanos {
        self.check(open.pool);
        self.shared.states[open.index as usize].arrival_ns.with(|arrival_ns| {
            // SAFETY: only the owner writes it, and the owner is us.
            unsafe { *arrival_ns }
        })
    }

    /// When the events arrived that were in the slot before.
    pub fn former_arrival_ns(&self, slot: &Slot) -> Nanos {
        self.check(slot.pool);
        self.shared.states[slot.index as usize].arrival_ns.with(|arrival_ns| {
            // SAFETY: as above.
            unsafe { *arrival_ns }
        })
    }

    fn stamp(&mut self, slot: u32, arrival_ns: Nanos, peer: Peer) {
        let state = &self.shared.states[slot as usize];
        state.arrival_ns.with_mut(|place| {
            // SAFETY: the slot is ours alone until its first event is published.
            unsafe { *place = arrival_ns };
        });
        state.peer.with_mut(|place| {
            // SAFETY: as above.
            unsafe { *place = peer };
        });
    }

    /// Publishes `free`, `kernel` and `in flight`; called between duty cycles.
    pub fn publish_gauges(&self) {
        let gauges = &self.shared.gauges;
        let (slots, free, kernel) = (self.slots() as u64, self.free.len() as u64, u64::from(self.kernel_count));
        gauges.slots.store(slots, Ordering::Relaxed);
        gauges.free.store(free, Ordering::Relaxed);
        gauges.kernel.store(kernel, Ordering::Relaxed);
        gauges.in_flight.store(u64::from(self.in_flight), Ordering::Relaxed);
        debug_assert_eq!(free + kernel + u64::from(self.in_flight), slots, "a slot is nowhere");
    }

    fn check(&self, pool: u8) {
        assert!(pool == self.shared.index, "slot of pool {pool} given to pool {}", self.shared.index);
    }
}

#[cfg(all(test, debug_assertions, not(loom_model)))]
mod leaks;
#[cfg(all(test, not(loom_model)))]
mod tests;
