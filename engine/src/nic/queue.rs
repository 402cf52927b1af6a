//! A queue's rings and its frame pool together: refilling, receiving, waking the kernel.
//!
//! - **Thread**: the ingest agent's. **In**: free slots of the pool, descriptors of the rx ring. **Out**: slots with a
//!   packet.
//! - **Overload**: with no free slot the fill ring runs dry; the kernel drops and counts, and the owner must come back
//!   soon ([`XskQueue::is_starving`]), because slots are released without a descriptor becoming readable.
//! - **Invariant**: a slot is in the kernel's hands from [`fill`](XskQueue::fill) until a descriptor names it, and a
//!   descriptor is believed only as far as the pool knows the kernel has that slot and the packet lies inside it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use super::rings::{Descriptor, Rings, XskStatistics};
use crate::memory::{FramePool, Slot};

/// Packets taken at once: full ones are then no more than the first-level cache holds, and agents that share the core get
/// their turn within microseconds. With 64 the median from rx to handler was twice as long, and the rate no higher.
pub const BURST: usize = 32;
/// The fill ring is topped up by no less than this at a time, so that its shared producer index is not written for
/// every packet. A ring that lacks fewer frames than this counts as full.
const FILL_BURST: usize = 32;

/// A packet in a slot.
#[derive(Debug)]
pub struct Received {
    pub slot: Slot,
    /// Position of its first byte in the slot.
    pub offset: usize,
    pub length: usize,
}

/// Packets received and not yet handed on.
pub type Batch = VecDeque<Received>;

/// What one look at the rx ring brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Packets added to the batch.
    pub packets: usize,
    /// Packets in more than one frame. Sockets are not bound for them; their frames went back.
    pub in_pieces: usize,
    /// Descriptors that name no slot of the kernel's, or a place outside it.
    pub invalid: usize,
}

impl Receipt {
    /// Nothing came.
    pub const fn is_empty(&self) -> bool {
        self.packets + self.in_pieces + self.invalid == 0
    }
}

/// One receive queue.
pub struct XskQueue<R> {
    rings: R,
    region_address: usize,
    /// The descriptor before was the beginning of a packet that goes on.
    in_packet: bool,
    /// The fill ring has room and the pool had no slot for it.
    lacks_frames: bool,
}

impl<R: Rings> XskQueue<R> {
    /// `pool` must be over the region these rings' frames are of; [`open`](super::open::open) makes both together.
    pub(crate) fn new(rings: R, pool: &FramePool) -> Self {
        Self { rings, region_address: pool.region_address(), in_packet: false, lacks_frames: true }
    }

    /// An empty batch that never grows on the data path.
    pub fn batch() -> Batch {
        VecDeque::with_capacity(BURST)
    }

    /// Tops up the fill ring with free slots; returns how many.
    ///
    /// # Panics
    /// When `pool` is another queue's.
    #[inline]
    pub fn fill(&mut self, pool: &mut FramePool) -> usize {
        assert!(pool.region_address() == self.region_address, "pool {} is another queue's", pool.index());
        let mut filled = 0;
        loop {
            if (self.rings.fill_room(FILL_BURST as u32) as usize) < FILL_BURST {
                self.lacks_frames = false;
                return filled;
            }
            let mut slots = [0; FILL_BURST];
            let mut count = 0;
            while count < FILL_BURST
                && let Some(slot) = pool.acquire()
            {
                slots[count] = pool.into_kernel(slot);
                count += 1;
            }
            // SAFETY: the pool is over this queue's region (asserted above) and has just marked these slots as the
            // kernel's; it marks none again before `from_kernel` has taken it back.
            if count > 0 && !unsafe { self.rings.fill(&slots[..count]) } {
                Self::take_back(pool, &slots[..count]);
                return filled;
            }
            filled += count;
            if count < FILL_BURST {
                self.lacks_frames = true;
                return filled;
            }
        }
    }

    #[cold]
    fn take_back(pool: &mut FramePool, slots: &[u32]) {
        let slot_bytes = pool.slot_bytes() as u64;
        for index in slots {
            if let Some(slot) = pool.from_kernel(u64::from(*index) * slot_bytes) {
                pool.give_back(slot);
            }
        }
    }

