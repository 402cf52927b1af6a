//! From bytes in a slot to events in the dispatcher's queue: the same for every backend.
//!
//! - **Thread**: the ingest agent's. **In**: filled slots. **Out**: events, in the order of their bytes.
//! - **Overload**: when the queue has no room for a chunk, the rest waits here and the backend stops taking in.
//! - **Invariant**: a datagram is validated whole and its events counted before the first is published.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fault::{self, Stage};
use crate::frame::{FLAG_ACK, ParsedFrame, Parser};
use crate::memory::{Event, EventMaker, FramePool, OpenSlot, Peer, Route, Slot};
use crate::metrics::{Counter, Counters};
use crate::queue::mpsc;
use crate::runtime::clock::Nanos;
use crate::runtime::waker::Waker;

/// Cells claimed at once. Small enough that other producers get their turn, large enough that a claim costs
/// nothing per event.
const CLAIM_EVENTS: usize = 256;

/// When a datagram came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When the engine took it.
    pub consumed_ns: Nanos,
    /// How long it had waited in the rx ring; zero where nobody knows.
    pub waited_ns: u32,
}

/// What an intake is made of.
pub struct IntakeSpec {
    pub pool: FramePool,
    pub queue: mpsc::Producer<Event>,
    pub parser: Parser,
    /// Wakes the dispatcher's runner; `None` when it is this agent's own.
    pub waker: Option<Waker>,
}

/// Owned by one ingest agent.
pub struct Intake {
    pub pool: FramePool,
    pub counters: Counters,
    pub parser: Parser,
    queue: mpsc::Producer<Event>,
    waker: Option<Waker>,
    frames: Vec<ParsedFrame>,
    /// Frames of one datagram among several in a slot, until they join `frames`.
    segment: Vec<ParsedFrame>,
    /// Accepted events the queue had no room for, next one last.
    pending: Vec<Event>,
    pending_gauge: Arc<AtomicU64>,
}

impl Intake {
    pub fn new(spec: IntakeSpec) -> Self {
        // A slot bounds a datagram, so none of these ever grows on the data path.
        let most = Parser::max_frames(spec.pool.slot_bytes()).max(CLAIM_EVENTS);
        Self {
            pool: spec.pool,
            counters: Counters::default(),
            parser: spec.parser,
            queue: spec.queue,
            waker: spec.waker,
            frames: Vec::with_capacity(most),
            segment: Vec::with_capacity(most),
            pending: Vec::with_capacity(most),
            pending_gauge: Arc::default(),
        }
    }

    /// Accepted events that are in no queue yet; part of the ledger's `in flight`.
    pub fn pending_gauge(&self) -> Arc<AtomicU64> {
        self.pending_gauge.clone()
    }

