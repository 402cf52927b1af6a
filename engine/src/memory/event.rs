//! Events: small move-only values that point into a frame, and the only way to read or end one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::peer::Peer;
use super::pool::{FramePool, PoolShared};
use crate::runtime::clock::Nanos;

/// What the wire said and ingest found out about an event, besides its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Flags in the high five bits, capped priority in the low three, as on the wire.
    pub head: u8,
    /// Hash of the topic; after the dispatcher, the index of its entry in the topic table.
    pub topic: u32,
    /// TCP connection, or zero.
    pub connection: u32,
    /// Nanoseconds between the slot's first arrival and this event's.
    pub arrival_delta_ns: u32,
}

/// One event in a frame. 24 bytes, so that two and a bit fit a cache line beside their queue sequence.
///
/// Not `Copy` and not `Clone`: each stands for one reference on its slot, given up exactly once through
/// [`Releaser::release`].
#[must_use = "an event that is dropped pins its frame for ever"]
#[derive(Debug)]
pub struct Event {
    /// Position in the region of the first byte after the frame's length field.
    position: u32,
    /// Bytes of the frame after the length field.
    length: u32,
    topic: u32,
    connection: u32,
    arrival_delta_ns: u32,
    topic_length: u16,
    head: u8,
    pool: u8,
}

const _: () = assert!(size_of::<Event>() == 24);

impl Event {
    #[inline]
    pub fn head(&self) -> u8 {
        self.head
    }

    /// Topic hash before the dispatcher, topic entry after it.
    #[inline]
    pub fn topic(&self) -> u32 {
        self.topic
    }

    #[inline]
    pub fn set_topic(&mut self, topic: u32) {
        self.topic = topic;
    }

    #[inline]
    pub fn topic_length(&self) -> u16 {
        self.topic_length
    }

    /// TCP connection, or zero.
    #[inline]
    pub fn connection(&self) -> u32 {
        self.connection
    }

    #[inline]
    pub fn pool(&self) -> u8 {
        self.pool
    }

    /// Bytes of the frame after the length field.
    #[inline]
    pub fn length(&self) -> u32 {
        self.length
    }
}

/// Makes the events of one slot: as many as references were taken, no more, and only inside its sealed bytes.
#[must_use = "references without events pin the frame for ever"]
pub struct EventMaker<'a> {
    shared: &'a PoolShared,
    slot_position: u32,
    limit: u32,
    remaining: u32,
    /// Bytes before each event that belong to it: its peer, where the pool keeps one per event.
    before: u32,
}

impl<'a> EventMaker<'a> {
    pub(super) fn new(shared: &'a PoolShared, slot: u32, events: u32) -> Self {
        Self::new_open(shared, slot, events, 1 << shared.slot_shift)
    }

    pub(super) fn new_open(shared: &'a PoolShared, slot: u32, events: u32, sealed: u32) -> Self {
        // Relaxed: set by the owner's own thread, if at all.
        let before = if shared.peer_per_event.load(Ordering::Relaxed) { Peer::BYTES as u32 } else { 0 };
        Self { shared, slot_position: slot << shared.slot_shift, limit: sealed, remaining: events, before }
    }

    /// Makes the next event from `offset..offset + length` of the slot.
    ///
    /// # Panics
    /// When more events are made than references were taken, or one lies outside the slot's sealed bytes.
    #[inline]
    pub fn make(&mut self, offset: u32, length: u32, topic_length: u16, route: Route) -> Event {
        assert!(self.remaining > 0, "more events than references");
        assert!(u64::from(offset) + u64::from(length) <= u64::from(self.limit), "event outside its slot");
        assert!(offset >= self.before, "event without its peer before it");
        self.remaining -= 1;
        Event {
            position: self.slot_position + offset,
            length,
            topic: route.topic,
            connection: route.connection,
            arrival_delta_ns: route.arrival_delta_ns,
            topic_length,
            head: route.head,
            pool: self.shared.index,
        }
    }

    pub fn remaining(&self) -> u32 {
        self.remaining
    }
}

impl Drop for EventMaker<'_> {
    fn drop(&mut self) {
        debug_assert!(self.remaining == 0 || std::thread::panicking(), "{} references without event", self.remaining);
    }
}

/// All pools of the engine, for those who read and release events. Cheap to clone.
#[derive(Clone)]
pub struct Frames(Arc<[Arc<PoolShared>]>);

impl Frames {
    /// # Panics
    /// When pool `i` is not at place `i`: the topology numbers them.
    pub fn new(pools: &[&FramePool]) -> Self {
        for (place, pool) in pools.iter().enumerate() {
            assert!(usize::from(pool.index()) == place, "pool {} at place {place}", pool.index());
        }
        Self(pools.iter().map(|pool| pool.shared()).collect())
    }

    #[inline]
    fn pool(&self, event: &Event) -> &PoolShared {
        &self.0[usize::from(event.pool)]
    }

