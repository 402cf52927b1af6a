//! The dispatcher's end of a worker's ring, with the books on what the worker holds through it.
//!
//! The worker gives a ring position back only when it is done with the event, so the ring's consumer index says exactly
//! which frames the worker still pins. The link notes each run of events of one slot as it pushes them and strikes
//! runs off as the index passes them: frames pinned and credits out are known without a shared counter.

use std::collections::VecDeque;

use crate::frame::Class;
use crate::memory::{Event, Frames};
use crate::queue::spsc;
use crate::runtime::clock::Nanos;
use crate::runtime::waker::Waker;

/// Events pushed one behind the other that lie in one slot.
struct Run {
    end_sequence: u64,
    slot: u32,
    pool: u8,
    count: u32,
}

/// What a link is made of.
pub struct LinkSpec {
    pub producer: spsc::Producer<Event>,
    pub class: Class,
    /// Ring positions that only sources which can be made to wait may use.
    pub reserved: u64,
    /// Without progress for so long the worker counts as stalled.
    pub stall_ns: Nanos,
    /// Wakes the worker's runner; `None` when it is the dispatcher's own.
    pub waker: Option<Waker>,
}

/// One link.
pub struct Link {
    spec: LinkSpec,
    runs: VecDeque<Run>,
    /// Slots pinned, by pool.
    pins: Box<[u32]>,
    /// Events of each pool on the ring.
    queued: Box<[u64]>,
    /// Of these, how many credits were written off when the worker stalled.
    written_off: Box<[u64]>,
    last_consumed: u64,
    last_progress_ns: Nanos,
    stalled: bool,
}

impl Link {
    pub fn new(spec: LinkSpec, frames: &Frames) -> Self {
        let pools = frames.pool_count();
        let runs = VecDeque::with_capacity(spec.producer.capacity() as usize);
        Self {
            spec,
            runs,
            pins: vec![0; pools].into(),
            queued: vec![0; pools].into(),
            written_off: vec![0; pools].into(),
            last_consumed: 0,
            last_progress_ns: 0,
            stalled: false,
        }
    }

    pub fn class(&self) -> Class {
        self.spec.class
    }

    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    #[inline]
    pub fn pins(&self, pool: u8) -> u32 {
        self.pins[usize::from(pool)]
    }

    /// Whether the next event of such a source fits.
    #[inline]
    pub fn has_room(&self, reliable: bool) -> bool {
        let capacity = self.spec.producer.capacity();
        let limit = if reliable { capacity } else { capacity - self.spec.reserved };
        self.spec.producer.occupied() < limit
    }

    /// Whether `event` would pin a slot that the link does not pin already by its last run.
    #[inline]
    pub fn pins_anew(&self, event: &Event, frames: &Frames) -> bool {
        self.runs.back().is_none_or(|run| run.pool != event.pool() || run.slot != frames.slot(event))
    }

    /// Moves an event onto the ring with its topic word; a full ring hands it back.
    #[inline]
    pub fn push(&mut self, event: Event, word: u32, frames: &Frames) -> Result<(), Event> {
        let (pool, slot) = (event.pool(), frames.slot(&event));
        self.spec.producer.push_with(event, |event| event.set_topic(word))?;
        let end_sequence = self.spec.producer.sequence();
        self.queued[usize::from(pool)] += 1;
        match self.runs.back_mut() {
            Some(run) if run.slot == slot && run.pool == pool => {
                run.end_sequence = end_sequence;
                run.count += 1;
            }
            _ => {
                self.runs.push_back(Run { end_sequence, slot, pool, count: 1 });
                self.pins[usize::from(pool)] += 1;
            }
        }
        Ok(())
    }

    /// Sequence of the next event: for barriers.
    pub fn sequence(&self) -> u64 {
        self.spec.producer.sequence()
    }

    pub fn consumed(&self) -> u64 {
        self.last_consumed
    }

    /// Makes what was pushed visible and wakes the worker.
    #[inline]
    pub fn publish(&mut self) {
        if self.spec.producer.publish()
            && let Some(waker) = &self.spec.waker
        {
            waker.wake();
        }
    }

    /// Reads how far the worker is and strikes off what it has ended. `settle` is told pool and number of events that hold
    /// no credit any more.
    #[inline]
    pub fn refresh(&mut self, now: Nanos, mut settle: impl FnMut(u8, u64)) {
        let consumed = self.spec.producer.refresh();
        if consumed == self.last_consumed {
            if self.spec.producer.occupied() == 0 {
                self.last_progress_ns = now;
            } else if now.saturating_sub(self.last_progress_ns) > self.spec.stall_ns {
                self.stall(settle);
            }
            return;
        }
        self.last_consumed = consumed;
        self.last_progress_ns = now;
        self.stalled = false;
        while let Some(run) = self.runs.front_mut() {
            let start = run.end_sequence - u64::from(run.count);
            if consumed <= start {
                break;
            }
            let ended = (consumed.min(run.end_sequence) - start) as u32;
            let pool = usize::from(run.pool);
            run.count -= ended;
            self.queued[pool] -= u64::from(ended);
            // Credits written off earlier are not given back twice.
            let already = self.written_off[pool].min(u64::from(ended));
            self.written_off[pool] -= already;
            settle(run.pool, u64::from(ended) - already);
            if run.count > 0 {
                break;
            }
            self.pins[pool] -= 1;
            self.runs.pop_front();
        }
    }

