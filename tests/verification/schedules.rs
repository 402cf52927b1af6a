//! Larger scenarios than loom can go through, under random schedules.
//!
//! Shuttle runs one thread at a time and changes threads at atomic operations only, all of them as if they were
//! sequentially consistent: what it finds are wrong orders of steps, not wrong memory orderings. A run that fails prints
//! its seed; `SCHEDULE_SEED=n` repeats it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use eventstream_verification::dedup::{Claim, ClaimToken, Claimer, DedupConfig, DedupTable, EventId};
use eventstream_verification::memory::{Event, FramePool, Frames, Peer, PoolSpec, Region, Releaser, Route};
use eventstream_verification::queue::{mpsc, spsc};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread;

/// Schedules of each kind a scenario is run under.
const SCHEDULES: usize = 5_000;
/// Preemptions in an unlikely place that the second kind of schedule looks for.
const DEPTH: usize = 4;

fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    use std::hash::BuildHasher;
    let seed = match std::env::var("SCHEDULE_SEED") {
        Ok(text) => text.parse().expect("SCHEDULE_SEED is a number"),
        Err(_) => std::hash::RandomState::new().hash_one(0),
    };
    println!("repeat with SCHEDULE_SEED={seed}");
    let mut config = shuttle::Config::new();
    // Every load and store is taken as sequentially consistent, and loom is there for the difference.
    config.silence_warnings = true;
    let scenario = Arc::new(scenario);
    let again = scenario.clone();
    shuttle::Runner::new(RandomScheduler::new_from_seed(seed, SCHEDULES), config.clone()).run(move || scenario());
    shuttle::Runner::new(PctScheduler::new_from_seed(seed, DEPTH, SCHEDULES), config).run(move || again());
}