    /// The frame's bytes after its length field.
    #[inline]
    pub fn bytes<'a>(&'a self, event: &'a Event) -> &'a [u8] {
        let region = &self.pool(event).region;
        let (position, length) = (event.position as usize, event.length as usize);
        // Events are made inside their slot; this guards against an event of another `Frames`.
        assert!(position + length <= region.bytes(), "event outside its region");
        // SAFETY: the event holds a reference on its slot, so the owner does not reuse it while `event` is borrowed,
        // and writes to an open slot only behind its sealed bytes, where no event lies.
        unsafe { region.slice(position, length) }
    }

    /// When the event's bytes arrived.
    #[inline]
    pub fn arrival_ns(&self, event: &Event) -> Nanos {
        let pool = self.pool(event);
        let state = &pool.states[self.slot(event) as usize];
        // SAFETY: written before the slot's first event was published, and not again before the last is released.
        let arrival = unsafe { *state.arrival_ns.get() };
        arrival + u64::from(event.arrival_delta_ns)
    }

    /// The events of the same slot that arrived together with this one, to tell whether its neighbours are among them.
    #[inline]
    pub fn arrival_run(&self, event: &Event) -> ArrivalRun {
        let slot_bytes = 1 << self.pool(event).slot_shift;
        ArrivalRun {
            start: event.position & !(slot_bytes - 1),
            slot_bytes,
            arrival_delta_ns: event.arrival_delta_ns,
            pool: event.pool,
        }
    }

    /// Who sent it.
    pub fn peer(&self, event: &Event) -> SocketAddr {
        let pool = self.pool(event);
        // Relaxed: set before the first event of the pool was made.
        if pool.peer_per_event.load(Ordering::Relaxed) {
            let start = (event.position as usize).saturating_sub(Peer::BYTES);
            // SAFETY: as in `bytes`; the peer lies before the event in the same slot (`EventMaker::make` checks it).
            let bytes = unsafe { pool.region.slice(start, Peer::BYTES) };
            return bytes.first_chunk().map_or(Peer::NONE, Peer::from_bytes).socket_address();
        }
        let state = &pool.states[self.slot(event) as usize];
        // SAFETY: as in `arrival_ns`.
        let peer = unsafe { *state.peer.get() };
        peer.socket_address()
    }

    /// The slot the event lies in, unique together with its pool.
    #[inline]
    pub fn slot(&self, event: &Event) -> u32 {
        event.position >> self.pool(event).slot_shift
    }

    /// Slot, and whether the source can be made to wait: what a dispatcher asks of every event, in one look at its pool.
    #[inline]
    pub fn place(&self, event: &Event) -> (u32, bool) {
        let pool = self.pool(event);
        (event.position >> pool.slot_shift, pool.reliable)
    }

    /// Whether the event's source can be made to wait.
    #[inline]
    pub fn is_reliable(&self, event: &Event) -> bool {
        self.pool(event).reliable
    }

    pub fn pool_count(&self) -> usize {
        self.0.len()
    }

    /// Slots of a pool.
    pub fn slots(&self, pool: u8) -> usize {
        self.0[usize::from(pool)].states.len()
    }
}

/// A slot and a time: what events that arrived together have in common.
#[derive(Clone, Copy, Debug)]
pub struct ArrivalRun {
    start: u32,
    slot_bytes: u32,
    arrival_delta_ns: u32,
    pool: u8,
}

impl ArrivalRun {
    #[inline]
    pub fn has(&self, event: &Event) -> bool {
        event.position.wrapping_sub(self.start) < self.slot_bytes
            && event.pool == self.pool
            && event.arrival_delta_ns == self.arrival_delta_ns
    }
}

/// Ends events, giving their slots' references up in runs: neighbours in a queue mostly share a slot.
pub struct Releaser {
    frames: Frames,
    pool: u8,
    /// Of the pool.
    slot_shift: u32,
    slot: u32,
    count: u32,
}

impl Releaser {
    pub fn new(frames: Frames) -> Self {
        Self { frames, pool: 0, slot_shift: 0, slot: 0, count: 0 }
    }

    #[inline]
    pub fn release(&mut self, event: Event) {
        // While the pool is the same its slots are as large; another pool's event must not be measured by them.
        if self.count == 0 || event.pool != self.pool || event.position >> self.slot_shift != self.slot {
            self.begin_run(&event);
        }
        self.count += 1;
    }

    fn begin_run(&mut self, event: &Event) {
        self.flush();
        self.pool = event.pool;
        self.slot_shift = self.frames.pool(event).slot_shift;
        self.slot = event.position >> self.slot_shift;
    }

    /// Gives up what was gathered; called at the end of each batch.
    #[inline]
    pub fn flush(&mut self) {
        if self.count > 0 {
            self.frames.0[usize::from(self.pool)].release(self.slot, self.count);
            self.count = 0;
        }
    }
}

impl Drop for Releaser {
    fn drop(&mut self) {
        self.flush();
    }
}
