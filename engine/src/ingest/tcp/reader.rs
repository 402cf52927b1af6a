//! Serving one connection: from its socket into the agent's slot, and from there on as events.
//!
//! - **Thread**: the ingest agent's. **In**: a connection that may have bytes. **Out**: events, through the [`Intake`];
//!   answers to the client; what is to become of the connection.
//! - **Overload**: without credit, slot or room for an unfinished frame nothing is read, and the kernel's window
//!   stops the sender. Bytes that were read ahead of the credit wait in the connection's carry, in order.
//! - **Invariant**: only bytes of published frames are sealed in a slot. What follows them there has been copied to
//!   the connection's carry before anybody else is served, and is overwritten by the next read.

mod ending;
mod large;
mod publish;

use std::collections::VecDeque;

use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::acks::{AckInlet, Acks};
use super::carry::CarryPool;
use super::connection::{Connection, Phase};
use super::control::hello_answer;
use super::large_slots::LargeSlots;
use super::scan::Stop;
use super::{ClassOf, Credits, TcpOptions};
use crate::frame::{Class, LENGTH_BYTES, ParsedFrame, Parser, Shape};
use crate::ingest::Intake;
use crate::memory::{FramePool, OpenSlot, Peer};
use crate::metrics::Counter;
use crate::queue::{ClassSet, Progress};
use crate::runtime::clock::Nanos;
use crate::subscribe::SubscriptionLink;

/// An open slot is closed at this age: an event's arrival is a u32 of nanoseconds after its slot's.
const SLOT_AGE_NS: Nanos = 1_000_000_000;
/// A slot with less than this part of it left is closed rather than read into: system calls for crumbs cost more.
const CRUMBS: usize = 16;
/// The least a read asks for when credit is short.
const READ_BYTES_MIN: usize = 512;
/// The part of the slots that may hold events on their way to the dispatcher.
const SLOTS_AHEAD: usize = 8;
/// Frames published at once: what a slot of 64 KiB can hold of the smallest.
const FRAMES_MAX: usize = Parser::max_frames(64 << 10);
/// After its last answer a connection gets this long to read it and to close,
pub(super) const LINGER_NS: Nanos = 2_000_000_000;
/// and may send this much more before it is cut off, unless it may have acknowledgements to read.
const LINGER_BYTES: usize = 16 << 20;
/// Thrown away by one system call.
const DISCARD_BYTES: usize = 64 << 10;

/// What becomes of a connection that was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing to do until epoll says so.
    Idle,
    /// There is more to do: its budget is used up.
    Again,
    /// It could go on if there were credit, or a free slot.
    NoRoom,
    /// It waits for a large slot for a frame of this class.
    NoLarge(Class),
    /// It waits until the class of its next frame is no longer full.
    ClassFull(Class),
    /// It waits until others' acknowledgements have come.
    NoAckRoom,
    Close,
}

/// Bytes that lie in the slot and still in the socket.
struct Peeked {
    /// Before them: bytes of the carry.
    front: usize,
    count: usize,
    /// There were no more of them.
    all: bool,
}

/// What one step of serving came to.
enum Step {
    Go,
    Done(Outcome),
}

pub(super) struct Reader {
    pub(super) large: LargeSlots,
    pub(super) carries: CarryPool,
    pub(super) acks: Acks,
    open: Option<OpenSlot>,
    frames: Vec<ParsedFrame>,
    /// Given to the kernel as the place of bytes nobody wants; with MSG_TRUNC it writes nothing there.
    discard: Box<[u8]>,
    hello_answer: Vec<u8>,
    class_of: ClassOf,
    pub(super) subscriptions: Option<SubscriptionLink>,
    credits: Credits,
    /// Events accepted so far.
    accepted: u64,
    /// As the dispatcher told last.
    progress: Progress,
    /// How many events had been accepted when each of the last slots was closed: those that may have some that are not
    /// dispatched.
    ahead: VecDeque<u64>,
    stalled: bool,
    /// Events were published and the dispatcher has not been woken since.
    published: bool,
    budget_bytes: usize,
    large_wait_ns: Nanos,
    large_fill_ns: Nanos,
    /// Somebody who came before waits for credit or a slot.
    pub(super) room_is_queued: bool,
    /// Classes for whose frames somebody waits for a large slot, having come before.
    pub(super) large_queued: ClassSet,
    /// Of the duty cycle.
    now: Nanos,
}

