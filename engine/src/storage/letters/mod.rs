//! Dead letters on disk: one queue of them, failed or shed, as a log of letters and of removals.
//!
//! - **Thread**: the owner's, as with [`EventLog`], whose `write`, `sync` and `due` it has.
//! - **In**: letters, and removals of those that were replayed or thrown away. **Out**: the letters that are held.
//! - **Overload**: the oldest segment goes when all together pass the queue's bytes; each letter in it that was still held is
//!   counted as evicted. A segment at the front without letters that are held goes first and costs nothing. One segment's room
//!   is set aside, so that a full disk still takes letters.
//! - **Invariant**: held at start + received = replayed + purged + evicted + held.

mod live;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use super::disk::Disk;
use super::error::StorageError;
use super::format::{Kind, LetterQueue, RECORD_BYTES_MIN, Record, RecordView, Reference, encoded_bytes};
use super::log::{
    EventLog, Findings, Fsync, Item, LogOptions, Position, Reader, Recovery, Refused, Segment, Start, Survey, Trust,
    View,
};
use super::topics::TopicFilter;
use crate::frame::Class;
use crate::metrics::DeadLetterReason;
use crate::runtime::clock::Nanos;
use live::LiveSet;

/// How many segments a queue's bytes are cut into: with each that goes, so much of it is evicted.
const SEGMENTS: u64 = 8;
const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// An event that could not be processed.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    pub class: Class,
    pub reason: DeadLetterReason,
    /// When it came in first, nanoseconds since the UNIX epoch.
    pub arrival_ns: u64,
    /// With its length field.
    pub frame: &'a [u8],
}

/// What became of letters since the queue was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LetterCounts {
    pub held_at_start: u64,
    pub received: u64,
    pub replayed: u64,
    pub purged: u64,
    pub evicted: u64,
}

#[derive(Clone, Debug)]
pub struct LetterOptions {
    pub fsync: Fsync,
    /// Of all segments and the room set aside.
    pub bytes: u64,
    pub buffer_bytes: usize,
    /// The longest frame, which has to fit a segment.
    pub frame_bytes: u64,
    pub after_crash: bool,
}

/// One queue of dead letters.
pub struct Letters {
    queue: LetterQueue,
    log: EventLog,
    held: HeldLetters,
    counts: LetterCounts,
    buffer_bytes: usize,
}

/// The letters of a queue that are held: to be read.
#[derive(Clone)]
pub struct HeldLetters {
    view: Arc<View>,
    live: LiveSet,
}

impl HeldLetters {
    /// Goes through a queue without changing anything, also where a crash has left something to be put in order.
    pub fn of(disk: Arc<dyn Disk>, directory: &Path, queue: LetterQueue) -> Result<(Self, Findings), StorageError> {
        let survey = Survey::of(&*disk, directory, queue.as_str(), Trust::Indexes)?;
        let (view, findings) = survey.into_view(disk, directory.to_owned(), queue.as_str());
        Ok((Self::in_view(Arc::new(view), queue)?, findings))
    }

    fn in_view(view: Arc<View>, queue: LetterQueue) -> Result<Self, StorageError> {
        let live = held(reader(&view)?, queue)?;
        Ok(Self { view, live })
    }

    /// Oldest first.
    pub fn reader(&self) -> Result<LetterReader<'_>, StorageError> {
        self.reader_from(0)
    }

    /// From an offset on.
    pub fn reader_from(&self, offset: u64) -> Result<LetterReader<'_>, StorageError> {
        // A position of the current epoch: an offset says all, since none is used again for a letter that is held.
        let start = Start::At(Position { epoch: self.view.epoch, offset });
        let latest = || self.view.reader(Start::Latest, None);
        let reader = self.view.reader(start, None).or_else(|_| latest());
        let reader = reader.map_err(|_| StorageError::invalid(&self.view.directory, "read", "it has no end"))?;
        Ok(LetterReader { reader, live: &self.live })
    }
}

fn reader(view: &Arc<View>) -> Result<Reader, StorageError> {
    let reader = view.reader(Start::Earliest, None);
    reader.map_err(|_| StorageError::invalid(&view.directory, "read", "it has no beginning"))
}