#[test]
fn three_producers_and_a_consumer_through_every_wrap() {
    const CLAIMS: u32 = 8;
    explore(|| {
        let (producers, mut consumer) = mpsc::queue::<(u32, u32, u32)>(4, 3);
        let depth = consumer.depth();
        let writers: Vec<_> = (0..3u32)
            .zip(producers)
            .map(|(writer, mut producer)| {
                thread::spawn(move || {
                    for claim in 0..CLAIMS {
                        let count = 1 + (claim + writer) % 3;
                        let mut cells = loop {
                            match producer.claim(count as usize) {
                                Some(cells) => break cells,
                                None => thread::yield_now(),
                            }
                        };
                        (0..count).for_each(|index| cells.write((writer, claim, index)));
                    }
                })
            })
            .collect();
        let (mut next_claim, mut inside) = ([0; 3], None);
        while next_claim != [CLAIMS; 3] {
            assert!(depth.len() <= depth.capacity());
            let taken = consumer.take_each(3, |value| {
                let (writer, claim, index) = value.take();
                // A claim's values come side by side, and each producer's claims in order.
                assert_eq!(inside.unwrap_or((writer, next_claim[writer as usize], 0)), (writer, claim, index));
                let last = index == (claim + writer) % 3;
                next_claim[writer as usize] += u32::from(last);
                inside = (!last).then_some((writer, claim, index + 1));
            });
            consumer.release();
            if taken == 0 {
                thread::yield_now();
            }
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert!(depth.is_empty());
    });
}

fn pool(slots: usize) -> (FramePool, Frames) {
    let spec = PoolSpec { slot_bytes: 64, reliable: false };
    let pool = FramePool::new(0, Region::map(slots * 64).expect("some bytes"), &spec);
    let frames = Frames::new(&[&pool]);
    (pool, frames)
}

/// Events of each slot go to three threads; the owner writes the next round's number into whatever slot is back.
#[test]
fn three_releasers_return_slots_to_an_owner_that_reuses_them() {
    const ROUNDS: u8 = 10;
    explore(|| {
        let (mut pool, frames) = pool(2);
        let (mut rings, releasers): (Vec<_>, Vec<_>) = (0..3)
            .map(|_| {
                let (producer, mut consumer) = spsc::ring::<Event>(2);
                let frames = frames.clone();
                let thread = thread::spawn(move || {
                    let mut releaser = Releaser::new(frames.clone());
                    let mut ended = 0;
                    while ended < ROUNDS {
                        match consumer.take() {
                            Some(event) => {
                                assert_eq!(frames.bytes(&event), [ended; 8]);
                                assert_eq!(frames.arrival_ns(&event), u64::from(ended));
                                releaser.release(event);
                                ended += 1;
                            }
                            None => {
                                consumer.release();
                                releaser.flush();
                                thread::yield_now();
                            }
                        }
                    }
                });
                (producer, thread)
            })
            .unzip();
        for round in 0..ROUNDS {
            let mut slot = loop {
                match pool.acquire() {
                    Some(slot) => break slot,
                    None => thread::yield_now(),
                }
            };
            pool.bytes_mut(&mut slot)[..8].fill(round);
            let mut maker = pool.seal(slot, 3, round.into(), Peer::NONE);
            for ring in &mut rings {
                let mut event = maker.make(0, 8, Route::default());
                while let Err(refused) = ring.push(event) {
                    event = refused;
                    thread::yield_now();
                }
                ring.publish();
            }
        }
        releasers.into_iter().for_each(|releaser| releaser.join().unwrap());
        pool.reclaim();
        assert_eq!(pool.free(), 2);
    });
}

const TICK: u64 = 1024;
const WINDOW: u64 = 8 * TICK;

fn table(cells_each: usize, claimers: usize) -> (Arc<DedupTable>, Vec<Claimer>) {
    let config = DedupConfig { capacity: cells_each * claimers, window_ns: WINDOW, claimers };
    DedupTable::new(config).expect("valid sizes")
}

/// Cells are reused all the time, claims are settled in every way, also by another thread, and ids expire under it:
/// a remembered id has one holder, and the visitor sees only ids that there are.
#[test]
fn three_claimers_with_expiry_and_a_visitor() {
    const IDS: u64 = 5;
    explore(|| {
        let (table, claimers) = table(3, 3);
        let held = Arc::new(Mutex::new(HashMap::<u64, ClaimToken>::new()));
        let threads: Vec<_> = claimers
            .into_iter()
            .zip(0u64..)
            .map(|(mut claimer, thread)| {
                let held = held.clone();
                thread::spawn(move || {
                    for step in 0..12 {
                        let (n, now) = ((step * 3 + thread) % IDS, step * TICK);
                        if let Claim::Won(token) = claimer.claim(EventId::from_parts(1, n), now)
                            && token.is_remembered()
                        {
                            assert!(held.lock().unwrap().insert(n, token).is_none(), "two holders of {n}");
                        }
                        if step % 2 == thread % 2 {
                            let oldest = held.lock().unwrap().keys().min().copied();
                            let settled = oldest.and_then(|n| held.lock().unwrap().remove(&n));
                            match settled {
                                None => {}
                                Some(token) if step % 3 == 0 => claimer.release(token),
                                Some(token) if step % 3 == 1 => claimer.dead_letter(token),
                                Some(token) => claimer.finish(token),
                            }
                        }
                        claimer.housekeep(now);
                    }
                })
            })
            .collect();
        let mut now = 0;
        while now < 12 * TICK {
            table.visit(now, |id, _, _| assert!(id.parts().0 == 1 && id.parts().1 < IDS, "{id:?}"));
            let retaken = table.retake_dead_lettered(EventId::from_parts(1, now / TICK % IDS), now);
            if let Some(token) = retaken {
                table.release(token);
            }
            now += 3 * TICK;
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// Everything at once: two sources with pools of their own, one queue, one dispatcher, two workers that claim the same
/// ids. Every event ends once, each id is handled once, and every slot is back.
#[test]
fn events_of_two_sources_end_once_each() {
    const EVENTS: u32 = 12;
    explore(|| {
        let spec = PoolSpec { slot_bytes: 64, reliable: false };
        let pools = [0, 1].map(|index| FramePool::new(index, Region::map(128).expect("some bytes"), &spec));
        let frames = Frames::new(&[&pools[0], &pools[1]]);
        let (mut producers, mut arrivals) = mpsc::queue::<Event>(4, 2);
        let sources = pools.map(|mut pool| {
            let mut producer = producers.remove(0);
            thread::spawn(move || {
                for n in (0..EVENTS).step_by(2) {
                    let slot = loop {
                        match pool.acquire() {
                            Some(slot) => break slot,
                            None => thread::yield_now(),
                        }
                    };
                    let mut claim = loop {
                        match producer.claim(2) {
                            Some(claim) => break claim,
                            None => thread::yield_now(),
                        }
                    };
                    let mut maker = pool.seal(slot, 2, 0, Peer::NONE);
                    // Both sources send the same numbers, in the field for the topic.
                    (n..n + 2).for_each(|topic| claim.write(maker.make(0, 8, Route { topic, ..Route::default() })));
                }
                pool
            })
        });
        let (table, claimers) = table(64, 2);
        let (mut links, workers): (Vec<_>, Vec<_>) = claimers
            .into_iter()
            .map(|mut claimer| {
                let (link, mut events) = spsc::ring::<Event>(2);
                let mut releaser = Releaser::new(frames.clone());
                let worker = thread::spawn(move || {
                    let mut handled = Vec::new();
                    for _ in 0..EVENTS {
                        let event = loop {
                            match events.take() {
                                Some(event) => break event,
                                None => {
                                    events.release();
                                    releaser.flush();
                                    thread::yield_now();
                                }
                            }
                        };
                        if let Claim::Won(token) = claimer.claim(EventId::from_parts(2, event.topic().into()), 0) {
                            handled.push(event.topic());
                            claimer.finish(token);
                        }
                        releaser.release(event);
                    }
                    handled
                });
                (link, worker)
            })
            .unzip();
        for n in 0..2 * EVENTS {
            let mut event = loop {
                match arrivals.take() {
                    Some(event) => break event,
                    None => thread::yield_now(),
                }
            };
            arrivals.release();
            let link = &mut links[n as usize % 2];
            while let Err(refused) = link.push(event) {
                event = refused;
                thread::yield_now();
            }
            link.publish();
        }
        let mut handled: Vec<u32> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        handled.sort_unstable();
        assert_eq!(handled, (0..EVENTS).collect::<Vec<_>>());
        for mut pool in sources.map(|source| source.join().unwrap()) {
            pool.reclaim();
            assert_eq!(pool.free(), 2);
        }
        drop(table);
    });
}
