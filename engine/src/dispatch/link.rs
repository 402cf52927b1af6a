//! The dispatcher's end of a worker's ring, with the books on what the worker holds through it.
//!
//! The worker gives a ring position back only when it is done with the event, so the ring's consumer index says exactly
//! which frames the worker still pins. The link notes each run of events of one slot as it pushes them and strikes
//! runs off as the index passes them: frames pinned and credits out are known without a shared counter.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::frame::{Class, Priority};
use crate::memory::{Event, EventSlot, Frames};
use crate::queue::spsc;
use crate::runtime::clock::Nanos;
use crate::runtime::waker::Waker;

/// Events pushed one behind the other that lie in one slot: sequences `start..end` of the ring.
#[derive(Clone, Copy)]
struct Run {
    start: u64,
    end: u64,
    pool: u8,
}

impl Run {
    /// Takes off the events before `consumed`, and says how many.
    fn strike_off(&mut self, consumed: u64) -> u64 {
        let start = consumed.clamp(self.start, self.end);
        start - std::mem::replace(&mut self.start, start)
    }

    const fn is_over(&self) -> bool {
        self.start == self.end
    }
}

/// How much of a ring an event may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Of a source that loses what finds no room.
    Lossy,
    /// The same, and critical.
    Critical,
    /// Of a source that waits.
    Reliable,
}

impl Standing {
    #[inline]
    pub fn of(slot: &EventSlot, event: &Event) -> Self {
        if slot.is_reliable() {
            Self::Reliable
        } else if event.shape().priority() == Priority::Critical {
            Self::Critical
        } else {
            Self::Lossy
        }
    }
}

/// No slot's.
const NO_KEY: u64 = u64::MAX;

/// What a link is made of.
pub struct LinkSpec {
    pub producer: spsc::Producer<Event>,
    pub class: Class,
    /// Ring positions that only sources which can be made to wait may use.
    pub reserved: u64,
    /// Of the others, those that only critical events may use.
    pub reserved_critical: u64,
    /// Without progress for so long the worker counts as stalled.
    pub stall_ns: Nanos,
    /// Wakes the worker's runner; `None` when it is the dispatcher's own.
    pub waker: Option<Waker>,
    /// Set while the worker waits for the log, which is no fault of its; `None` if it has none.
    pub waits: Option<Arc<AtomicBool>>,
}

/// One link.
pub struct Link {
    spec: LinkSpec,
    /// How many events there may be on the ring when one of such a [`Standing`] comes.
    limits: [u64; 3],
    /// The slot of the newest run, which ends wherever the producer is: the one thing that most events ask for.
    newest_key: u64,
    newest_start: u64,
    /// The runs before it.
    runs: VecDeque<Run>,
    /// Slots pinned, by pool.
    pins: Box<[u32]>,
    /// Events of each pool in the runs before the newest.
    queued: Box<[u64]>,
    /// Credits of events on the ring that were written off when the worker stalled.
    written_off: Box<[u64]>,
    last_consumed: u64,
    last_progress_ns: Nanos,
    stalled: bool,
}