    /// Takes up to [`BURST`] packets off the rx ring.
    #[inline]
    pub fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch) -> Receipt {
        let count = self.rings.receive(BURST);
        let mut receipt = Receipt::default();
        for index in 0..count {
            let descriptor = self.rings.descriptor(index);
            let Some(received) = Self::believed(pool, &descriptor) else {
                receipt.invalid += 1;
                self.in_packet = descriptor.continues;
                continue;
            };
            if descriptor.continues || self.in_packet {
                pool.give_back(received.slot);
                receipt.in_pieces += usize::from(!descriptor.continues);
                self.in_packet = descriptor.continues;
                continue;
            }
            // Both lines of a datagram's headers and first frame: the kernel wrote them, possibly on another core.
            let position = pool.position(&received.slot) + received.offset;
            pool.prefetch(position);
            pool.prefetch(position + 64);
            batch.push_back(received);
            receipt.packets += 1;
        }
        receipt
    }

    /// The packet a descriptor names, if it can be one.
    #[inline]
    fn believed(pool: &mut FramePool, descriptor: &Descriptor) -> Option<Received> {
        let slot = pool.from_kernel(descriptor.address)?;
        let slot_bytes = pool.slot_bytes() as u64;
        let offset = descriptor.address % slot_bytes;
        if descriptor.length > slot_bytes - offset {
            pool.give_back(slot);
            return None;
        }
        Some(Received { slot, offset: offset as usize, length: descriptor.length as usize })
    }

    /// Wakes the kernel if it asks for that; returns whether it did. Where it never asks this costs one load.
    #[inline]
    pub fn wake_if_asked(&mut self) -> bool {
        let asked = self.rings.needs_wakeup();
        if asked {
            // The only errors are those of a device that is down or gone, which the control thread hears of by itself.
            let _ = self.rings.wake();
        }
        asked
    }

    /// Frames are missing in the fill ring and can only come from others: look again without waiting for packets.
    #[inline]
    pub fn lacks_frames(&self) -> bool {
        self.lacks_frames
    }

    /// The kernel has less than an eighth of the frames: packets are about to be dropped.
    #[inline]
    pub fn is_starving(&self, pool: &FramePool) -> bool {
        self.lacks_frames && pool.kernel() < pool.slots() / 8
    }

    pub fn statistics(&self) -> io::Result<XskStatistics> {
        self.rings.statistics()
    }

    pub(super) fn rings(&self) -> &R {
        &self.rings
    }

    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.rings.file()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeRings;
    use super::*;
    use crate::memory::{PoolSpec, Region};

    const SLOT: usize = 2048;

    fn queue(slots: usize, fill_capacity: usize) -> (XskQueue<FakeRings>, FakeRings, FramePool) {
        let spec = PoolSpec { slot_bytes: SLOT, reliable: false };
        let pool = FramePool::new(0, Region::map(slots * SLOT).unwrap(), &spec);
        let rings = FakeRings::new(fill_capacity);
        (XskQueue::new(rings.clone(), &pool), rings, pool)
    }

    fn name(rings: &FakeRings, address: u64, length: u64, continues: bool) {
        rings.kernel.lock().unwrap().rx.push_back(Descriptor { address, length, continues });
    }

    #[test]
    fn the_fill_ring_is_topped_up_to_its_capacity() {
        let (mut queue, rings, mut pool) = queue(256, 128);
        assert_eq!(queue.fill(&mut pool), 128);
        assert_eq!((pool.free(), pool.kernel()), (128, 128));
        assert!(!queue.lacks_frames());
        assert_eq!(queue.fill(&mut pool), 0);
        for _ in 0..FILL_BURST - 1 {
            rings.deliver(SLOT as u64, 256, 60).unwrap();
        }
        assert_eq!(queue.fill(&mut pool), 0, "fewer than a burst are not worth a write to the ring");
        rings.deliver(SLOT as u64, 256, 60).unwrap();
        assert_eq!(queue.fill(&mut pool), FILL_BURST);
    }

    #[test]
    fn with_no_free_slot_it_starves_and_recovers() {
        let (mut queue, rings, mut pool) = queue(64, 64);
        assert_eq!(queue.fill(&mut pool), 64);
        assert!(!queue.is_starving(&pool));
        let mut batch = XskQueue::<FakeRings>::batch();
        for _ in 0..64 {
            rings.deliver(SLOT as u64, 256, 60).unwrap();
        }
        let received: usize = (0..64 / BURST).map(|_| queue.receive(&mut pool, &mut batch).packets).sum();
        assert_eq!(received, 64);
        assert_eq!(queue.fill(&mut pool), 0);
        assert!(queue.is_starving(&pool) && queue.lacks_frames());
        batch.drain(..).for_each(|received| pool.give_back(received.slot));
        assert_eq!(queue.fill(&mut pool), 64);
        assert!(!queue.is_starving(&pool));
    }

    #[test]
    fn a_refused_refill_returns_its_slots() {
        let (mut queue, rings, mut pool) = queue(64, 64);
        struct Lying(FakeRings);
        // A ring that claims room it has not.
        impl Rings for Lying {
            fn fill_room(&mut self, _wanted: u32) -> u32 {
                64
            }
            unsafe fn fill(&mut self, _slots: &[u32]) -> bool {
                false
            }
            fn needs_wakeup(&self) -> bool {
                false
            }
            fn wake(&mut self) -> io::Result<()> {
                self.0.wake()
            }
            fn receive(&mut self, limit: usize) -> usize {
                self.0.receive(limit)
            }
            fn descriptor(&self, index: usize) -> Descriptor {
                self.0.descriptor(index)
            }
            fn statistics(&self) -> io::Result<XskStatistics> {
                self.0.statistics()
            }
            fn file(&self) -> Option<BorrowedFd<'_>> {
                None
            }
        }
        let mut lying = XskQueue::new(Lying(rings), &pool);
        assert_eq!(lying.fill(&mut pool), 0);
        assert_eq!(pool.free(), 64);
        assert_eq!(queue.fill(&mut pool), 64);
    }

    #[test]
    fn descriptors_are_believed_only_so_far() {
        let (mut queue, rings, mut pool) = queue(64, 32);
        queue.fill(&mut pool);
        let slot = *rings.kernel.lock().unwrap().fill.front().unwrap();
        let start = u64::from(slot) * SLOT as u64;
        let not_given = (0..64).find(|s| !rings.kernel.lock().unwrap().fill.contains(s)).unwrap();
        name(&rings, u64::MAX, 60, false);
        name(&rings, 64 * SLOT as u64, 60, false);
        name(&rings, u64::from(not_given) * SLOT as u64, 60, false);
        name(&rings, start + 256, SLOT as u64 - 255, false); // one byte beyond its slot
        name(&rings, start + 256, 60, false); // named twice
        let mut batch = XskQueue::<FakeRings>::batch();
        let receipt = queue.receive(&mut pool, &mut batch);
        assert_eq!(receipt, Receipt { packets: 0, in_pieces: 0, invalid: 5 });
        assert_eq!((pool.free(), pool.kernel()), (33, 31));
        let whole = u64::from(*rings.kernel.lock().unwrap().fill.back().unwrap()) * SLOT as u64;
        name(&rings, whole, SLOT as u64, false);
        assert_eq!(queue.receive(&mut pool, &mut batch).packets, 1);
        let received = batch.pop_front().unwrap();
        assert_eq!((received.offset, received.length), (0, SLOT));
        pool.give_back(received.slot);
    }

    #[test]
    fn a_packet_in_pieces_is_one_packet_and_costs_no_frame() {
        let (mut queue, rings, mut pool) = queue(64, 32);
        queue.fill(&mut pool);
        let slots: Vec<u32> = rings.kernel.lock().unwrap().fill.iter().copied().collect();
        for (slot, continues) in slots.iter().zip([true, true, false, false]) {
            name(&rings, u64::from(*slot) * SLOT as u64 + 256, 60, continues);
        }
        let mut batch = XskQueue::<FakeRings>::batch();
        let receipt = queue.receive(&mut pool, &mut batch);
        assert_eq!(receipt, Receipt { packets: 1, in_pieces: 1, invalid: 0 });
        assert_eq!(batch[0].slot.index(), slots[3]);
        assert_eq!(pool.free(), 32 + 3);
        batch.drain(..).for_each(|received| pool.give_back(received.slot));
    }

    #[test]
    fn the_kernel_is_woken_only_when_it_asks() {
        let (mut queue, rings, mut pool) = queue(64, 64);
        queue.fill(&mut pool);
        assert!(!queue.wake_if_asked());
        rings.kernel.lock().unwrap().needs_wakeup = true;
        assert!(queue.wake_if_asked());
        assert!(!queue.wake_if_asked());
        assert_eq!(rings.kernel.lock().unwrap().calls, ["fill", "fill", "wake"]);
    }

    #[test]
    #[should_panic(expected = "another queue's")]
    fn a_pool_over_other_memory_is_refused() {
        let (mut queue, _rings, _pool) = queue(64, 64);
        let spec = PoolSpec { slot_bytes: SLOT, reliable: false };
        let mut other = FramePool::new(0, Region::map(64 * SLOT).unwrap(), &spec);
        queue.fill(&mut other);
    }
}
