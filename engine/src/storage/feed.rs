//! The way from a worker to the log writer: records packed into batches, and word back of what has become durable.
//!
//! - **Threads**: a worker owns the [`LogSender`], the log writer the [`LogInlet`]. The writer may block in the kernel for as
//!   long as a disk takes; the worker never does.
//! - **In**: frames, copied once, so that their slots go home at once. **Out**: batches of records that lack only their places in the log;
//!   and for each, in order, what became of it.
//! - **Overload**: a fixed number of batches goes round. While the writer has them all the worker fills the last one, and
//!   then takes no more events from its ring: who sends to it finds that full.
//! - **Invariant**: a batch is handed over as soon as there is another to go on with, so a slow disk makes batches large
//!   and a fast one makes them soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::format::{self, Prefix, RecordView, event_bytes};
use super::replay::REPLAYED_MAX;
use crate::frame::Class;
use crate::queue::spsc;
use crate::runtime::waker::Waker;

/// Batches that go round: one that is filled, one in reserve, and some that are with the writer.
pub const BATCHES: usize = 4;
/// The least a batch has room for, and how many of the largest frames.
const BATCH_BYTES_MIN: usize = 1 << 20;
const FRAMES_PER_BATCH_MIN: usize = 2;
/// Frames whose outcome may be outstanding: more than a second of what one worker handles at the speed of a disk would only
/// make acknowledgements late.
pub const OUTSTANDING_MAX: usize = 1 << 18;

/// Records, one behind the other, without their places.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Of events that are replayed, where the record of each begins, and its number among the replayed.
    replayed: Vec<(usize, u32)>,
    /// Where the first record begins that has not been summed up.
    to_sum_up: usize,
}

impl Batch {
    fn new(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity), replayed: Vec::with_capacity(REPLAYED_MAX), to_sum_up: 0 }
    }

    fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }

    fn sum_up(&mut self) {
        while let Some(prefix) = Prefix::parse(&self.bytes[self.to_sum_up..]) {
            let end = self.to_sum_up + prefix.bytes;
            format::sum_up(&mut self.bytes[self.to_sum_up..end]);
            self.to_sum_up = end;
        }
    }

    /// What is to be read next, from `at` on, which is where a record begins.
    pub fn part(&self, at: usize) -> Option<Part<'_>> {
        let records = self.bytes.get(at..).filter(|records| !records.is_empty())?;
        let next = self.replayed.partition_point(|(begin, _)| *begin < at);
        match self.replayed.get(next) {
            Some((begin, number)) if *begin == at => {
                let prefix = Prefix::parse(records)?;
                Some(Part::Replayed(RecordView::parse(&records[..prefix.bytes])?, prefix.bytes, *number))
            }
            Some((begin, _)) => Some(Part::Records(&records[..begin - at])),
            None => Some(Part::Records(records)),
        }
    }
}

/// Of a batch.
pub enum Part<'a> {
    Records(&'a [u8]),
    /// One record, its bytes, and its number among the replayed.
    Replayed(RecordView<'a>, usize, u32),
}

/// What has become of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// On disk.
    Durable,
    /// Written, by a policy that asks for no more.
    Written,
    /// It fits no segment.
    Refused,
    /// The log was given up before it could be written.
    GivenUp,
}

/// The next frames of a worker that have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    pub count: u32,
    pub kept: Kept,
}

/// A worker's end.
pub struct LogSender {
    class: Class,
    current: Batch,
    /// For what must go on though the current one is full.
    spare: Option<Batch>,
    full: spsc::Producer<Batch>,
    empty: spsc::Consumer<Batch>,
    settled: spsc::Consumer<Settled>,
    /// Frames handed over, or to be, that have not ended.
    outstanding: usize,
    /// Bytes of the largest record.
    largest: usize,
    waits: Arc<AtomicBool>,
    /// Wakes the log writer's runner.
    waker: Option<Waker>,
}

/// The log writer's end.
pub struct LogInlet {
    pub(super) full: spsc::Consumer<Batch>,
    pub(super) empty: spsc::Producer<Batch>,
    pub(super) settled: spsc::Producer<Settled>,
    /// Wakes the worker's runner.
    pub(super) waker: Option<Waker>,
}

