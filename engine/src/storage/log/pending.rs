//! Records that are not durable yet, one behind the other as they are to stand in a segment.
//!
//! ```text
//!   chunk                chunk                  chunk
//!   ┌──────────────────┐ ┌────────────────────┐ ┌────────────────────┐
//!   │durable│ written, not durable    │ not written         │  room  │
//!   └───────┴──────────┘ └────────────┴───────┘ └─────────────┴──────┘
//!         start                    written
//! ```
//!
//! They stay until they are durable: when a write or a sync fails they are all that is left of them. A chunk whose records are
//! durable is the next to be filled, while it is still in a cache; there are as many as have ever been needed at a time.

use std::collections::VecDeque;

use super::super::format::Prefix;
use super::index::Run;

/// Of a chunk, unless a record is larger: written in one go.
const CHUNK_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Pending {
    chunks: VecDeque<Vec<u8>>,
    /// Empty ones.
    spare: Vec<Vec<u8>>,
    /// Bytes in all chunks.
    end: usize,
    /// Counted from the beginning of the first chunk.
    start: usize,
    written: usize,
    bound: usize,
    /// What the bytes from `start` on are made of; none goes from one chunk into another.
    runs: VecDeque<Run>,
    written_runs: usize,
}

/// A part of what is written, from its beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unconfirmed {
    bytes: usize,
    runs: usize,
}

