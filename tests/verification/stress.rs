//! Real threads on real atomics, with a checksum for everything that crosses: what a model leaves out for its size.
//!
//! `cargo xtask test` runs them as they are, and again under ThreadSanitizer and AddressSanitizer. The standard library
//! is not instrumented there, so ThreadSanitizer does not see what its own synchronisation orders, with the exception of
//! starting and joining a thread. Hence two rules: every thread is joined by the one that started it, and that one keeps a
//! handle of each shared structure until then, so that no `Arc` goes with its last owner inside a thread.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use eventstream_verification::dedup::{Claim, ClaimToken, DedupConfig, DedupTable, EventId};
use eventstream_verification::memory::{Event, FramePool, Frames, Peer, PoolSpec, Region, Releaser, Route};
use eventstream_verification::queue::{mpsc, spsc};
use eventstream_verification::runtime::waker::Waker;

struct Threads<R>(Vec<JoinHandle<R>>);

impl<R: Send + 'static> Threads<R> {
    fn start(&mut self, run: impl FnOnce() -> R + Send + 'static) {
        self.0.push(std::thread::spawn(move || {
            let result = std::panic::catch_unwind(AssertUnwindSafe(run));
            result.unwrap_or_else(|panic| {
                FAILED.store(true, Ordering::Relaxed);
                std::panic::resume_unwind(panic)
            })
        }));
    }

    fn join(self) -> Vec<R> {
        self.0.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    }
}

/// A thread that has failed would leave the others waiting for it for ever.
static FAILED: AtomicBool = AtomicBool::new(false);

/// Lets others run.
fn pause() {
    assert!(!FAILED.load(Ordering::Relaxed), "another thread has failed");
    std::thread::yield_now();
}

/// Reproducible numbers without a pattern (the output of splitmix64).
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

/// A value that shows when it is not whole.
#[derive(Debug, PartialEq, Eq)]
struct Sealed([u64; 3]);

impl Sealed {
    fn new(n: u64) -> Self {
        Self([n, mixed(n), n ^ mixed(n)])
    }
}

fn waited<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    loop {
        match attempt() {
            Some(value) => return value,
            None => pause(),
        }
    }
}

#[test]
fn a_ring_keeps_order_and_content() {
    const COUNT: u64 = 1_000_000;
    let (mut producer, mut consumer) = spsc::ring::<Sealed>(512);
    let depth = producer.depth();
    let mut threads = Threads(Vec::new());
    threads.start(move || {
        let mut next = 0;
        while next < COUNT {
            let end = COUNT.min(next + 1 + mixed(next) % 90);
            while next < end && producer.push(Sealed::new(next)).is_ok() {
                next += 1;
            }
            if producer.publish() == 0 {
                pause();
            }
        }
    });
    threads.start(move || {
        let mut next = 0;
        while next < COUNT {
            let available = consumer.available(1 + mixed(next) as usize % 90);
            if available == 0 {
                pause();
                continue;
            }
            assert!(consumer.peek(0..available).zip(next..).all(|(value, n)| *value == Sealed::new(n)));
            for _ in 0..available {
                assert_eq!(consumer.take(), Some(Sealed::new(next)));
                next += 1;
            }
            consumer.release();
        }
    });
    threads.join();
    assert!(depth.is_empty());
}

#[test]
fn a_queue_keeps_each_producers_order_and_all_contents() {
    const COUNT: u64 = 500_000;
    const PRODUCERS: u64 = 3;
    let (producers, mut consumer) = mpsc::queue::<(u64, Sealed)>(256, PRODUCERS as usize);
    let depth = consumer.depth();
    let mut threads = Threads(Vec::new());
    for (number, mut producer) in (0..PRODUCERS).zip(producers) {
        threads.start(move || {
            let (mut next, mut sum) = (0, 0u64);
            while next < COUNT {
                let count = (1 + mixed(next ^ (number << 32)) % 9).min(COUNT - next);
                let Some(claim) = producer.claim(count as usize) else {
                    pause();
                    continue;
                };
                claim.fill_with(|index| {
                    let value = Sealed::new(number << 32 | (next + index as u64));
                    sum = sum.wrapping_add(value.0[1]);
                    (number, value)
                });
                next += count;
            }
            sum
        });
    }
    threads.start(move || {
        let (mut next, mut sum) = ([0; PRODUCERS as usize], 0u64);
        while next.iter().sum::<u64>() < PRODUCERS * COUNT {
            let taken = consumer.take_each(64, |value| {
                let (number, value) = value.take();
                let next = &mut next[number as usize];
                assert_eq!(value, Sealed::new(number << 32 | *next));
                *next += 1;
                sum = sum.wrapping_add(value.0[1]);
            });
            consumer.release();
            if taken == 0 {
                pause();
            }
        }
        sum
    });
    let sums = threads.join();
    assert_eq!(sums[..PRODUCERS as usize].iter().copied().fold(0, u64::wrapping_add), sums[PRODUCERS as usize]);
    assert!(depth.is_empty());
}

