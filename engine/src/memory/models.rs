//! Loom's exploration of the return path: references given up by several threads while the owner reclaims and reuses.
//!
//! The bytes of a frame are plain memory, which loom does not watch. In their place the models read what a slot says of
//! all its events, its arrival time: it lies in cells that loom does watch, and is written and read under the same rules.

use loom::thread;

use super::*;
use crate::queue::spsc;

const SLOT_BYTES: usize = 64;

/// Every interleaving with up to three preemptions: one more than two releases and a reuse need to meet in each order.
fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(run);
}

fn pool(slots: usize) -> (FramePool, Frames) {
    let region = Region::map(slots * SLOT_BYTES).expect("some bytes");
    let pool = FramePool::new(0, region, &PoolSpec { slot_bytes: SLOT_BYTES, reliable: false });
    let frames = Frames::new(&[&pool]);
    (pool, frames)
}

fn events<const N: usize>(pool: &mut FramePool, arrival_ns: u64) -> Option<[Event; N]> {
    let slot = pool.acquire()?;
    let mut maker = pool.seal(slot, N as u32, arrival_ns, Peer::NONE);
    Some(std::array::from_fn(|_| maker.make(0, 8, Route::default())))
}

/// Lets the others run until there is something. Loom has to be led there: it looks for orders in which an access comes
/// after another's only as far back as the last access to the same atomic, and `reclaim` begins with a look of its own.
fn waited<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    loop {
        match attempt() {
            Some(found) => return found,
            None => thread::yield_now(),
        }
    }
}

/// Reads the event, as its last act gives it up.
fn end(frames: &Frames, event: Event, arrival_ns: u64) {
    assert_eq!(frames.arrival_ns(&event), arrival_ns);
    assert_eq!(frames.peer(&event), Peer::NONE.socket_address());
    Releaser::new(frames.clone()).release(event);
}

/// Two threads end the two events of the only slot; the owner writes to it again as soon as it is back.
#[test]
fn a_slot_is_reused_after_its_last_reader() {
    model(|| {
        let (mut pool, frames) = pool(1);
        let readers = events::<2>(&mut pool, 5).expect("free").map(|event| {
            let frames = frames.clone();
            thread::spawn(move || end(&frames, event, 5))
        });
        let [again] = waited(|| events(&mut pool, 6));
        end(&frames, again, 6);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert_eq!((pool.reclaim(), pool.free()), (1, 1));
    });
}

/// Two slots are pushed onto the return stack while the owner takes it: each comes back once.
#[test]
fn slots_returned_at_once_come_back_once_each() {
    model(|| {
        let (mut pool, frames) = pool(2);
        let releasers = [5, 6].map(|arrival| {
            let [event] = events(&mut pool, arrival).expect("free");
            let frames = frames.clone();
            thread::spawn(move || end(&frames, event, arrival))
        });
        let [again] = waited(|| events(&mut pool, 7));
        end(&frames, again, 7);
        releasers.into_iter().for_each(|releaser| releaser.join().unwrap());
        pool.reclaim();
        assert_eq!(pool.free(), 2);
        let slots = [pool.acquire().unwrap(), pool.acquire().unwrap()];
        assert_ne!(slots[0].index(), slots[1].index());
        slots.into_iter().for_each(|slot| pool.give_back(slot));
    });
}

/// The owner adds events to an open slot while earlier ones of it end, and closes it: whoever is last returns it.
#[test]
fn an_open_slot_comes_back_after_owner_and_readers() {
    model(|| {
        let (mut pool, frames) = pool(1);
        let slot = pool.acquire().expect("free");
        let mut open = pool.open(slot, 5, Peer::NONE);
        let first = pool.seal_part(&mut open, 8, 1).make(0, 8, Route::default());
        let reader = {
            let frames = frames.clone();
            thread::spawn(move || end(&frames, first, 5))
        };
        let second = pool.seal_part(&mut open, 8, 1).make(8, 8, Route::default());
        end(&frames, second, 5);
        assert!(pool.acquire().is_none(), "the owner has a reference of its own");
        pool.close(open);
        if let Some([event]) = events(&mut pool, 6) {
            end(&frames, event, 6);
        }
        reader.join().unwrap();
        pool.reclaim();
        assert_eq!(pool.free(), 1);
    });
}

/// The whole way round: what the owner writes without ordering is published by the queue, and comes back by the stack.
#[test]
fn a_queue_carries_events_out_and_the_stack_their_slot_back() {
    model(|| {
        let (mut pool, frames) = pool(1);
        let (mut producer, mut consumer) = spsc::ring::<Event>(1);
        let reader = {
            let frames = frames.clone();
            thread::spawn(move || {
                let mut expected = 5;
                for _ in 0..2 {
                    if let Some(event) = consumer.take() {
                        consumer.release();
                        end(&frames, event, expected);
                        expected += 1;
                    }
                }
                consumer
            })
        };
        let mut sent = 0;
        for _ in 0..2 {
            if let Some([event]) = events(&mut pool, 5 + sent) {
                producer.push(event).expect("what was in the ring has been taken: its slot is here");
                producer.publish();
                sent += 1;
            }
        }
        let mut consumer = reader.join().unwrap();
        while let Some(event) = consumer.take() {
            Releaser::new(frames.clone()).release(event);
        }
        pool.reclaim();
        assert_eq!(pool.free(), 1);
    });
}
