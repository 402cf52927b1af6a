//! Copying events out of their frames, so that a class that falls behind does not pin what others need.

use crate::memory::{Event, FramePool, Frames, OpenSlot, Peer, Route, Slot};

/// A bounded pool of copies, packed one behind the other. Owned by the agent that copies.
pub struct SpillPool {
    pool: FramePool,
    open: Option<OpenSlot>,
}

impl SpillPool {
    pub fn new(pool: FramePool) -> Self {
        // Neighbours in a spill slot come from different senders.
        pool.keep_peer_per_event();
        Self { pool, open: None }
    }

    pub fn pool(&self) -> &FramePool {
        &self.pool
    }

    /// Whether an event is small enough to be copied.
    pub fn can_hold(&self, event: &Event) -> bool {
        Peer::BYTES + event.length() as usize <= self.pool.slot_bytes()
    }

    /// Copies `event`; `None` when there is no room or it is larger than a slot. The original stays the caller's.
    pub fn copy(&mut self, event: &Event, frames: &Frames) -> Option<Event> {
        let length = Peer::BYTES + event.length() as usize;
        let arrival = frames.arrival_ns(event);
        if !self.can_hold(event) {
            return None;
        }
        let too_small = |open: &OpenSlot, pool: &FramePool| open.sealed() + length > pool.slot_bytes();
        // The delta to the slot's first arrival has 32 bits: an event from before it, or 4 s after it, needs a slot of its own.
        let other_time = |open: &OpenSlot, pool: &FramePool| {
            arrival.checked_sub(pool.arrival_ns(open)).is_none_or(|delta| delta > u64::from(u32::MAX))
        };
        if self.open.as_ref().is_some_and(|open| too_small(open, &self.pool) || other_time(open, &self.pool)) {
            self.close();
        }
        if self.open.is_none() {
            let slot: Slot = self.pool.acquire()?;
            self.open = Some(self.pool.open(slot, arrival, Peer::NONE));
        }
        let open = self.open.as_mut()?;
        let offset = (open.sealed() + Peer::BYTES) as u32;
        let (peer, bytes) = self.pool.spare_mut(open)[..length].split_at_mut(Peer::BYTES);
        peer.copy_from_slice(&Peer::from(frames.peer(event)).to_bytes());
        bytes.copy_from_slice(frames.bytes(event));
        let route = Route {
            shape: event.shape(),
            topic: event.topic(),
            connection: event.connection(),
            arrival_delta_ns: arrival.saturating_sub(self.pool.arrival_ns(open)) as u32,
        };
        let mut maker = self.pool.seal_part(open, length, 1);
        Some(maker.make(offset, event.length(), route))
    }

    /// Lets the current slot come back once its events have ended.
    pub fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.pool.close(open);
        }
    }

    pub fn housekeeping(&mut self) {
        // A slot that waits for further copies while all of its own have ended would count as in flight for ever.
        if self.open.as_ref().is_some_and(|open| self.pool.is_idle(open)) {
            self.close();
        }
        self.pool.reclaim();
        self.pool.publish_gauges();
    }
}