/// The owner fills slots with a pattern that each event's checksum is of; workers compare and give them back.
#[test]
fn frames_hold_their_bytes_until_the_last_event_has_ended() {
    const SLOTS: usize = 16;
    const WORKERS: usize = 3;
    const ROUNDS: u64 = 50_000;
    const EVENT_BYTES: usize = 80;
    let spec = PoolSpec { slot_bytes: 256, reliable: false };
    let mut pool = FramePool::new(0, Region::map(SLOTS * 256).expect("some bytes"), &spec);
    let frames = Frames::new(&[&pool]);
    let sum = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    let mut threads = Threads(Vec::new());
    let mut links = Vec::new();
    for _ in 0..WORKERS {
        // Longer than the pool has slots: what holds the owner back is the pool, and no release of the ring.
        let (link, mut events) = spsc::ring::<Event>(64);
        links.push(link);
        let frames = frames.clone();
        threads.start(move || {
            let mut releaser = Releaser::new(frames.clone());
            for round in 0..ROUNDS {
                let event = waited(|| {
                    let event = events.take();
                    if event.is_none() {
                        events.release();
                        releaser.flush();
                    }
                    event
                });
                assert_eq!(frames.arrival_ns(&event), round);
                assert_eq!(sum(frames.bytes(&event)), event.topic(), "round {round}");
                releaser.release(event);
            }
            None
        });
    }
    let depths: Vec<_> = links.iter().map(spsc::Producer::depth).collect();
    threads.start(move || {
        for round in 0..ROUNDS {
            let mut slot = waited(|| pool.acquire());
            let bytes = pool.bytes_mut(&mut slot);
            for (place, chunk) in bytes.chunks_exact_mut(8).enumerate() {
                chunk.copy_from_slice(&mixed(round << 8 | place as u64).to_le_bytes());
            }
            let topics: [u32; WORKERS] = std::array::from_fn(|i| sum(&bytes[i * EVENT_BYTES..][..EVENT_BYTES]));
            let mut maker = pool.seal(slot, WORKERS as u32, round, Peer::NONE);
            for (index, (link, topic)) in links.iter_mut().zip(topics).enumerate() {
                let route = Route { topic, ..Route::default() };
                let mut event = Some(maker.make((index * EVENT_BYTES) as u32, EVENT_BYTES as u32, route));
                waited(|| match link.push(event.take()?) {
                    Ok(()) => Some(()),
                    Err(refused) => {
                        event = Some(refused);
                        None
                    }
                });
                link.publish();
            }
        }
        Some(pool)
    });
    let mut pool = threads.join().pop().flatten().expect("the owner's");
    pool.reclaim();
    assert_eq!(pool.free(), SLOTS);
    assert!(depths.iter().all(spsc::Depth::is_empty));
}

const TICK: u64 = 1024;
const WINDOW: u64 = 100 * TICK;

fn id(n: u64) -> EventId {
    EventId::from_parts(n >> 32, n)
}