impl Link {
    pub fn new(spec: LinkSpec, frames: &Frames) -> Self {
        let pools = frames.pool_count();
        let capacity = spec.producer.capacity();
        Self {
            limits: [capacity - spec.reserved - spec.reserved_critical, capacity - spec.reserved, capacity],
            newest_key: NO_KEY,
            newest_start: 0,
            runs: VecDeque::with_capacity(capacity as usize),
            pins: vec![0; pools].into(),
            queued: vec![0; pools].into(),
            written_off: vec![0; pools].into(),
            last_consumed: 0,
            last_progress_ns: 0,
            stalled: false,
            spec,
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

    /// Events of a pool on the ring that hold a credit.
    pub fn held(&self, pool: u8) -> u64 {
        let newest = self.newest().filter(|run| run.pool == pool).map_or(0, |run| run.end - run.start);
        self.queued[usize::from(pool)] + newest - self.written_off[usize::from(pool)]
    }

    /// Whether the next event of such a source fits, as far as is known without a [`refresh`](Self::refresh).
    #[inline]
    pub fn has_room(&self, standing: Standing) -> bool {
        self.spec.producer.occupied() < self.limits[standing as usize]
    }

    /// Whether an event of this slot would pin it anew: the link does not hold it by its newest run.
    #[inline]
    pub fn pins_anew(&self, slot: &EventSlot) -> bool {
        self.newest_key != slot.key()
    }

    /// Moves an event onto the ring with its topic word. False, and the event is not asked for, when there is no
    /// [room](Self::has_room) for one of such a source. An event that [pins anew](Self::pins_anew) needs
    /// [`begin_run`](Self::begin_run) before.
    #[inline(always)]
    pub fn push(&mut self, standing: Standing, event: impl FnOnce() -> Event, word: u32) -> bool {
        let limit = self.limits[standing as usize];
        self.spec.producer.push_below(limit, event, |event| event.set_topic(word))
    }

    /// The next event pushed begins a run of this slot.
    pub fn begin_run(&mut self, slot: &EventSlot) {
        let sequence = self.spec.producer.sequence();
        if let Some(finished) = self.newest() {
            self.queued[usize::from(finished.pool)] += finished.end - finished.start;
            self.runs.push_back(finished);
        }
        (self.newest_key, self.newest_start) = (slot.key(), sequence);
        self.pins[usize::from(slot.pool())] += 1;
    }

    fn newest(&self) -> Option<Run> {
        let end = self.spec.producer.sequence();
        let run = Run { start: self.newest_start, end, pool: (self.newest_key >> 32) as u8 };
        (self.newest_key != NO_KEY).then_some(run)
    }

    /// Sequence of the next event: for barriers.
    pub fn sequence(&self) -> u64 {
        self.spec.producer.sequence()
    }

    pub fn consumed(&self) -> u64 {
        self.last_consumed
    }

    /// Makes what was pushed visible, wakes the worker, and says how many events those were.
    #[inline]
    pub fn publish(&mut self) -> u64 {
        let count = self.spec.producer.publish();
        if count > 0
            && let Some(waker) = &self.spec.waker
        {
            waker.wake();
        }
        count
    }

    /// Reads how far the worker is and strikes off what it has ended. `settle` is told pool and number of events that hold
    /// no credit any more.
    #[inline]
    pub fn refresh(&mut self, now: Nanos, settle: impl FnMut(u8, u64)) {
        let consumed = self.spec.producer.refresh();
        if consumed != self.last_consumed {
            self.last_consumed = consumed;
            self.last_progress_ns = now;
            self.stalled = false;
            self.settle(consumed, settle);
        } else if self.spec.producer.occupied() == 0 || self.waits() {
            self.last_progress_ns = now;
        } else if now.saturating_sub(self.last_progress_ns) > self.spec.stall_ns {
            self.stall(settle);
        }
    }

    fn waits(&self) -> bool {
        self.spec.waits.as_ref().is_some_and(|waits| waits.load(Ordering::Relaxed))
    }

    /// Strikes off the events before `consumed`, and with them the runs that are over.
    fn settle(&mut self, consumed: u64, mut settle: impl FnMut(u8, u64)) {
        while let Some(run) = self.runs.front_mut() {
            let ended = run.strike_off(consumed);
            let Run { pool, .. } = *run;
            self.queued[usize::from(pool)] -= ended;
            if !run.is_over() {
                return settle(pool, self.pay(pool, ended));
            }
            self.runs.pop_front();
            self.pins[usize::from(pool)] -= 1;
            settle(pool, self.pay(pool, ended));
        }
        // Begins anew at its start, so that it stays in the cache instead of going round in all of its room.
        self.runs.clear();
        let Some(mut newest) = self.newest() else { return };
        let ended = newest.strike_off(consumed);
        self.newest_start = newest.start;
        if newest.is_over() {
            self.newest_key = NO_KEY;
            self.pins[usize::from(newest.pool)] -= 1;
        }
        settle(newest.pool, self.pay(newest.pool, ended));
    }

    /// Of so many events that have ended, how many still held a credit: those written off earlier are not given back twice.
    fn pay(&mut self, pool: u8, ended: u64) -> u64 {
        let written_off = &mut self.written_off[usize::from(pool)];
        let already = ended.min(*written_off);
        *written_off -= already;
        ended - already
    }

    /// The worker has stopped: what it holds must not keep senders waiting that have events for others.
    #[cold]
    fn stall(&mut self, mut settle: impl FnMut(u8, u64)) {
        self.stalled = true;
        let newest = self.newest().map(|run| (usize::from(run.pool), run.end - run.start));
        for (pool, written_off) in self.written_off.iter_mut().enumerate() {
            let open = newest.filter(|(newest, _)| *newest == pool).map_or(0, |(_, count)| count);
            let queued = self.queued[pool] + open;
            settle(pool as u8, queued - std::mem::replace(written_off, queued));
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
            let (class, reserved_critical) = (Class::Batch, reserved / 4);
            let spec =
                LinkSpec { producer, class, reserved, reserved_critical, stall_ns: STALL_NS, waker: None, waits: None };
            let (link, releaser) = (Link::new(spec, &frames), Releaser::new(frames.clone()));
            Self { pools, frames, link, ring, releaser, settled: [0; 2] }
        }

        /// Pushes `count` events of one slot.
        fn push(&mut self, pool: usize, count: u32) {
            let slot = self.pools[pool].acquire().unwrap();
            let mut maker = self.pools[pool].seal(slot, count, 0, Peer::NONE);
            for _ in 0..count {
                let event = maker.make(0, 4, Route::default());
                let slot = self.frames.slot(&event);
                if self.link.pins_anew(&slot) {
                    self.link.begin_run(&slot);
                }
                assert!(self.link.push(Standing::of(&slot, &event), || event, 0));
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
    fn each_standing_has_its_room() {
        let mut setup = Setup::new(8, 4);
        let room = |setup: &Setup| {
            [Standing::Lossy, Standing::Critical, Standing::Reliable].map(|standing| setup.link.has_room(standing))
        };
        setup.push(1, 3);
        assert_eq!(room(&setup), [false, true, true]);
        setup.push(0, 1);
        assert_eq!(room(&setup), [false, false, true]);
        setup.push(0, 4);
        assert_eq!(room(&setup), [false, false, false]);
        setup.end(6);
        setup.refresh(1);
        assert_eq!(room(&setup), [true, true, true]);
    }
}
