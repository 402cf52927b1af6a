//! The writing end.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use super::super::disk::{Disk, DiskFile};
use super::super::error::StorageError;
use super::super::format::{Prefix, RecordView, SegmentHeader, SegmentName, topic_of};
use super::super::topics::TopicSet;
use super::files::Files;
use super::index::Index;
use super::options::{Fsync, LogOptions};
use super::pending::Pending;
use super::survey::{Findings, Survey, Trust};
use super::syncer::Syncer;
use super::syncing::Written;
use super::view::{Position, Segment, View};
use crate::metrics::Histogram;
use crate::runtime::clock::Nanos;

/// The pause after the second failure in a row; the first is followed by another try at once.
const BACKOFF_FIRST: Nanos = 10_000_000;
const BACKOFF_MAX: Nanos = 1_000_000_000;

/// What opening a log found and did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Recovery {
    /// The log was closed in order, or left where nothing can have been lost that a reader had seen.
    pub clean: bool,
    pub epoch: u32,
    pub next_offset: u64,
    pub findings: Findings,
}

/// What a log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounts {
    pub records_appended: u64,
    pub bytes_written: u64,
    pub syncs: u64,
    pub failures: u64,
    pub segments_begun: u64,
    pub segments_abandoned: u64,
    pub segments_removed: u64,
}

pub struct EventLog {
    pub(super) files: Files,
    pub(super) options: LogOptions,
    pub(super) view: Arc<View>,
    pub(super) counts: LogCounts,
    pub(super) pending: Pending,
    /// Of every record in the segment that is written and behind it.
    pub(super) topics: TopicSet,
    pub(super) active: Option<Active>,
    pub(super) salt: u32,
    next_number: u64,
    pub(super) next_offset: u64,
    /// Of the first record that is not written, or has to be written again.
    pub(super) written_offset: u64,
    /// When what is written is to be synced; `None` while there is nothing, and where it never is.
    pub(super) sync_due: Option<Nanos>,
    pub(super) sync_took_ns: Histogram,
    /// Where there is one, what is due is synced beside the writing.
    pub(super) syncer: Option<Syncer>,
    /// What that makes durable.
    pub(super) syncing: Option<Written>,
    /// Failures since something last became durable, and when to try again.
    pub(super) failures: u32,
    pub(super) retry_at: Nanos,
    /// Segments that nobody sees any more, and whose files are still to be removed.
    pub(super) doomed: VecDeque<SegmentName>,
}

/// The segment that is written.
pub(super) struct Active {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) segment: Arc<Segment>,
    pub(super) index: Index,
    /// What `index` was when the segment's records were last durable, as far as giving up takes it back.
    pub(super) confirmed: Confirmed,
}

#[derive(Clone, Copy)]
pub(super) struct Confirmed {
    pub end: u64,
    pub next_offset: u64,
    records: u64,
    last_time_ns: u64,
}

impl Confirmed {
    pub fn of(index: &Index) -> Self {
        let Index { end, next_offset, records, last_time_ns, .. } = *index;
        Self { end, next_offset, records, last_time_ns }
    }
}

