//! Reading the event log for subscribers: at its end once for all, further back for each by itself.
//!
//! What is appended is read back from the page cache rather than handed over: a subscription that falls behind, starts earlier or comes
//! back after a crash reads the same records in the same way, so that there is no seam at which one could be missed or come twice.
//!
//! - **Thread**: the sender's; it may wait for the disk.
//! - **Invariant**: a cursor joins those at the end of the log only at the offset that is read there next.

use std::sync::Arc;

use super::frames::{self, GapNotice, Origin};
use super::groups::{Groups, Rendered};
use crate::frame::LENGTH_BYTES;
use crate::storage::TopicFilter;
use crate::storage::format::RecordView;
use crate::storage::log::{Gap, Item, Position, Reader, Start, Truncated, View};
use crate::storage::{StorageError, is_logged};

/// Records read at the end of a stream in one cycle.
const TAIL_RECORDS: usize = 4_096;
/// Records that a cursor passes in one cycle, whether they are for it or not.
const CURSOR_RECORDS: usize = 4_096;

/// One stream of the log.
pub struct Stream {
    pub view: Arc<View>,
    /// What is read at its end, if somebody wants it.
    tail: Option<Reader>,
    /// Where the tail was when groups were sent last.
    sent_offset: u64,
}

/// All streams, in the order of the log's.
#[derive(Default)]
pub struct Streams(Vec<Stream>);

pub(super) fn origin(record: &RecordView<'_>) -> Origin {
    Origin {
        class: record.class,
        epoch: record.epoch,
        offset: record.offset,
        received_ns: record.arrival_ns.unwrap_or(record.time_ns),
    }
}

pub(super) fn body<'r>(record: &RecordView<'r>) -> &'r [u8] {
    record.frame.get(LENGTH_BYTES..).unwrap_or_default()
}

impl Streams {
    pub fn new(views: impl IntoIterator<Item = Arc<View>>) -> Self {
        Self(views.into_iter().map(|view| Stream { view, tail: None, sent_offset: 0 }).collect())
    }

    /// There is no log.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|stream| stream.view.stream == name)
    }

    pub fn view(&self, index: usize) -> Option<&Arc<View>> {
        self.0.get(index).map(|stream| &stream.view)
    }

    /// Where the last record of a stream is that matches.
    pub fn last_that_matches(
        &self,
        index: usize,
        filter: &TopicFilter,
        classes: [bool; 3],
    ) -> Result<Option<Position>, StorageError> {
        self.0.get(index).map_or(Ok(None), |stream| stream.last_that_matches(filter, classes))
    }

    /// Begins to read at the end, where that is not done yet.
    pub fn follow(&mut self) {
        for stream in &mut self.0 {
            if stream.tail.is_none() {
                stream.tail = stream.view.reader(Start::Latest, None).ok();
                stream.mark();
            }
        }
    }

    /// The same, but where a cursor that has caught up stands.
    pub fn follow_from(&mut self, cursor: Cursor) {
        for (stream, reader) in self.0.iter_mut().zip(cursor.readers) {
            if stream.tail.is_none() {
                stream.tail = reader.map(Reader::without_filter);
                stream.mark();
            }
        }
    }

    /// Nobody wants what is read at the end any more.
    pub fn leave(&mut self) {
        self.0.iter_mut().for_each(|stream| stream.tail = None);
    }

    /// What has been read so far has been sent.
    pub fn mark(&mut self) {
        self.0.iter_mut().for_each(Stream::mark);
    }

    /// Reads on at the end of a stream and renders it for the groups, until they have much to send. Returns how many records that were, and
    /// whether it was much.
    pub fn read_tail(
        &mut self,
        index: usize,
        groups: &mut Groups,
        mut missing: impl FnMut(&Arc<View>, Gap),
    ) -> Result<(usize, bool), StorageError> {
        let Some(Stream { view, tail: Some(reader), .. }) = self.0.get_mut(index) else { return Ok((0, false)) };
        let end = view.end_offset();
        for count in 0..TAIL_RECORDS {
            match reader.read_before(end)? {
                Some(Item::Record(record)) if is_logged(record.class) => {
                    if groups.render_logged(record.event().topic_bytes(), &origin(&record), body(&record)) {
                        return Ok((count + 1, true));
                    }
                }
                Some(Item::Record(_)) => {}
                Some(Item::Gap(gap)) => missing(view, gap),
                None => return Ok((count, false)),
            }
        }
        Ok((TAIL_RECORDS, true))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A cursor for all streams that starts where those at the end have been sent last.
    pub fn cursor_at_sent(&self, filter: &TopicFilter, classes: [bool; 3]) -> Cursor {
        let reader = |stream: &Stream| {
            let position = Position { epoch: stream.view.epoch, offset: stream.sent_offset };
            let start = if stream.tail.is_some() { Start::At(position) } else { Start::Latest };
            stream.view.reader(start, Some(filter.clone())).ok()
        };
        Cursor { classes, readers: self.0.iter().map(reader).collect(), only: None }
    }

    /// A cursor with a start of its own. `only`: of one stream.
    pub fn cursor(
        &self,
        filter: &TopicFilter,
        classes: [bool; 3],
        only: Option<usize>,
        start: Start,
    ) -> Result<Cursor, Truncated> {
        let reader = |(index, stream): (usize, &Stream)| {
            let is_wanted = only.is_none_or(|only| only == index);
            is_wanted.then(|| stream.view.reader(start, Some(filter.clone()))).transpose()
        };
        let readers = self.0.iter().enumerate().map(reader).collect::<Result<_, _>>()?;
        Ok(Cursor { classes, readers, only })
    }

    /// A cursor that starts with the last record of each stream that matches, or at the end where none does.
    pub fn cursor_at_last(
        &self,
        filter: &TopicFilter,
        classes: [bool; 3],
        only: Option<usize>,
    ) -> Result<Cursor, StorageError> {
        let mut readers = Vec::new();
        for (index, stream) in self.0.iter().enumerate() {
            if only.is_some_and(|only| only != index) {
                readers.push(None);
                continue;
            }
            let start = stream.last_that_matches(filter, classes)?.map_or(Start::Latest, Start::At);
            readers.push(stream.view.reader(start, Some(filter.clone())).ok());
        }
        Ok(Cursor { classes, readers, only })
    }
}

