//! Replaying dead letters: out of the queue, in again as events of their own source, and what becomes of each.
//!
//! - **Thread**: the log writer's runner, as part of the [`LetterAgent`](super::LetterAgent). **In**: letters that are held and
//!   durable. **Out**: events for a dispatcher, which ask for acknowledgements; removals of the letters that have ended.
//! - **Overload**: so many are under way at once as the ways back have room for; no more is read than a rate allows.
//! - **Invariant**: a letter is held until its event is durable elsewhere: in the log, by a record that refers to it, or in the queue
//!   again, by one that takes its place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::error::StorageError;
use super::format::{LetterQueue, RecordView, Reference};
use super::letters::{LetterFilter, Letters};
use super::log::Reader;
use crate::acks::{Ack, AcksWanted, Ended, REPLAY, REPLAY_UNCLAIMED};
use crate::control::{State, StateCell};
use crate::frame::{FLAG_ACK, LENGTH_BYTES, ParsedFrame, Parser, Shape};
use crate::ingest::DrainStatus;
use crate::memory::{Event, FramePool, Peer, Route, Slot};
use crate::metrics::{Counter, Counters};
use crate::queue::{mpsc, spsc};
use crate::runtime::clock::Nanos;
use crate::runtime::waker::Waker;

/// How many may be under way at once.
pub const REPLAYED_MAX: usize = 1024;
/// Into one slot and one claim of the dispatcher's queue.
const BURST: usize = 64;

/// Which letters are under way, by number. Shared by who replays and who logs, which are on one thread.
#[derive(Clone)]
pub struct Replays {
    entries: Arc<[Entry]>,
    /// The run is over, and some letters whose events may have ended are held still.
    cut_short: Arc<AtomicBool>,
}

#[derive(Default)]
struct Entry {
    offset: AtomicU64,
    /// The epoch, and the queue above it.
    epoch: AtomicU64,
}

impl Default for Replays {
    fn default() -> Self {
        Self { entries: (0..REPLAYED_MAX).map(|_| Entry::default()).collect(), cut_short: Arc::default() }
    }
}

impl Replays {
    // Relaxed, here and below: it is the same thread.
    fn set(&self, number: u32, Reference { queue, epoch, offset }: Reference) {
        let entry = &self.entries[number as usize];
        entry.offset.store(offset, Ordering::Relaxed);
        entry.epoch.store((queue as u64) << 32 | u64::from(epoch), Ordering::Relaxed);
    }

    pub fn reference(&self, number: u32) -> Option<Reference> {
        let entry = self.entries.get(number as usize)?;
        let epoch = entry.epoch.load(Ordering::Relaxed);
        let queue = LetterQueue::ALL.into_iter().find(|queue| *queue as u64 == epoch >> 32)?;
        Some(Reference { queue, epoch: epoch as u32, offset: entry.offset.load(Ordering::Relaxed) })
    }
}

impl Replays {
    /// By who replays, when it is closed: the next run has to look which letters are in the log.
    pub(super) fn cut_short(&self) {
        self.cut_short.store(true, Ordering::Relaxed);
    }