impl Pending {
    pub fn new(bound: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            spare: Vec::new(),
            end: 0,
            start: 0,
            written: 0,
            bound,
            runs: VecDeque::new(),
            written_runs: 0,
        }
    }

    /// How many bytes more may be appended.
    pub fn free(&self) -> usize {
        self.bound - self.len()
    }

    /// Appends records by `encode`, which gives their number and for the first of which there is room: it takes so many bytes.
    /// `None` when that would be more than the bound.
    pub fn append(&mut self, first: usize, time_ns: u64, encode: impl FnOnce(&mut Vec<u8>) -> u32) -> Option<Run> {
        if first > self.free() {
            return None;
        }
        let is_new = self.chunks.back().is_none_or(|chunk| chunk.capacity() - chunk.len() < first);
        if is_new {
            self.open_chunk(first);
        }
        let chunk = self.chunks.back_mut()?;
        let before = chunk.len();
        let records = encode(chunk);
        let run = Run { bytes: chunk.len() - before, records, time_ns };
        self.end += run.bytes;
        self.note(run, is_new);
        Some(run)
    }

    #[cold]
    fn open_chunk(&mut self, bytes: usize) {
        let place = self.spare.iter().rposition(|chunk| chunk.capacity() >= bytes);
        let chunk = place.map(|place| self.spare.remove(place));
        self.chunks.push_back(chunk.unwrap_or_else(|| Vec::with_capacity(bytes.max(CHUNK_BYTES))));
    }

    fn note(&mut self, run: Run, is_apart: bool) {
        let may_join = !is_apart && self.written_runs < self.runs.len();
        let joins = |last: &Run| last.time_ns == run.time_ns && last.bytes + run.bytes <= Run::BYTES_MAX;
        match self.runs.back_mut().filter(|last| may_join && joins(last)) {
            Some(last) => {
                last.bytes += run.bytes;
                last.records += run.records;
            }
            None => self.runs.push_back(run),
        }
    }

    /// What is not written, in parts that are to be written one after the other.
    pub fn unwritten(&self) -> impl Iterator<Item = &[u8]> {
        let mut begin = 0;
        self.chunks.iter().filter_map(move |chunk| {
            let written = self.written.saturating_sub(begin).min(chunk.len());
            begin += chunk.len();
            Some(&chunk[written..]).filter(|part| !part.is_empty())
        })
    }

    /// When the first of what is not written was appended.
    pub fn unwritten_time_ns(&self) -> Option<u64> {
        self.runs.get(self.written_runs).map(|run| run.time_ns)
    }

    pub fn has_unwritten(&self) -> bool {
        self.written < self.end
    }

    /// Some is written and not durable yet.
    pub fn has_unconfirmed(&self) -> bool {
        self.start < self.written
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// So many bytes, whole records of the first part that was not, are written. `each` is told what they were.
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
        let Some(mut first) = self.runs.get(self.written_runs).copied().filter(|run| run.bytes > bytes) else { return };
        let mut records = self.unwritten().next().and_then(|part| part.get(..bytes)).unwrap_or_default();
        (first.bytes, first.records) = (bytes, 0);
        while let Some(prefix) = Prefix::parse(records) {
            records = records.get(prefix.bytes..).unwrap_or_default();
            first.records += 1;
        }
        let rest = &mut self.runs[self.written_runs];
        rest.bytes -= first.bytes;
        rest.records -= first.records;
        self.runs.insert(self.written_runs, first);
    }

    /// All that is written and not durable.
    pub fn unconfirmed(&self) -> Unconfirmed {
        Unconfirmed { bytes: self.written - self.start, runs: self.written_runs }
    }

    /// The first of what is written is durable: as much as was [unconfirmed](Self::unconfirmed) at some time, and has been since.
    pub fn confirm(&mut self, confirmed: Unconfirmed) {
        self.start += confirmed.bytes;
        self.runs.drain(..confirmed.runs);
        self.written_runs -= confirmed.runs;
        while self.chunks.front().is_some_and(|chunk| chunk.len() <= self.start) {
            self.close_chunk();
        }
    }

    fn close_chunk(&mut self) {
        let Some(mut chunk) = self.chunks.pop_front() else { return };
        self.end -= chunk.len();
        self.start -= chunk.len();
        self.written -= chunk.len();
        chunk.clear();
        self.spare.push(chunk);
    }

    /// What is not durable never will be.
    pub fn discard(&mut self) {
        (self.start, self.written) = (self.end, self.end);
        self.runs.clear();
        self.written_runs = 0;
        self.confirm(Unconfirmed { bytes: 0, runs: 0 });
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
        fn keeps_what_is_not_durable_in_order(steps in prop::collection::vec((0..5u8, 1..5usize, 0..CHUNK_BYTES / 3), 0..60)) {
            const BOUND: usize = 4 * CHUNK_BYTES;
            let mut pending = Pending::new(BOUND);
            let (mut unconfirmed, mut unwritten) = (Vec::new(), Vec::<Vec<u8>>::new());
            // What is being synced, and how many records that are.
            let mut syncing = None;
            for (number, (step, count, size)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => for _ in 0..count {
                        let record = record(number as u64, size);
                        match pending.append(record.len(), number as u64 / 2, |chunk| {
                            chunk.extend(&record);
                            1
                        }) {
                            Some(_) => unwritten.push(record),
                            None => {
                                let held = runs_of(&unconfirmed).0 + runs_of(&unwritten).0;
                                prop_assert!(held + record.len() > BOUND);
                            }
                        }
                    },
                    2 => {
                        let written: Vec<_> = unwritten.drain(..count.min(unwritten.len())).collect();
                        let mut told = (0, 0);
                        let mut bytes = runs_of(&written).0;
                        while bytes > 0 {
                            let now = pending.unwritten().next().unwrap().len().min(bytes);
                            pending.wrote(now, |run| told = (told.0 + run.bytes, told.1 + run.records));
                            bytes -= now;
                        }
                        prop_assert_eq!(told, runs_of(&written));
                        unconfirmed.extend(written);
                    }
                    3 => match syncing.take() {
                        Some((begun, records)) => {
                            pending.confirm(begun);
                            unconfirmed.drain(..records);
                        }
                        None => syncing = Some((pending.unconfirmed(), unconfirmed.len())),
                    },
                    _ => {
                        syncing = None;
                        pending.rewind();
                        unwritten = [std::mem::take(&mut unconfirmed), unwritten].concat();
                    }
                }
                let expected = unwritten.concat();
                prop_assert_eq!(pending.unwritten().collect::<Vec<_>>().concat(), expected.clone());
                prop_assert_eq!(pending.len(), runs_of(&unconfirmed).0 + expected.len());
                prop_assert_eq!(pending.has_unconfirmed(), !unconfirmed.is_empty());
                let of_runs = pending.runs.iter().fold((0, 0), |sum, run| (sum.0 + run.bytes, sum.1 + run.records));
                let all = [unconfirmed.as_slice(), &unwritten].concat();
                prop_assert_eq!(of_runs, runs_of(&all));
            }
            let most = BOUND / CHUNK_BYTES + 2;
            prop_assert!(pending.chunks.len() + pending.spare.len() <= most);
        }
    }
}
