//! What debug builds find of slots that were lost, and that they find nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::memory::{Event, Frames, Releaser, Route};

fn pool(slots: usize) -> (FramePool, Frames) {
    let pool = FramePool::new(0, Region::map(slots * 64).unwrap(), &PoolSpec { slot_bytes: 64, reliable: false });
    pool.name("udp-3");
    let frames = Frames::new(&[&pool]);
    (pool, frames)
}

/// What is said about it.
fn failure(run: impl FnOnce()) -> String {
    let failure = catch_unwind(AssertUnwindSafe(run)).expect_err("a lost slot is noticed");
    failure.downcast_ref::<String>().expect("it says which").clone()
}

fn events<const N: usize>(pool: &mut FramePool) -> [Event; N] {
    let slot = pool.acquire().unwrap();
    let mut maker = pool.seal(slot, N as u32, 5, Peer::NONE);
    std::array::from_fn(|_| maker.make(0, 8, Route::default()))
}

fn assert_says(said: &str, all: &[&str]) {
    all.iter().for_each(|part| assert!(said.contains(part), "{part:?} is not in {said:?}"));
}

#[test]
fn a_dropped_token_fails_where_it_is_dropped() {
    let (mut pool, _frames) = pool(2);
    pool.gauges().judge_later();
    drop(pool.acquire());
    assert_eq!(pool.gauges().lost().len(), 1, "asked for, not failed over");

    let (mut pool, frames) = self::pool(2);
    let acquired = format!("acquired at {}:{}", file!(), line!() + 1);
    let slot = pool.acquire().unwrap();
    let said = failure(|| drop(slot));
    assert_says(&said, &["dropped", "pool udp-3, slot 0", &acquired, "neither given back nor used"]);
    let said = failure(|| {
        let slot = pool.acquire().unwrap();
        drop(pool.open(slot, 7, Peer::NONE));
    });
    assert_says(&said, &["dropped", "slot 1", "open with 0 events since 7 ns"]);
    let said = failure(|| drop((pool, frames)));
    assert_says(&said, &["lost for ever", "slot 0", "slot 1"]);
}

#[test]
fn a_dropped_event_fails_where_it_is_dropped() {
    let (mut pool, frames) = pool(1);
    let [first, second] = events(&mut pool);
    Releaser::new(frames.clone()).release(first);
    let said = failure(|| drop(second));
    assert_says(&said, &["dropped", "pool udp-3, slot 0", "sealed with 2 events since 5 ns, 1 references left"]);
    pool.gauges().judge_later();
}

/// A value that is kept for ever, or forgotten, is never dropped.
#[test]
fn a_kept_token_is_named_at_the_end() {
    let (mut pool, frames) = pool(3);
    pool.acquire().map(|slot| pool.into_kernel(slot)).unwrap();
    let _kept = pool.acquire().unwrap();
    let _kept_too = pool.from_kernel(0).unwrap();
    let said = failure(|| drop((pool, frames)));
    assert_says(&said, &["slot 0", "slot 1", "neither given back nor used"]);
    assert!(!said.contains("slot 2"), "{said}");
}

#[test]
fn a_kept_event_is_named_at_the_end() {
    let (mut pool, frames) = pool(2);
    let [_kept, ended] = events(&mut pool);
    let [ended_too] = events(&mut pool);
    let mut releaser = Releaser::new(frames.clone());
    releaser.release(ended);
    releaser.release(ended_too);
    let said = failure(|| drop((pool, frames, releaser)));
    assert_says(&said, &["slot 0", "sealed with 2 events since 5 ns, 1 references left, 1 events that stand for them"]);
    assert!(!said.contains("slot 1"), "{said}");
}

#[test]
fn a_kept_open_slot_is_named_at_the_end() {
    let (mut pool, frames) = pool(1);
    let slot = pool.acquire().unwrap();
    let mut kept = pool.open(slot, 7, Peer::NONE);
    let event = pool.seal_part(&mut kept, 8, 1).make(0, 8, Route::default());
    Releaser::new(frames.clone()).release(event);
    let said = failure(|| drop((pool, frames)));
    assert_says(&said, &["slot 0", "open with 1 events since 7 ns, 1 references left"]);
}

#[test]
fn a_reference_that_nobody_has_is_named_at_the_end() {
    let (mut pool, frames) = pool(1);
    let slot = pool.acquire().unwrap();
    let mut maker = pool.seal(slot, 2, 5, Peer::NONE);
    let event = maker.make(0, 8, Route::default());
    std::mem::forget(maker);
    Releaser::new(frames.clone()).release(event);
    assert!(pool.gauges().lost().is_empty(), "while the pool is in use its values are what is known");
    let said = failure(|| drop((pool, frames)));
    assert_says(&said, &["slot 0", "1 references left, 0 events that stand for them"]);
}

#[test]
fn a_slot_that_misses_its_way_back_is_named_at_the_end() {
    let (mut pool, frames) = pool(1);
    let [event] = events(&mut pool);
    Releaser::new(frames.clone()).release(event);
    pool.shared.returned.store(NONE, Ordering::Relaxed);
    let said = failure(|| drop((pool, frames)));
    assert_says(&said, &["slot 0", "all ended, but not on its way back"]);
}

/// Slots are free, with the kernel, and on their way back from another thread when the pool ends.
#[test]
fn nothing_is_lost_where_every_slot_is_somewhere() {
    let (mut pool, frames) = pool(8);
    let gauges = pool.gauges();
    let slots: Vec<Slot> = (0..4).map(|_| pool.acquire().unwrap()).collect();
    let in_kernel: Vec<u32> = slots.into_iter().map(|slot| pool.into_kernel(slot)).collect();
    let received = pool.from_kernel(u64::from(in_kernel[0]) * 64).unwrap();
    let mut maker = pool.seal(received, 2, 5, Peer::NONE);
    let received = [0, 8].map(|offset| maker.make(offset, 8, Route::default()));
    drop(maker);
    let slot = pool.acquire().unwrap();
    let mut open = pool.open(slot, 6, Peer::NONE);
    let streamed = pool.seal_part(&mut open, 8, 1).make(0, 8, Route::default());
    assert_eq!(gauges.lost().len(), 2, "on their way");
    let release = |events: Vec<Event>| {
        let mut releaser = Releaser::new(frames.clone());
        std::thread::spawn(move || events.into_iter().for_each(|event| releaser.release(event))).join().unwrap();
    };
    release(received.into());
    assert_eq!(pool.reclaim(), 1);
    pool.close(open);
    release(vec![streamed]);
    let slot = pool.acquire().unwrap();
    drop(pool.seal(slot, 0, 7, Peer::NONE));
    let slot = pool.acquire().unwrap();
    pool.give_back(slot);
    assert_eq!((pool.kernel(), pool.free(), gauges.lost().len()), (3, 4, 0));
    drop((pool, frames));
    assert_eq!(gauges.lost().len(), 0);
}