    /// Whether the backend must stop taking in.
    #[inline]
    pub fn is_blocked(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes in one datagram that lies at `offset..offset + length` of `slot`; the slot is the intake's from here on.
    /// Returns the number of events.
    ///
    /// The caller has counted the datagram as consumed or received; here it becomes parsed or malformed.
    #[inline]
    pub fn datagram(&mut self, slot: Slot, offset: usize, length: usize, arrival_ns: Nanos, peer: Peer) -> usize {
        let arrival = Arrival { consumed_ns: arrival_ns, waited_ns: 0 };
        self.datagram_while(slot, offset, length, arrival, peer, |_| {})
    }

    /// The same, and calls `meanwhile` between the datagram's validation and the publication of its events.
    #[inline]
    pub fn datagram_while(
        &mut self,
        slot: Slot,
        offset: usize,
        length: usize,
        arrival: Arrival,
        peer: Peer,
        meanwhile: impl FnOnce(&FramePool),
    ) -> usize {
        debug_assert!(!self.is_blocked());
        self.counters.add(Counter::BYTES_RECEIVED, length as u64);
        let bytes = self.pool.bytes(&slot).get(offset..offset + length).unwrap_or_default();
        if let Err(malformed) = self.parser.datagram(bytes, &mut self.frames) {
            self.counters.add(Counter::datagram_malformed(malformed.reason), 1);
            self.pool.give_back(slot);
            return 0;
        }
        meanwhile(&self.pool);
        self.counters.add(Counter::DATAGRAMS_PARSED, 1);
        self.accept(slot, offset, arrival, peer)
    }

    /// Takes in a run of datagrams of one sender that the kernel has put behind one another at the start of `slot`:
    /// each `segment_bytes` long, the last one perhaps shorter. Each is parsed or malformed on its own, as if it had
    /// come alone; the events of the good ones share the slot. Returns the number of events.
    ///
    /// The caller has counted `length / segment_bytes` datagrams, rounded up, as received; `length` is within the slot.
    pub fn segments(
        &mut self,
        slot: Slot,
        length: usize,
        segment_bytes: usize,
        arrival_ns: Nanos,
        peer: Peer,
    ) -> usize {
        debug_assert!(length <= self.pool.slot_bytes());
        if segment_bytes == 0 || segment_bytes >= length {
            return self.datagram(slot, 0, length, arrival_ns, peer);
        }
        debug_assert!(!self.is_blocked());
        self.counters.add(Counter::BYTES_RECEIVED, length as u64);
        self.frames.clear();
        let bytes = self.pool.bytes(&slot).get(..length).unwrap_or_default();
        let mut parsed = 0;
        for (index, segment) in bytes.chunks(segment_bytes).enumerate() {
            match self.parser.datagram(segment, &mut self.segment) {
                Ok(()) => {
                    parsed += 1;
                    let start = (index * segment_bytes) as u32;
                    let in_slot = |frame: &ParsedFrame| ParsedFrame { offset: start + frame.offset, ..*frame };
                    self.frames.extend(self.segment.iter().map(in_slot));
                }
                Err(malformed) => self.counters.add(Counter::datagram_malformed(malformed.reason), 1),
            }
        }
        self.counters.add(Counter::DATAGRAMS_PARSED, parsed);
        if self.frames.is_empty() {
            self.pool.give_back(slot);
            return 0;
        }
        self.accept(slot, 0, Arrival { consumed_ns: arrival_ns, waited_ns: 0 }, peer)
    }

    /// Makes events of the validated `frames`, whose offsets count from `offset` in the slot, and publishes them in
    /// chunks; what the queue has no room for waits in `pending`. Returns their number.
    #[inline]
    fn accept(&mut self, slot: Slot, offset: usize, arrival: Arrival, peer: Peer) -> usize {
        let Arrival { consumed_ns, waited_ns } = arrival;
        let Self { pool, counters, queue, frames, pending, .. } = self;
        let count = frames.len();
        counters.add(Counter::EVENTS_ACCEPTED, (count as u64).wrapping_add(miscount()));
        let mut maker = pool.seal(slot, count as u32, consumed_ns.saturating_sub(waited_ns.into()), peer);
        let placed = Placed { at: offset as u32, connection: 0, arrival_delta_ns: waited_ns };
        let mut rest = frames.as_slice();
        let mut ignored_acks = 0;
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(rest.len().min(CLAIM_EVENTS));
            let Some(claim) = queue.claim(chunk.len()) else {
                counters.add(Counter::MPSC_BACKPRESSURED, 1);
                ignored_acks += rest.iter().filter(|frame| frame.shape.has(FLAG_ACK)).count() as u64;
                placed.wait(rest, maker, pending);
                break;
            };
            claim.fill_with(|index| {
                let frame = &chunk[index];
                ignored_acks += u64::from(frame.shape.has(FLAG_ACK));
                placed.make(frame, &mut maker)
            });
            rest = after;
        }
        counters.add(Counter::ACK_FLAG_IGNORED, ignored_acks);
        count
    }

    /// Publishes frames of a stream that lie in the next `bytes` of an open slot: `frames` have offsets relative to the
    /// slot's sealed end. For TCP: the caller counts frames and events.
    #[inline]
    pub fn stream(&mut self, open: &mut OpenSlot, bytes: usize, frames: &[ParsedFrame], connection: u32, now: Nanos) {
        debug_assert!(self.pending.is_empty());
        let Self { pool, queue, counters, pending, .. } = self;
        publish(pool, queue, counters, pending, Part { open, bytes, frames, connection, now });
    }