    pub(super) fn were_cut_short(&self) -> bool {
        self.cut_short.load(Ordering::Relaxed)
    }
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ReplayStatus {
    pub running: bool,
    /// Letters that went in again.
    pub replayed: u64,
    pub processed: u64,
    /// Processed meanwhile, as another copy.
    pub duplicate: u64,
    /// In the dead letter queue again.
    pub dead_lettered: u64,
    /// That nobody could take, or whose other copy is there: held as they were.
    pub kept: u64,
}

/// What an operator asks for.
pub struct ReplayOrder {
    pub queue: Option<LetterQueue>,
    pub filter: LetterFilter,
    /// `None`: as fast as they go.
    pub per_s: Option<u64>,
}

/// What replays are made from.
pub struct ReplaySource {
    pub pool: FramePool,
    pub queue: mpsc::Producer<Event>,
    pub parser: Parser,
    /// Of the dispatcher.
    pub waker: Waker,
    /// From each agent that ends events.
    pub acks: Vec<spsc::Consumer<Ack>>,
    pub wanted: AcksWanted,
    pub state: StateCell,
}

/// One that is under way.
#[derive(Clone, Copy)]
struct Underway {
    arrival_ns: u64,
    /// It has failed again, and is in the queue as another letter.
    kept_anew: bool,
    /// Whoever ended it has said so.
    told: bool,
}

struct Running {
    /// With where each ends: what fails again comes behind that.
    readers: VecDeque<(LetterQueue, Reader, u64)>,
    filter: LetterFilter,
    interval_ns: Nanos,
    next_ns: Nanos,
}

/// A letter that is to go in again.
struct Next {
    parsed: ParsedFrame,
    number: u32,
    connection: u32,
    frame: Vec<u8>,
}

/// A letter that is to go, once another is durable.
struct Removal {
    was: Reference,
    after: Option<(LetterQueue, u64)>,
}

pub(super) struct Replayer {
    source: ReplaySource,
    replays: Replays,
    underway: Vec<Option<Underway>>,
    free: Vec<u32>,
    running: Option<Running>,
    /// Events that the dispatcher's queue had no room for yet, with their connection numbers.
    filled: Option<(Slot, Vec<(ParsedFrame, u32)>)>,
    /// For the next slot.
    carry: Option<Next>,
    removals: VecDeque<Removal>,
    status: ReplayStatus,
    drain: DrainStatus,
    parsed: Vec<ParsedFrame>,
}

/// The two queues.
pub struct Queues<'q> {
    pub failed: &'q mut Letters,
    pub shed: &'q mut Letters,
}

impl<'q> Queues<'q> {
    pub fn into(self, queue: LetterQueue) -> &'q mut Letters {
        match queue {
            LetterQueue::Failed => self.failed,
            LetterQueue::Shed => self.shed,
        }
    }

    pub fn of(&mut self, queue: LetterQueue) -> &mut Letters {
        match queue {
            LetterQueue::Failed => self.failed,
            LetterQueue::Shed => self.shed,
        }
    }
}

impl Replayer {
    pub fn new(source: ReplaySource, replays: Replays, drain: DrainStatus) -> Self {
        Self {
            source,
            replays,
            underway: vec![None; REPLAYED_MAX],
            free: (0..REPLAYED_MAX as u32).rev().collect(),
            running: None,
            filled: None,
            carry: None,
            removals: VecDeque::new(),
            status: ReplayStatus::default(),
            drain,
            parsed: Vec::new(),
        }
    }

    pub fn status(&self) -> ReplayStatus {
        self.status
    }

    pub fn begin(&mut self, order: ReplayOrder, queues: &mut Queues<'_>, now: Nanos) -> Result<(), String> {
        if self.status.running {
            return Err("a replay is under way".to_owned());
        }
        if !self.source.state.get().takes_in() {
            return Err(format!("the engine is {}", self.source.state.get().name()));
        }
        let mut readers = VecDeque::new();
        let wanted = |queue: &LetterQueue| order.queue.is_none_or(|wanted| wanted == *queue);
        for queue in LetterQueue::ALL.into_iter().filter(wanted) {
            let letters = queues.of(queue);
            let reader = letters.reader().map_err(|error| error.to_string())?;
            readers.push_back((queue, reader, letters.log().durable_offset()));
        }
        let interval_ns = order.per_s.map_or(0, |per_s| 1_000_000_000 / per_s.max(1));
        self.running = Some(Running { readers, filter: order.filter, interval_ns, next_ns: now });
        self.status = ReplayStatus { running: true, ..ReplayStatus::default() };
        self.source.wanted.begin();
        Ok(())
    }

    /// The letter that a replayed event was, and when that had come in first.
    pub fn was(&self, number: u32) -> Option<(Reference, u64)> {
        let underway = self.underway.get(number as usize).copied().flatten()?;
        Some((self.replays.reference(number)?, underway.arrival_ns))
    }

    /// An event that failed again is in `queue` now, at `offset`.
    pub fn kept_anew(&mut self, number: u32, queue: LetterQueue, offset: u64) {
        let Some((was, _)) = self.was(number) else { return };
        if was.queue != queue {
            self.removals.push_back(Removal { was, after: Some((queue, offset)) });
        }
        if let Some(Some(underway)) = self.underway.get_mut(number as usize) {
            underway.kept_anew = true;
            if underway.told {
                self.end(number);
            }
        }
    }

