//! Frames that no slot holds: a large slot is reserved once length and topic are there, and filled over many reads.
//!
//! With none free the connection is not read, and after a deadline closed: the memory for such frames is bounded,
//! and a client that sends many at once is told so rather than left waiting. Whoever has a slot must go on filling it,
//! or a few clients that announce and stall would keep all of them: [`FILL_STEP_BYTES`] buy the whole time again, fewer
//! buy their share, and no time is saved up. Only time counts in which the client had sent nothing: a whole frame that
//! waits for credit, or for its class, is not its fault. Nor can a client hold a slot by reading no answers: with no room for one nothing
//! is reserved, and until the frame is whole none is added.

use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::super::connection::{Connection, Filling};
use super::super::control::Fault;
use super::super::scan::{Context, Stop, count_malformed, scan};
use super::publish::number;
use super::{Outcome, Reader, Step, took};
use crate::frame::Class;
use crate::ingest::Intake;
use crate::memory::off_data_path;
use crate::metrics::{Counter, MalformedReason};
use crate::queue::ClassSet;
use crate::runtime::clock::Nanos;

/// What must come of a large frame within the time for it. The configuration documents the rate that follows.
const FILL_STEP_BYTES: u64 = 64 << 10;

impl Reader {
    pub(super) fn reserve_large(&mut self, c: &mut Connection, intake: &mut Intake, now: Nanos) -> Step {
        let needed = c.whole;
        if needed > self.large.pool().slot_bytes() {
            // The parser's limit is above what the large slots were made for.
            count_malformed(&mut intake.counters, MalformedReason::LengthLimit);
            return self.say_goodbye(c, Fault::malformed(MalformedReason::LengthLimit, c.position));
        }
        let class = c.large_class;
        if self.is_full(class) {
            // Waiting for that is not waiting for a slot.
            c.large_deadline = None;
            self.wait_for_class(c, intake, class);
            return Step::Go;
        }
        let free = if self.has_turn_for_large(class) { self.large.take(class) } else { None };
        let Some(mut slot) = free else {
            let deadline = *c.large_deadline.get_or_insert(now + self.large_wait_ns);
            return if now < deadline { Step::Done(Outcome::NoLarge(class)) } else { self.large_timeout(c, intake) };
        };
        let filled = c.carry.len().min(needed);
        self.large.bytes_mut(&mut slot)[..filled].copy_from_slice(&self.carries.bytes(&c.carry)[..filled]);
        intake.counters.add(Counter::REASSEMBLY_COPIED_BYTES, filled as u64);
        self.carries.clear(&mut c.carry);
        c.large = Some(Filling { slot, class, filled, needed, deadline: now + self.large_fill_ns });
        c.large_deadline = None;
        Step::Go
    }

    /// Whether nobody waits who came before and could have the slot: of the same class, or of one that may take it.
    fn has_turn_for_large(&mut self, class: Class) -> bool {
        let queued = self.large_queued;
        !queued.has(class) && !Class::ALL.into_iter().any(|other| queued.has(other) && self.large.may_take(other))
    }

    /// The announced frame counts as found and cut off: its stream ends inside it, by our doing.
    #[cold]
    fn large_timeout(&mut self, c: &mut Connection, intake: &mut Intake) -> Step {
        intake.counters.add(Counter::TCP_LARGE_FRAME_TIMEOUTS, 1);
        count_malformed(&mut intake.counters, MalformedReason::StreamTruncated);
        let waited = self.large_wait_ns / 1_000_000;
        let message =
            off_data_path(|| format!("no memory for a frame of {} bytes became free within {waited} ms", c.whole));
        self.say_goodbye(c, Fault { code: "large_frame_timeout", message, at_byte: c.position })
    }

