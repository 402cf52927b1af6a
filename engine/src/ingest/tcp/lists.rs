//! Who is to be served, and who waits for what.
//!
//! - **Thread**: the ingest agent's. Memory grows only when a connection is accepted.
//! - **Invariant**: an index stands on each list at most once, whoever the occupant was when it was put there: one that has
//!   gone is found out when its turn comes.

use std::collections::VecDeque;

use crate::frame::Class;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// Could be served now.
    Ready,
    /// Waits for what all share: credit, or a slot.
    Room,
    /// Has acknowledgements to send.
    Owed,
    /// Waits until others' acknowledgements have come: its next frame asks for one.
    Acks,
    /// Has something to say, and events are being sent to it.
    Turn,
    /// Waits for a large slot for a frame of a class, by deadline.
    Large(Class),
    /// Waits until a class is no longer full.
    Full(Class),
}

impl List {
    const COUNT: usize = 5 + 2 * Class::ALL.len();

    const fn index(self) -> usize {
        match self {
            Self::Ready => 0,
            Self::Room => 1,
            Self::Owed => 2,
            Self::Acks => 3,
            Self::Turn => 4,
            Self::Large(class) => 5 + class as usize,
            Self::Full(class) => 5 + Class::ALL.len() + class as usize,
        }
    }

    const fn bit(self) -> u16 {
        1 << self.index()
    }
}

const _: () = assert!(List::COUNT <= u16::BITS as usize);

#[derive(Debug, Default)]
pub(super) struct Lists {
    queues: [VecDeque<u32>; List::COUNT],
    /// By index: the lists it stands on.
    listed: Vec<u16>,
}

impl Lists {
    /// Makes room for so many connections on every list.
    pub(super) fn reserve(&mut self, connections: usize) {
        self.listed.resize(connections.max(self.listed.len()), 0);
        for queue in &mut self.queues {
            queue.reserve(connections - queue.len().min(connections));
        }
    }

    pub(super) fn has(&self, list: List, index: u32) -> bool {
        self.listed.get(index as usize).is_some_and(|listed| listed & list.bit() != 0)
    }

    /// True if that is a change.
    fn set(&mut self, list: List, index: u32, on: bool) -> bool {
        let Some(listed) = self.listed.get_mut(index as usize) else { return false };
        let before = *listed;
        *listed = if on { before | list.bit() } else { before & !list.bit() };
        *listed != before
    }

    pub(super) fn push(&mut self, list: List, index: u32) {
        if self.set(list, index, true) {
            self.queues[list.index()].push_back(index);
        }
    }

    /// Gives its place back to one that could not be served after all.
    pub(super) fn push_front(&mut self, list: List, index: u32) {
        if self.set(list, index, true) {
            self.queues[list.index()].push_front(index);
        }
    }

    pub(super) fn front(&self, list: List) -> Option<u32> {
        self.queues[list.index()].front().copied()
    }

    pub(super) fn pop(&mut self, list: List) -> Option<u32> {
        let index = self.queues[list.index()].pop_front()?;
        self.set(list, index, false);
        Some(index)
    }

    pub(super) fn len(&self, list: List) -> usize {
        self.queues[list.index()].len()
    }

    pub(super) fn is_empty(&self, list: List) -> bool {
        self.len(list) == 0
    }
}