const fn batch_bytes(frame_bytes_max: usize) -> usize {
    let frames = FRAMES_PER_BATCH_MIN * event_bytes(frame_bytes_max);
    if frames < BATCH_BYTES_MIN { BATCH_BYTES_MIN } else { frames }
}

/// Memory that a feed takes.
pub const fn feed_bytes(frame_bytes_max: usize) -> usize {
    BATCHES * batch_bytes(frame_bytes_max) + OUTSTANDING_MAX * size_of::<Settled>()
}

/// Both ends, for events of a class with frames of at most so many bytes behind their length field.
pub fn feed(
    class: Class,
    frame_bytes_max: usize,
    writer: Option<Waker>,
    worker: Option<Waker>,
) -> (LogSender, LogInlet) {
    let capacity = batch_bytes(frame_bytes_max);
    let (full, filled) = spsc::ring(BATCHES);
    let (mut back, empty) = spsc::ring(BATCHES);
    let (settled_in, settled) = spsc::ring(OUTSTANDING_MAX);
    for _ in 2..BATCHES {
        let pushed = back.push(Batch::new(capacity));
        debug_assert!(pushed.is_ok(), "the ring has room for all");
    }
    back.publish();
    let sender = LogSender {
        class,
        current: Batch::new(capacity),
        spare: Some(Batch::new(capacity)),
        full,
        empty,
        settled,
        outstanding: 0,
        largest: event_bytes(frame_bytes_max),
        waits: Arc::default(),
        waker: writer,
    };
    (sender, LogInlet { full: filled, empty: back, settled: settled_in, waker: worker })
}

impl LogSender {
    /// Set while events wait for the log, so that the worker stands still without being at fault.
    pub fn waits(&self) -> Arc<AtomicBool> {
        self.waits.clone()
    }

    fn refill(&mut self) {
        if self.spare.is_none() {
            self.spare = self.empty.take();
            self.empty.release();
        }
    }

    /// How many of the events whose frames have these lengths may be taken now, so that each has its place.
    pub fn fits(&mut self, lengths: impl Iterator<Item = u32>) -> usize {
        let mut lengths = lengths.peekable();
        let there = lengths.peek().is_some();
        let fitting = self.count_fitting(lengths);
        // Relaxed: whoever reads it acts on it some time later.
        self.waits.store(there && fitting == 0, Ordering::Relaxed);
        fitting
    }

    fn count_fitting(&mut self, lengths: impl Iterator<Item = u32>) -> usize {
        self.refill();
        if self.spare.is_none() {
            return 0;
        }
        let mut room = self.current.room();
        let fitting = lengths.take_while(|length| {
            let bytes = event_bytes(*length as usize);
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        });
        fitting.take(OUTSTANDING_MAX.saturating_sub(self.outstanding)).count()
    }

    /// Whether any event whatever may be handed over beside those that were counted as fitting.
    pub fn has_room(&mut self) -> bool {
        self.refill();
        self.spare.is_some() && self.current.room() >= self.largest && self.outstanding < OUTSTANDING_MAX
    }

    /// Takes a frame, given as the bytes behind its length field, and of one that is replayed its number among those. There is room: see
    /// [`fits`](Self::fits).
    pub fn append(&mut self, body: &[u8], replayed: Option<u32>) {
        let bytes = event_bytes(body.len());
        if self.current.room() < bytes
            && let Some(next) = self.spare.take()
        {
            self.hand_over(next);
        }
        debug_assert!(self.current.room() >= bytes, "more than was counted as fitting");
        self.current.replayed.extend(replayed.map(|number| (self.current.bytes.len(), number)));
        format::encode_unplaced(&mut self.current.bytes, self.class, body);
        self.outstanding += 1;
    }

    /// Makes what can be made of the checksums. Best done when a burst has been taken: its bytes are then in the nearest cache, and
    /// no longer on their way there.
    pub fn sum_up(&mut self) {
        self.current.sum_up();
    }

    fn hand_over(&mut self, next: Batch) {
        self.current.sum_up();
        let full = std::mem::replace(&mut self.current, next);
        let pushed = self.full.push(full);
        debug_assert!(pushed.is_ok(), "the ring has room for all");
    }