    /// The worker has stopped: what it holds must not keep senders waiting that have events for others.
    #[cold]
    fn stall(&mut self, mut settle: impl FnMut(u8, u64)) {
        self.stalled = true;
        for (pool, queued) in self.queued.iter().enumerate() {
            settle(pool as u8, queued - self.written_off[pool]);
            self.written_off[pool] = *queued;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{FramePool, Peer, PoolSpec, Region, Releaser, Route};

    const STALL_NS: Nanos = 1000;

    /// A link with its worker's end, and two pools whose events it carries.
    struct Setup {
        pools: [FramePool; 2],
        frames: Frames,
        link: Link,
        ring: spsc::Consumer<Event>,
        releaser: Releaser,
        /// What `refresh` has settled so far, by pool.
        settled: [u64; 2],
    }

    impl Setup {
        fn new(depth: usize, reserved: u64) -> Self {
            let pools = [0, 1].map(|index| {
                let spec = PoolSpec { slot_bytes: 64, reliable: index == 0 };
                FramePool::new(index, Region::map(64 * 64).unwrap(), &spec)
            });
            let frames = Frames::new(&[&pools[0], &pools[1]]);
            let (producer, ring) = spsc::ring(depth);
            let spec = LinkSpec { producer, class: Class::Batch, reserved, stall_ns: STALL_NS, waker: None };
            let (link, releaser) = (Link::new(spec, &frames), Releaser::new(frames.clone()));
            Self { pools, frames, link, ring, releaser, settled: [0; 2] }
        }

        /// Pushes `count` events of one slot.
        fn push(&mut self, pool: usize, count: u32) {
            let slot = self.pools[pool].acquire().unwrap();
            let mut maker = self.pools[pool].seal(slot, count, 0, Peer::NONE);
            for _ in 0..count {
                self.link.push(maker.make(0, 4, 1, Route::default()), 0, &self.frames).unwrap();
            }
            drop(maker);
            self.link.publish();
        }

        /// The worker ends `count` events.
        fn end(&mut self, count: usize) {
            assert_eq!(self.ring.available(count), count);
            (0..count).for_each(|_| self.releaser.release(self.ring.take().unwrap()));
            self.releaser.flush();
            self.ring.release();
        }

        fn refresh(&mut self, now: Nanos) {
            self.link.refresh(now, |pool, count| self.settled[usize::from(pool)] += count);
        }

        fn pins(&self) -> [u32; 2] {
            [0, 1].map(|pool| self.link.pins(pool))
        }
    }

    impl Drop for Setup {
        fn drop(&mut self) {
            while let Some(event) = self.ring.take() {
                self.releaser.release(event);
            }
        }
    }

    #[test]
    fn a_slot_is_pinned_until_its_last_event_has_ended() {
        let mut setup = Setup::new(64, 0);
        setup.push(0, 3);
        setup.push(0, 1);
        setup.push(1, 2);
        assert_eq!(setup.pins(), [2, 1]);
        for (ended, pins, settled) in
            [(2, [2, 1], [2, 0]), (1, [1, 1], [3, 0]), (2, [0, 1], [4, 1]), (1, [0, 0], [4, 2])]
        {
            setup.end(ended);
            setup.refresh(1);
            assert_eq!((setup.pins(), setup.settled), (pins, settled));
        }
    }

    #[test]
    fn a_worker_that_stands_still_settles_once_what_it_holds() {
        let mut setup = Setup::new(64, 0);
        setup.refresh(1);
        setup.push(0, 10);
        setup.push(1, 3);
        setup.end(4);
        setup.refresh(10);
        assert_eq!(setup.settled, [4, 0]);
        setup.refresh(10 + STALL_NS);
        assert!(!setup.link.is_stalled());
        setup.refresh(11 + STALL_NS);
        assert!(setup.link.is_stalled());
        assert_eq!(setup.settled, [10, 3], "what it holds is written off");
        setup.push(0, 2);
        setup.refresh(12 + STALL_NS);
        setup.refresh(13 + STALL_NS);
        assert_eq!(setup.settled, [12, 3], "also what comes later, once");
        setup.end(7);
        setup.refresh(14 + STALL_NS);
        assert!(!setup.link.is_stalled());
        setup.push(0, 5);
        setup.end(4);
        setup.refresh(15 + STALL_NS);
        assert_eq!(setup.settled, [12, 3], "what was written off does not settle again");
        setup.end(5);
        setup.refresh(16 + STALL_NS);
        assert_eq!((setup.settled, setup.pins()), ([17, 3], [0, 0]));
    }

    #[test]
    fn an_idle_worker_is_not_a_stalled_one() {
        let mut setup = Setup::new(64, 0);
        setup.refresh(1);
        setup.refresh(100 * STALL_NS);
        setup.push(0, 1);
        setup.refresh(101 * STALL_NS);
        assert!(!setup.link.is_stalled());
    }

    #[test]
    fn lossy_sources_leave_the_reserved_room_alone() {
        let mut setup = Setup::new(8, 4);
        setup.push(1, 4);
        assert_eq!([false, true].map(|reliable| setup.link.has_room(reliable)), [false, true]);
        setup.push(0, 4);
        assert!(!setup.link.has_room(true));
        setup.end(5);
        setup.refresh(1);
        assert_eq!([false, true].map(|reliable| setup.link.has_room(reliable)), [true, true]);
    }
}