    fn end(&mut self, number: u32) {
        if self.underway[number as usize].take().is_some() {
            self.free.push(number);
        }
    }

    /// Whether a step may do anything.
    pub fn is_busy(&self) -> bool {
        self.status.running || !self.removals.is_empty()
    }

    fn under_way(&self) -> usize {
        REPLAYED_MAX - self.free.len()
    }

    /// One duty cycle. Returns how much was done.
    pub fn step(&mut self, queues: &mut Queues<'_>, counters: &mut Counters, now: Nanos, time_ns: u64) -> usize {
        let mut work = self.hear();
        work += self.remove(queues, time_ns);
        self.source.pool.reclaim();
        if self.source.state.get() == State::Draining {
            self.running = None;
            if let Some(Next { number, .. }) = self.carry.take() {
                self.end(number);
            }
        }
        if self.filled.is_none() {
            work += self.fill(queues, now);
        }
        self.push(counters, now);
        if self.status.running && self.running.is_none() && self.under_way() == 0 {
            self.status.running = false;
            self.source.wanted.end();
            tracing::info!(status = ?self.status, "replayed dead letters");
        }
        work
    }

    /// Takes note of what has ended.
    fn hear(&mut self) -> usize {
        let mut count = 0;
        for link in 0..self.source.acks.len() {
            while let Some(ack) = self.source.acks[link].take() {
                self.ended(ack);
                count += 1;
            }
            self.source.acks[link].release();
        }
        count
    }

    fn ended(&mut self, ack: Ack) {
        let number = ack.ordinal;
        let Some((was, _)) = self.was(number) else { return };
        match (ack.told.ended(), ack.told.is_duplicate()) {
            (Ended::Well, duplicate) => {
                *if duplicate { &mut self.status.duplicate } else { &mut self.status.processed } += 1;
                self.removals.push_back(Removal { was, after: None });
            }
            (Ended::DeadLettered, false) => {
                self.status.dead_lettered += 1;
                if let Some(Some(underway)) = self.underway.get_mut(number as usize)
                    && !underway.kept_anew
                {
                    underway.told = true;
                    return;
                }
            }
            (Ended::DeadLettered | Ended::Lost, _) => self.status.kept += 1,
        }
        self.end(number);
    }

    /// Takes letters out that have ended.
    fn remove(&mut self, queues: &mut Queues<'_>, time_ns: u64) -> usize {
        let mut count = 0;
        while let Some(Removal { was, after }) = self.removals.front() {
            if after.is_some_and(|(queue, offset)| queues.of(queue).log().durable_offset() <= offset) {
                break;
            }
            if queues.of(was.queue).remove(was.position(), true, time_ns).is_err() {
                break;
            }
            self.removals.pop_front();
            count += 1;
        }
        count
    }

    /// Copies the next letters into a slot.
    fn fill(&mut self, queues: &mut Queues<'_>, now: Nanos) -> usize {
        if !self.source.state.get().takes_in() || self.running.is_none() && self.carry.is_none() {
            return 0;
        }
        let Some(mut slot) = self.source.pool.acquire() else { return 0 };
        let (mut frames, mut at) = (Vec::new(), 0);
        while frames.len() < BURST {
            let next = self.carry.take().or_else(|| self.next(queues, now));
            let Some(Next { parsed, number, connection, frame }) = next else { break };
            let Some(bytes) = self.source.pool.bytes_mut(&mut slot).get_mut(at..at + frame.len()) else {
                self.carry = Some(Next { parsed, number, connection, frame });
                break;
            };
            bytes.copy_from_slice(&frame);
            // Once the length is known the field is its owner's.
            bytes[..LENGTH_BYTES].copy_from_slice(&number.to_be_bytes());
            frames.push((ParsedFrame { offset: at as u32 + parsed.offset, ..parsed }, connection));
            at += frame.len();
        }
        if frames.is_empty() {
            self.source.pool.give_back(slot);
            return 0;
        }
        self.filled = Some((slot, frames));
        1
    }

