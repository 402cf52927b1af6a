//! What the writer of a log and its readers share: the segments, and up to where each may be read.
//!
//! The writer alone changes it. Readers on other threads see a segment's records only when the policy's point has been reached,
//! and never one that may yet be written anew elsewhere.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::super::disk::Disk;
use super::super::format::{HEADER_BYTES, SegmentHeader};
use super::index::Index;

/// A place in a stream: an offset alone could be that of a record that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Position {
    pub epoch: u32,
    pub offset: u64,
}

/// A segment as readers see it.
#[derive(Debug)]
pub struct Segment {
    pub header: SegmentHeader,
    /// Where the last record that may be read ends.
    end: AtomicU64,
    next_offset: AtomicU64,
    /// Once it is closed: `end` does not change any more.
    index: OnceLock<Arc<Index>>,
    /// A write or a sync of it has failed: it is not to be synced.
    abandoned: AtomicBool,
}

impl Segment {
    pub(super) fn begun(header: SegmentHeader) -> Self {
        let (end, next) = (HEADER_BYTES as u64, header.name.base_offset);
        Self {
            header,
            end: AtomicU64::new(end),
            next_offset: AtomicU64::new(next),
            index: OnceLock::new(),
            abandoned: AtomicBool::new(false),
        }
    }

    pub(super) fn closed(index: Index) -> Self {
        let this = Self::begun(index.header.clone());
        this.publish(index.end, index.next_offset);
        let _ = this.index.set(Arc::new(index));
        this
    }

    pub(super) fn publish(&self, end: u64, next_offset: u64) {
        self.next_offset.store(next_offset, Ordering::Relaxed);
        // Release: paired with the Acquire in `end`. Who sees the end sees the offset, and the kernel the bytes.
        self.end.store(end, Ordering::Release);
    }

    pub(super) fn close(&self, index: Index) {
        self.publish(index.end, index.next_offset);
        let _ = self.index.set(Arc::new(index));
    }

    pub(super) fn abandon(&self, index: Index) {
        self.abandoned.store(true, Ordering::Relaxed);
        self.close(index);
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    pub fn end(&self) -> u64 {
        // Acquire: paired with the Release in `publish`.
        self.end.load(Ordering::Acquire)
    }

    /// Of the record behind the last one that may be read; at least that of the last [`end`](Self::end) seen.
    pub fn next_offset(&self) -> u64 {
        self.next_offset.load(Ordering::Relaxed)
    }

    pub fn base_offset(&self) -> u64 {
        self.header.name.base_offset
    }

    pub fn index(&self) -> Option<&Arc<Index>> {
        self.index.get()
    }
}

/// A stream as readers see it.
pub struct View {
    pub(super) disk: Arc<dyn Disk>,
    pub directory: PathBuf,
    pub stream: String,
    /// What is written now has this one.
    pub epoch: u32,
    segments: ArcSwap<Vec<Arc<Segment>>>,
    end_offset: AtomicU64,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View({}, {} segments)", self.stream, self.segments.load().len())
    }
}

impl View {
    pub(super) fn new(
        (disk, directory, stream): (Arc<dyn Disk>, PathBuf, String),
        epoch: u32,
        segments: Vec<Arc<Segment>>,
        end_offset: u64,
    ) -> Self {
        let end_offset = AtomicU64::new(end_offset);
        Self { disk, directory, stream, epoch, segments: ArcSwap::from_pointee(segments), end_offset }
    }

    /// Of some of its segments, however long it has the others.
    pub(in crate::storage) fn of_segments(&self, segments: Vec<Arc<Segment>>) -> Self {
        let of = (self.disk.clone(), self.directory.clone(), self.stream.clone());
        let end = segments.last().map_or(0, |segment| segment.next_offset());
        Self::new(of, self.epoch, segments, end)
    }

    /// Oldest first.
    pub fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        self.segments.load_full()
    }

    pub(super) fn replace_segments(&self, segments: Vec<Arc<Segment>>) {
        self.segments.store(Arc::new(segments));
    }

    pub(super) fn publish_end(&self, offset: u64) {
        // Release: paired with the Acquire in `end_offset`.
        self.end_offset.store(offset, Ordering::Release);
    }

    /// Behind the last record that may be read.
    pub fn end_offset(&self) -> u64 {
        // Acquire: paired with the Release in `publish_end`.
        self.end_offset.load(Ordering::Acquire)
    }

    pub fn end(&self) -> Position {
        Position { epoch: self.epoch, offset: self.end_offset() }
    }

    /// The oldest record there is, or the end where there is none.
    pub fn earliest(&self) -> Position {
        let segments = self.segments.load();
        let first = segments.iter().find(|segment| segment.next_offset() > segment.base_offset());
        first.map_or_else(
            || self.end(),
            |segment| Position { epoch: segment.header.epoch, offset: segment.base_offset() },
        )
    }

    /// Where an epoch ended, and the position that came next. `None` for the one that is being written, and for one that
    /// ended before all that is kept.
    pub(super) fn end_of_epoch(&self, epoch: u32) -> Option<Position> {
        let segments = self.segments.load();
        let next = segments.iter().find(|segment| segment.header.epoch > epoch)?;
        Some(Position { epoch: next.header.epoch, offset: next.base_offset() })
    }
}