impl Reader {
    pub(super) fn new(
        options: &TcpOptions,
        large: FramePool,
        class_of: ClassOf,
        inlet: AckInlet,
    ) -> Result<Self, String> {
        let carries = CarryPool::new(options.carry_bytes)
            .map_err(|error| format!("{} bytes for unfinished frames: {error}", options.carry_bytes))?;
        Ok(Self {
            large: LargeSlots::new(large),
            carries,
            acks: Acks::new(inlet, options.ack_wait_ns),
            open: None,
            frames: Vec::with_capacity(FRAMES_MAX),
            discard: vec![0; DISCARD_BYTES].into(),
            hello_answer: hello_answer(options.max_frame_bytes, options.dedup_window_ms, &options.run_id),
            class_of,
            subscriptions: options.subscriptions.clone(),
            credits: options.credits.clone(),
            accepted: 0,
            progress: Progress::default(),
            ahead: VecDeque::new(),
            stalled: false,
            published: false,
            budget_bytes: options.connection_budget_bytes.max(1),
            large_wait_ns: options.large_wait_ns,
            large_fill_ns: options.large_fill_ns,
            room_is_queued: false,
            large_queued: ClassSet::default(),
            now: 0,
        })
    }

    /// On the agent's thread, before the first duty cycle.
    pub(super) fn start(&mut self, intake: &Intake) {
        self.ahead.reserve(intake.pool.slots() + 1);
        // The first look a thread takes at what the topics' classes are kept in allocates.
        (self.class_of)(0, Shape::default(), b"");
    }

    /// Takes note of what the dispatcher tells.
    pub(super) fn look(&mut self) {
        self.progress = self.credits.feedback.read();
        while self.ahead.front().is_some_and(|accepted| *accepted <= self.progress.dispatched) {
            self.ahead.pop_front();
        }
    }

    pub(super) fn is_full(&self, class: Class) -> bool {
        self.progress.full.has(class)
    }

    pub(super) fn take_published(&mut self) -> bool {
        std::mem::take(&mut self.published)
    }

    /// Closes the open slot if it is old, or whatever its age.
    pub(super) fn close_slot(&mut self, intake: &mut Intake, now: Option<Nanos>) {
        let is_due =
            |open: &OpenSlot| now.is_none_or(|now| now.saturating_sub(intake.pool.arrival_ns(open)) >= SLOT_AGE_NS);
        if let Some(open) = self.open.take_if(|open| is_due(open)) {
            intake.pool.close(open);
            if self.accepted > self.progress.dispatched {
                self.ahead.push_back(self.accepted);
            }
        }
    }

    pub(super) fn housekeeping(&mut self, intake: &mut Intake, now: Nanos) {
        self.close_slot(intake, Some(now));
        self.large.housekeeping();
        self.acks.housekeeping();
    }

    /// Serves a connection up to its budget. Returns what becomes of it and how many bytes that were.
    pub(super) fn serve(&mut self, c: &mut Connection, intake: &mut Intake, now: Nanos) -> (Outcome, usize) {
        self.now = now;
        self.look();
        let mut left = self.budget_bytes;
        let outcome = loop {
            let step = match c.phase {
                Phase::Closing { .. } => self.linger(c, &mut left),
                Phase::Finishing => self.finish(c, intake),
                Phase::Open => self.step(c, intake, now, &mut left),
            };
            match step {
                Step::Done(outcome) => break outcome,
                Step::Go if left == 0 || intake.is_blocked() => break Outcome::Again,
                Step::Go => {}
            }
        };
        self.flush(c, intake);
        (outcome, self.budget_bytes - left)
    }