impl Letters {
    /// Opens a queue and finds out which letters are held, by going through all of it.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        queue: LetterQueue,
        options: &LetterOptions,
    ) -> Result<(Self, Recovery), StorageError> {
        let log_options = log_options(queue, options);
        let (log, recovery) = EventLog::open(disk, directory, log_options)?;
        let held = HeldLetters::in_view(log.view(), queue)?;
        let counts = LetterCounts { held_at_start: held.live.count(), ..LetterCounts::default() };
        Ok((Self { queue, log, held, counts, buffer_bytes: options.buffer_bytes }, recovery))
    }

    pub fn log(&self) -> &EventLog {
        &self.log
    }

    pub fn counts(&self) -> LetterCounts {
        self.counts
    }

    pub fn held(&self) -> u64 {
        self.held.live.count()
    }

    /// Takes a letter. It is held from now on, and durable when the log says so.
    pub fn append(&mut self, letter: &Letter<'_>, time_ns: u64) -> Result<Position, Refused> {
        self.append_again(letter, time_ns, None)
    }

    /// The same of one that was replayed and has failed again. The letter that it was goes with the same record if it is of
    /// this queue; of the other one it is the caller's to remove, once this one is durable.
    pub fn append_again(
        &mut self,
        letter: &Letter<'_>,
        time_ns: u64,
        was: Option<Reference>,
    ) -> Result<Position, Refused> {
        self.append_of(letter, None, time_ns, was)
    }

    /// The same of one that a group did not do.
    pub fn append_of(
        &mut self,
        letter: &Letter<'_>,
        consumer: Option<&str>,
        time_ns: u64,
        was: Option<Reference>,
    ) -> Result<Position, Refused> {
        let record = Record {
            time_ns,
            class: letter.class,
            kind: Kind::DeadLetter,
            reason: letter.reason.code(),
            arrival_ns: Some(letter.arrival_ns),
            reference: was,
            consumer,
            frame: letter.frame,
        };
        let replaced = was.filter(|was| was.queue == self.queue && self.holds(was.position()));
        let position = self.log.next_position();
        self.log.append(&record)?;
        self.held.live.add(position.offset);
        self.counts.received += 1;
        if replaced.is_some_and(|was| self.held.live.remove(was.offset)) {
            self.counts.replayed += 1;
        }
        Ok(position)
    }

    /// Takes a letter out. False: it is not held, or it is another that has this offset now.
    pub fn remove(&mut self, position: Position, replayed: bool, time_ns: u64) -> Result<bool, Refused> {
        if !self.holds(position) {
            return Ok(false);
        }
        let Position { epoch, offset } = position;
        let record = Record {
            time_ns,
            class: Class::Realtime,
            kind: if replayed { Kind::Replayed } else { Kind::Purged },
            reason: 0,
            arrival_ns: None,
            reference: Some(Reference { queue: self.queue, epoch, offset }),
            consumer: None,
            frame: &[],
        };
        self.log.append(&record)?;
        self.held.live.remove(offset);
        *if replayed { &mut self.counts.replayed } else { &mut self.counts.purged } += 1;
        Ok(true)
    }

    pub fn holds(&self, position: Position) -> bool {
        self.held.live.contains(position.offset) && self.epoch_of(position.offset) == position.epoch
    }

    /// Of a letter that is held: the epoch of its segment, or the current one while it is in memory.
    fn epoch_of(&self, offset: u64) -> u32 {
        let segments = self.log.view().segments();
        let has = |segment: &&Arc<Segment>| (segment.base_offset()..segment.next_offset()).contains(&offset);
        segments.iter().rev().find(has).map_or(self.log.epoch(), |segment| segment.header.epoch)
    }

    /// Whether what is not durable takes half of the memory for it.
    pub fn is_half_full(&self) -> bool {
        self.log.pending_bytes() >= self.buffer_bytes / 2
    }

    pub fn write(&mut self, now: Nanos) -> Result<(), StorageError> {
        self.log.write(now)
    }

    pub fn sync(&mut self, now: Nanos) -> Result<(), StorageError> {
        self.log.sync(now)
    }

    pub fn due(&self, now: Nanos) -> Option<Nanos> {
        self.log.due(now)
    }

    /// No letter that is written waits for an interval.
    pub fn press(&mut self, now: Nanos) {
        self.log.press(now);
    }

    /// The end in order. What the disk does not take even now is gone with the process, and counts as evicted.
    pub fn close(&mut self, now: Nanos) -> Result<(), StorageError> {
        self.log
            .close(now)
            .inspect_err(|_| self.counts.evicted += self.held.live.remove_from(self.log.durable_offset()))
    }

    /// Evicts what passes the queue's bytes. Calls `evicted` with each letter that was still held, as far as it can be read.
    pub fn retain(&mut self, now: Nanos, mut evicted: impl FnMut(&RecordView<'_>)) -> Result<(), StorageError> {
        let live = &self.held.live;
        self.log.remove_oldest(|segment| !live.has_before(segment.next_offset()), |_| {})?;
        let (view, mut evicted_before) = (self.log.view(), 0);
        let segments = view.segments();
        let retained = self.log.retain(0, now, |segment| {
            evicted_before = segment.next_offset();
            let going = segments.iter().filter(|going| std::ptr::eq(&***going, segment)).cloned().collect();
            // What cannot be read is evicted all the same.
            let _ = each_held(&Arc::new(view.of_segments(going)), live, &mut evicted);
        });
        self.counts.evicted += self.held.live.remove_before(evicted_before);
        retained
    }

    /// From the oldest letter on, for [`read_next`](Self::read_next).
    pub fn reader(&self) -> Result<Reader, StorageError> {
        reader(&self.held.view)
    }

    /// The next letter that is held and durable, from a reader that outlives what is removed meanwhile.
    pub fn read_next<'r>(&self, reader: &'r mut Reader) -> Result<Option<RecordView<'r>>, StorageError> {
        next_held(reader, &self.held.live)
    }

    /// The letters that are held and durable.
    pub fn letters(&self) -> &HeldLetters {
        &self.held
    }
}

