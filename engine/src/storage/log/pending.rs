//! Records that are not durable yet, one behind the other as they are to stand in a segment.
//!
//! ```text
//!   0 ... start ........ written ........ length ... capacity
//!         │ written,     │ not written
//!         │ not durable  │
//! ```
//!
//! They stay until they are durable: when a write or a sync fails they are all that is left of them. Memory is taken once, twice
//! the bound, so that what is left is moved to the front at most once for every bound of bytes that has passed through.

#[derive(Debug)]
pub(super) struct Pending {
    bytes: Vec<u8>,
    start: usize,
    written: usize,
    bound: usize,
}

impl Pending {
    pub fn new(bound: usize) -> Self {
        Self { bytes: Vec::with_capacity(bound * 2), start: 0, written: 0, bound }
    }

    /// The bytes to append a record of `bytes` bytes to; `None` when that would be more than the bound.
    pub fn room(&mut self, bytes: usize) -> Option<&mut Vec<u8>> {
        if self.bytes.len() - self.start + bytes > self.bound {
            return None;
        }
        if self.bytes.len() + bytes > self.bound * 2 {
            self.bytes.copy_within(self.start.., 0);
            self.bytes.truncate(self.bytes.len() - self.start);
            self.written -= self.start;
            self.start = 0;
        }
        Some(&mut self.bytes)
    }

    pub fn unwritten(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    pub fn has_unwritten(&self) -> bool {
        self.written < self.bytes.len()
    }

    /// Some is written and not durable yet.
    pub fn has_unconfirmed(&self) -> bool {
        self.start < self.written
    }

    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
    }

    /// What is written is durable.
    pub fn confirm(&mut self) {
        self.start = self.written;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            (self.start, self.written) = (0, 0);
        }
    }

    /// What is not durable never will be.
    pub fn discard(&mut self) {
        self.bytes.clear();
        (self.start, self.written) = (0, 0);
    }

    /// What was written and is not durable has to be written again.
    pub fn rewind(&mut self) {
        self.written = self.start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against two plain vectors: written ones and those that are not.
        #[test]
        fn keeps_what_is_not_durable_in_order(steps in prop::collection::vec((0..5u8, 1..12usize), 0..200)) {
            let mut pending = Pending::new(40);
            let capacity = pending.bytes.capacity();
            let (mut unconfirmed, mut unwritten) = (Vec::new(), Vec::<u8>::new());
            for (number, (step, size)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => match pending.room(size) {
                        Some(bytes) => {
                            bytes.extend(vec![number as u8; size]);
                            unwritten.extend(vec![number as u8; size]);
                        }
                        None => prop_assert!(unconfirmed.len() + unwritten.len() + size > 40),
                    },
                    2 => {
                        let size = size.min(unwritten.len());
                        pending.wrote(size);
                        unconfirmed.extend(unwritten.drain(..size));
                    }
                    3 => {
                        pending.confirm();
                        unconfirmed.clear();
                    }
                    _ => {
                        pending.rewind();
                        unwritten = [std::mem::take(&mut unconfirmed), unwritten].concat();
                    }
                }
                prop_assert_eq!(pending.unwritten(), unwritten.as_slice());
                prop_assert_eq!(pending.len(), unconfirmed.len() + unwritten.len());
                prop_assert_eq!(pending.has_unconfirmed(), !unconfirmed.is_empty());
            }
            prop_assert_eq!(pending.bytes.capacity(), capacity);
        }
    }
}