    /// Sends what the socket takes of answers and acknowledgements, never one inside the other.
    pub(super) fn flush(&mut self, c: &mut Connection, intake: &mut Intake) {
        if !c.may_write() {
            return;
        }
        if c.owed.is_mid_frame() {
            self.acks.send(&mut c.owed, &c.socket, &mut intake.counters, self.now);
        }
        c.flush();
        if c.owed.has_queued() && c.out.is_empty() {
            self.acks.send(&mut c.owed, &c.socket, &mut intake.counters, self.now);
        } else if c.owed.has_queued() {
            self.acks.wait_for_client(&mut c.owed, self.now);
        }
        c.has_written();
    }

    /// Sends the acknowledgements of a connection that has had no turn.
    pub(super) fn flush_acks(&mut self, c: &mut Connection, intake: &mut Intake, now: Nanos) {
        self.now = now;
        self.flush(c, intake);
    }

    /// What keeps the connection from being read on account of its acknowledgements, if anything does.
    fn held_by_acks(&mut self, c: &mut Connection, intake: &mut Intake) -> Option<Outcome> {
        if c.owed.has_queued() {
            self.flush(c, intake);
        }
        c.held_by_acks |= c.owed.has_queued();
        // Its own ones will give it a turn again: as they come, or as they are sent.
        if c.owed.has_queued() || (c.held_by_acks && self.acks.share_left(&c.owed) == 0) {
            return Some(Outcome::Idle);
        }
        if c.held_by_acks && self.acks.room() == 0 {
            return Some(Outcome::NoAckRoom);
        }
        c.held_by_acks = false;
        None
    }

    fn step(&mut self, c: &mut Connection, intake: &mut Intake, now: Nanos, left: &mut usize) -> Step {
        if (c.held_by_acks || c.owed.has_queued())
            && let Some(outcome) = self.held_by_acks(c, intake)
        {
            return Step::Done(outcome);
        }
        if !c.can_answer() {
            return Step::Done(Outcome::Idle);
        }
        if let Some(class) = c.waits_for {
            if self.is_full(class) {
                return Step::Done(Outcome::ClassFull(class));
            }
            c.waits_for = None;
        }
        if c.has_pending() {
            return match self.has_credit(intake) {
                false => Step::Done(Outcome::NoRoom),
                true if c.large.is_some() => self.publish_large(c, intake, now),
                true => self.replay(c, intake, now, left),
            };
        }
        if c.large.is_none() && c.needed > intake.pool.slot_bytes() {
            return self.reserve_large(c, intake, now);
        }
        if !c.readable || c.drain_left == Some(0) {
            let draining = c.drain_left.is_some();
            return if draining { self.leave(c, intake) } else { Step::Done(Outcome::Idle) };
        }
        if c.large.is_some() {
            return self.fill_large(c, intake, now, left);
        }
        if !self.has_credit(intake) {
            return Step::Done(Outcome::NoRoom);
        }
        self.read(c, intake, now, left)
    }

    /// Events that may still be accepted.
    fn credit(&self) -> u64 {
        self.credits.left(self.accepted, &self.progress)
    }

    /// Whether the connection at hand may take up events now.
    fn has_credit(&mut self, intake: &mut Intake) -> bool {
        let stalled = self.credits.free(self.accepted, &self.progress) == 0;
        if stalled && !self.stalled {
            intake.counters.add(Counter::TCP_CREDIT_STALLS, 1);
        }
        self.stalled = stalled;
        self.credit() > 0 && !self.room_is_queued
    }

    /// The connection's next frame is of a class that is full.
    fn wait_for_class(&self, c: &mut Connection, intake: &mut Intake, class: Class) {
        c.waits_for = Some(class);
        intake.counters.add(Counter::TCP_CLASS_WAITS, 1);
    }

