//! From bytes in a slot or a carry to events, and what remains of them to the carry.

use rustix::net::RecvFlags;

use super::super::connection::Connection;
use super::super::control::Fault;
use super::super::scan::{Context, Scan, Stop, count_malformed, scan};
use super::{Outcome, Peeked, Reader, Step, took};
use crate::frame::{FLAG_ACK, LENGTH_BYTES, ParsedFrame};
use crate::ingest::Intake;
use crate::ingest::intake::miscount;
use crate::metrics::{Counter, MalformedReason};
use crate::runtime::clock::Nanos;

impl Reader {
    /// Looks through the first `length` unsealed bytes of the open slot.
    pub(super) fn scan_slot(&mut self, c: &mut Connection, intake: &mut Intake, length: usize) -> Scan {
        let (credit, slot_bytes) = (self.credit(), intake.pool.slot_bytes());
        let Some(open) = self.open.as_mut() else { return Scan { consumed: 0, asking: 0, stop: Stop::NoCredit } };
        let context = Context {
            parser: &intake.parser,
            counters: &mut intake.counters,
            frames: &mut self.frames,
            credit,
            ack_room: self.acks.room_for(&c.owed),
            full: self.progress.full,
            class_of: &self.class_of,
            slot_bytes,
            hello_answer: &self.hello_answer,
            subscriptions: self.subscriptions.as_ref(),
        };
        scan(&intake.pool.spare_mut(open)[..length], c, context)
    }

    /// Publishes the frames found in the next bytes of the open slot, as far as they were used up. Returns how many bytes of it
    /// were sealed: none if there was no event among them, so that they are overwritten.
    pub(super) fn publish(&mut self, c: &mut Connection, intake: &mut Intake, scan: &Scan, now: Nanos) -> usize {
        let Scan { consumed, asking, .. } = *scan;
        c.position += consumed as u64;
        c.last_active = now;
        let Some(open) = self.open.as_mut().filter(|_| !self.frames.is_empty()) else { return 0 };
        if asking > 0 {
            let first = self.acks.ask(&mut c.owed, asking, &mut intake.counters);
            number(intake.pool.spare_mut(open), &self.frames, first);
        }
        intake.stream(open, consumed, &self.frames, c.number, now);
        self.count_accepted(intake);
        let typical = (consumed / self.frames.len()) as u32;
        c.frame_bytes = c.frame_bytes - c.frame_bytes / 4 + typical / 4;
        consumed
    }

    pub(super) fn count_accepted(&mut self, intake: &mut Intake) {
        let events = self.frames.len() as u64;
        self.accepted += events;
        self.published = true;
        intake.counters.add(Counter::TCP_FRAMES_ACCEPTED, events);
        intake.counters.add(Counter::EVENTS_ACCEPTED, events.wrapping_add(miscount()));
    }

    /// Copies what a read left over, `offset` behind the slot's sealed end, to the carry.
    pub(super) fn keep_tail(&mut self, c: &mut Connection, intake: &mut Intake, offset: usize, length: usize) {
        let Some(open) = self.open.as_mut() else { return };
        let tail = &intake.pool.spare_mut(open)[offset..offset + length];
        self.carries.append(&mut c.carry, tail);
        intake.counters.add(Counter::REASSEMBLY_COPIED_BYTES, length as u64);
    }

    /// What follows from where a scan stopped.
    pub(super) fn stopped(&mut self, c: &mut Connection, intake: &mut Intake, stop: Stop) -> Step {
        (c.needed, c.whole) = match stop {
            Stop::Incomplete { needed, whole } => (needed, whole),
            Stop::NoCredit | Stop::OutFull => (0, 0),
            Stop::NoAckRoom => {
                c.held_by_acks = true;
                (0, 0)
            }
            Stop::ClassFull(class) => {
                self.wait_for_class(c, intake, class);
                (0, 0)
            }
            Stop::Fatal(fault) => return self.say_goodbye(c, fault),
        };
        Step::Go
    }