    pub(super) fn fill_large(&mut self, c: &mut Connection, intake: &mut Intake, now: Nanos, left: &mut usize) -> Step {
        let Some(mut large) = c.large.take() else { return Step::Go };
        let want = (large.needed - large.filled).min(*left).min(c.drain_left.unwrap_or(usize::MAX));
        let into = &mut self.large.bytes_mut(&mut large.slot)[large.filled..large.filled + want];
        let received = c.receive(into, RecvFlags::empty());
        if let Ok(count) = received {
            large.filled += count;
            let bought = (count as u64).saturating_mul(self.large_fill_ns) / FILL_STEP_BYTES;
            large.deadline = (large.deadline.max(now) + bought).min(now + self.large_fill_ns);
        }
        c.large = Some(large);
        match received {
            Ok(0) => self.ended(c, intake),
            Ok(count) => {
                *left -= count.min(*left);
                c.last_active = now;
                took(c, intake, count);
                if count < want && !c.hangup {
                    c.readable = false;
                }
                Step::Go
            }
            Err(Errno::AGAIN) => {
                c.readable = false;
                if c.is_large_late(now) { self.large_stalled(c, intake) } else { Step::Go }
            }
            Err(_) => self.cut_off(c, intake),
        }
    }

    /// Takes the slot from a connection that does not go on.
    #[cold]
    fn large_stalled(&mut self, c: &mut Connection, intake: &mut Intake) -> Step {
        let (filled, needed) = c.large.as_ref().map_or((0, 0), |large| (large.filled, large.needed));
        intake.counters.add(Counter::TCP_LARGE_FRAMES_STALLED, 1);
        self.count_truncated(c, intake);
        let patience = self.large_fill_ns / 1_000_000;
        let message = off_data_path(|| {
            format!(
                "a frame of {needed} bytes stalled after {filled}: every {FILL_STEP_BYTES} bytes of a large frame must \
                 come within {patience} ms"
            )
        });
        let at_byte = c.position + filled as u64;
        self.say_goodbye(c, Fault { code: "large_frame_stalled", message, at_byte })
    }

    /// The frame is whole and there is credit for it.
    pub(super) fn publish_large(&mut self, c: &mut Connection, intake: &mut Intake, now: Nanos) -> Step {
        let Some(mut large) = c.large.take() else { return Step::Go };
        if self.is_full(large.class) {
            self.wait_for_class(c, intake, large.class);
            c.large = Some(large);
            return Step::Go;
        }
        let context = Context {
            parser: &intake.parser,
            counters: &mut intake.counters,
            frames: &mut self.frames,
            credit: self.credits.left(self.accepted, &self.progress),
            ack_room: self.acks.room_for(&c.owed),
            // Its class was looked at before it got its slot.
            full: ClassSet::default(),
            class_of: &self.class_of,
            slot_bytes: large.needed,
            hello_answer: &self.hello_answer,
            subscriptions: self.subscriptions.as_ref(),
        };
        let found = scan(&self.large.bytes(&large.slot)[..large.needed], c, context);
        if found.consumed == 0 && matches!(found.stop, Stop::OutFull | Stop::NoCredit | Stop::NoAckRoom) {
            c.held_by_acks |= matches!(found.stop, Stop::NoAckRoom);
            c.large = Some(large);
            return Step::Go;
        }
        c.position += found.consumed as u64;
        c.last_active = now;
        if self.frames.is_empty() {
            self.large.give_back(large.slot);
        } else {
            if found.asking > 0 {
                let first = self.acks.ask(&mut c.owed, found.asking, &mut intake.counters);
                number(self.large.bytes_mut(&mut large.slot), &self.frames, first);
            }
            self.large.publish(large.slot, now, |pool, open| {
                intake.stream_from(pool, open, large.needed, &self.frames, c.number, now);
            });
            self.count_accepted(intake);
        }
        (c.needed, c.whole) = (0, 0);
        match found.stop {
            Stop::Fatal(fault) => self.say_goodbye(c, fault),
            _ => Step::Go,
        }
    }
}
