//! Tokens: who has one has the slot.

use super::watch::Share;

/// An owned slot: exactly one exists for each slot that is neither free, nor in the kernel, nor in flight.
///
/// It cannot be used once it was given up:
///
/// ```compile_fail,E0382
/// # use eventstream::memory::{FramePool, Peer, PoolSpec, Region};
/// # let spec = PoolSpec { slot_bytes: 64, reliable: false };
/// # let mut pool = FramePool::new(0, Region::map(64)?, &spec);
/// let mut slot = pool.acquire().expect("a free slot");
/// pool.give_back(slot);
/// pool.bytes_mut(&mut slot)[0] = 1;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// nor be duplicated:
///
/// ```compile_fail,E0599
/// # use eventstream::memory::{FramePool, PoolSpec, Region};
/// # let spec = PoolSpec { slot_bytes: 64, reliable: false };
/// # let mut pool = FramePool::new(0, Region::map(64)?, &spec);
/// let slot = pool.acquire().expect("a free slot");
/// pool.give_back(slot.clone());
/// # pool.give_back(slot);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// nor written to while it is read:
///
/// ```compile_fail,E0502
/// # use eventstream::memory::{FramePool, PoolSpec, Region};
/// # let spec = PoolSpec { slot_bytes: 64, reliable: false };
/// # let mut pool = FramePool::new(0, Region::map(64)?, &spec);
/// let mut slot = pool.acquire().expect("a free slot");
/// let read = pool.bytes(&slot);
/// pool.bytes_mut(&mut slot).copy_from_slice(read);
/// # pool.give_back(slot);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// That it is neither dropped nor forgotten no type can say: debug builds look for it, see
/// [`PoolGauges::lost`](super::PoolGauges::lost).
#[must_use = "a slot that is dropped is lost to its pool"]
#[derive(Debug)]
pub struct Slot {
    pub(super) index: u32,
    pub(super) pool: u8,
    pub(super) share: Share,
}

impl Slot {
    pub fn index(&self) -> u32 {
        self.index
    }
}

/// A slot the owner still writes to while events of its earlier bytes are already on their way. Closed, it is gone:
///
/// ```compile_fail,E0382
/// # use eventstream::memory::{FramePool, Peer, PoolSpec, Region};
/// # let spec = PoolSpec { slot_bytes: 64, reliable: false };
/// # let mut pool = FramePool::new(0, Region::map(64)?, &spec);
/// let slot = pool.acquire().expect("a free slot");
/// let mut open = pool.open(slot, 0, Peer::NONE);
/// pool.close(open);
/// pool.spare_mut(&mut open)[0] = 1;
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "an open slot that is dropped is lost to its pool"]
#[derive(Debug)]
pub struct OpenSlot {
    pub(super) index: u32,
    pub(super) pool: u8,
    /// Bytes up to here belong to events that may be read by others; the owner writes only behind them.
    pub(super) sealed: u32,
    pub(super) share: Share,
}

impl OpenSlot {
    /// Bytes the owner has fixed for good.
    pub fn sealed(&self) -> usize {
        self.sealed as usize
    }
}