    /// The next letter that is to go in now.
    fn next(&mut self, queues: &mut Queues<'_>, now: Nanos) -> Option<Next> {
        let running = self.running.as_mut().filter(|running| now >= running.next_ns)?;
        let number = self.free.last().copied()?;
        while let Some((queue, reader, end)) = running.readers.front_mut() {
            let letter = match queues.of(*queue).read_next(reader) {
                Ok(Some(letter)) if letter.offset < *end => letter,
                ended => {
                    say(*queue, ended.err());
                    running.readers.pop_front();
                    continue;
                }
            };
            if !running.filter.matches(&letter) {
                continue;
            }
            let is_whole = self.source.parser.datagram(letter.frame, &mut self.parsed).is_ok();
            let fits = is_whole && letter.frame.len() <= self.source.pool.slot_bytes();
            let Some(parsed) = self.parsed.first().copied().filter(|_| fits) else {
                self.status.kept += 1;
                continue;
            };
            self.free.pop();
            let arrival_ns = letter.arrival_ns.unwrap_or(letter.time_ns);
            self.underway[number as usize] = Some(Underway { arrival_ns, kept_anew: false, told: false });
            self.replays.set(number, Reference { queue: *queue, epoch: letter.epoch, offset: letter.offset });
            // What was not used of the rate is not made up for beyond a moment.
            running.next_ns = running.next_ns.max(now.saturating_sub(BEHIND_MAX_NS)) + running.interval_ns;
            let connection = match queue {
                LetterQueue::Failed => REPLAY,
                LetterQueue::Shed => REPLAY_UNCLAIMED,
            };
            return Some(Next { parsed, number, connection, frame: letter.frame.to_vec() });
        }
        self.running = None;
        None
    }

    /// Makes events of a slot, if the dispatcher's queue has room.
    fn push(&mut self, counters: &mut Counters, now: Nanos) {
        let Some((slot, frames)) = self.filled.take() else { return };
        let source = &mut self.source;
        let Some(claim) = source.queue.claim(frames.len()) else {
            self.filled = Some((slot, frames));
            return;
        };
        counters.add(Counter::EVENTS_REPLAYED, frames.len() as u64);
        self.status.replayed += frames.len() as u64;
        let mut maker = source.pool.seal(slot, frames.len() as u32, now, Peer::NONE);
        claim.fill_with(|index| {
            let (frame, connection) = frames[index];
            let shape = Shape::new(frame.shape.head() | FLAG_ACK, frame.shape.topic_length());
            let route = Route { shape, topic: frame.topic_hash, connection, arrival_delta_ns: 0 };
            maker.make(frame.offset, frame.length, route)
        });
        drop(maker);
        source.waker.wake();
    }

    /// When there is something to do, if it is known: now, or at a time.
    pub fn due_ns(&self, now: Nanos) -> Option<Nanos> {
        let waits = self.filled.is_some() || !self.removals.is_empty();
        let next = self.running.as_ref().filter(|_| !self.free.is_empty()).map(|running| running.next_ns);
        next.map(|next| next.max(now)).into_iter().chain(waits.then_some(now + RETRY_NS)).min()
    }

    pub fn housekeeping(&mut self) {
        self.source.pool.reclaim();
        self.source.pool.publish_gauges();
        let draining = self.source.state.get() == State::Draining;
        self.drain.set(draining && self.running.is_none() && self.filled.is_none());
    }

    /// Everything has ended, or never will, and what takes the place of letters is durable if it could be made so. False: letters
    /// are held still that may be in the log, or in the other queue again.
    pub fn close(&mut self, queues: &mut Queues<'_>, time_ns: u64) -> bool {
        self.hear();
        self.remove(queues, time_ns);
        if let Some((slot, _)) = self.filled.take() {
            self.source.pool.give_back(slot);
        }
        self.removals.is_empty() && self.under_way() == 0
    }
}

const BEHIND_MAX_NS: Nanos = 10_000_000;
/// How soon to look again for room.
const RETRY_NS: Nanos = 500_000;

fn say(queue: LetterQueue, error: Option<StorageError>) {
    if let Some(error) = error {
        tracing::error!(queue = queue.as_str(), %error, "the replay of dead letters: the rest stays held");
    }
}

/// Of a record: the letter that it takes the place of, where that is in the other queue.
pub fn of_other_queue(letter: &RecordView<'_>, queue: LetterQueue) -> Option<Reference> {
    letter.reference.filter(|was| was.queue != queue)
}
