//! Release builds keep no account: these types are empty, and their calls nothing.

use std::fmt;

use crate::runtime::clock::Nanos;

#[derive(Clone, Debug)]
pub(super) struct Watch;

impl Watch {
    pub(super) fn new(_pool: u8, _slots: u32) -> Self {
        Self
    }

    pub(super) fn number(&self, _pool: u8) {}

    pub(super) fn name(&self, _name: &str) {}

    pub(super) fn judge_later(&self) {}

    #[inline(always)]
    pub(super) fn acquired(&self, _slot: u32) -> Share {
        Share
    }

    #[inline(always)]
    pub(super) fn share(&self, _slot: u32) -> Share {
        Share
    }

    #[inline(always)]
    pub(super) fn freed(&self, _slot: u32) {}

    #[inline(always)]
    pub(super) fn given_to_kernel(&self, _slot: u32) {}

    #[inline(always)]
    pub(super) fn opened(&self, _slot: u32, _arrival_ns: Nanos) {}

    #[inline(always)]
    pub(super) fn added(&self, _slot: u32, _events: u32) {}

    #[inline(always)]
    pub(super) fn closed(&self, _slot: u32) {}

    #[inline(always)]
    pub(super) fn sealed(&self, _slot: u32, _events: u32, _arrival_ns: Nanos) {}

    pub(super) fn lost(&self) -> Vec<LostSlot> {
        Vec::new()
    }
}

#[derive(Debug)]
pub(super) struct Share;

// What holds them is no larger for it, and moves and drops as if it did not.
const _: () = assert!(size_of::<(Watch, Share)>() == 0 && !std::mem::needs_drop::<(Watch, Share)>());

impl Share {
    #[inline(always)]
    pub(super) fn end(self) {}
}

/// There is none where nobody looks.
#[derive(Clone, Copy, Debug)]
pub enum LostSlot {}

impl fmt::Display for LostSlot {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}
