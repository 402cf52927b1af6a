//! Tokens: who has one has the slot.

use super::watch::Share;

/// An owned slot: exactly one exists for each slot that is neither free, nor in the kernel, nor in flight.
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

/// A slot the owner still writes to while events of its earlier bytes are already on their way.
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
