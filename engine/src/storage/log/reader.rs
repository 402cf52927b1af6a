//! Reading a stream: from an offset, a time or its beginning, what a filter lets through, across damage.
//!
//! - **Thread**: any; it reads the disk and may wait for it. One reader has one place, and goes on from there when more has been
//!   written.
//! - **Invariant**: every record it gives has been verified. Offsets only grow, and each that it leaves out it has named in a
//!   gap, or the filter has.

use std::sync::Arc;

use super::super::disk::DiskFile;
use super::super::error::StorageError;
use super::super::format::{HEADER_BYTES, RecordView};
use super::super::topics::TopicFilter;
use super::index::Index;
use super::scan::{Scan, Step, Window};
use super::view::{Position, Segment, View};

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest record there is.
    Earliest,
    /// With what is written next.
    Latest,
    /// With this record, or the first one kept behind it.
    At(Position),
    /// With the first record that is not older; nanoseconds since the UNIX epoch.
    Time(u64),
}

/// There is no such position: it lies behind the end, or behind where its epoch ended, because a recovery has cut what was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    pub first_valid: Position,
}

/// Offsets that cannot be read: damaged, or deleted in the meantime. From `from` on, before `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub from: u64,
    pub until: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'r> {
    Record(RecordView<'r>),
    Gap(Gap),
}

pub struct Reader {
    view: Arc<View>,
    filter: Option<TopicFilter>,
    open: Option<Open>,
    window: Window,
    /// The next offset to give, or to name in a gap.
    offset: u64,
    /// Records older than this are passed over until one is not.
    not_before_ns: Option<u64>,
}

struct Open {
    segment: Arc<Segment>,
    file: Box<dyn DiskFile>,
    position: u64,
    /// Of the record at the position; below the reader's where it began in the middle.
    offset: u64,
}

/// What a step within a segment came to.
enum Found {
    Item(Located),
    Nothing,
    EndOfSegment,
}

/// An item, and where in the window it is.
#[derive(Clone, Copy)]
pub(in crate::storage) enum Located {
    Record { position: u64, bytes: usize },
    Gap(Gap),
}

impl View {
    /// A reader that begins at `start`.
    pub fn reader(self: &Arc<Self>, start: Start, filter: Option<TopicFilter>) -> Result<Reader, Truncated> {
        let mut not_before_ns = None;
        let offset = match start {
            Start::Earliest => self.earliest().offset,
            Start::Latest => self.end_offset(),
            Start::At(position) => self.check(position)?,
            Start::Time(time_ns) => {
                not_before_ns = Some(time_ns);
                let segments = self.segments();
                let is_older = |segment: &&Arc<Segment>| {
                    segment.index().is_some_and(|index| index.records == 0 || index.last_time_ns < time_ns)
                };
                let first = segments.iter().find(|segment| !is_older(segment));
                first.map_or_else(|| self.end_offset(), |segment| segment.base_offset())
            }
        };
        let view = self.clone();
        Ok(Reader { view, filter, open: None, window: Window::default(), offset, not_before_ns })
    }

    /// The offset of a position that has been, or is the end.
    fn check(&self, position: Position) -> Result<u64, Truncated> {
        let Position { epoch, offset } = position;
        if epoch > self.epoch {
            return Err(Truncated { first_valid: self.end() });
        }
        let end = self.end_of_epoch(epoch).unwrap_or_else(|| self.end());
        if offset > end.offset { Err(Truncated { first_valid: end }) } else { Ok(offset) }
    }
}

impl Reader {
    /// From where it is, everything.
    pub fn without_filter(self) -> Self {
        Self { filter: None, not_before_ns: None, ..self }
    }

    /// Where it goes on.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Of the record that was given last, or is given next.
    pub fn epoch(&self) -> u32 {
        self.open.as_ref().map_or(self.view.epoch, |open| open.segment.header.epoch)
    }

