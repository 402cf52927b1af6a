//! Taking events in from AF_XDP: one backend for each NIC queue.
//!
//! - **Thread**: the queue's ingest agent. **In**: frames the steering program gave to the queue's socket. **Out**:
//!   events, through the [`Intake`], pointing into the UMEM where the kernel wrote them.
//! - **Overload**: when the dispatcher's queue is full, the received packets wait here, the fill ring runs dry and the
//!   kernel drops and counts (`rx_dropped`, `rx_ring_full`); nothing else of the engine waits.
//! - **Invariant**: each packet taken off the rx ring is counted consumed, and ends as parsed or malformed. So `steered =
//!   consumed + what the kernel dropped` holds at any time between duty cycles, and `consumed = parsed + malformed`
//!   once nothing waits here.
//!
//! While the engine is paused or draining this goes on as ever: the program refuses what is new, and what was steered
//! before is taken in, so that rx rings are empty and fill rings full when steering begins again.

use std::os::fd::BorrowedFd;

use eventstream_steer::stamp::STAMP_BYTES;
use eventstream_steer::{Datagram, Packet};

use super::{Arrival, Backend, Intake};
use crate::control::State;
use crate::memory::{CACHE_LINE_BYTES, FramePool, Peer, Slot};
use crate::metrics::{Counter, Histogram, MalformedReason, Span, Spans};
use crate::nic::{Batch, Received, Rings, StampReader, XskQueue, XskRings};
use crate::runtime::agent::{Blocking, Cycle};
use crate::runtime::clock::{Clock, Nanos};

/// How long the rx ring must stay empty to count as drained: longer than a NAPI pass, whose packets become visible at
/// its end. A pass is at most 64 packets, far under a millisecond; the rest is for interrupts in the middle of it.
const DRAIN_PAUSE_NS: Nanos = 3_000_000;
/// How soon an agent looks again while frames are missing in the fill ring: they come back without a descriptor
/// becoming readable. The rings hold far more than a NIC fills in this time at the rates of a host that sleeps at all.
const REFILL_PAUSE_NS: Nanos = 1_000_000;
/// The least time between two wake-ups on an empty rx ring: each is a system call, and a driver that wants one
/// for every poll must not make a spinning agent live in the kernel.
const WAKE_INTERVAL_NS: Nanos = 50_000;

/// How many packets ahead their bytes are asked for. Two did as well; with eight they had left the first-level cache again
/// when their turn came, which cost 7 %.
const PREFETCH_AHEAD: usize = 4;

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    /// The rx ring was not empty when last seen.
    Open,
    EmptySince(Nanos),
    Over,
}

/// Receives from one queue.
pub struct XdpBackend<R: Rings = XskRings> {
    queue: XskQueue<R>,
    /// Consumed and not yet handed to the intake.
    batch: Batch,
    /// When the batch was taken off the rx ring.
    consumed_ns: Nanos,
    stamps: StampReader,
    rx_to_consumed: Histogram,
    drain: Drain,
    last_wake: Nanos,
    now: Nanos,
    starving: bool,
}

impl<R: Rings> XdpBackend<R> {
    /// The intake this backend is stepped with must own the pool that was opened with `queue`.
    pub fn new(queue: XskQueue<R>, clock: Clock) -> Self {
        Self {
            queue,
            batch: XskQueue::<R>::batch(),
            consumed_ns: 0,
            stamps: StampReader::new(clock),
            rx_to_consumed: Histogram::default(),
            drain: Drain::Open,
            last_wake: 0,
            now: 0,
            starving: false,
        }
    }

    /// Refills, then receives. Refilling first gives the kernel frames as early as possible.
    #[inline]
    fn take_in(&mut self, intake: &mut Intake, now: Nanos) {
        if self.queue.fill(&mut intake.pool) > 0 && self.queue.wake_if_asked() {
            intake.counters.add(Counter::NEED_WAKEUP_FILL, 1);
        }
        self.starving = self.queue.is_starving(&intake.pool);
        let receipt = self.queue.receive(&mut intake.pool, &mut self.batch);
        if receipt.is_empty() {
            self.saw_nothing(intake, now);
            return;
        }
        self.drain = Drain::Open;
        // Not the round's time: other sources may have had their turn since, and the stages behind them.
        self.consumed_ns = self.stamps.now();
        let in_pieces = receipt.in_pieces as u64;
        intake.counters.add(Counter::DATAGRAMS_CONSUMED, receipt.packets as u64 + in_pieces);
        intake.counters.add(Counter::RX_DESCRIPTOR_INVALID, receipt.invalid as u64);
        intake.counters.add(Counter::datagram_malformed(MalformedReason::PacketHeaders), in_pieces);
    }