    /// The same for a slot of another pool than the intake's own: one for frames above a slot.
    pub fn stream_from(
        &mut self,
        pool: &mut FramePool,
        open: &mut OpenSlot,
        bytes: usize,
        frames: &[ParsedFrame],
        connection: u32,
        now: Nanos,
    ) {
        debug_assert!(self.pending.is_empty());
        let Self { queue, counters, pending, .. } = self;
        publish(pool, queue, counters, pending, Part { open, bytes, frames, connection, now });
    }

    /// Tries again to publish what had no room. Returns how many events went.
    #[inline]
    pub fn push_pending(&mut self) -> usize {
        if self.pending.is_empty() { 0 } else { self.push_pending_slow() }
    }

    #[cold]
    fn push_pending_slow(&mut self) -> usize {
        let mut pushed = 0;
        while !self.pending.is_empty() {
            let count = self.pending.len().min(CLAIM_EVENTS);
            let Some(mut claim) = self.queue.claim(count) else { break };
            for event in self.pending.drain(self.pending.len() - count..).rev() {
                claim.write(event);
            }
            pushed += count;
        }
        self.wake();
        pushed
    }

    /// Wakes the dispatcher if it sleeps; once a batch, after publishing.
    #[inline]
    pub fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }

    /// Publishes counters and gauges.
    pub fn flush_counters(&mut self) {
        self.pending_gauge.store(self.pending.len() as u64, Ordering::Release);
        self.counters.flush();
    }
}

/// The next bytes of an open slot and the frames in them.
struct Part<'a> {
    open: &'a mut OpenSlot,
    bytes: usize,
    frames: &'a [ParsedFrame],
    connection: u32,
    now: Nanos,
}

#[inline]
fn publish(
    pool: &mut FramePool,
    queue: &mut mpsc::Producer<Event>,
    counters: &mut Counters,
    pending: &mut Vec<Event>,
    part: Part<'_>,
) {
    let Part { open, bytes, frames, connection, now } = part;
    let base = open.sealed() as u32;
    // An open slot is closed long before this saturates (4.3 s).
    let delta = now.saturating_sub(pool.arrival_ns(open)).min(u64::from(u32::MAX)) as u32;
    let mut maker = pool.seal_part(open, bytes, frames.len() as u32);
    let placed = Placed { at: base, connection, arrival_delta_ns: delta };
    let mut rest = frames;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rest.len().min(CLAIM_EVENTS));
        let Some(claim) = queue.claim(chunk.len()) else {
            counters.add(Counter::MPSC_BACKPRESSURED, 1);
            return placed.wait(rest, maker, pending);
        };
        claim.fill_with(|index| placed.make(&chunk[index], &mut maker));
        rest = after;
    }
}

/// What the events of frames that came together have in common.
#[derive(Clone, Copy)]
struct Placed {
    /// Where in the slot the frames' offsets count from.
    at: u32,
    connection: u32,
    arrival_delta_ns: u32,
}

impl Placed {
    #[inline(always)]
    fn make(self, frame: &ParsedFrame, maker: &mut EventMaker<'_>) -> Event {
        let Self { at, connection, arrival_delta_ns } = self;
        let route = Route { shape: frame.shape, topic: frame.topic_hash, connection, arrival_delta_ns };
        maker.make(at + frame.offset, frame.length, route)
    }

    /// Makes the rest of the events, for which the queue has no room. The maker comes by value: one whose address is given
    /// away is kept in memory, and read and written there for each event that there is room for.
    #[cold]
    fn wait(self, rest: &[ParsedFrame], mut maker: EventMaker<'_>, pending: &mut Vec<Event>) {
        pending.extend(rest.iter().map(|frame| self.make(frame, &mut maker)));
        pending.reverse();
    }
}

/// What a deliberately faulty build adds to the count of accepted events; zero in every other.
#[inline(always)]
pub(super) fn miscount() -> u64 {
    u64::from(fault::doubles(Stage::Ingest)).wrapping_sub(u64::from(fault::drops(Stage::Ingest)))
}
