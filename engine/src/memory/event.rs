//! Events: small move-only values that point into a frame, and the only way to read or end one.

use std::net::SocketAddr;
use std::sync::Arc;

use super::peer::Peer;
use super::pool::{FramePool, PoolShared};
use super::watch::Share;
use crate::frame::{FrameView, LENGTH_BYTES, Shape};
use crate::runtime::clock::Nanos;
use crate::sync::Ordering;

/// What the wire said and ingest found out about an event, besides its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Of the frame, with its priority capped.
    pub shape: Shape,
    /// Hash of the topic; after the dispatcher, the index of its entry in the topic table.
    pub topic: u32,
    /// TCP connection, or zero.
    pub connection: u32,
    /// Nanoseconds between the slot's time and this event's arrival. The slot's time is its first arrival where several share
    /// it, and the time that the kernel saw the packet where that is known.
    pub arrival_delta_ns: u32,
}

/// One event in a frame. 24 bytes, so that two and a bit fit a cache line beside their queue sequence.
///
/// Not `Copy` and not `Clone`: each stands for one reference on its slot, given up exactly once through
/// [`Releaser::release`]:
///
/// ```
/// # use eventstream::memory::{FramePool, Frames, Peer, PoolSpec, Region, Releaser, Route};
/// # let spec = PoolSpec { slot_bytes: 64, reliable: false };
/// # let mut pool = FramePool::new(0, Region::map(64)?, &spec);
/// # let frames = Frames::new(&[&pool]);
/// # let mut releaser = Releaser::new(frames.clone());
/// let slot = pool.acquire().expect("a free slot");
/// let event = pool.seal(slot, 1, 0, Peer::NONE).make(0, 8, Route::default());
/// let bytes = frames.bytes(&event);
/// assert_eq!(bytes, [0; 8]);
/// releaser.release(event);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// After that neither the event nor bytes read through it can be used:
///
/// ```compile_fail,E0382
/// # use eventstream::memory::{FramePool, Frames, Peer, PoolSpec, Region, Releaser, Route};
/// # let spec = PoolSpec { slot_bytes: 64, reliable: false };
/// # let mut pool = FramePool::new(0, Region::map(64)?, &spec);
/// # let frames = Frames::new(&[&pool]);
/// # let mut releaser = Releaser::new(frames.clone());
/// # let slot = pool.acquire().expect("a free slot");
/// # let event = pool.seal(slot, 1, 0, Peer::NONE).make(0, 8, Route::default());
/// releaser.release(event);
/// releaser.release(event);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// ```compile_fail,E0505
/// # use eventstream::memory::{FramePool, Frames, Peer, PoolSpec, Region, Releaser, Route};
/// # let spec = PoolSpec { slot_bytes: 64, reliable: false };
/// # let mut pool = FramePool::new(0, Region::map(64)?, &spec);
/// # let frames = Frames::new(&[&pool]);
/// # let mut releaser = Releaser::new(frames.clone());
/// # let slot = pool.acquire().expect("a free slot");
/// # let event = pool.seal(slot, 1, 0, Peer::NONE).make(0, 8, Route::default());
/// let bytes = frames.bytes(&event);
/// releaser.release(event);
/// assert_eq!(bytes, [0; 8]);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// ```compile_fail,E0599
/// # use eventstream::memory::{FramePool, Frames, Peer, PoolSpec, Region, Releaser, Route};
/// # let spec = PoolSpec { slot_bytes: 64, reliable: false };
/// # let mut pool = FramePool::new(0, Region::map(64)?, &spec);
/// # let frames = Frames::new(&[&pool]);
/// # let mut releaser = Releaser::new(frames.clone());
/// # let slot = pool.acquire().expect("a free slot");
/// # let event = pool.seal(slot, 1, 0, Peer::NONE).make(0, 8, Route::default());
/// releaser.release(event.clone());
/// # releaser.release(event);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "an event that is dropped pins its frame for ever"]
#[derive(Debug)]
pub struct Event {
    /// Position in the region of the first byte after the frame's length field.
    position: u32,
    /// Bytes of the frame after the length field.
    length: u32,
    topic: u32,
    /// The pool above the [`Shape`].
    pool_and_shape: u32,
    connection: u32,
    arrival_delta_ns: u32,
    /// Empty but in debug builds.
    share: Share,
}

const _: () = assert!(size_of::<Event>() == 24 || cfg!(debug_assertions));

