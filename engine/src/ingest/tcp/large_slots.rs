//! The slots for frames above an ordinary slot, and the classes whose frames are in them.
//!
//! - **Thread**: the ingest agent's. **In**: [`LargeSlots::take`] for a frame that was announced. **Out**: the slot, filled,
//!   to be published or given back.
//! - **Overload**: no slot; who waits for one is not known here.
//! - **Invariant**: a class that has a slot leaves one to each class that has none, from three slots on. However slow one
//!   class is, frames of the others find a slot in the end.

use crate::frame::Class;
use crate::memory::{FramePool, OpenSlot, Peer, Slot};
use crate::runtime::clock::Nanos;

#[derive(Clone, Copy, Debug)]
enum Use {
    Free,
    Filling(Class),
    /// On its way as an event, or by now free again.
    Published(Class),
}

pub(super) struct LargeSlots {
    pool: FramePool,
    /// By slot.
    uses: Box<[Use]>,
}

impl LargeSlots {
    pub(super) fn new(pool: FramePool) -> Self {
        Self { uses: vec![Use::Free; pool.slots()].into(), pool }
    }

    pub(super) fn pool(&self) -> &FramePool {
        &self.pool
    }

    /// Whether a frame of the class could have a slot now.
    pub(super) fn may_take(&mut self, class: Class) -> bool {
        self.pool.reclaim();
        if self.pool.slots() < Class::ALL.len() {
            return self.pool.free() > 0;
        }
        let mut has_one = [false; Class::ALL.len()];
        for (index, used) in self.uses.iter_mut().enumerate() {
            match *used {
                Use::Published(_) if !self.pool.is_referenced(index as u32) => *used = Use::Free,
                Use::Filling(class) | Use::Published(class) => has_one[class as usize] = true,
                Use::Free => {}
            }
        }
        let kept = if has_one[class as usize] { has_one.iter().filter(|has_one| !**has_one).count() } else { 0 };
        self.pool.free() > kept
    }

    pub(super) fn take(&mut self, class: Class) -> Option<Slot> {
        let slot = self.may_take(class).then(|| self.pool.acquire()).flatten()?;
        self.uses[slot.index() as usize] = Use::Filling(class);
        Some(slot)
    }

    pub(super) fn bytes<'a>(&'a self, slot: &'a Slot) -> &'a [u8] {
        self.pool.bytes(slot)
    }

    pub(super) fn bytes_mut<'a>(&'a self, slot: &'a mut Slot) -> &'a mut [u8] {
        self.pool.bytes_mut(slot)
    }

    /// Puts back a slot that became no event.
    pub(super) fn give_back(&mut self, slot: Slot) {
        self.uses[slot.index() as usize] = Use::Free;
        self.pool.give_back(slot);
    }

    /// Opens a filled slot and has its events published.
    pub(super) fn publish(&mut self, slot: Slot, now: Nanos, publish: impl FnOnce(&mut FramePool, &mut OpenSlot)) {
        let used = &mut self.uses[slot.index() as usize];
        if let Use::Filling(class) = *used {
            *used = Use::Published(class);
        }
        let mut open = self.pool.open(slot, now, Peer::NONE);
        publish(&mut self.pool, &mut open);
        self.pool.close(open);
    }

    pub(super) fn housekeeping(&mut self) {
        self.pool.reclaim();
        self.pool.publish_gauges();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Frames, PoolSpec, Region, Releaser, Route};

    fn slots(count: usize) -> LargeSlots {
        let spec = PoolSpec { slot_bytes: 64, reliable: true };
        LargeSlots::new(FramePool::new(0, Region::map(count * 64).unwrap(), &spec))
    }

    #[test]
    fn one_is_kept_for_each_class_that_has_none() {
        let mut large = slots(8);
        let mut take = |class, count| {
            let taken: Vec<Slot> = std::iter::from_fn(|| large.take(class)).collect();
            assert_eq!(taken.len(), count, "{class}");
            taken
        };
        let mut taken = take(Class::Batch, 6);
        taken.extend(take(Class::Realtime, 1));
        taken.extend(take(Class::Transactional, 1));
        taken.extend(take(Class::Transactional, 0));
        // The first of realtime's comes back: one is free, and kept for realtime.
        large.give_back(taken.remove(6));
        assert!(large.take(Class::Batch).is_none() && large.take(Class::Transactional).is_none());
        taken.push(large.take(Class::Realtime).unwrap());
        taken.into_iter().for_each(|slot| large.give_back(slot));
        assert_eq!(large.pool().free(), 8);
    }

    #[test]
    fn a_published_frame_counts_until_its_event_has_ended() {
        let mut large = slots(3);
        let frames = Frames::new(&[large.pool()]);
        let slot = large.take(Class::Batch).unwrap();
        let mut event = None;
        large.publish(slot, 1, |pool, open| event = Some(pool.seal_part(open, 4, 1).make(0, 4, Route::default())));
        assert!(!large.may_take(Class::Batch));
        Releaser::new(frames).release(event.unwrap());
        assert!(large.may_take(Class::Batch));
    }

    #[test]
    fn with_fewer_slots_than_classes_none_is_kept() {
        let mut large = slots(2);
        let taken: Vec<Slot> = std::iter::from_fn(|| large.take(Class::Batch)).collect();
        assert_eq!(taken.len(), 2);
        taken.into_iter().for_each(|slot| large.give_back(slot));
    }
}