impl Stream {
    fn mark(&mut self) {
        if let Some(reader) = &self.tail {
            self.sent_offset = reader.offset();
        }
    }

    /// Looks through the segments from the newest to the oldest, each from its beginning.
    fn last_that_matches(&self, filter: &TopicFilter, classes: [bool; 3]) -> Result<Option<Position>, StorageError> {
        let mut until = self.view.end_offset();
        for segment in self.view.segments().iter().rev() {
            let base = segment.base_offset();
            let position = Position { epoch: segment.header.epoch, offset: base };
            let Ok(mut reader) = self.view.reader(Start::At(position), Some(filter.clone())) else { continue };
            let mut last = None;
            while reader.offset() < until {
                match reader.read()? {
                    Some(Item::Record(record)) if record.offset >= until => break,
                    Some(Item::Record(record)) if classes[record.class as usize] => {
                        last = Some(Position { epoch: record.epoch, offset: record.offset });
                    }
                    Some(_) => {}
                    None => break,
                }
            }
            if last.is_some() {
                return Ok(last);
            }
            until = base;
        }
        Ok(None)
    }
}

/// A subscription's own place in the log.
pub struct Cursor {
    classes: [bool; 3],
    /// Of each stream that it reads.
    readers: Vec<Option<Reader>>,
    only: Option<usize>,
}

/// How far a cursor got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// There is more, or will be: it is to be stepped again.
    On,
    /// It is where those at the end of the log are, and may join them.
    CaughtUp,
}

