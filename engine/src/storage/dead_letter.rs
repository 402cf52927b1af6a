//! The dead letter queue: where events go that could not be processed, with the reason.
//!
//! - **Threads**: each agent that dead-letters owns a [`DeadLetterSender`]; the [`DeadLetterAgent`] copies what arrives into
//!   two bounded rings, one for events that failed and one for events that were shed, so that a flood of the latter evicts
//!   no poison message. With a data directory a [`LetterAgent`](super::LetterAgent) writes them to disk in its place.
//! - **Overload**: shed events have a budget of bytes per second; above it, or when the link is full, they are `lost`, by
//!   reason. The oldest records make room for new ones and are counted as evicted.
//! - **Invariant**: received = replayed + purged + evicted + held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::byte_ring::ByteRing;
use crate::acks::is_replay;
use crate::dedup::ClaimToken;
use crate::fault::{self, Stage};
use crate::frame::Class;
use crate::memory::{Event, Frames, Releaser};
use crate::metrics::{Counter, Counters, DeadLetterReason, LostReason};
use crate::queue::spsc;
use crate::runtime::agent::{Agent, Cycle};
use crate::runtime::clock::Nanos;
use crate::runtime::waker::Waker;

/// An event on its way to the dead letter queue.
#[derive(Debug)]
pub struct DeadLetter {
    pub(super) event: Event,
    pub(super) class: Class,
    pub(super) reason: DeadLetterReason,
    /// Of the event's claim, if that is settled when the letter is on disk.
    pub(super) token: Option<ClaimToken>,
}

/// What has become of an event that was sent to the dead letter queue, and of its claim.
#[must_use = "whoever asked is told, and the claim settled"]
#[derive(Debug)]
pub enum Sent {
    /// It has ended there: the sender tells who asked.
    Kept(Option<ClaimToken>),
    /// It ends when it is on disk. Who writes it settles its claim then, and tells who asked.
    Later,
    /// It could not be kept: the sender tells who asked.
    Lost(LostReason, Option<ClaimToken>),
}

/// Set while the disk takes no dead letters.
#[derive(Clone, Debug, Default)]
pub struct Refusing(Arc<AtomicBool>);

impl Refusing {
    /// By the agent that writes them.
    pub(super) fn set(&self, refusing: bool) {
        // Relaxed: whoever acts on it may do so some letters later.
        self.0.store(refusing, Ordering::Relaxed);
    }

    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A token bucket over bytes, one second deep.
#[derive(Clone, Copy, Debug)]
pub struct ShedBudget {
    bytes_per_s: u64,
    available: u64,
    last_ns: Nanos,
}

impl ShedBudget {
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, available: bytes_per_s, last_ns: 0 }
    }

    fn take(&mut self, bytes: u64, now: Nanos) -> bool {
        let elapsed = now.saturating_sub(self.last_ns).min(1_000_000_000);
        let earned = (u128::from(elapsed) * u128::from(self.bytes_per_s) / 1_000_000_000) as u64;
        // Only whole bytes are earned: keep the rest of the time for the next call.
        if earned > 0 {
            self.available = (self.available + earned).min(self.bytes_per_s);
            self.last_ns = now;
        }
        let granted = bytes <= self.available;
        if granted {
            self.available -= bytes;
        }
        granted
    }
}

/// The sending end of one agent.
pub struct DeadLetterSender {
    link: spsc::Producer<DeadLetter>,
    budget: ShedBudget,
    /// Wakes the dead letter agent's runner; `None` when it is the sender's own.
    waker: Option<Waker>,
    /// With a data directory: the link empties at the pace of a disk.
    disk: Option<Refusing>,
    /// When to look again for room, while there is none.
    due_ns: Option<Nanos>,
}

/// How soon that is: nobody tells a sender that there is room.
const RETRY_NS: Nanos = 500_000;

impl DeadLetterSender {
    pub fn new(link: spsc::Producer<DeadLetter>, budget: ShedBudget, waker: Option<Waker>) -> Self {
        Self { link, budget, waker, disk: None, due_ns: None }
    }

    /// To a [`LetterAgent`](super::LetterAgent).
    pub fn to_disk(self, refusing: Refusing) -> Self {
        Self { disk: Some(refusing), ..self }
    }

    fn is_refused(&self) -> bool {
        self.disk.as_ref().is_some_and(Refusing::get)
    }

    /// How many of `count` events may be begun so that each of them may fail. In memory the link empties in no time.
    #[inline]
    pub fn fits(&mut self, count: usize, now: Nanos) -> usize {
        if self.disk.is_none() || count == 0 { count } else { self.fits_link(count, now) }
    }

    #[cold]
    fn fits_link(&mut self, count: usize, now: Nanos) -> usize {
        let fitting = if self.is_refused() { count } else { self.link.room(count).min(count) };
        self.due_ns = (fitting == 0).then_some(now + RETRY_NS);
        fitting
    }

