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

impl Run {
    /// Takes off the events before `consumed`, and says how many.
    fn end(&mut self, consumed: u64) -> u32 {
        let start = self.end_sequence - u64::from(self.count);
        let ended = (consumed.min(self.end_sequence).saturating_sub(start)) as u32;
        self.count -= ended;
        ended
    }
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
    /// The newest run, still growing; its end is wherever the producer is. Empty when its count is zero. Kept apart, so that
    /// most events touch it alone.
    newest: Run,
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
            newest: Run { end_sequence: 0, slot: 0, pool: 0, count: 0 },
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
    pub fn pins_anew(&self, event: &Event, slot: u32) -> bool {
        self.newest.count == 0 || self.newest.slot != slot || self.newest.pool != event.pool()
    }

    /// Moves an event of `slot` onto the ring with its topic word; a full ring hands it back.
    #[inline]
    pub fn push(&mut self, event: Event, word: u32, slot: u32) -> Result<(), Event> {
        let (pool, anew) = (event.pool(), self.pins_anew(&event, slot));
        self.spec.producer.push_with(event, |event| event.set_topic(word))?;
        self.queued[usize::from(pool)] += 1;
        if anew {
            self.begin_run(pool, slot);
        } else {
            self.newest.count += 1;
        }
        Ok(())
    }

    /// The event just pushed begins a run.
    fn begin_run(&mut self, pool: u8, slot: u32) {
        let finished = std::mem::replace(&mut self.newest, Run { end_sequence: 0, slot, pool, count: 1 });
        if finished.count > 0 {
            let end_sequence = self.spec.producer.sequence() - 1;
            self.runs.push_back(Run { end_sequence, ..finished });
        }
        self.pins[usize::from(pool)] += 1;
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
            let ended = run.end(consumed);
            let (pool, over) = (run.pool, run.count == 0);
            if over {
                self.runs.pop_front();
            }
            self.strike_off(pool, ended, over, &mut settle);
            if !over {
                return;
            }
        }
        if self.newest.count > 0 {
            self.newest.end_sequence = self.spec.producer.sequence();
            let ended = self.newest.end(consumed);
            self.strike_off(self.newest.pool, ended, self.newest.count == 0, &mut settle);
        }
    }

    /// Books on events of a pool that the worker has ended, and with them their run if it is over.
    fn strike_off(&mut self, pool: u8, ended: u32, over: bool, settle: &mut impl FnMut(u8, u64)) {
        let index = usize::from(pool);
        self.queued[index] -= u64::from(ended);
        // Credits written off earlier are not given back twice.
        let already = self.written_off[index].min(u64::from(ended));
        self.written_off[index] -= already;
        settle(pool, u64::from(ended) - already);
        self.pins[index] -= u32::from(over);
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
                {
                    let event = maker.make(0, 4, 1, Route::default());
                    let slot = self.frames.slot(&event);
                    self.link.push(event, 0, slot)
                }
                .unwrap();
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