impl Cursor {
    /// Reads on, at most as far as the ends have been read. Appends what is for the subscription. Returns how many records were looked
    /// at, too.
    pub fn step(
        &mut self,
        sub: u32,
        streams: &Streams,
        room: usize,
        out: &mut Rendered,
        notices: &mut Vec<u8>,
    ) -> Result<(Got, usize), StorageError> {
        let (mut count, mut is_behind) = (0, false);
        for (reader, stream) in self.readers.iter_mut().zip(&streams.0) {
            let Some(reader) = reader else { continue };
            let end = stream.tail.as_ref().map_or_else(|| stream.view.end_offset(), Reader::offset);
            let mut left = CURSOR_RECORDS;
            while reader.offset() < end && left > 0 && out.bytes.len() < room {
                let before = reader.offset();
                match reader.read_before(end)? {
                    Some(Item::Record(record)) if self.classes[record.class as usize] => {
                        frames::event(&mut out.bytes, sub, 1, &origin(&record), body(&record));
                        out.frames += 1;
                    }
                    Some(Item::Record(_)) => {}
                    Some(Item::Gap(gap)) => say_gap(notices, sub, &stream.view, gap),
                    None => break,
                }
                let passed = (reader.offset() - before) as usize;
                left = left.saturating_sub(passed.max(1));
                count += passed;
            }
            is_behind |= reader.offset() < end;
        }
        // Of one stream only it never joins the others, which get all.
        let is_done = !is_behind && self.only.is_none();
        Ok((if is_done { Got::CaughtUp } else { Got::On }, count))
    }

    /// Whether it has passed what is read next at the end of some stream: others have begun to read there meanwhile. It joins them when
    /// they have come as far, or it would get what it has once more.
    pub fn is_ahead(&self, streams: &Streams) -> bool {
        self.readers.iter().zip(&streams.0).any(|(reader, stream)| match (reader, &stream.tail) {
            (Some(reader), Some(tail)) => reader.offset() > tail.offset(),
            _ => false,
        })
    }

    /// Whether there is something to read now.
    pub fn has_more(&self, streams: &Streams) -> bool {
        self.readers.iter().zip(&streams.0).any(|(reader, stream)| {
            let end = stream.tail.as_ref().map_or_else(|| stream.view.end_offset(), Reader::offset);
            reader.as_ref().is_some_and(|reader| reader.offset() < end)
        })
    }
}

pub fn say_gap(out: &mut Vec<u8>, sub: u32, view: &View, gap: Gap) {
    let Gap { from, until } = gap;
    frames::gap(out, &GapNotice { sub, stream: &view.stream, epoch: view.epoch, from, to: until, count: until - from });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Class, FrameHeader, Priority, encode};
    use crate::storage::disk::RealDisk;
    use crate::storage::format::Record;
    use crate::storage::log::{EventLog, LogOptions};

    fn append(log: &mut EventLog, count: u64) {
        for number in 0..count {
            let mut frame = Vec::new();
            encode(&mut frame, &FrameHeader::new(Priority::Medium), b"a", &number.to_be_bytes());
            log.append(&Record::event(number, Class::Transactional, &frame)).unwrap();
        }
        log.write(0).unwrap();
        log.sync(0).unwrap();
    }

    fn step(cursor: &mut Cursor, streams: &Streams) -> (Got, u32) {
        let mut rendered = Rendered::default();
        let (got, _) = cursor.step(1, streams, usize::MAX, &mut rendered, &mut Vec::new()).unwrap();
        (got, rendered.frames)
    }

    /// The log grows between two who catch up: the second has read more than those at the end, where the first has begun.
    #[test]
    fn who_has_read_more_than_those_at_the_end_does_not_join_them_yet() {
        let folder = std::env::temp_dir().join(format!("eventstream-reading-{}", std::process::id()));
        let (mut log, _) = EventLog::open(Arc::new(RealDisk), &folder, LogOptions::new("default")).unwrap();
        append(&mut log, 3);
        let mut streams = Streams::new([log.view()]);
        let filter = TopicFilter::parse("#").unwrap();
        let cursor = || streams.cursor(&filter, [true; 3], None, Start::Earliest).unwrap();
        let (mut first, mut second) = (cursor(), cursor());
        assert_eq!(step(&mut first, &streams), (Got::CaughtUp, 3));
        append(&mut log, 2);
        assert_eq!(step(&mut second, &streams), (Got::CaughtUp, 5));
        assert!(!first.is_ahead(&streams));
        streams.follow_from(first);
        assert!(second.is_ahead(&streams));
        let mut groups = Groups::default();
        assert_eq!(streams.read_tail(0, &mut groups, |_, _| panic!("nothing is missing")).unwrap(), (2, false));
        assert!(!second.is_ahead(&streams));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