fn each_held(view: &Arc<View>, live: &LiveSet, each: &mut impl FnMut(&RecordView<'_>)) -> Result<(), StorageError> {
    let mut letters = LetterReader { reader: reader(view)?, live };
    while let Some(letter) = letters.read()? {
        each(&letter);
    }
    Ok(())
}

/// Goes through the letters that are held and durable.
pub struct LetterReader<'l> {
    reader: Reader,
    live: &'l LiveSet,
}

impl LetterReader<'_> {
    /// The next one; what damage has taken is passed over.
    pub fn read(&mut self) -> Result<Option<RecordView<'_>>, StorageError> {
        next_held(&mut self.reader, self.live)
    }
}

fn next_held<'r>(reader: &'r mut Reader, live: &LiveSet) -> Result<Option<RecordView<'r>>, StorageError> {
    let letter = loop {
        let Some(located) = reader.find()? else { return Ok(None) };
        if let Some(Item::Record(record)) = reader.item(located)
            && record.kind == Kind::DeadLetter
            && live.contains(record.offset)
        {
            break located;
        }
    };
    Ok(reader.item(letter).and_then(|item| match item {
        Item::Record(record) => Some(record),
        Item::Gap(_) => None,
    }))
}

/// Which letters of a queue a command is about.
#[derive(Clone, Debug, Default)]
pub struct LetterFilter {
    pub reason: Option<DeadLetterReason>,
    /// The group that did not do it.
    pub consumer: Option<String>,
    pub topic: Option<TopicFilter>,
    /// Dead-lettered at this time or later, nanoseconds since the UNIX epoch.
    pub since_ns: Option<u64>,
    /// Dead-lettered before this time.
    pub until_ns: Option<u64>,
}

impl LetterFilter {
    pub fn matches(&self, letter: &RecordView<'_>) -> bool {
        self.reason.is_none_or(|reason| reason.code() == letter.reason)
            && self.consumer.as_deref().is_none_or(|group| letter.consumer == Some(group))
            && self.topic.as_ref().is_none_or(|topic| topic.matches(letter.event().topic_bytes()))
            && self.since_ns.is_none_or(|since| letter.time_ns >= since)
            && self.until_ns.is_none_or(|until| letter.time_ns < until)
    }
}

fn held(mut reader: Reader, queue: LetterQueue) -> Result<LiveSet, StorageError> {
    let mut live = LiveSet::default();
    while let Some(item) = reader.read()? {
        match item {
            Item::Record(RecordView { kind: Kind::DeadLetter, offset, reference, .. }) => {
                live.add(offset);
                // One that has failed again takes the place of the one that it was.
                if let Some(was) = reference.filter(|was| was.queue == queue) {
                    live.remove(was.offset);
                }
            }
            Item::Record(RecordView { kind: Kind::Replayed | Kind::Purged, reference: Some(removed), .. }) => {
                // Removals follow their letters in the same log: an offset that is held is of the epoch they name, unless
                // that letter was cut, and with it the removal behind it.
                live.remove(removed.offset);
            }
            Item::Record(_) | Item::Gap(_) => {}
        }
    }
    Ok(live)
}

fn log_options(queue: LetterQueue, options: &LetterOptions) -> LogOptions {
    // The largest letter fits, and what is set aside is part of the bytes.
    let largest = Record::event(0, Class::Realtime, &[]);
    let overhead = (encoded_bytes(&largest) + RECORD_BYTES_MIN + super::format::HEADER_BYTES) as u64;
    let segment_bytes = (options.bytes / SEGMENTS).max(options.frame_bytes + overhead).max(SEGMENT_BYTES_MIN);
    LogOptions {
        fsync: options.fsync,
        segment_bytes,
        // Less the one that is written, which stays whatever its size, and the one that is set aside.
        retention_bytes: options.bytes.saturating_sub(segment_bytes * 2).max(segment_bytes),
        buffer_bytes: options.buffer_bytes,
        keeps_reserve: true,
        after_crash: options.after_crash,
        ..LogOptions::new(queue.as_str())
    }
}