    /// The next record or gap; `None` at the end, for now.
    pub fn read(&mut self) -> Result<Option<Item<'_>>, StorageError> {
        self.read_before(u64::MAX)
    }

    /// The same, and `None` also when there is none before the offset. It is not passed, though the filter lets nothing through before it.
    pub fn read_before(&mut self, end: u64) -> Result<Option<Item<'_>>, StorageError> {
        let found = self.find_before(end)?;
        Ok(found.and_then(|located| self.item(located)))
    }

    /// What [`find`](Self::find) has found last.
    pub(in crate::storage) fn item(&self, located: Located) -> Option<Item<'_>> {
        match located {
            Located::Gap(gap) => Some(Item::Gap(gap)),
            Located::Record { position, bytes } => {
                RecordView::parse(self.window.peek(position, bytes)).map(Item::Record)
            }
        }
    }

    pub(in crate::storage) fn find(&mut self) -> Result<Option<Located>, StorageError> {
        self.find_before(u64::MAX)
    }

    fn find_before(&mut self, end: u64) -> Result<Option<Located>, StorageError> {
        while self.offset < end {
            let found = if self.open.is_none() { self.open_segment()? } else { self.step()? };
            match found {
                Found::Item(located) => return Ok(Some(located)),
                Found::Nothing => {}
                Found::EndOfSegment if !self.leave_segment() => return Ok(None),
                Found::EndOfSegment => {}
            }
        }
        Ok(None)
    }

    /// Opens the segment that has the next offset. A gap: it begins behind that. The end of the segment: there is none.
    fn open_segment(&mut self) -> Result<Found, StorageError> {
        let segments = self.view.segments();
        // The last of those with the same base has the records; the others are empty.
        let Some(segment) = segments.iter().find(|segment| segment.next_offset() > self.offset).or(segments.last())
        else {
            return Ok(Found::EndOfSegment);
        };
        if segment.base_offset() > self.offset {
            let gap = Gap { from: self.offset, until: segment.base_offset() };
            self.offset = segment.base_offset();
            return Ok(Found::Item(Located::Gap(gap)));
        }
        let path = self.view.directory.join(segment.header.name.segment_file());
        let file = match self.view.disk.open_to_read(&path) {
            Ok(file) => file,
            // Deleted since the list was taken: the list has changed by now, or will have.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.is_gone(segment) => {
                return self.open_segment();
            }
            Err(error) => return Err(StorageError::new(&path, "open", error)),
        };
        let (position, offset) = match (segment.index(), self.not_before_ns) {
            (Some(index), Some(time_ns)) if self.offset == segment.base_offset() => index.before_time(time_ns),
            (Some(index), _) => index.before_offset(self.offset),
            (None, _) => (HEADER_BYTES as u64, segment.base_offset()),
        };
        self.window.clear();
        self.offset = self.offset.max(offset);
        self.open = Some(Open { segment: segment.clone(), file, position, offset });
        Ok(Found::Nothing)
    }

    fn is_gone(&self, segment: &Arc<Segment>) -> bool {
        !self.view.segments().iter().any(|kept| Arc::ptr_eq(kept, segment))
    }

    /// Whether there is another segment behind; then nothing more comes in this one.
    fn leave_segment(&mut self) -> bool {
        let Some(open) = &self.open else { return false };
        let segments = self.view.segments();
        let is_last = segments.last().is_none_or(|last| last.header.name.number <= open.segment.header.name.number);
        if is_last {
            return false;
        }
        // The list is newer than the end that was seen: there may have been more before the segment was closed.
        if open.position >= open.segment.end() {
            self.offset = self.offset.max(open.segment.next_offset());
            self.open = None;
        }
        true
    }

    fn step(&mut self) -> Result<Found, StorageError> {
        let Some(open) = &mut self.open else { return Ok(Found::EndOfSegment) };
        let end = open.segment.end();
        let name = open.segment.header.name;
        if open.position == HEADER_BYTES as u64 && self.filter.is_some() {
            // Damage would have to be told of, so that a segment with any is gone through.
            let skips = |index: &Arc<Index>| {
                index.quarantined.is_empty()
                    && self.filter.as_ref().is_some_and(|filter| !index.topics.may_match(filter))
            };
            if open.segment.index().is_some_and(skips) {
                (open.position, open.offset) = (end, open.segment.next_offset());
                return Ok(Found::EndOfSegment);
            }
        }
        let epoch = Some(open.segment.header.epoch);
        let mut scan = Scan { file: &*open.file, salt: name.salt, epoch, end, limit_offset: u64::MAX };
        let stepped = scan.step(&mut self.window, open.position, open.offset);
        let path = || self.view.directory.join(name.segment_file());
        match stepped.map_err(|error| StorageError::new(&path(), "read", error))? {
            Step::End => Ok(Found::EndOfSegment),
            Step::Damage { bytes, next_offset } => {
                open.position += bytes;
                open.offset = next_offset;
                Ok(gap(&mut self.offset, next_offset))
            }
            Step::Tail { .. } => {
                open.position = end;
                open.offset = open.segment.next_offset();
                Ok(gap(&mut self.offset, open.offset))
            }
            Step::Record { bytes, .. } => {
                let position = open.position;
                open.position += bytes as u64;
                open.offset += 1;
                let is_before = open.offset <= self.offset;
                if is_before || !self.wants(position, bytes) {
                    return Ok(Found::Nothing);
                }
                Ok(Found::Item(Located::Record { position, bytes }))
            }
        }
    }

    /// Passes the record, and says whether it is one to be given.
    fn wants(&mut self, position: u64, bytes: usize) -> bool {
        self.offset += 1;
        let Some(record) = RecordView::parse(self.window.peek(position, bytes)) else { return false };
        if self.not_before_ns.is_some_and(|time_ns| record.time_ns < time_ns) {
            return false;
        }
        self.not_before_ns = None;
        self.filter.as_ref().is_none_or(|filter| filter.matches(record.event().topic_bytes()))
    }
}

/// What of a damaged range the reader has not passed yet.
fn gap(offset: &mut u64, until: u64) -> Found {
    let from = *offset;
    *offset = from.max(until);
    if from < until { Found::Item(Located::Gap(Gap { from, until })) } else { Found::Nothing }
}