    fn saw_nothing(&mut self, intake: &mut Intake, now: Nanos) {
        self.drain = match self.drain {
            Drain::Open => Drain::EmptySince(now),
            Drain::EmptySince(since) if now.saturating_sub(since) >= DRAIN_PAUSE_NS => Drain::Over,
            other => other,
        };
        if now.saturating_sub(self.last_wake) >= WAKE_INTERVAL_NS && self.queue.wake_if_asked() {
            self.last_wake = now;
            intake.counters.add(Counter::NEED_WAKEUP_RX, 1);
        }
    }

    /// When a packet came.
    #[inline]
    fn arrival(&mut self, pool: &FramePool, received: &Received) -> Arrival {
        let waited = if self.stamps.is_due() { self.waited(pool, received) } else { None };
        Arrival { consumed_ns: self.consumed_ns, waited_ns: waited.unwrap_or(0) }
    }

    /// How long a packet was in the ring, if the program has stamped it.
    #[cold]
    fn waited(&mut self, pool: &FramePool, received: &Received) -> Option<u32> {
        let before = pool.bytes(&received.slot).get(..received.offset)?.last_chunk()?;
        let former = pool.former_arrival_ns(&received.slot);
        let waited = self.stamps.waited(before, former, self.consumed_ns)?;
        self.rx_to_consumed.record(waited, 1);
        // Zero would say that nobody knows. What waits 4.3 s is beyond what anybody wants to tell apart.
        Some(waited.clamp(1, u64::from(u32::MAX)) as u32)
    }

    /// Hands a packet on. The program has looked at the headers already; they are read again because what lies in
    /// the frame is input, and where the payload is follows from nothing else.
    ///
    /// Meanwhile the packet `ahead` travels to this core. Parsing walks a chain of length fields, so without this each frame
    /// waits for its own line: a third of the whole pipeline's time. Half of the lines are asked for now and half after the
    /// parsing: a core can wait for ten to sixteen, and stands still while it asks for more.
    #[inline]
    fn hand_on(intake: &mut Intake, received: Received, ahead: Option<&Received>, arrival: Arrival) {
        let Received { slot, offset, length } = received;
        let half = ahead.map_or(0, |ahead| ahead.length / 2).next_multiple_of(CACHE_LINE_BYTES);
        if let Some(ahead) = ahead {
            intake.pool.prefetch_state(&ahead.slot);
            intake.pool.prefetch_range(&ahead.slot, ahead.offset, half);
        }
        let Some((payload_at, payload_bytes, peer)) = datagram_in(&intake.pool, &slot, offset, length) else {
            intake.counters.add(Counter::datagram_malformed(MalformedReason::PacketHeaders), 1);
            intake.pool.give_back(slot);
            return;
        };
        intake.datagram_while(slot, offset + payload_at, payload_bytes, arrival, peer, |pool| {
            if let Some(ahead) = ahead {
                pool.prefetch_range(&ahead.slot, ahead.offset + half, ahead.length.saturating_sub(half));
            }
        });
    }
}

/// Where the UDP payload lies in a packet, and who sent it.
#[inline]
fn datagram_in(pool: &FramePool, slot: &Slot, offset: usize, length: usize) -> Option<(usize, usize, Peer)> {
    let packet = pool.bytes(slot).get(offset..)?.get(..length)?;
    let found = Datagram::locate(packet).ok()?;
    let address = if found.is_v6 {
        packet.bytes(found.source_at)?
    } else {
        eventstream_steer::maps::v4_mapped(packet.bytes(found.source_at)?)
    };
    let peer = Peer { address, port: packet.u16_be(found.udp_at)? };
    Some((found.payload_at, found.payload_bytes, peer))
}

impl<R: Rings> Backend for XdpBackend<R> {
    fn receive(&mut self, intake: &mut Intake, _state: State, cycle: &Cycle) -> usize {
        self.now = cycle.now;
        if self.batch.is_empty() {
            self.take_in(intake, cycle.now);
        }
        let mut handed_on = 0;
        while let Some(received) = self.batch.pop_front() {
            let arrival = self.arrival(&intake.pool, &received);
            let ahead = self.batch.get(PREFETCH_AHEAD - 1);
            if let Some(ahead) = ahead.filter(|_| self.stamps.is_due_within(PREFETCH_AHEAD)) {
                intake.pool.prefetch_range(&ahead.slot, ahead.offset.saturating_sub(STAMP_BYTES), 1);
            }
            Self::hand_on(intake, received, ahead, arrival);
            handed_on += 1;
            if intake.is_blocked() {
                break;
            }
        }
        if handed_on > 0 {
            intake.wake();
        }
        handed_on
    }

