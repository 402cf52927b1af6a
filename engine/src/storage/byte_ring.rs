//! A bounded first-in first-out store of byte records that forgets its oldest to make room.

use std::collections::VecDeque;

use crate::memory::Slab;

/// Records packed in one allocation made at start.
pub struct ByteRing {
    bytes: Slab<u8>,
    /// Start and length of each record, oldest first. Positions count without wrapping.
    records: VecDeque<(u64, u32)>,
    end: u64,
}

impl ByteRing {
    /// `capacity` bytes for records, and room for `records` of them.
    pub fn new(capacity: usize, records: usize) -> Self {
        Self { bytes: Slab::from_fn(capacity, |_| 0), records: VecDeque::with_capacity(records), end: 0 }
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Stores a record made of `parts`; returns how many older ones it cost, or `None` when it can never fit.
    pub fn push(&mut self, parts: &[&[u8]]) -> Option<usize> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let capacity = self.bytes.len() as u64;
        if length as u64 > capacity || self.records.capacity() == 0 {
            return None;
        }
        let mut evicted = 0;
        while let Some((start, _)) = self.records.front() {
            if self.end + length as u64 - start <= capacity && self.records.len() < self.records.capacity() {
                break;
            }
            self.records.pop_front();
            evicted += 1;
        }
        self.records.push_back((self.end, length as u32));
        for part in parts {
            self.write(part);
        }
        Some(evicted)
    }

    fn write(&mut self, part: &[u8]) {
        let at = (self.end % self.bytes.len() as u64) as usize;
        let first = part.len().min(self.bytes.len() - at);
        self.bytes[at..at + first].copy_from_slice(&part[..first]);
        self.bytes[..part.len() - first].copy_from_slice(&part[first..]);
        self.end += part.len() as u64;
    }

    /// The `index`-th oldest record as two pieces, the second empty unless it wraps.
    pub fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let (start, length) = *self.records.get(index)?;
        let at = (start % self.bytes.len() as u64) as usize;
        let first = (length as usize).min(self.bytes.len() - at);
        Some((&self.bytes[at..at + first], &self.bytes[..length as usize - first]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn keeps_the_newest_that_fit(records in proptest::collection::vec(proptest::collection::vec(0u8.., 0..40), 0..60)) {
            let mut ring = ByteRing::new(64, 5);
            let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
            for record in records {
                let evicted = ring.push(&[&record[..record.len() / 2], &record[record.len() / 2..]]).unwrap();
                kept.drain(..evicted);
                kept.push_back(record);
                proptest::prop_assert_eq!(ring.len(), kept.len());
                for (index, expected) in kept.iter().enumerate() {
                    let (head, tail) = ring.get(index).unwrap();
                    proptest::prop_assert_eq!(&[head, tail].concat(), expected);
                }
            }
        }
    }

    #[test]
    fn a_record_larger_than_the_ring_is_refused() {
        assert_eq!(ByteRing::new(8, 4).push(&[&[0; 9]]), None);
    }
}
