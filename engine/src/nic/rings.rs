//! A queue's two rings as the rest of the engine sees them: real ones over AF_XDP, and fakes for tests.

use std::io;
use std::os::fd::BorrowedFd;

/// What the kernel says of a packet. Input: nothing in it is believed unchecked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Position of the packet's first byte in the region.
    pub address: u64,
    pub length: u64,
    /// The packet goes on in the next descriptor.
    pub continues: bool,
}

/// Kernel counters of a socket; totals since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XskStatistics {
    /// Packets dropped for want of a frame or because they were too long.
    pub rx_dropped: u64,
    /// Fill ring entries the kernel refused.
    pub rx_invalid: u64,
    pub rx_ring_full: u64,
    /// How often the kernel wanted a frame and found none; explains losses and counts none of its own.
    pub fill_ring_empty: u64,
}

/// The rings of one queue. Endpoints are owned by one agent: `Send`, not shared.
pub trait Rings: Send {
    /// Room in the fill ring. May answer from a cache as long as that says at least `wanted`.
    fn fill_room(&mut self, wanted: u32) -> u32;

    /// Gives the kernel the slots at these places: all of them or, without room, none.
    ///
    /// # Safety
    /// The kernel will write to the slots at any time until it names them in the rx ring: each must be one that the pool
    /// over this queue's region has marked as the kernel's, and that the kernel has not been given since.
    unsafe fn fill(&mut self, slots: &[u32]) -> bool;

    /// The kernel wants to be woken before it goes on receiving.
    fn needs_wakeup(&self) -> bool;

    /// Wakes the kernel; a system call.
    fn wake(&mut self) -> io::Result<()>;

    /// Takes up to `limit` descriptors off the rx ring, to be read with [`descriptor`](Self::descriptor) until the
    /// next call.
    fn receive(&mut self, limit: usize) -> usize;

    /// # Panics
    /// When `index` is beyond what `receive` answered.
    fn descriptor(&self, index: usize) -> Descriptor;

    fn statistics(&self) -> io::Result<XskStatistics>;

    /// Readable when the rx ring is not empty.
    fn file(&self) -> Option<BorrowedFd<'_>>;
}

/// Rings whose kernel is the test.
#[cfg(test)]
pub(crate) mod fake {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Default)]
    pub struct Kernel {
        pub fill: VecDeque<u32>,
        pub fill_capacity: usize,
        pub rx: VecDeque<Descriptor>,
        pub needs_wakeup: bool,
        /// Which of `fill`, `receive` and `wake` were called, in order.
        pub calls: Vec<&'static str>,
        pub statistics: XskStatistics,
    }

    /// The test keeps one clone as the kernel's side.
    #[derive(Clone, Default)]
    pub struct FakeRings {
        pub kernel: Arc<Mutex<Kernel>>,
        taken: Vec<Descriptor>,
    }

    impl FakeRings {
        pub fn new(fill_capacity: usize) -> Self {
            let kernel = Kernel { fill_capacity, ..Kernel::default() };
            Self { kernel: Arc::new(Mutex::new(kernel)), taken: Vec::new() }
        }

        /// Receives a packet as the kernel does: takes a frame off the fill ring and names it in the rx ring.
        pub fn deliver(&self, slot_bytes: u64, offset: u64, length: u64) -> Option<u32> {
            let mut kernel = self.kernel.lock().unwrap();
            let slot = kernel.fill.pop_front()?;
            let address = u64::from(slot) * slot_bytes + offset;
            kernel.rx.push_back(Descriptor { address, length, continues: false });
            Some(slot)
        }
    }

    impl Rings for FakeRings {
        fn fill_room(&mut self, _wanted: u32) -> u32 {
            let kernel = self.kernel.lock().unwrap();
            (kernel.fill_capacity - kernel.fill.len()) as u32
        }

        unsafe fn fill(&mut self, slots: &[u32]) -> bool {
            let mut kernel = self.kernel.lock().unwrap();
            kernel.calls.push("fill");
            let fits = kernel.fill.len() + slots.len() <= kernel.fill_capacity;
            if fits {
                kernel.fill.extend(slots);
            }
            fits
        }

        fn needs_wakeup(&self) -> bool {
            self.kernel.lock().unwrap().needs_wakeup
        }

        fn wake(&mut self) -> io::Result<()> {
            let mut kernel = self.kernel.lock().unwrap();
            kernel.calls.push("wake");
            kernel.needs_wakeup = false;
            Ok(())
        }

        fn receive(&mut self, limit: usize) -> usize {
            let mut kernel = self.kernel.lock().unwrap();
            kernel.calls.push("receive");
            let count = limit.min(kernel.rx.len());
            self.taken = kernel.rx.drain(..count).collect();
            count
        }

        fn descriptor(&self, index: usize) -> Descriptor {
            self.taken[index]
        }

        fn statistics(&self) -> io::Result<XskStatistics> {
            Ok(self.kernel.lock().unwrap().statistics)
        }

        fn file(&self) -> Option<BorrowedFd<'_>> {
            None
        }
    }
}