/// Threads claim the same ids in the same order, so that nearly every claim is a race, in a table that fills on the
/// way.
#[test]
fn racing_claimers_have_one_winner_for_each_id() {
    const THREADS: usize = 4;
    const IDS: u64 = 200_000;
    let config = DedupConfig { capacity: THREADS * IDS as usize, window_ns: WINDOW, claimers: THREADS };
    let (table, claimers) = DedupTable::new(config).expect("valid sizes");
    let winners: Arc<Vec<AtomicU64>> = Arc::new((0..IDS).map(|_| AtomicU64::new(0)).collect());
    let mut threads = Threads(Vec::new());
    for (thread, mut claimer) in claimers.into_iter().enumerate() {
        let winners = Arc::clone(&winners);
        threads.start(move || {
            let mut claims: [Option<Claim>; 8] = Default::default();
            for first in (0..IDS).step_by(8) {
                let ids: [EventId; 8] = std::array::from_fn(|i| id(first + i as u64));
                if thread % 2 == 0 {
                    claimer.claim_each((0..).zip(ids), 1, |index, claim| claims[index as usize] = Some(claim));
                } else {
                    claims = ids.map(|id| Some(claimer.claim(id, 1)));
                }
                for (n, claim) in (first..).zip(&mut claims) {
                    if let Some(Claim::Won(token)) = claim.take() {
                        winners[n as usize].fetch_add(1, Ordering::Relaxed);
                        claimer.finish(token);
                    }
                }
            }
        });
    }
    threads.join();
    assert!(winners.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    assert_eq!(table.stats().evicted_early, 0);
}

/// Few ids, a tiny table, laps without end, releases and expiry: an id never has two holders at once. A fourth thread
/// looks at everything meanwhile, and takes dead letters up again.
#[test]
fn a_pending_id_has_one_holder_under_constant_reuse() {
    const THREADS: usize = 3;
    const ROUNDS: u64 = 500_000;
    const IDS: u64 = 64;
    let config = DedupConfig { capacity: THREADS * 12, window_ns: WINDOW, claimers: THREADS };
    let (table, claimers) = DedupTable::new(config).expect("valid sizes");
    let holders: Arc<Vec<AtomicU64>> = Arc::new((0..IDS).map(|_| AtomicU64::new(0)).collect());
    let (clock, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut threads = Threads(Vec::new());
    for (thread, mut claimer) in claimers.into_iter().enumerate() {
        let (holders, clock, over) = (Arc::clone(&holders), Arc::clone(&clock), Arc::clone(&over));
        threads.start(move || {
            let mut held = VecDeque::<(u64, ClaimToken)>::new();
            for round in 0..ROUNDS {
                let random = mixed(round << 2 | thread as u64);
                let n = random % IDS;
                let now = clock.fetch_add(TICK / 4, Ordering::Relaxed);
                if let Claim::Won(token) = claimer.claim(id(n), now)
                    && token.is_remembered()
                {
                    assert_eq!(holders[n as usize].fetch_add(1, Ordering::Relaxed), 0, "two holders of {n}");
                    held.push_back((n, token));
                }
                if held.len() > (random >> 50) as usize % 4 {
                    let (n, token) = held.pop_front().expect("longer than zero");
                    holders[n as usize].fetch_sub(1, Ordering::Relaxed);
                    match random >> 55 & 3 {
                        0 => claimer.release(token),
                        1 => claimer.dead_letter(token),
                        _ => claimer.finish(token),
                    }
                }
            }
            over.fetch_add(1, Ordering::Relaxed);
        });
    }
    {
        let (table, clock, over) = (Arc::clone(&table), Arc::clone(&clock), Arc::clone(&over));
        threads.start(move || {
            let mut looks = 0;
            while over.load(Ordering::Relaxed) < THREADS as u64 {
                let now = clock.load(Ordering::Relaxed);
                table.visit(now, |seen, _, _| assert!(seen.parts().1 < IDS && seen.parts().0 == 0, "{seen:?}"));
                if let Some(token) = table.retake_dead_lettered(id(looks % IDS), now) {
                    table.finish(token);
                }
                looks += 1;
                pause();
            }
        });
    }
    threads.join();
}

/// Producers publish and wake; the runner blocks whenever it finds nothing. The time-out only turns a publication that was
/// slept through into a failure instead of a test without end.
#[test]
fn a_blocking_runner_gets_everything() {
    const COUNT: u64 = 100_000;
    const PRODUCERS: u64 = 2;
    let waker = Waker::new().expect("an eventfd");
    let (producers, mut consumer) = mpsc::queue::<u64>(64, PRODUCERS as usize);
    let (depth, slept_through) = (consumer.depth(), Arc::new(AtomicBool::new(false)));
    let mut threads = Threads(Vec::new());
    for (number, mut producer) in (0..PRODUCERS).zip(producers) {
        let (waker, slept_through) = (waker.clone(), Arc::clone(&slept_through));
        threads.start(move || {
            let mut next = 0;
            while next < COUNT && !slept_through.load(Ordering::Relaxed) {
                match producer.claim(1) {
                    Some(mut claim) => {
                        claim.write(mixed(next ^ number << 32));
                        next += 1;
                    }
                    None => pause(),
                }
                waker.wake();
            }
        });
    }
    let (blocking, flag) = (waker.clone(), Arc::clone(&slept_through));
    threads.start(move || {
        let (mut count, mut sum) = (0, 0u64);
        let expected = (0..PRODUCERS).flat_map(|number| (0..COUNT).map(move |n| mixed(n ^ number << 32)));
        let expected = expected.fold(0, u64::wrapping_add);
        let mut take = || {
            let taken = consumer.take_each(64, |value| sum = sum.wrapping_add(*value));
            consumer.release();
            taken as u64
        };
        while count < PRODUCERS * COUNT {
            let mut taken = take();
            if taken == 0 {
                blocking.park();
                taken = take();
                if taken == 0 {
                    let descriptor = blocking.descriptor();
                    let mut set = [rustix::event::PollFd::new(&descriptor, rustix::event::PollFlags::IN)];
                    let minute = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
                    if rustix::event::poll(&mut set, Some(&minute)) == Ok(0) {
                        flag.store(true, Ordering::Relaxed);
                        panic!("slept through a publication after {count}");
                    }
                }
                blocking.unpark();
            }
            count += taken;
        }
        assert_eq!(sum, expected);
    });
    threads.join();
    assert!(depth.is_empty());
}