impl EventLog {
    /// Opens a stream's directory, which is made if it is not there, and puts in order what a crash has left.
    ///
    /// Unless the log was closed in order, a new epoch begins, and is on disk before anything is cut: records that are gone
    /// without a trace may have been seen by someone.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path, options: LogOptions) -> Result<(Self, Recovery), StorageError> {
        disk.create_directory(directory).map_err(StorageError::at(directory, "make"))?;
        let survey = Survey::of(&*disk, directory, &options.stream, Trust::Indexes)?;
        let clean = survey.ended_cleanly() && !options.after_crash;
        let epoch = survey.epoch().map_or(1, |last| last + u32::from(!clean));
        let (next_offset, next_number) = (survey.next_offset(), survey.last_number.map_or(1, |last| last + 1));
        let mut files = Files::new(disk.clone(), directory, &options);
        files.prepare();
        files.await_prepared();
        let Survey { segments, findings, .. } = survey;
        let unindexed: Vec<Index> =
            segments.iter().filter(|found| !found.has_index_file).map(|found| found.index.clone()).collect();
        let closed = segments.into_iter().map(|found| Arc::new(Segment::closed(found.index))).collect();
        let of = (disk, directory.to_owned(), options.stream.clone());
        let mut log = Self {
            files,
            view: Arc::new(View::new(of, epoch, closed, next_offset)),
            counts: LogCounts::default(),
            pending: Pending::new(options.buffer_bytes),
            topics: TopicSet::default(),
            options,
            active: None,
            salt: random_salt(),
            next_number,
            next_offset,
            written_offset: next_offset,
            sync_due: None,
            sync_took_ns: Histogram::default(),
            syncer: None,
            syncing: None,
            failures: 0,
            retry_at: 0,
            doomed: VecDeque::new(),
        };
        if !clean {
            log.begin_epoch(&unindexed, &findings)?;
        }
        for name in findings.superseded.iter().filter_map(|file| SegmentName::of_file(file, SegmentName::SEGMENT)) {
            log.files.remove(&name)?;
        }
        // For want of room now there may be some later.
        let _ = log.files.reserve();
        Ok((log, Recovery { clean, epoch, next_offset, findings }))
    }

    /// Makes the new epoch durable, then takes off what the last one left behind its last record.
    fn begin_epoch(&mut self, unindexed: &[Index], findings: &Findings) -> Result<(), StorageError> {
        self.begin_segment()?;
        for index in unindexed {
            let path = self.files.path(&index.header.name);
            let file = self.files.disk.open(&path).map_err(StorageError::at(&path, "open"))?;
            file.truncate(index.end).map_err(StorageError::at(&path, "cut"))?;
            file.fdatasync().map_err(StorageError::at(&path, "sync"))?;
            self.files.write_index(index)?;
        }
        for file in &findings.discarded {
            let path = self.files.directory.join(file);
            self.files.disk.remove(&path).map_err(StorageError::at(&path, "remove"))?;
        }
        self.files.sync_directory()
    }

    /// What readers are made from.
    pub fn view(&self) -> Arc<View> {
        self.view.clone()
    }

    pub fn stream(&self) -> &str {
        &self.view.stream
    }

    pub fn counts(&self) -> LogCounts {
        self.counts
    }

    pub fn epoch(&self) -> u32 {
        self.view.epoch
    }

    /// Whether what readers see has been synced.
    pub fn is_synced(&self) -> bool {
        self.options.fsync != Fsync::Never
    }

    /// The time of the last record of a closed segment.
    pub fn last_record_ns(&self) -> Option<u64> {
        let segments = self.view.segments();
        segments.iter().filter_map(|segment| segment.index().map(|index| index.last_time_ns)).max()
    }

    /// Of the record that is appended next.
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// The policy's point has been reached for every record before this one.
    pub fn durable_offset(&self) -> u64 {
        self.view.end_offset()
    }

    pub fn next_position(&self) -> Position {
        Position { epoch: self.view.epoch, offset: self.next_offset }
    }

    /// Bytes of records that are not durable yet.
    pub fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// False from a failure on, until something has become durable again.
    pub fn writable(&self) -> bool {
        self.failures == 0
    }

    /// Writes what was appended, with one system call unless a segment is full. Does nothing while a pause after a failure
    /// lasts.
    pub fn write(&mut self, now: Nanos) -> Result<(), StorageError> {
        if self.failures > 0 && now < self.retry_at {
            return Ok(());
        }
        self.write_all(now).inspect_err(|_| self.give_up(now))
    }

    fn write_all(&mut self, now: Nanos) -> Result<(), StorageError> {
        while self.pending.has_unwritten() {
            if self.active.is_none() {
                self.begin_segment()?;
            }
            let (Some(active), Some(part)) = (&mut self.active, self.pending.unwritten().next()) else { break };
            let position = active.index.end;
            let room = self.options.segment_bytes.saturating_sub(position);
            let bytes = whole_records(part, room);
            if bytes == 0 {
                self.roll()?;
                continue;
            }
            let path = self.files.directory.as_path();
            active
                .file
                .pwrite_all(&part[..bytes], position)
                .map_err(StorageError::at(path, "write to the segment in"))?;
            self.pending.wrote(bytes, |run| active.index.add_run(run));
            self.written_offset = active.index.next_offset;
            self.counts.bytes_written += bytes as u64;
            match self.options.fsync {
                Fsync::Never => self.confirm_all(),
                // What waits for a sync takes room from what is still to come.
                Fsync::Every(interval) if self.pending.len() < self.options.buffer_bytes / 2 => {
                    self.sync_due.get_or_insert(now.saturating_add(interval));
                }
                Fsync::Every(_) | Fsync::Always => self.sync_due = Some(now),
            }
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<(), StorageError> {
        let name = SegmentName { number: self.next_number, base_offset: self.written_offset, salt: self.salt };
        self.next_number += 1;
        let created_ns = self.pending.unwritten_time_ns().unwrap_or_else(crate::runtime::clock::unix_now);
        let stream = self.options.stream.clone();
        let header = SegmentHeader { name, epoch: self.view.epoch, created_ns, stream };
        let file = Arc::from(self.files.begin(&header)?);
        let index = Index::new(header.clone(), self.options.segment_bytes);
        let segment = Arc::new(Segment::begun(header));
        let mut segments = self.view.segments().to_vec();
        segments.push(segment.clone());
        self.view.replace_segments(segments);
        let confirmed = Confirmed::of(&index);
        self.active = Some(Active { file, segment, index, confirmed });
        self.counts.segments_begun += 1;
        Ok(())
    }

    /// Closes the segment; its records are durable afterwards, unless they never are to be.
    fn roll(&mut self) -> Result<(), StorageError> {
        if self.options.fsync != Fsync::Never {
            self.sync_all()?;
        }
        let Some(Active { file, segment, mut index, .. }) = self.active.take() else { return Ok(()) };
        std::mem::swap(&mut index.topics, &mut self.topics);
        let topics = &mut self.topics;
        self.pending.unwritten().for_each(|part| for_each_record(part, |record| topics.add(topic_of(record.frame))));
        // What was set aside and not used is given back. It would only be in the way, not wrong.
        let _ = file.truncate(index.end);
        if self.options.fsync != Fsync::Never {
            // Without one the segment is gone through at the next start.
            let _ = self.files.write_index(&index);
        }
        segment.close(index);
        Ok(())
    }

    /// Gives the segment up at its last durable record. It is never synced again: the kernel may hold pages for clean that
    /// never reached the disk. What is not durable is to be written anew.
    pub(super) fn give_up(&mut self, now: Nanos) {
        // If it fails as well, that is one failure with the other.
        let _ = self.await_sync();
        self.counts.failures += 1;
        self.pending.rewind();
        self.written_offset = self.view.end_offset();
        self.sync_due = None;
        let pause = (BACKOFF_FIRST << self.failures.saturating_sub(1).min(16)).min(BACKOFF_MAX);
        self.retry_at = now + if self.failures == 0 { 0 } else { pause };
        self.failures = self.failures.saturating_add(1);
        let Some(Active { file, segment, mut index, confirmed }) = self.active.take() else { return };
        self.counts.segments_abandoned += 1;
        if confirmed.records == 0 {
            let segments = self.view.segments();
            let kept = segments.iter().filter(|kept| !Arc::ptr_eq(kept, &segment)).cloned().collect();
            // The one that follows begins at the same offset, so it does no harm if it stays.
            self.view.replace_segments(kept);
            let _ = self.files.remove(&index.header.name);
            return;
        }
        let _ = file.truncate(confirmed.end);
        index.entries.retain(|entry| entry.offset < confirmed.next_offset);
        index.end = confirmed.end;
        index.next_offset = confirmed.next_offset;
        index.records = confirmed.records;
        index.last_time_ns = confirmed.last_time_ns;
        index.topics = self.topics.clone();
        if self.options.fsync != Fsync::Never {
            let _ = self.files.write_index(&index);
        }
        segment.abandon(index);
    }

    /// Tries a last time to write and sync what waits since a failure. If that fails again it is thrown away, for good: who
    /// appended it is to be told so. Its offsets, which nobody has seen, are given to what comes next. Returns how many records
    /// those were.
    pub fn give_in(&mut self, now: Nanos) -> u64 {
        self.retry_at = now;
        if self.writable() || self.write(now).and_then(|()| self.sync(now)).is_ok() {
            return 0;
        }
        let count = self.next_offset - self.durable_offset();
        self.pending.discard();
        self.next_offset = self.durable_offset();
        count
    }

    /// Writes and syncs everything, under any policy, and closes the last segment: the end in order. On an error the log stays
    /// as it is and may be tried again, or left to the next start.
    pub fn close(&mut self, now: Nanos) -> Result<(), StorageError> {
        if self.failures > 0 {
            self.retry_at = now;
        }
        self.write(now)?;
        self.roll_or_give_up(now)?;
        for segment in self.view.segments().iter().filter(|segment| !segment.is_abandoned()) {
            self.finish(segment)?;
        }
        self.files.sync_directory()
    }

    pub(super) fn roll_or_give_up(&mut self, now: Nanos) -> Result<(), StorageError> {
        self.roll().inspect_err(|_| self.give_up(now))
    }

    /// Gives a segment the index that says that it is durable.
    fn finish(&self, segment: &Segment) -> Result<(), StorageError> {
        let Some(index) = segment.index().filter(|index| !self.has_index_file(&index.header.name)) else {
            return Ok(());
        };
        if self.options.fsync == Fsync::Never {
            let path = self.files.path(&index.header.name);
            let file = self.files.disk.open(&path).map_err(StorageError::at(&path, "open"))?;
            file.fdatasync().map_err(StorageError::at(&path, "sync"))?;
        }
        self.files.write_index(index)
    }

    fn has_index_file(&self, name: &SegmentName) -> bool {
        self.files.disk.open_to_read(&self.files.directory.join(name.index_file())).is_ok()
    }
}

/// How many bytes of whole records fit into `room`.
fn whole_records(bytes: &[u8], room: u64) -> usize {
    if bytes.len() as u64 <= room {
        return bytes.len();
    }
    let mut end = 0;
    while let Some(prefix) = Prefix::parse(&bytes[end..]) {
        if (end + prefix.bytes) as u64 > room {
            break;
        }
        end += prefix.bytes;
    }
    end
}

/// Of records one behind the other, each that has an event.
fn for_each_record(mut records: &[u8], mut each: impl FnMut(RecordView<'_>)) {
    while let Some(prefix) = Prefix::parse(records) {
        let (record, rest) = records.split_at(prefix.bytes);
        RecordView::parse(record).filter(|record| !record.frame.is_empty()).map(&mut each);
        records = rest;
    }
}

/// Not to be guessed by who sends events.
fn random_salt() -> u32 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id()) as u32
}