    fn asks_memory(&self) -> bool {
        true
    }

    fn state_changed(&mut self, _intake: &mut Intake, state: State) {
        self.drain = Drain::Open;
        if state.takes_in() {
            // A driver that went to sleep while nothing was steered waits to be told that there are frames.
            self.queue.wake_if_asked();
        }
    }

    fn drained(&self) -> bool {
        self.batch.is_empty() && self.drain == Drain::Over
    }

    fn spans(&self) -> Spans {
        vec![(Span::RxToConsumed, self.rx_to_consumed.clone())]
    }

    fn housekeeping(&mut self, intake: &mut Intake, _now: Nanos) {
        self.stamps.compare_clocks();
        // Fails only when the socket is gone; what was read last stays.
        if let Ok(statistics) = self.queue.statistics() {
            intake.counters.set(Counter::KERNEL_RX_DROPPED, statistics.rx_dropped);
            intake.counters.set(Counter::KERNEL_RX_RING_FULL, statistics.rx_ring_full);
            intake.counters.set(Counter::KERNEL_FILL_RING_EMPTY, statistics.fill_ring_empty);
        }
    }

    fn blocking(&self) -> Blocking {
        if !self.batch.is_empty() || self.starving {
            return Blocking::Forbidden;
        }
        match self.drain {
            // Nobody asks for an end, but looking once more after the pause costs one round of an idle agent, and then
            // a drain needs no flag of its own here.
            Drain::EmptySince(since) => Blocking::Until(since + DRAIN_PAUSE_NS),
            _ if self.queue.lacks_frames() => Blocking::Until(self.now + REFILL_PAUSE_NS),
            _ => Blocking::Allowed,
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.queue.file().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use eventstream_steer::stamp::stamp;

    use super::*;
    use crate::frame::{FrameHeader, Limits, Parser, Priority, Transport, encode};
    use crate::ingest::IntakeSpec;
    use crate::memory::{Event, Frames, PoolSpec, Region, Releaser};
    use crate::nic::fake::FakeRings;
    use crate::nic::{Descriptor, XskStatistics};
    use crate::queue::mpsc;

    const SLOT: usize = 2048;
    const HEADROOM: usize = 256;

    struct Bench {
        backend: XdpBackend<FakeRings>,
        rings: FakeRings,
        intake: Intake,
        events: mpsc::Consumer<Event>,
        frames: Frames,
        now: Nanos,
        /// What the backend's clock says.
        time: Arc<AtomicU64>,
    }

    fn bench(slots: usize, depth: usize) -> Bench {
        let spec = PoolSpec { slot_bytes: SLOT, reliable: false };
        let pool = FramePool::new(0, Region::map(slots * SLOT).unwrap(), &spec);
        let frames = Frames::new(&[&pool]);
        let rings = FakeRings::new(slots);
        let queue = XskQueue::new(rings.clone(), &pool);
        let (mut producers, events) = mpsc::queue(depth, 1);
        let limits = Limits { frame_bytes: 1 << 20, topic_bytes: 255 };
        let parser = Parser::new(limits, Transport::Udp, Priority::Critical, 7);
        let intake = Intake::new(IntakeSpec { pool, queue: producers.remove(0), parser, waker: None });
        let time = Arc::new(AtomicU64::new(0));
        let backend = XdpBackend::new(queue, Clock::manual(time.clone()));
        Bench { backend, rings, intake, events, frames, now: 0, time }
    }

    fn packet(payload: &[u8]) -> Vec<u8> {
        let udp_bytes = (8 + payload.len()) as u16;
        let mut packet = vec![0; 12];
        packet.extend([0x08, 0x00, 0x45, 0]);
        packet.extend((20 + udp_bytes).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 198, 18, 0, 9, 198, 18, 0, 1]);
        packet.extend(4000_u16.to_be_bytes());
        packet.extend(8082_u16.to_be_bytes());
        packet.extend(udp_bytes.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        packet
    }

    fn events(count: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        for number in 0..count {
            encode(&mut payload, &FrameHeader::new(Priority::High), b"t", format!("{number:08}").as_bytes());
        }
        payload
    }

    impl Bench {
        fn step(&mut self) -> usize {
            let cycle = Cycle { now: self.now, busy: true };
            self.intake.push_pending();
            if self.intake.is_blocked() { 0 } else { self.backend.receive(&mut self.intake, State::Running, &cycle) }
        }

        /// What the kernel does: the packet's bytes into the next frame of the fill ring, its name into the rx ring.
        fn deliver(&mut self, packet: &[u8]) {
            self.deliver_behind(&[], packet);
        }

        /// The same with metadata before the packet.
        fn deliver_behind(&mut self, metadata: &[u8], packet: &[u8]) {
            let slot = self.rings.kernel.lock().unwrap().fill.pop_front().unwrap();
            let position = u64::from(slot) * SLOT as u64;
            // Through the pool, because the test has no other way into the region.
            let mut token = self.intake.pool.from_kernel(position).unwrap();
            let bytes = self.intake.pool.bytes_mut(&mut token);
            bytes[HEADROOM - metadata.len()..HEADROOM].copy_from_slice(metadata);
            bytes[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
            assert_eq!(self.intake.pool.into_kernel(token), slot);
            let descriptor =
                Descriptor { address: position + HEADROOM as u64, length: packet.len() as u64, continues: false };
            self.rings.kernel.lock().unwrap().rx.push_back(descriptor);
        }

        fn take(&mut self) -> Vec<Event> {
            let taken = std::iter::from_fn(|| self.events.take()).collect();
            self.events.release();
            taken
        }

        fn release(&self, events: Vec<Event>) {
            let mut releaser = Releaser::new(self.frames.clone());
            events.into_iter().for_each(|event| releaser.release(event));
        }

        fn count(&self, counter: Counter) -> u64 {
            self.intake.counters.get(counter)
        }
    }

    #[test]
    fn a_packet_becomes_events_where_it_lies() {
        let mut bench = bench(64, 1024);
        bench.step();
        let mut padded = packet(&events(2));
        padded.resize(padded.len() + 10, 0xff); // Ethernet's padding is not payload
        bench.deliver(&padded);
        assert_eq!(bench.step(), 1);
        let taken = bench.take();
        assert_eq!(taken.len(), 2);
        assert!(bench.frames.bytes(&taken[1]).ends_with(b"00000001"));
        assert_eq!(bench.frames.peer(&taken[0]), "198.18.0.9:4000".parse().unwrap());
        bench.release(taken);
        assert_eq!(bench.intake.pool.reclaim(), 1);
        assert_eq!((bench.count(Counter::DATAGRAMS_CONSUMED), bench.count(Counter::DATAGRAMS_PARSED)), (1, 1));
    }

    #[test]
    fn a_stamp_tells_how_long_a_packet_was_in_the_ring() {
        let mut bench = bench(64, 1024);
        bench.time.store(5_000, Ordering::Relaxed);
        bench.step();
        bench.deliver(&packet(&events(2)));
        bench.deliver_behind(stamp(4_300).as_flattened(), &packet(&events(3)));
        bench.deliver_behind(stamp(4_400).as_flattened(), &packet(&events(1))); // the next cannot come so soon
        assert_eq!(bench.step(), 3);
        let taken = bench.take();
        assert!(taken.iter().all(|event| bench.frames.arrival_ns(event) == 5_000));
        let waited: Vec<_> = taken.iter().map(|event| bench.frames.run_of_one(event).waited_ns).collect();
        assert_eq!(waited, [0, 0, 700, 700, 700, 0]);
        let mut runs = Vec::new();
        let mut releaser = Releaser::new(bench.frames.clone());
        for event in taken {
            releaser.release_timed(event, |run| runs.push((run.arrived_ns, run.waited_ns, run.count)));
        }
        releaser.flush_timed(|run| runs.push((run.arrived_ns, run.waited_ns, run.count)));
        assert_eq!(runs, [(5_000, 0, 2), (5_000, 700, 3), (5_000, 0, 1)]);
        assert_eq!(Histogram::summarize([&bench.backend.rx_to_consumed]).max, 700);
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_costs_no_frame() {
        let mut bench = bench(64, 1024);
        bench.step();
        let whole = packet(&events(1));
        for length in 0..whole.len() {
            bench.deliver(&whole[..length]);
            bench.step();
        }
        let refused = bench.count(Counter::datagram_malformed(MalformedReason::PacketHeaders));
        assert_eq!(refused, whole.len() as u64);
        assert_eq!(bench.count(Counter::DATAGRAMS_CONSUMED), refused);
        bench.deliver(&packet(&[]));
        bench.step();
        assert_eq!(bench.count(Counter::datagram_malformed(MalformedReason::EmptyDatagram)), 1);
        bench.intake.pool.publish_gauges();
        assert_eq!(bench.intake.pool.free() + bench.intake.pool.kernel(), 64);
    }

    #[test]
    fn a_full_queue_holds_the_position() {
        let mut bench = bench(64, 256);
        bench.step();
        (0..4).for_each(|_| bench.deliver(&packet(&events(100))));
        assert_eq!(bench.step(), 3, "the third does not fit whole and waits in the intake");
        assert_eq!((bench.count(Counter::DATAGRAMS_CONSUMED), bench.count(Counter::DATAGRAMS_PARSED)), (4, 3));
        assert_eq!((bench.step(), bench.backend.blocking()), (0, Blocking::Forbidden));
        let mut all = bench.take();
        bench.step();
        all.extend(bench.take());
        assert_eq!(bench.count(Counter::DATAGRAMS_PARSED), 4);
        let numbers: Vec<_> = all.iter().map(|event| bench.frames.bytes(event).to_vec()).collect();
        let expected: Vec<_> = (0..400).map(|number| format!("{:08}", number % 100)).collect();
        assert!(numbers.iter().zip(&expected).all(|(bytes, end)| bytes.ends_with(end.as_bytes())));
        assert_eq!(numbers.len(), 400);
        bench.release(all);
    }

    #[test]
    fn refilling_comes_before_receiving_and_the_kernel_is_woken_when_it_asks() {
        let mut bench = bench(64, 1024);
        bench.rings.kernel.lock().unwrap().needs_wakeup = true;
        bench.step();
        let calls = std::mem::take(&mut bench.rings.kernel.lock().unwrap().calls);
        assert_eq!(calls, ["fill", "fill", "wake", "receive"]);
        assert_eq!(bench.count(Counter::NEED_WAKEUP_FILL), 1);
        bench.now = WAKE_INTERVAL_NS;
        for _ in 0..3 {
            bench.rings.kernel.lock().unwrap().needs_wakeup = true;
            bench.step();
        }
        assert_eq!(bench.count(Counter::NEED_WAKEUP_RX), 1, "no more often than the interval");
        bench.backend.state_changed(&mut bench.intake, State::Running);
        assert!(!bench.rings.kernel.lock().unwrap().needs_wakeup, "resuming wakes");
    }

    #[test]
    fn a_starving_fill_ring_forbids_blocking() {
        let mut bench = bench(64, 1024);
        bench.step();
        (0..64).for_each(|_| bench.deliver(&packet(&events(1))));
        for _ in 0..64 / crate::nic::BURST + 1 {
            bench.step();
        }
        assert_eq!(bench.backend.blocking(), Blocking::Forbidden);
        let taken = bench.take();
        bench.release(taken);
        bench.step();
        bench.now += DRAIN_PAUSE_NS;
        bench.step();
        assert_eq!(bench.backend.blocking(), Blocking::Allowed);
        assert_eq!(bench.rings.kernel.lock().unwrap().fill.len(), 64);
    }

    #[test]
    fn drained_is_empty_twice_with_a_pause() {
        let mut bench = bench(64, 1024);
        bench.backend.state_changed(&mut bench.intake, State::Draining);
        bench.step();
        assert!(!bench.backend.drained());
        bench.now += DRAIN_PAUSE_NS - 1;
        bench.step();
        assert!(!bench.backend.drained());
        bench.deliver(&packet(&events(1)));
        bench.step();
        bench.now += DRAIN_PAUSE_NS;
        bench.step();
        assert!(!bench.backend.drained(), "a packet in between starts it anew");
        bench.now += DRAIN_PAUSE_NS;
        bench.step();
        assert!(bench.backend.drained());
        let taken = bench.take();
        bench.release(taken);
    }

    #[test]
    fn the_kernels_counters_are_totals() {
        let mut bench = bench(64, 1024);
        bench.rings.kernel.lock().unwrap().statistics =
            XskStatistics { rx_dropped: 5, rx_invalid: 0, rx_ring_full: 6, fill_ring_empty: 5 };
        bench.backend.housekeeping(&mut bench.intake, 0);
        bench.backend.housekeeping(&mut bench.intake, 1);
        let found = [Counter::KERNEL_RX_DROPPED, Counter::KERNEL_RX_RING_FULL, Counter::KERNEL_FILL_RING_EMPTY];
        assert_eq!(found.map(|counter| bench.count(counter)), [5, 6, 5]);
    }
}
