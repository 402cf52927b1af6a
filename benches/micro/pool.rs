//! Slots of a frame pool against the heap's blocks and pools made of crossbeam's queues.
//!
//! An operation is a slot's whole way: acquired, sealed with one event, the event released, the slot taken in again.
//! Most slots carry many events, so this is the dearest use of a pool. Nobody touches the memory itself, which would
//! cost every contestant the same. What was acquired is told from what was released by a running sum of addresses.
//! Across threads everything is handed over through the same ring, ours.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crossbeam::queue::{ArrayQueue, SegQueue};
use crossbeam::utils::{Backoff, CachePadded};
use eventstream::memory::{Event, FramePool, Frames, Peer, PoolSpec, Region, Releaser, Route};
use eventstream::queue::spsc;

use crate::case::{Case, Made, Round, Run, Scale};
use crate::machine;
use crate::transfer::wait_until;

/// Packets the engine takes from an AF_XDP ring at once.
const BATCH: usize = 32;
/// A region's size by default, for AF_XDP.
const REGION_BYTES: usize = 8 << 20;
const NAMES: &[&str] = &["ours", "malloc", "ArrayQueue of boxes", "SegQueue of boxes"];

/// The end that takes slots out.
trait Acquire: Send {
    type Item: Send;
    fn acquire(&mut self, sum: &mut Sum) -> Option<Self::Item>;
}

/// The end that gives them back.
trait Release: Send {
    type Item: Send;
    fn release(&mut self, item: Self::Item, sum: &mut Sum);
    fn flush(&mut self) {}
}

/// Depends on every number and on their order.
#[derive(Default, PartialEq, Debug)]
struct Sum(u64);

impl Sum {
    #[inline(always)]
    fn add(&mut self, number: u64) {
        self.0 = self.0.rotate_left(1) ^ number;
    }
}

struct Ours(FramePool);

impl Acquire for Ours {
    type Item = Event;

    #[inline]
    fn acquire(&mut self, sum: &mut Sum) -> Option<Event> {
        let slot = self.0.acquire()?;
        sum.add(self.0.position(&slot) as u64);
        Some(self.0.seal(slot, 1, 1, Peer::NONE).make(0, 64, Route::default()))
    }
}

struct OursReleased(Frames, Releaser);

impl Release for OursReleased {
    type Item = Event;

    #[inline]
    fn release(&mut self, event: Event, sum: &mut Sum) {
        sum.add(self.0.slot(&event).key());
        self.1.release(event);
    }

    #[inline]
    fn flush(&mut self) {
        self.1.flush();
    }
}

fn ours(slot_bytes: usize) -> (Ours, OursReleased) {
    let region = Region::map(slots(slot_bytes) * slot_bytes).expect("memory for a pool");
    let pool = FramePool::new(0, region, &PoolSpec { slot_bytes, reliable: false });
    let frames = Frames::new(&[&pool]);
    (Ours(pool), OursReleased(frames.clone(), Releaser::new(frames)))
}

/// As large as an event's descriptor, so that the ring moves as many bytes for everyone.
struct Block {
    address: usize,
    _rest: [u64; 2],
}

struct Malloc(usize);

impl Acquire for Malloc {
    type Item = Block;

    #[inline]
    fn acquire(&mut self, sum: &mut Sum) -> Option<Block> {
        // SAFETY: any size may be asked for; null is an answer, dealt with below.
        let pointer = black_box(unsafe { libc::malloc(self.0) });
        sum.add(pointer.addr() as u64);
        (!pointer.is_null()).then(|| Block { address: pointer.expose_provenance(), _rest: [0; 2] })
    }
}

struct Free;

impl Release for Free {
    type Item = Block;

    #[inline]
    fn release(&mut self, block: Block, sum: &mut Sum) {
        sum.add(block.address as u64);
        // SAFETY: the address came from `malloc`, and its block is moved in here: it is freed once.
        unsafe { libc::free(std::ptr::with_exposed_provenance_mut(block.address)) };
    }
}

type Boxed = Box<[u8]>;

/// Free blocks wait in a queue.
trait FreeList: Send + Sync {
    fn take(&self) -> Option<Boxed>;
    fn put(&self, block: Boxed);
}

impl FreeList for ArrayQueue<Boxed> {
    #[inline]
    fn take(&self) -> Option<Boxed> {
        self.pop()
    }

    #[inline]
    fn put(&self, block: Boxed) {
        assert!(self.push(block).is_ok(), "more blocks than there are");
    }
}

impl FreeList for SegQueue<Boxed> {
    #[inline]
    fn take(&self) -> Option<Boxed> {
        self.pop()
    }

    #[inline]
    fn put(&self, block: Boxed) {
        self.push(block);
    }
}

struct Listed<L>(Arc<L>);

impl<L: FreeList> Acquire for Listed<L> {
    type Item = Boxed;

    #[inline]
    fn acquire(&mut self, sum: &mut Sum) -> Option<Boxed> {
        let block = self.0.take()?;
        sum.add(block.as_ptr().addr() as u64);
        Some(block)
    }
}

impl<L: FreeList> Release for Listed<L> {
    type Item = Boxed;

    #[inline]
    fn release(&mut self, block: Boxed, sum: &mut Sum) {
        sum.add(block.as_ptr().addr() as u64);
        self.0.put(block);
    }
}

fn listed<L: FreeList>(list: L, slot_bytes: usize) -> (Listed<L>, Listed<L>) {
    (0..slots(slot_bytes)).for_each(|_| list.put(vec![0; slot_bytes].into()));
    let list = Arc::new(list);
    (Listed(list.clone()), Listed(list))
}

