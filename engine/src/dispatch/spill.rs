//! Copying events out of their frames, so that a class that falls behind does not pin what others need.

use crate::memory::{BYTES_BEFORE_COPY, Event, FramePool, Frames, OpenSlot, Peer, Route, Slot};

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
        let length = BYTES_BEFORE_COPY + event.length() as usize;
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
        let offset = (open.sealed() + BYTES_BEFORE_COPY) as u32;
        let (before, bytes) = self.pool.spare_mut(open)[..length].split_at_mut(BYTES_BEFORE_COPY);
        let (peer, ordinal) = before.split_at_mut(Peer::BYTES);
        peer.copy_from_slice(&Peer::from(frames.peer(event)).to_bytes());
        ordinal.copy_from_slice(&frames.ordinal(event).to_be_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::LENGTH_BYTES;
    use crate::memory::{PoolSpec, Region, Releaser};

    #[test]
    fn a_copy_of_a_copy_has_the_ordinal_and_the_peer_of_the_first() {
        let pool = |index| {
            let spec = PoolSpec { slot_bytes: 256, reliable: false };
            FramePool::new(index, Region::map(2 * 256).unwrap(), &spec)
        };
        let mut source = pool(0);
        let mut spills = [1, 2].map(|index| SpillPool::new(pool(index)));
        let frames = Frames::new(&[&source, spills[0].pool(), spills[1].pool()]);
        let mut slot = source.acquire().unwrap();
        let mut bytes = [0; LENGTH_BYTES + 3];
        bytes[..LENGTH_BYTES].copy_from_slice(&0xfeed_0007_u32.to_be_bytes());
        bytes[LENGTH_BYTES..].copy_from_slice(b"abc");
        source.bytes_mut(&mut slot)[9..9 + bytes.len()].copy_from_slice(&bytes);
        let peer = Peer { address: [9; 16], port: 77 };
        let first = source.seal(slot, 1, 5, peer).make(9 + LENGTH_BYTES as u32, 3, Route::default());
        let copy = spills[0].copy(&first, &frames).unwrap();
        let again = spills[1].copy(&copy, &frames).unwrap();
        let mut releaser = Releaser::new(frames.clone());
        for event in [first, copy, again] {
            assert_eq!((frames.ordinal(&event), frames.bytes(&event)), (0xfeed_0007, &b"abc"[..]));
            assert_eq!(frames.peer(&event), peer.socket_address());
            releaser.release(event);
        }
        spills.iter_mut().for_each(SpillPool::close);
    }

    #[test]
    fn an_event_at_the_very_start_of_a_slot_has_no_ordinal() {
        let mut source = FramePool::new(0, Region::map(64).unwrap(), &PoolSpec { slot_bytes: 64, reliable: false });
        let frames = Frames::new(&[&source]);
        let slot = source.acquire().unwrap();
        let event = source.seal(slot, 1, 0, Peer::NONE).make(3, 8, Route::default());
        assert_eq!(frames.ordinal(&event), 0);
        Releaser::new(frames).release(event);
    }
}