impl Event {
    #[inline]
    pub fn shape(&self) -> Shape {
        Shape::from_bits(self.pool_and_shape)
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

    /// TCP connection, or zero.
    #[inline]
    pub fn connection(&self) -> u32 {
        self.connection
    }

    #[inline]
    pub fn pool(&self) -> u8 {
        (self.pool_and_shape >> Shape::BITS) as u8
    }

    /// Bytes of the frame after the length field.
    #[inline]
    pub fn length(&self) -> u32 {
        self.length
    }
}

/// Where a pool keeps a peer per event, what lies before each: the peer, and the place of the frame's length field.
pub const BYTES_BEFORE_COPY: usize = Peer::BYTES + LENGTH_BYTES;

/// Makes the events of one slot: as many as references were taken, no more, and only inside its sealed bytes.
#[must_use = "references without events pin the frame for ever"]
pub struct EventMaker<'a> {
    shared: &'a PoolShared,
    slot_position: u32,
    limit: u32,
    remaining: u32,
    /// Bytes before each event that belong to it, where the pool keeps a peer per event.
    before: u32,
}

impl<'a> EventMaker<'a> {
    pub(super) fn new(shared: &'a PoolShared, slot: u32, events: u32) -> Self {
        Self::new_open(shared, slot, events, 1 << shared.slot_shift)
    }

    pub(super) fn new_open(shared: &'a PoolShared, slot: u32, events: u32, sealed: u32) -> Self {
        // Relaxed: set by the owner's own thread, if at all.
        let before = if shared.peer_per_event.load(Ordering::Relaxed) { BYTES_BEFORE_COPY as u32 } else { 0 };
        Self { shared, slot_position: slot << shared.slot_shift, limit: sealed, remaining: events, before }
    }