/// As the engine's defaults: 4096 slots of 2 KiB, 256 of 64 KiB.
fn slots(slot_bytes: usize) -> usize {
    (REGION_BYTES / slot_bytes).max(256)
}

fn on_one_thread<A, R>((mut acquirer, mut releaser): (A, R), count: u64, at_once: usize) -> Run
where
    A: Acquire + 'static,
    R: Release<Item = A::Item> + 'static,
{
    let mut held = Vec::with_capacity(at_once);
    Box::new(move || {
        machine::pin_consumer();
        let (mut acquired, mut released) = (Sum::default(), Sum::default());
        let started = Instant::now();
        for _ in 0..count / at_once as u64 {
            held.extend((0..at_once).map_while(|_| acquirer.acquire(&mut acquired)));
            assert!(held.len() == at_once, "blocks have got lost");
            held.drain(..).for_each(|item| releaser.release(item, &mut released));
            releaser.flush();
        }
        let time = started.elapsed();
        assert_eq!(acquired, released);
        Round { operations: count, time }
    })
}

fn across_threads<A, R>((acquirer, releaser): (A, R), slots: usize, count: u64) -> Run
where
    A: Acquire + 'static,
    R: Release<Item = A::Item> + 'static,
{
    // Half of the slots can be on their way, so that nobody runs out of them.
    let (producer, consumer) = spsc::ring::<A::Item>(slots / 2);
    // What a thread writes shares no cache line with what the other does, as in `transfer`.
    let (mut acquirer, mut releaser) = (CachePadded::new((acquirer, producer)), CachePadded::new((releaser, consumer)));
    Box::new(move || {
        let ready = AtomicUsize::new(0);
        machine::pin_consumer();
        thread::scope(|scope| {
            let (acquirer, producer) = &mut *acquirer;
            let (releaser, consumer) = &mut *releaser;
            let ready = &ready;
            let other = scope.spawn(move || {
                machine::pin_producer(0);
                ready.store(1, Ordering::Relaxed);
                wait_until(|| ready.load(Ordering::Relaxed) == 2);
                acquire_and_send(acquirer, producer, count)
            });
            wait_until(|| ready.load(Ordering::Relaxed) == 1);
            let started = Instant::now();
            ready.store(2, Ordering::Relaxed);
            let released = receive_and_release(releaser, consumer, count);
            let time = started.elapsed();
            assert_eq!(other.join().expect("it has not panicked"), released);
            Round { operations: count, time }
        })
    })
}

#[inline(never)]
fn acquire_and_send<A: Acquire>(acquirer: &mut A, producer: &mut spsc::Producer<A::Item>, count: u64) -> Sum {
    let mut acquired = Sum::default();
    let backoff = Backoff::new();
    for sent in 0..count {
        let mut item = loop {
            match acquirer.acquire(&mut acquired) {
                Some(item) => break item,
                None => {
                    producer.publish();
                    backoff.snooze();
                }
            }
        };
        while let Err(refused) = producer.push(item) {
            producer.publish();
            backoff.snooze();
            item = refused;
        }
        backoff.reset();
        if sent % BATCH as u64 == BATCH as u64 - 1 {
            producer.publish();
        }
    }
    producer.publish();
    acquired
}

#[inline(never)]
fn receive_and_release<R: Release>(releaser: &mut R, consumer: &mut spsc::Consumer<R::Item>, count: u64) -> Sum {
    let mut released = Sum::default();
    let backoff = Backoff::new();
    let mut received = 0;
    while received < count {
        let ready = consumer.available(BATCH);
        if ready == 0 {
            backoff.snooze();
            continue;
        }
        backoff.reset();
        for item in (0..ready).map_while(|_| consumer.take()) {
            releaser.release(item, &mut released);
        }
        releaser.flush();
        consumer.release();
        received += ready as u64;
    }
    released
}

pub fn cases(scale: Scale) -> Vec<Case> {
    let count = scale.pick(800_000, 200_000, 20_000);
    let one = move |slot_bytes, at_once| move || single_thread(slot_bytes, count, at_once);
    let two = move |slot_bytes| move || two_threads(slot_bytes, count);
    vec![
        Case::new("pool_1t_2048", NAMES, one(2048, 1)),
        Case::new("pool_1t_2048_batch32", NAMES, one(2048, BATCH)),
        Case::new("pool_1t_65536", NAMES, one(65_536, 1)),
        Case::new("pool_1t_65536_batch32", NAMES, one(65_536, BATCH)),
        Case::new("pool_2t_2048_batch32", NAMES, two(2048)),
        Case::new("pool_2t_65536_batch32", NAMES, two(65_536)),
    ]
}

fn single_thread(slot_bytes: usize, count: u64, at_once: usize) -> Vec<Made> {
    let array = ArrayQueue::new(slots(slot_bytes));
    vec![
        on_one_thread(ours(slot_bytes), count, at_once).into(),
        on_one_thread((Malloc(slot_bytes), Free), count, at_once).into(),
        on_one_thread(listed(array, slot_bytes), count, at_once).into(),
        on_one_thread(listed(SegQueue::new(), slot_bytes), count, at_once).into(),
    ]
}

fn two_threads(slot_bytes: usize, count: u64) -> Vec<Made> {
    let slots = slots(slot_bytes);
    vec![
        across_threads(ours(slot_bytes), slots, count).into(),
        across_threads((Malloc(slot_bytes), Free), slots, count).into(),
        across_threads(listed(ArrayQueue::new(slots), slot_bytes), slots, count).into(),
        across_threads(listed(SegQueue::new(), slot_bytes), slots, count).into(),
    ]
}