    /// Makes sure that the open slot is fresh and has `room` left, opening another if not. False: no slot is free.
    fn ensure_slot(&mut self, intake: &mut Intake, room: usize, now: Nanos) -> bool {
        let slot_bytes = intake.pool.slot_bytes();
        self.close_slot(intake, Some(now));
        if self.open.as_ref().is_some_and(|open| slot_bytes - open.sealed() >= room) {
            return true;
        }
        self.close_slot(intake, None);
        let may_open = self.ahead.len() < (intake.pool.slots() / SLOTS_AHEAD).max(1);
        let slot = may_open.then(|| intake.pool.acquire()).flatten();
        // Connections share the slot, so it has no peer; events tell them apart by number.
        self.open = slot.map(|slot| intake.pool.open(slot, now, Peer::NONE));
        self.open.is_some()
    }

    /// Reads once, behind what is carried, and publishes what has become whole.
    fn read(&mut self, c: &mut Connection, intake: &mut Intake, now: Nanos, left: &mut usize) -> Step {
        let slot_bytes = intake.pool.slot_bytes();
        let (front, needed) = (c.carry.len(), c.needed.max(LENGTH_BYTES));
        if !self.ensure_slot(intake, needed.max(slot_bytes / CRUMBS), now) {
            return Step::Done(Outcome::NoRoom);
        }
        let by_credit = self.credit().saturating_mul(c.frame_bytes.into()).max(READ_BYTES_MIN as u64);
        let Some(open) = self.open.as_mut() else { return Step::Done(Outcome::NoRoom) };
        let room = slot_bytes - open.sealed() - front;
        let missing = needed.saturating_sub(front).max(1);
        // By the connection's typical frame, so that a read seldom brings more frames than may be published.
        let by_credit = usize::try_from(by_credit).unwrap_or(usize::MAX);
        let want = (*left).min(by_credit).max(missing).min(room).min(c.drain_left.unwrap_or(usize::MAX));
        // Any part of it may have to be carried.
        let peek = !self.carries.can_hold(&c.carry, front + want);
        let flags = if peek { RecvFlags::PEEK } else { RecvFlags::empty() };
        let received = c.receive(&mut intake.pool.spare_mut(open)[front..front + want], flags);
        let count = match received {
            Ok(0) => return self.ended(c, intake),
            Ok(count) => count,
            Err(Errno::AGAIN) => {
                c.readable = false;
                return Step::Go;
            }
            Err(_) => return self.cut_off(c, intake),
        };
        *left -= count.min(*left);
        c.last_active = now;
        if count < want && !c.hangup {
            c.readable = false;
        }
        if peek {
            return self.take_peeked(c, intake, now, Peeked { front, count, all: count < want });
        }
        took(c, intake, count);
        let bytes = &mut intake.pool.spare_mut(open)[..front + count];
        if front + count < needed {
            // Not whole yet: only the new bytes are copied, so a frame that comes in crumbs costs each byte once.
            self.carries.append(&mut c.carry, &bytes[front..]);
            c.needed = needed;
            intake.counters.add(Counter::REASSEMBLY_COPIED_BYTES, count as u64);
            return Step::Go;
        }
        bytes[..front].copy_from_slice(self.carries.bytes(&c.carry));
        let scan = self.scan_slot(c, intake, front + count);
        let sealed = self.publish(c, intake, &scan, now);
        self.carries.clear(&mut c.carry);
        if !matches!(scan.stop, Stop::Fatal(_)) {
            self.keep_tail(c, intake, scan.consumed - sealed, front + count - scan.consumed);
        }
        self.stopped(c, intake, scan.stop)
    }
}

/// Counts bytes that are ours now.
fn took(c: &mut Connection, intake: &mut Intake, count: usize) {
    intake.counters.add(Counter::BYTES_RECEIVED, count as u64);
    c.drain_left = c.drain_left.map(|left| left.saturating_sub(count));
}
