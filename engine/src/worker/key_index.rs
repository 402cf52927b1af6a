//! Finds the one thing that a topic has here: numbers below a capacity, by key.
//!
//! Chained hashing over arrays that are there from the start. Keys are topic numbers: dense where topics are configured, bits
//! of a seeded hash where not, so that their low bits spread well as they are.

/// No number.
pub(super) const NONE: u32 = u32::MAX;

/// Each number has one key at most, and each key one number.
pub(super) struct KeyIndex {
    /// The first number of each bucket.
    buckets: Box<[u32]>,
    /// By number: the next of its bucket, and its key.
    chained: Box<[(u32, u32)]>,
    len: usize,
}

impl KeyIndex {
    /// For numbers below `capacity`.
    pub(super) fn new(capacity: usize) -> Self {
        let buckets = vec![NONE; capacity.next_power_of_two()].into();
        Self { buckets, chained: vec![(NONE, 0); capacity].into(), len: 0 }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn bucket(&self, key: u32) -> usize {
        key as usize & (self.buckets.len() - 1)
    }

    pub(super) fn find(&self, key: u32) -> Option<u32> {
        let mut number = self.buckets[self.bucket(key)];
        while number != NONE {
            let (next, its_key) = self.chained[number as usize];
            if its_key == key {
                return Some(number);
            }
            number = next;
        }
        None
    }

    /// A key that is there already must be [removed](Self::remove) before.
    pub(super) fn insert(&mut self, key: u32, number: u32) {
        debug_assert!(self.find(key).is_none(), "two of key {key}");
        let first = self.bucket(key);
        self.chained[number as usize] = (std::mem::replace(&mut self.buckets[first], number), key);
        self.len += 1;
    }

    /// Takes a number out that is there.
    pub(super) fn remove(&mut self, number: u32) {
        let (next, key) = self.chained[number as usize];
        let first = self.bucket(key);
        let mut at = self.buckets[first];
        if at == number {
            self.buckets[first] = next;
        } else {
            while self.chained[at as usize].0 != number {
                at = self.chained[at as usize].0;
            }
            self.chained[at as usize].0 = next;
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::collections::hash_map::Entry;

    use super::*;

    proptest::proptest! {
        #[test]
        fn finds_what_a_map_finds(steps in proptest::collection::vec((0_u32..40, 0_u32..16), 0..200)) {
            let mut index = KeyIndex::new(16);
            let mut model: HashMap<u32, u32> = HashMap::new();
            for (key, number) in steps {
                if model.values().any(|used| *used == number) {
                    index.remove(number);
                    model.retain(|_, used| *used != number);
                } else if let Entry::Vacant(free) = model.entry(key) {
                    index.insert(key, number);
                    free.insert(number);
                }
                for key in 0..40 {
                    proptest::prop_assert_eq!(index.find(key), model.get(&key).copied());
                }
                proptest::prop_assert_eq!(index.is_empty(), model.is_empty());
            }
        }
    }
}