    /// Makes the next event from `offset..offset + length` of the slot.
    ///
    /// # Panics
    /// When more events are made than references were taken, or one lies outside the slot's sealed bytes.
    #[inline]
    pub fn make(&mut self, offset: u32, length: u32, route: Route) -> Event {
        assert!(self.remaining > 0, "more events than references");
        assert!(u64::from(offset) + u64::from(length) <= u64::from(self.limit), "event outside its slot");
        assert!(offset >= self.before, "event without its peer before it");
        self.remaining -= 1;
        Event {
            position: self.slot_position + offset,
            length,
            topic: route.topic,
            pool_and_shape: u32::from(self.shared.index) << Shape::BITS | route.shape.bits(),
            connection: route.connection,
            arrival_delta_ns: route.arrival_delta_ns,
            share: self.shared.watch().share(self.slot_position >> self.shared.slot_shift),
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
        &self.0[usize::from(event.pool())]
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
        let arrival = pool.states[(event.position >> pool.slot_shift) as usize].arrival_ns.with(|arrival_ns| {
            // SAFETY: written before the slot's first event was published, and not again before the last is released.
            unsafe { *arrival_ns }
        });
        arrival + u64::from(event.arrival_delta_ns)
    }

    /// The event as a run of its own.
    pub fn run_of_one(&self, event: &Event) -> Run {
        let waited_ns = self.pool(event).waited_ns(event.arrival_delta_ns);
        Run { arrived_ns: self.arrival_ns(event), waited_ns, count: 1 }
    }

    /// The frame in its parts.
    #[inline]
    pub fn view<'a>(&'a self, event: &'a Event) -> FrameView<'a> {
        FrameView::new(self.bytes(event), event.shape())
    }

    /// The slot that the event lies in, to tell whether its neighbours are there too.
    #[inline]
    pub fn slot(&self, event: &Event) -> EventSlot {
        let pool = self.pool(event);
        let bytes = 1 << pool.slot_shift;
        EventSlot { start: event.position & !(bytes - 1), bytes, pool: event.pool(), reliable: pool.reliable }
    }

    /// Who sent it.
    pub fn peer(&self, event: &Event) -> SocketAddr {
        let pool = self.pool(event);
        // Relaxed: set before the first event of the pool was made.
        if pool.peer_per_event.load(Ordering::Relaxed) {
            let start = (event.position as usize).saturating_sub(BYTES_BEFORE_COPY);
            // SAFETY: as in `bytes`; the peer lies before the event in the same slot (`EventMaker::make` checks it).
            let bytes = unsafe { pool.region.slice(start, Peer::BYTES) };
            return bytes.first_chunk().map_or(Peer::NONE, Peer::from_bytes).socket_address();
        }
        let peer = pool.states[(event.position >> pool.slot_shift) as usize].peer.with(|peer| {
            // SAFETY: as in `arrival_ns`.
            unsafe { *peer }
        });
        peer.socket_address()
    }

    /// What stands in the place of the frame's length field. Once the length is known the field is its owner's: over TCP
    /// it holds the low half of the frame's number among those of its connection that ask for an acknowledgement.
    pub fn ordinal(&self, event: &Event) -> u32 {
        let pool = self.pool(event);
        if event.position & ((1 << pool.slot_shift) - 1) < LENGTH_BYTES as u32 {
            return 0; // no frame of the wire begins like that
        }
        // SAFETY: as in `bytes`; the field lies before the event in the same slot, as just checked, hence in its sealed bytes.
        let bytes = unsafe { pool.region.slice(event.position as usize - LENGTH_BYTES, LENGTH_BYTES) };
        bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    pub fn pool_count(&self) -> usize {
        self.0.len()
    }

    /// Slots of a pool.
    pub fn slots(&self, pool: u8) -> usize {
        self.0[usize::from(pool)].states.len()
    }
}

/// A slot that events lie in. Neighbours in a queue mostly share it, and with it what is known of its pool.
#[derive(Clone, Copy, Debug)]
pub struct EventSlot {
    start: u32,
    /// Zero if it is none.
    bytes: u32,
    pool: u8,
    reliable: bool,
}

impl EventSlot {
    /// No event lies in it.
    pub const NONE: Self = Self { start: 0, bytes: 0, pool: 0, reliable: false };

    #[inline]
    pub fn has(&self, event: &Event) -> bool {
        event.position.wrapping_sub(self.start) < self.bytes && event.pool() == self.pool
    }

    /// Tells it from every other slot of all pools.
    #[inline]
    pub fn key(&self) -> u64 {
        u64::from(self.pool) << 32 | u64::from(self.start)
    }

    #[inline]
    pub fn pool(&self) -> u8 {
        self.pool
    }

    /// Whether its events' source can be made to wait.
    #[inline]
    pub fn is_reliable(&self) -> bool {
        self.reliable
    }
}

/// Events of one slot that arrived together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub arrived_ns: Nanos,
    /// How long before that the kernel had seen them; zero where nobody knows.
    pub waited_ns: u32,
    pub count: u32,
}

/// Ends events, giving their slots' references up in runs.
pub struct Releaser {
    frames: Frames,
    /// Of the run at hand.
    slot: EventSlot,
    arrival_delta_ns: u32,
    count: u32,
}

impl Releaser {
    pub fn new(frames: Frames) -> Self {
        Self { frames, slot: EventSlot::NONE, arrival_delta_ns: 0, count: 0 }
    }

    #[inline]
    pub fn release(&mut self, event: Event) {
        self.release_timed(event, |_| {});
    }

    /// Releases, and tells `ended` of each run of events that arrived together, once it is whole.
    #[inline(always)]
    pub fn release_timed(&mut self, event: Event, ended: impl FnOnce(Run)) {
        if !self.slot.has(&event) || event.arrival_delta_ns != self.arrival_delta_ns {
            self.flush_timed(ended);
            self.slot = self.frames.slot(&event);
            self.arrival_delta_ns = event.arrival_delta_ns;
        }
        event.share.end();
        self.count += 1;
    }

    /// Gives up what was gathered; called at the end of each batch.
    #[inline]
    pub fn flush(&mut self) {
        self.flush_timed(|_| {});
    }

    /// The same, and tells of the last run.
    #[inline]
    pub fn flush_timed(&mut self, ended: impl FnOnce(Run)) {
        let count = std::mem::take(&mut self.count);
        if count > 0 {
            let pool = &self.frames.0[usize::from(self.slot.pool)];
            let slot = self.slot.start >> pool.slot_shift;
            let arrival = pool.states[slot as usize].arrival_ns.with(|arrival_ns| {
                // SAFETY: written before the slot's first event was published, and not again before the last is released, which
                // those gathered here are not yet.
                unsafe { *arrival_ns }
            });
            let waited_ns = pool.waited_ns(self.arrival_delta_ns);
            ended(Run { arrived_ns: arrival + u64::from(self.arrival_delta_ns), waited_ns, count });
            pool.release(slot, count);
        }
    }
}

impl Drop for Releaser {
    fn drop(&mut self) {
        self.flush();
    }
}
