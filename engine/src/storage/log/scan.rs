//! Going through a segment record by record, and across what is damaged.
//!
//! A record counts only if its length is one that records have, its epoch is the segment's, its offset can follow on what was
//! before, and its checksum is right. Where none stands, the next is looked for at every multiple of 8 behind: a damaged
//! length hides where the next record begins, and nothing else of it. However much is damaged, and whatever is in it, that
//! takes time in proportion to its bytes: see [`sums`](super::sums).

use std::io;

use super::super::disk::DiskFile;
use super::super::format::{HEAD_BYTES, PREFIX_BYTES, Prefix, RECORD_ALIGN, RECORD_BYTES_MIN, RecordView, checksum};
use super::sums::Sums;

/// Read in one go: what a disk gives at nearly its full speed.
const READ_BYTES: usize = 256 << 10;

/// A part of a file in memory.
#[derive(Debug, Default)]
pub(in crate::storage) struct Window {
    buffer: Vec<u8>,
    start: u64,
    filled: usize,
    sums: Sums,
}

impl Window {
    /// Forgets what it holds: it is of another file.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.sums.clear();
    }

    /// `bytes` bytes at `position`, which end at `end` or before; fewer where the file ends.
    pub fn get(&mut self, file: &dyn DiskFile, position: u64, bytes: usize, end: u64) -> io::Result<&[u8]> {
        let has = position >= self.start && position + bytes as u64 <= self.start + self.filled as u64;
        if !has {
            let room = usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX);
            let wanted = bytes.max(READ_BYTES).min(room);
            self.buffer.resize(wanted.max(self.buffer.len()), 0);
            self.filled = 0;
            self.filled = file.pread(&mut self.buffer[..wanted], position)?;
            self.start = position;
        }
        let from = (position - self.start) as usize;
        Ok(&self.buffer[from..(from + bytes).min(self.filled)])
    }

    /// What is there already, after [`get`](Self::get).
    pub fn peek(&self, position: u64, bytes: usize) -> &[u8] {
        let from = (position - self.start) as usize;
        &self.buffer[from..from + bytes]
    }
}

/// A segment as it is gone through.
pub(in crate::storage) struct Scan<'f> {
    pub file: &'f dyn DiskFile,
    pub salt: u32,
    /// `None`: unknown, because the header is damaged; the first record tells.
    pub epoch: Option<u32>,
    /// Where the segment, or what may be read of it, ends.
    pub end: u64,
    /// Offsets from here on are another segment's.
    pub limit_offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) enum Step {
    /// A record of so many bytes, in the window. Its offset may be above the one expected.
    Record { bytes: usize, offset: u64 },
    /// So many bytes that are no record, and behind them one with this offset.
    Damage { bytes: u64, next_offset: u64 },
    /// No record from here to the end. `written` bytes of it are not zeros, up to the last that is not.
    Tail { written: u64 },
    /// The end, or the first record of another segment's.
    End,
}

impl Scan<'_> {
    /// What stands at `position`, where the record with `offset` is expected.
    pub fn step(&mut self, window: &mut Window, position: u64, offset: u64) -> io::Result<Step> {
        if position >= self.end || offset >= self.limit_offset {
            return Ok(Step::End);
        }
        if let Some((bytes, found)) = self.record_at(window, position, offset, offset)? {
            return Ok(if found >= self.limit_offset { Step::End } else { Step::Record { bytes, offset: found } });
        }
        self.search(window, position, offset)
    }

    /// A record at `position` that may have an offset in `lowest..=highest`.
    fn record_at(
        &mut self,
        window: &mut Window,
        position: u64,
        lowest: u64,
        highest: u64,
    ) -> io::Result<Option<(usize, u64)>> {
        let Some(prefix) = self.plausible_at(window, position, lowest, highest)? else { return Ok(None) };
        // A damaged length may make it seem long: that must not cost as much each time.
        if prefix.bytes > READ_BYTES && !self.has_its_checksum(window, position, &prefix)? {
            return Ok(None);
        }
        let bytes = window.get(self.file, position, prefix.bytes, self.end)?;
        if RecordView::decode(bytes, self.salt).is_none() {
            return Ok(None);
        }
        self.epoch = Some(prefix.epoch);
        Ok(Some((prefix.bytes, prefix.offset)))
    }

    /// What stands before a record, if one that may be there could begin with it.
    fn plausible_at(
        &self,
        window: &mut Window,
        position: u64,
        lowest: u64,
        highest: u64,
    ) -> io::Result<Option<Prefix>> {
        let left = self.end - position;
        if left < RECORD_BYTES_MIN as u64 {
            return Ok(None);
        }
        let prefix = Prefix::parse(window.get(self.file, position, Prefix::BYTES, self.end)?);
        Ok(prefix.filter(|prefix| {
            prefix.bytes as u64 <= left
                && self.epoch.is_none_or(|epoch| epoch == prefix.epoch)
                && (lowest..=highest).contains(&prefix.offset)
        }))
    }

    fn search(&mut self, window: &mut Window, position: u64, offset: u64) -> io::Result<Step> {
        let mut last_written = position;
        let mut at = position;
        while at < self.end {
            let word_bytes = (self.end - at).min(RECORD_ALIGN as u64) as usize;
            let word = window.get(self.file, at, word_bytes, self.end)?;
            if word.is_empty() {
                break;
            }
            if let Some(last) = word.iter().rposition(|byte| *byte != 0) {
                last_written = at + last as u64 + 1;
                // As many records as could have stood in between may be missing, and no more.
                let missing_max = (at - position) / RECORD_BYTES_MIN as u64;
                if at > position
                    && let Some(prefix) = self.plausible_at(window, at, offset, offset + missing_max)?
                    && self.has_its_checksum(window, at, &prefix)?
                    && let Some((_, next_offset)) = self.record_at(window, at, offset, offset + missing_max)?
                {
                    return Ok(Step::Damage { bytes: at - position, next_offset });
                }
            }
            at += RECORD_ALIGN as u64;
        }
        Ok(Step::Tail { written: last_written - position })
    }

    fn has_its_checksum(&self, window: &mut Window, position: u64, prefix: &Prefix) -> io::Result<bool> {
        let head = window.get(self.file, position + PREFIX_BYTES as u64, HEAD_BYTES, self.end)?;
        let Some(head) = head.first_chunk().copied() else { return Ok(false) };
        let (from, until) = (position + RECORD_BYTES_MIN as u64, position + prefix.bytes as u64);
        let sum = window.sums.checksum(self.file, from, until)?;
        Ok(sum.is_some_and(|sum| checksum(sum, &head, self.salt) == prefix.checksum))
    }
}
