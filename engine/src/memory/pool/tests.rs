use proptest::prelude::*;

use super::*;
use crate::memory::{Frames, Releaser, Route};

fn pool(slots: usize) -> FramePool {
    let spec = PoolSpec { slot_bytes: 256, reliable: false };
    FramePool::new(0, Region::map(slots * 256).unwrap(), &spec)
}

#[test]
fn a_slot_comes_back_with_its_last_event() {
    let mut pool = pool(2);
    let frames = Frames::new(&[&pool]);
    let mut slot = pool.acquire().unwrap();
    pool.bytes_mut(&mut slot)[..8].copy_from_slice(b"abcdefgh");
    let mut maker = pool.seal(slot, 2, 5, Peer::NONE);
    let first = maker.make(0, 4, Route::default());
    let second = maker.make(4, 4, Route::default());
    drop(maker);
    assert_eq!((frames.bytes(&first), frames.bytes(&second)), (&b"abcd"[..], &b"efgh"[..]));
    assert_eq!(frames.arrival_ns(&second), 5);
    let held = pool.acquire().unwrap();
    assert!(pool.acquire().is_none());
    let mut releaser = Releaser::new(frames.clone());
    releaser.release(first);
    releaser.flush();
    assert!(pool.acquire().is_none());
    releaser.release(second);
    releaser.flush();
    pool.give_back(held);
    assert_eq!(pool.reclaim(), 1);
    assert_eq!(pool.free(), 2);
    pool.publish_gauges();
    assert_eq!(pool.gauges().in_flight.load(Ordering::Relaxed), 0);
}

#[test]
fn the_kernel_is_believed_only_what_it_was_given() {
    let mut pool = pool(2);
    let slot = pool.acquire().unwrap();
    let index = pool.into_kernel(slot);
    assert!(pool.from_kernel(u64::MAX).is_none());
    assert!(pool.from_kernel(u64::from(1 - index) * 256).is_none());
    let slot = pool.from_kernel(u64::from(index) * 256 + 77).unwrap();
    assert!(pool.from_kernel(u64::from(index) * 256).is_none(), "told twice");
    pool.give_back(slot);
}

#[test]
fn an_open_slot_stays_until_closed() {
    let mut pool = pool(1);
    let frames = Frames::new(&[&pool]);
    let slot = pool.acquire().unwrap();
    let mut open = pool.open(slot, 3, Peer::NONE);
    pool.spare_mut(&mut open)[..4].copy_from_slice(b"wxyz");
    let event = pool.seal_part(&mut open, 4, 1).make(0, 4, Route::default());
    pool.spare_mut(&mut open)[0] = b'!';
    assert_eq!(frames.bytes(&event), b"wxyz");
    let mut releaser = Releaser::new(frames.clone());
    releaser.release(event);
    releaser.flush();
    assert_eq!(pool.reclaim(), 0);
    pool.close(open);
    assert_eq!(pool.reclaim(), 1);
}

/// Where a slot is, as far as the owner can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Pool,
    Kernel,
    Held,
    /// With so many events not ended.
    Events(u32),
}

proptest! {
    /// Slots go from place to place as the calls say, and the three levels add up to the slots.
    #[test]
    fn agrees_with_an_oracle(steps in prop::collection::vec((0u8..7, 0usize..8, 1u32..4), 0..300)) {
        const SLOTS: usize = 4;
        let mut pool = pool(SLOTS);
        let gauges = pool.gauges();
        gauges.judge_later(); // a step that fails leaves slots out, and is what to hear of
        let frames = Frames::new(&[&pool]);
        let mut releaser = Releaser::new(frames.clone());
        let mut places = [Place::Pool; SLOTS];
        let (mut held, mut events) = (Vec::new(), Vec::new());
        for (step, which, count) in steps {
            match step {
                0 | 1 => match pool.acquire() {
                    Some(slot) => {
                        prop_assert_eq!(places[slot.index() as usize], Place::Pool);
                        places[slot.index() as usize] = Place::Held;
                        held.push(slot);
                    }
                    None => prop_assert!(!places.contains(&Place::Pool)),
                },
                2 if !held.is_empty() => {
                    let slot = held.swap_remove(which % held.len());
                    places[slot.index() as usize] = Place::Pool;
                    pool.give_back(slot);
                }
                3 if !held.is_empty() => {
                    let slot = held.swap_remove(which % held.len());
                    places[slot.index() as usize] = Place::Kernel;
                    pool.into_kernel(slot);
                }
                4 => {
                    let index = which % SLOTS;
                    let back = pool.from_kernel(index as u64 * 256 + u64::from(count));
                    prop_assert_eq!(back.is_some(), places[index] == Place::Kernel);
                    if let Some(slot) = back {
                        places[index] = Place::Held;
                        held.push(slot);
                    }
                }
                5 if !held.is_empty() => {
                    let slot = held.swap_remove(which % held.len());
                    places[slot.index() as usize] = Place::Events(count);
                    let mut maker = pool.seal(slot, count, 0, Peer::NONE);
                    events.extend((0..count).map(|_| maker.make(0, 8, Route::default())));
                }
                6 if !events.is_empty() => {
                    let event = events.swap_remove(which % events.len());
                    let place = &mut places[frames.slot(&event).key() as usize / 256];
                    let Place::Events(left) = *place else { panic!("an event of a slot in {place:?}") };
                    *place = if left == 1 { Place::Pool } else { Place::Events(left - 1) };
                    releaser.release(event);
                    releaser.flush();
                }
                _ => {
                    pool.reclaim();
                    let free = places.iter().filter(|place| **place == Place::Pool).count();
                    prop_assert_eq!(pool.free(), free);
                }
            }
            pool.publish_gauges();
            let kernel = places.iter().filter(|place| **place == Place::Kernel).count();
            prop_assert_eq!(pool.kernel(), kernel);
        }
        events.into_iter().for_each(|event| releaser.release(event));
        held.into_iter().for_each(|slot| pool.give_back(slot));
        drop((releaser, frames, pool));
        prop_assert!(gauges.lost().is_empty(), "{:?}", gauges.lost());
    }
}
