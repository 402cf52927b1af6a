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

use std::collections::VecDeque;

use super::super::format::Prefix;
use super::index::Run;

#[derive(Debug)]
pub(super) struct Pending {
    bytes: Vec<u8>,
    start: usize,
    written: usize,
    bound: usize,
    /// What the bytes from `start` on are made of.
    runs: VecDeque<Run>,
    written_runs: usize,
}

impl Pending {
    pub fn new(bound: usize) -> Self {
        let runs = VecDeque::new();
        Self { bytes: Vec::with_capacity(bound * 2), start: 0, written: 0, bound, runs, written_runs: 0 }
    }

    /// How many bytes more may be appended.
    pub fn free(&self) -> usize {
        self.bound - self.len()
    }

    /// The bytes to append records of `bytes` bytes to, each to be [noted](Self::note); `None` when that would be more than the bound.
    pub fn room(&mut self, bytes: usize) -> Option<&mut Vec<u8>> {
        if bytes > self.free() {
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

    /// What has been appended.
    pub fn note(&mut self, run: Run) {
        let is_unwritten = self.written_runs < self.runs.len();
        let joins = |last: &Run| last.time_ns == run.time_ns && last.bytes + run.bytes <= Run::BYTES_MAX;
        match self.runs.back_mut().filter(|last| is_unwritten && joins(last)) {
            Some(last) => {
                last.bytes += run.bytes;
                last.records += run.records;
            }
            None => self.runs.push_back(run),
        }
    }

    pub fn unwritten(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// When the first of what is not written was appended.
    pub fn unwritten_time_ns(&self) -> Option<u64> {
        self.runs.get(self.written_runs).map(|run| run.time_ns)
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

    /// So many bytes, whole records, are written. `each` is told what they were.
    pub fn wrote(&mut self, mut bytes: usize, mut each: impl FnMut(&Run)) {
        while bytes > 0 {
            self.split_next_run(bytes);
            let Some(run) = self.runs.get(self.written_runs) else { return };
            each(run);
            self.written += run.bytes;
            self.written_runs += 1;
            bytes = bytes.saturating_sub(run.bytes);
        }
    }

    /// Sees to it that the next run to be written has no more bytes than these, which end with a record.
    fn split_next_run(&mut self, bytes: usize) {
        let Some(run) = self.runs.get_mut(self.written_runs).filter(|run| run.bytes > bytes) else { return };
        let (mut first, mut at) = (Run { bytes, records: 0, ..*run }, self.written);
        while at < self.written + bytes {
            let Some(prefix) = Prefix::parse(&self.bytes[at..]) else { break };
            at += prefix.bytes;
            first.records += 1;
        }
        run.bytes -= bytes;
        run.records -= first.records;
        self.runs.insert(self.written_runs, first);
    }

    /// What is written is durable.
    pub fn confirm(&mut self) {
        self.start = self.written;
        self.runs.drain(..std::mem::take(&mut self.written_runs));
        if self.start == self.bytes.len() {
            self.bytes.clear();
            (self.start, self.written) = (0, 0);
        }
    }

    /// What is not durable never will be.
    pub fn discard(&mut self) {
        self.bytes.clear();
        self.runs.clear();
        (self.start, self.written, self.written_runs) = (0, 0, 0);
    }

    /// What was written and is not durable has to be written again.
    pub fn rewind(&mut self) {
        (self.written, self.written_runs) = (self.start, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::format::{self, Record};
    use super::super::super::scratch::frame;
    use super::*;
    use crate::frame::Class;
    use proptest::prelude::*;

    /// A record that takes so many bytes.
    fn record(number: u64, size: usize) -> Vec<u8> {
        let (frame, mut bytes) = (frame("t", &vec![0; size]), Vec::new());
        format::encode(&mut bytes, &Record::event(number, Class::Batch, &frame), number, 1, 0);
        bytes
    }

    fn runs_of(records: &[Vec<u8>]) -> (usize, u32) {
        (records.iter().map(Vec::len).sum(), records.len() as u32)
    }

    proptest! {
        /// Against two plain vectors: written ones and those that are not.
        #[test]
        fn keeps_what_is_not_durable_in_order(steps in prop::collection::vec((0..5u8, 1..5usize, 0..100usize), 0..200)) {
            const BOUND: usize = 1000;
            let mut pending = Pending::new(BOUND);
            let capacity = pending.bytes.capacity();
            let (mut unconfirmed, mut unwritten) = (Vec::new(), Vec::<Vec<u8>>::new());
            for (number, (step, count, size)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => for _ in 0..count {
                        let record = record(number as u64, size);
                        match pending.room(record.len()) {
                            Some(bytes) => {
                                bytes.extend(&record);
                                pending.note(Run { bytes: record.len(), records: 1, time_ns: number as u64 / 2 });
                                unwritten.push(record);
                            }
                            None => {
                                let held = runs_of(&unconfirmed).0 + runs_of(&unwritten).0;
                                prop_assert!(held + record.len() > BOUND);
                            }
                        }
                    },
                    2 => {
                        let written: Vec<_> = unwritten.drain(..count.min(unwritten.len())).collect();
                        let mut told = (0, 0);
                        pending.wrote(runs_of(&written).0, |run| told = (told.0 + run.bytes, told.1 + run.records));
                        prop_assert_eq!(told, runs_of(&written));
                        unconfirmed.extend(written);
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
                let expected = unwritten.concat();
                prop_assert_eq!(pending.unwritten(), expected.as_slice());
                prop_assert_eq!(pending.len(), runs_of(&unconfirmed).0 + expected.len());
                prop_assert_eq!(pending.has_unconfirmed(), !unconfirmed.is_empty());
                let of_runs = pending.runs.iter().fold((0, 0), |sum, run| (sum.0 + run.bytes, sum.1 + run.records));
                let all = [unconfirmed.as_slice(), &unwritten].concat();
                prop_assert_eq!(of_runs, runs_of(&all));
            }
            prop_assert_eq!(pending.bytes.capacity(), capacity);
        }
    }
}