    /// Publishes whole frames that were read ahead of the credit.
    pub(super) fn replay(&mut self, c: &mut Connection, intake: &mut Intake, now: Nanos, left: &mut usize) -> Step {
        if !self.ensure_slot(intake, c.carry.len(), now) {
            return Step::Done(Outcome::NoRoom);
        }
        let mut carry = std::mem::take(&mut c.carry);
        let context = Context {
            parser: &intake.parser,
            counters: &mut intake.counters,
            frames: &mut self.frames,
            credit: self.credits.left(self.accepted, &self.progress),
            ack_room: self.acks.room_for(&c.owed),
            full: self.progress.full,
            class_of: &self.class_of,
            slot_bytes: intake.pool.slot_bytes(),
            hello_answer: &self.hello_answer,
            subscriptions: self.subscriptions.as_ref(),
        };
        // Where they lie first: only what may be published now is copied to the slot.
        let scan = scan(self.carries.bytes(&carry), c, context);
        let consumed = scan.consumed;
        if let Some(open) = self.open.as_mut().filter(|_| !self.frames.is_empty()) {
            intake.pool.spare_mut(open)[..consumed].copy_from_slice(&self.carries.bytes(&carry)[..consumed]);
        }
        self.publish(c, intake, &scan, now);
        self.carries.consume(&mut carry, consumed);
        c.carry = carry;
        *left -= consumed.min(*left);
        self.stopped(c, intake, scan.stop)
    }

    /// Takes from the socket exactly what can be published at once: there is no room to carry anything. The rest
    /// stays there until more arrives or room comes back.
    pub(super) fn take_peeked(&mut self, c: &mut Connection, intake: &mut Intake, now: Nanos, peeked: Peeked) -> Step {
        let Peeked { front, count, all } = peeked;
        let Some(open) = self.open.as_mut() else { return Step::Done(Outcome::NoRoom) };
        intake.pool.spare_mut(open)[..front].copy_from_slice(self.carries.bytes(&c.carry));
        let scan = self.scan_slot(c, intake, front + count);
        let consumed = scan.consumed;
        let mut from_socket = consumed.saturating_sub(front);
        while from_socket > 0 {
            let length = from_socket.min(self.discard.len());
            // The same bytes again, so nobody needs them. They were there, and nobody else takes them.
            match c.receive(&mut self.discard[..length], RecvFlags::TRUNC) {
                Ok(taken) if taken > 0 => {
                    took(c, intake, taken);
                    from_socket -= taken.min(from_socket);
                }
                _ => break,
            }
        }
        self.publish(c, intake, &scan, now);
        self.carries.consume(&mut c.carry, consumed.min(front));
        match &scan.stop {
            Stop::Incomplete { needed, .. } if *needed <= intake.pool.slot_bytes() => {
                let is_end = all && c.hangup;
                if is_end {
                    // The rest of the frame can never come.
                    count_malformed(&mut intake.counters, MalformedReason::StreamTruncated);
                    let end = c.position + (front + count - consumed) as u64;
                    return self.say_goodbye(c, Fault::malformed(MalformedReason::StreamTruncated, end));
                }
                c.carry_starved = all;
            }
            // Whole frames, or the start of a large one, are still in the socket.
            _ => c.readable = true,
        }
        self.stopped(c, intake, scan.stop)
    }
}

/// Writes over the length field of each frame that asks which one of its connection's it is: nobody needs the length
/// any more, and every copy of the event takes the field along.
#[cold]
pub(super) fn number(bytes: &mut [u8], frames: &[ParsedFrame], first: u64) {
    let asking = frames.iter().filter(|frame| frame.shape.has(FLAG_ACK));
    for (frame, ordinal) in asking.zip(first..) {
        let start = frame.offset as usize - LENGTH_BYTES;
        bytes[start..start + LENGTH_BYTES].copy_from_slice(&(ordinal as u32).to_be_bytes());
    }
}