    /// When to look again whether more [fits](Self::fits), if nothing did.
    pub fn due_ns(&self) -> Option<Nanos> {
        self.due_ns
    }

    /// Dead-letters an event, or loses it and gives its frame up at once. Counts which.
    pub fn send(
        &mut self,
        event: Event,
        (class, reason, token): (Class, DeadLetterReason, Option<ClaimToken>),
        now: Nanos,
        counters: &mut Counters,
        releaser: &mut Releaser,
    ) -> Sent {
        let mut lose = |event, reason, token| {
            counters.add(Counter::lost(reason), 1);
            releaser.release(event);
            Sent::Lost(reason, token)
        };
        if reason.is_shed() && !self.budget.take(u64::from(event.length()), now) {
            return lose(event, LostReason::ShedOverBudget, token);
        }
        if self.is_refused() {
            return lose(event, LostReason::DeadLetterDisk, token);
        }
        // One that is replayed is on disk already.
        let ends_later = self.disk.is_some() && !is_replay(event.connection());
        let (token, kept) = if ends_later { (token, None) } else { (None, token) };
        match self.link.push(DeadLetter { event, class, reason, token }) {
            Ok(()) => {
                counters.add(Counter::dead_lettered(reason), 1);
                if ends_later { Sent::Later } else { Sent::Kept(kept) }
            }
            Err(letter) => lose(letter.event, LostReason::DeadLetterLinkFull, letter.token.or(kept)),
        }
    }

    /// Whether the next one that is not [shed](DeadLetterReason::is_shed) gets there.
    pub fn has_room(&mut self) -> bool {
        self.link.room(1) > 0 || self.is_refused()
    }

    /// Makes what was sent visible; once a batch.
    #[inline]
    pub fn publish(&mut self) {
        if self.link.publish() > 0
            && let Some(waker) = &self.waker
        {
            waker.wake();
        }
    }
}

/// How many records the queue holds.
#[derive(Debug, Default)]
pub struct DeadLetterGauges {
    /// When the engine was started.
    pub held_at_start: AtomicU64,
    pub held_failed: AtomicU64,
    pub held_shed: AtomicU64,
}

/// The agent that keeps them.
pub struct DeadLetterAgent {
    name: String,
    links: Vec<spsc::Consumer<DeadLetter>>,
    failed: ByteRing,
    shed: ByteRing,
    frames: Frames,
    releaser: Releaser,
    counters: Counters,
    gauges: Arc<DeadLetterGauges>,
}

/// Letters taken from one link in a duty cycle.
const BURST: usize = 256;

impl DeadLetterAgent {
    pub fn new(
        name: String,
        links: Vec<spsc::Consumer<DeadLetter>>,
        failed: ByteRing,
        shed: ByteRing,
        frames: Frames,
    ) -> Self {
        let releaser = Releaser::new(frames.clone());
        Self { name, links, failed, shed, frames, releaser, counters: Counters::default(), gauges: Arc::default() }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn gauges(&self) -> Arc<DeadLetterGauges> {
        self.gauges.clone()
    }

    fn keep(&mut self, letter: &DeadLetter) {
        let shed = letter.reason.is_shed();
        let ring = if shed { &mut self.shed } else { &mut self.failed };
        let header = [letter.reason as u8, letter.class as u8, letter.event.shape().head(), 0];
        let topic_length = letter.event.shape().topic_length().to_be_bytes();
        let arrival = self.frames.arrival_ns(&letter.event).to_be_bytes();
        let stored = ring.push(&[&header, &topic_length, &arrival, self.frames.bytes(&letter.event)]);
        self.counters.add(Counter::DEAD_LETTERS_RECEIVED, 1);
        // One that can never fit is its own eviction.
        self.counters.add(Counter::DEAD_LETTERS_EVICTED, stored.unwrap_or(1) as u64);
        if fault::doubles(Stage::DeadLetter) {
            self.counters.add(Counter::DEAD_LETTERS_RECEIVED, 1);
        }
    }
}

impl Agent for DeadLetterAgent {
    fn name(&self) -> &str {
        &self.name
    }

    fn duty_cycle(&mut self, _cycle: &Cycle) -> usize {
        let mut count = 0;
        for index in 0..self.links.len() {
            for _ in 0..self.links[index].available(BURST) {
                let Some(letter) = self.links[index].take() else { break };
                if !fault::drops(Stage::DeadLetter) {
                    self.keep(&letter);
                }
                self.releaser.release(letter.event);
                count += 1;
            }
            // Frames before ring positions: who sees the link empty may count on the frames.
            self.releaser.flush();
            self.links[index].release();
        }
        count
    }

    fn housekeeping(&mut self, _now: Nanos) {
        self.gauges.held_failed.store(self.failed.len() as u64, Ordering::Release);
        self.gauges.held_shed.store(self.shed.len() as u64, Ordering::Release);
        self.counters.flush();
    }
}