    /// Hands over what there is, if there is a batch to go on with.
    pub fn publish(&mut self) {
        if !self.current.bytes.is_empty() {
            self.refill();
            if let Some(next) = self.empty.take() {
                self.empty.release();
                self.hand_over(next);
            }
        }
        if self.full.publish() > 0
            && let Some(waker) = &self.waker
        {
            waker.wake();
        }
    }

    /// The next frames that have ended, in the order in which they were taken.
    pub fn take_settled(&mut self) -> Option<Settled> {
        let settled = self.settled.take()?;
        self.outstanding -= settled.count as usize;
        Some(settled)
    }

    /// Gives the places of what was taken back.
    pub fn release(&mut self) {
        self.settled.release();
    }
}

impl LogInlet {
    /// Gives a batch back that has been read.
    pub(super) fn give_back(&mut self, mut batch: Batch) {
        batch.bytes.clear();
        batch.replayed.clear();
        batch.to_sum_up = 0;
        let pushed = self.empty.push(batch);
        debug_assert!(pushed.is_ok(), "the ring has room for all");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::LENGTH_BYTES;

    fn taken(inlet: &mut LogInlet) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some(batch) = inlet.full.take() {
            let mut at = 0;
            while let Some(Part::Records(records)) = batch.part(at) {
                let bytes = Prefix::parse(records).unwrap().bytes;
                let mut record = records[..bytes].to_vec();
                format::place(&mut record, &format::Place { offset: 1, epoch: 2, time_ns: 3, salt: 4 });
                let record = RecordView::decode(&record, 4).expect("it is summed up");
                assert_eq!(record.class, Class::Batch);
                frames.push(record.frame[LENGTH_BYTES..].to_vec());
                at += bytes;
            }
            inlet.give_back(batch);
        }
        inlet.full.release();
        inlet.empty.publish();
        frames
    }

    #[test]
    fn frames_arrive_whole_and_in_order() {
        let (mut sender, mut inlet) = feed(Class::Batch, 100, None, None);
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        for number in 0..60_000_u32 {
            let body = vec![number as u8; number as usize % 101];
            while sender.fits([body.len() as u32].into_iter()) == 0 {
                received.extend(taken(&mut inlet));
                sender.publish();
            }
            sender.append(&body, None);
            sent.push(body);
            if number % 7 == 0 {
                sender.publish();
            }
        }
        received.extend(taken(&mut inlet));
        sender.publish();
        received.extend(taken(&mut inlet));
        assert!(received == sent, "{} of {}", received.len(), sent.len());
    }

    #[test]
    fn a_writer_that_keeps_everything_stops_the_worker_and_not_what_was_counted() {
        let (mut sender, mut inlet) = feed(Class::Batch, 1 << 20, None, None);
        let body = vec![1; 1 << 20];
        let mut handed = 0;
        while sender.fits([1 << 20].into_iter()) == 1 {
            // Beside what was counted another one may have to go on.
            sender.append(&body, None);
            sender.append(&body, None);
            handed += 2;
            sender.publish();
        }
        assert!(handed >= 2 * (BATCHES as i32 - 1) && !sender.has_room(), "{handed}");
        let before = taken(&mut inlet).len();
        sender.publish();
        assert_eq!((before + taken(&mut inlet).len()) as i32, handed);
        assert_eq!((sender.fits([1 << 20].into_iter()), sender.has_room()), (1, true));
    }

    #[test]
    fn no_more_is_outstanding_than_there_is_room_for_word_of() {
        let (mut sender, mut inlet) = feed(Class::Batch, 100, None, None);
        let mut appended = 0;
        while appended < OUTSTANDING_MAX {
            let fitting = sender.fits(std::iter::repeat_n(4, 2 * OUTSTANDING_MAX));
            (0..fitting).for_each(|_| sender.append(b"1234", None));
            appended += fitting;
            sender.publish();
            taken(&mut inlet);
        }
        assert_eq!(appended, OUTSTANDING_MAX);
        sender.publish();
        assert_eq!((sender.fits([4].into_iter()), sender.has_room()), (0, false));
        let settled = Settled { count: 3, kept: Kept::Durable };
        inlet.settled.push(settled).unwrap();
        inlet.settled.publish();
        assert_eq!((sender.take_settled(), sender.take_settled()), (Some(settled), None));
        assert_eq!(sender.fits(std::iter::repeat_n(4, 100)), 3);
    }
}
