//! Concurrent maps put to deduplication: an id and its time inserted if absent, and removed when the window is over.
//!
//! None of them knows expiry, so each thread keeps a ring of the ids it has inserted, oldest first, and removes from its
//! head what has expired before it inserts a batch. A batch has one time, which stands once for all its ids. All hash by
//! foldhash, seeded: the default of two of them is slower. The id is two words and not a `u128`, whose alignment would
//! cost 8 bytes an entry.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use eventstream::dedup::EventId;
use foldhash::fast::RandomState;

use crate::dedup::Claims;

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key(u64, u64);

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from(self.0) << 64 | u128::from(self.1));
    }
}

impl From<EventId> for Key {
    #[inline]
    fn from(id: EventId) -> Self {
        let (high, low) = id.parts();
        Self(high, low)
    }
}

/// What a map does within one batch.
pub trait Map: Send + Sync + 'static {
    fn new(capacity: usize) -> Self;
    /// Removes what has expired, then inserts each id that is absent and shows it.
    fn step(&self, expired: impl Iterator<Item = Key>, ids: &[EventId], now_ns: u64, inserted: impl FnMut(Key));
}

impl Map for papaya::HashMap<Key, u64, RandomState> {
    fn new(capacity: usize) -> Self {
        Self::with_capacity_and_hasher(capacity, RandomState::default())
    }

    #[inline]
    fn step(&self, expired: impl Iterator<Item = Key>, ids: &[EventId], now_ns: u64, mut inserted: impl FnMut(Key)) {
        let map = self.pin();
        for key in expired {
            assert!(map.remove(&key).is_some(), "an id was forgotten");
        }
        for key in ids.iter().copied().map(Key::from) {
            if map.try_insert(key, now_ns).is_ok() {
                inserted(key);
            }
        }
    }
}

impl Map for dashmap::DashMap<Key, u64, RandomState> {
    fn new(capacity: usize) -> Self {
        Self::with_capacity_and_hasher(capacity, RandomState::default())
    }

    #[inline]
    fn step(&self, expired: impl Iterator<Item = Key>, ids: &[EventId], now_ns: u64, mut inserted: impl FnMut(Key)) {
        for key in expired {
            assert!(self.remove(&key).is_some(), "an id was forgotten");
        }
        for key in ids.iter().copied().map(Key::from) {
            if let dashmap::Entry::Vacant(vacant) = self.entry(key) {
                drop(vacant.insert(now_ns));
                inserted(key);
            }
        }
    }
}

impl Map for scc::HashMap<Key, u64, RandomState> {
    fn new(capacity: usize) -> Self {
        Self::with_capacity_and_hasher(capacity, RandomState::default())
    }

    #[inline]
    fn step(&self, expired: impl Iterator<Item = Key>, ids: &[EventId], now_ns: u64, mut inserted: impl FnMut(Key)) {
        for key in expired {
            assert!(self.remove_sync(&key).is_some(), "an id was forgotten");
        }
        for key in ids.iter().copied().map(Key::from) {
            if self.insert_sync(key, now_ns).is_ok() {
                inserted(key);
            }
        }
    }
}

/// The ids one thread has inserted, oldest first.
struct Ring {
    window_ns: u64,
    keys: VecDeque<Key>,
    /// Time of a batch, and how many ids it inserted.
    batches: VecDeque<(u64, usize)>,
}

/// One thread's end of a map.
pub struct MapClaims<M> {
    map: Arc<M>,
    ring: Option<Ring>,
}

impl<M: Map> MapClaims<M> {
    /// Ends for `threads` that remember `remembered` ids altogether, for `window_ns` or, if there is none, for ever.
    pub fn new(threads: usize, remembered: usize, window_ns: Option<u64>) -> Vec<Self> {
        let map = Arc::new(M::new(remembered));
        let keys = remembered / threads + 2 * crate::ids::BATCH;
        let ring = |window_ns| Ring {
            window_ns,
            keys: VecDeque::with_capacity(keys),
            batches: VecDeque::with_capacity(keys / (crate::ids::BATCH / 2)),
        };
        (0..threads).map(|_| Self { map: map.clone(), ring: window_ns.map(ring) }).collect()
    }
}

impl<M: Map> Claims for MapClaims<M> {
    #[inline]
    fn claim(&mut self, ids: &[EventId], now_ns: u64) -> u64 {
        let mut won = 0;
        let Some(Ring { window_ns, keys, batches }) = &mut self.ring else {
            self.map.step(std::iter::empty(), ids, now_ns, |_| won += 1);
            return won;
        };
        let mut expired = 0;
        while let Some((time_ns, count)) = batches.front()
            && time_ns + *window_ns < now_ns
        {
            expired += count;
            batches.pop_front();
        }
        // The map shows what it inserts while the expired ones are still being drawn out of the ring.
        let mut fresh = [Key(0, 0); crate::ids::BATCH];
        self.map.step(keys.drain(..expired), ids, now_ns, |key| {
            fresh[won as usize] = key;
            won += 1;
        });
        keys.extend(&fresh[..won as usize]);
        batches.push_back((now_ns, won as usize));
        won
    }
}
