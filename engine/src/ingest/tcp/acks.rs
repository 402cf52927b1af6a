//! Acknowledgements on their way to clients: from the rings of those who end events to the sockets.
//!
//! - **Thread**: the ingest agent's. **In**: [`Ack`]s, in the order in which events ended. **Out**: `$esc/ack` frames.
//! - **Overload**: there is a place for each frame that asked until its answer has been sent or given up, and as many places
//!   as each ring has room. With all taken, or a connection having its share of them, no frame that asks is read. Whoever
//!   does not read its answers is not read either, and is given up after a while.
//! - **Invariant**: asked = sent + undeliverable + outstanding.
//!
//! Answers wait here in lists, one of each connection, and are encoded when the socket may take them: a connection
//! has no buffer of its own, and what a partial write has left over is encoded again.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::acks::{Ack, AcksWanted};
use crate::frame::{HEADER_BYTES, LENGTH_BYTES, Priority};
use crate::metrics::{Counter, Counters};
use crate::queue::spsc;
use crate::runtime::clock::Nanos;

const TOPIC: &[u8] = b"$esc/ack";
/// Status, reason, ordinal and id.
const ACK_BYTES: usize = 1 + 1 + 8 + 16;
/// Answers in one frame at most: 13 KiB, which a socket that can be written to mostly takes whole.
const FRAME_ACKS: u32 = 512;
const FRONT_BYTES: usize = LENGTH_BYTES + HEADER_BYTES + TOPIC.len();
/// The part of all places that one connection may have.
const SHARE: u64 = 4;
/// No place.
const NONE: u32 = u32::MAX;

/// Where an agent's acknowledgements come from.
pub struct AckInlet {
    /// One from each agent that ends events, all equally deep.
    pub links: Vec<spsc::Consumer<Ack>>,
    pub wanted: AcksWanted,
    /// Depth of the links: so many may be under way.
    pub depth: usize,
}

/// What a connection is owed.
#[derive(Debug)]
pub(super) struct Owed {
    /// Frames that asked so far: the number of the next one.
    asked: u64,
    /// Answers that have not come yet.
    in_flight: u32,
    /// Answers that wait here to be sent: a list of places.
    queued: u32,
    head: u32,
    tail: u32,
    /// Of these, so many are in the frame that has been sent in part: so many bytes of it.
    sending: u32,
    sent_bytes: usize,
    /// When the client has not read for too long.
    deadline: Option<Nanos>,
    /// Nothing is sent any more.
    given_up: bool,
}

impl Default for Owed {
    fn default() -> Self {
        Self {
            asked: 0,
            in_flight: 0,
            queued: 0,
            head: NONE,
            tail: NONE,
            sending: 0,
            sent_bytes: 0,
            deadline: None,
            given_up: false,
        }
    }
}

impl Owed {
    /// Answers that wait for the socket.
    pub(super) fn has_queued(&self) -> bool {
        self.queued > 0
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(super) fn has_asked(&self) -> bool {
        self.asked > 0
    }

    /// Whether the client will be sent something yet.
    pub(super) fn is_outstanding(&self) -> bool {
        !self.given_up && (self.in_flight > 0 || self.queued > 0)
    }

    /// A frame has been sent in part: nothing else may come before its rest.
    pub(super) fn is_mid_frame(&self) -> bool {
        self.sent_bytes > 0
    }

    pub(super) fn waits_for_client(&self) -> bool {
        self.deadline.is_some()
    }

    pub(super) fn is_late(&self, now: Nanos) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// Time in which nothing was tried does not count.
    pub(super) fn postpone(&mut self, by: Nanos) {
        self.deadline = self.deadline.map(|deadline| deadline + by);
    }
}

#[derive(Clone, Copy)]
struct Place {
    ack: Option<Ack>,
    /// The next one of the same list, or of the free ones.
    next: u32,
}

/// All that the agent's connections are owed.
pub(super) struct Acks {
    links: Vec<spsc::Consumer<Ack>>,
    wanted: AcksWanted,
    is_wanted: bool,
    places: Box<[Place]>,
    free: u32,
    in_flight: u64,
    queued: u64,
    /// A frame as it is sent.
    frame: Vec<u8>,
    outstanding: Arc<AtomicU64>,
    /// How long a client may leave answers unread.
    pub(super) patience_ns: Nanos,
}

impl Acks {
    pub(super) fn new(inlet: AckInlet, patience_ns: Nanos) -> Self {
        let count = inlet.depth as u32;
        let place = |index: u32| Place { ack: None, next: if index + 1 < count { index + 1 } else { NONE } };
        Self {
            links: inlet.links,
            wanted: inlet.wanted,
            is_wanted: false,
            places: (0..count).map(place).collect(),
            free: if count > 0 { 0 } else { NONE },
            in_flight: 0,
            queued: 0,
            frame: Vec::with_capacity(FRONT_BYTES + FRAME_ACKS as usize * ACK_BYTES),
            outstanding: Arc::default(),
            patience_ns,
        }
    }

    /// Answers asked for and neither sent nor given up: as of the last housekeeping.
    pub(super) fn outstanding_gauge(&self) -> Arc<AtomicU64> {
        self.outstanding.clone()
    }

    /// Frames that may ask now, over all connections.
    pub(super) fn room(&self) -> u64 {
        self.places.len() as u64 - self.in_flight - self.queued
    }

    /// Frames of this connection that may ask as far as its own share goes.
    pub(super) fn share_left(&self, owed: &Owed) -> u64 {
        let share = (self.places.len() as u64 / SHARE).max(1);
        share.saturating_sub(u64::from(owed.in_flight) + u64::from(owed.queued))
    }

    pub(super) fn room_for(&self, owed: &Owed) -> u64 {
        self.room().min(self.share_left(owed))
    }

    /// Whether answers have not come yet.
    pub(super) fn are_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Takes note of `count` frames that ask, before their events are published. Returns the number of the first.
    pub(super) fn ask(&mut self, owed: &mut Owed, count: u64, counters: &mut Counters) -> u64 {
        if !self.is_wanted {
            self.is_wanted = true;
            self.wanted.begin();
        }
        counters.add(Counter::ACKS_ASKED, count);
        self.in_flight += count;
        owed.in_flight += count as u32;
        owed.asked += count;
        owed.asked - count
    }

    /// The next answer that has come, from the ring at `link` or one behind it; `link` is where it was found.
    pub(super) fn next(&mut self, link: &mut usize) -> Option<Ack> {
        while let Some(ring) = self.links.get_mut(*link) {
            if let Some(ack) = ring.take() {
                self.in_flight -= 1;
                return Some(ack);
            }
            ring.release();
            *link += 1;
        }
        None
    }

    /// Queues an answer for its connection.
    pub(super) fn queue(&mut self, owed: &mut Owed, ack: Ack, counters: &mut Counters) {
        owed.in_flight -= 1;
        let index = self.free;
        let Some(place) = self.places.get_mut(index as usize).filter(|_| !owed.given_up) else {
            return counters.add(Counter::ACKS_UNDELIVERABLE, 1);
        };
        self.free = std::mem::replace(&mut place.next, NONE);
        place.ack = Some(ack);
        match self.places.get_mut(owed.tail as usize) {
            Some(last) => last.next = index,
            None => owed.head = index,
        }
        owed.tail = index;
        owed.queued += 1;
        self.queued += 1;
    }

    /// Sends what the socket takes.
    pub(super) fn send(&mut self, owed: &mut Owed, socket: impl AsFd, counters: &mut Counters, now: Nanos) {
        while owed.queued > 0 {
            if owed.sending == 0 {
                owed.sending = owed.queued.min(FRAME_ACKS);
            }
            self.encode(owed);
            match rustix::net::send(&socket, &self.frame[owed.sent_bytes..], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
            {
                Ok(count) => {
                    owed.deadline = None;
                    owed.sent_bytes += count;
                    if owed.sent_bytes == self.frame.len() {
                        counters.add(Counter::ACKS_SENT, owed.sending.into());
                        self.strike_off(owed, owed.sending);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    return self.wait_for_client(owed, now);
                }
                // What is wrong with the connection, the next read tells.
                Err(_) => return self.give_up(owed, counters),
            }
        }
    }

    /// The socket takes nothing now.
    pub(super) fn wait_for_client(&mut self, owed: &mut Owed, now: Nanos) {
        owed.deadline.get_or_insert(now + self.patience_ns);
    }

    /// Makes the frame of the first answers: the same each time, until all of it is sent.
    fn encode(&mut self, owed: &Owed) {
        let length = HEADER_BYTES + TOPIC.len() + owed.sending as usize * ACK_BYTES;
        self.frame.clear();
        self.frame.extend_from_slice(&(length as u32).to_be_bytes());
        self.frame.push(Priority::Critical as u8);
        self.frame.extend_from_slice(&(TOPIC.len() as u16).to_be_bytes());
        self.frame.extend_from_slice(TOPIC);
        let mut next = owed.head;
        for _ in 0..owed.sending {
            let Some(Place { ack: Some(ack), next: behind }) = self.places.get(next as usize) else { break };
            // What is outstanding is among the last 2^32, so the low half tells which.
            let since = (owed.asked as u32).wrapping_sub(ack.ordinal);
            self.frame.extend_from_slice(&[ack.told.status, ack.told.reason]);
            self.frame.extend_from_slice(&(owed.asked - u64::from(since)).to_be_bytes());
            self.frame.extend_from_slice(&ack.id);
            next = *behind;
        }
    }

    /// Frees the first `count` places of a list.
    fn strike_off(&mut self, owed: &mut Owed, count: u32) {
        for _ in 0..count {
            let index = owed.head;
            let Some(place) = self.places.get_mut(index as usize) else { break };
            place.ack = None;
            owed.head = std::mem::replace(&mut place.next, self.free);
            self.free = index;
            owed.queued -= 1;
            self.queued -= 1;
        }
        if owed.queued == 0 {
            owed.tail = NONE;
        }
        (owed.sending, owed.sent_bytes) = (0, 0);
    }

    /// What has to be sent of a frame before anything else may be.
    #[cold]
    pub(super) fn rest_of_frame(&mut self, owed: &Owed) -> &[u8] {
        if !owed.is_mid_frame() {
            return &[];
        }
        self.encode(owed);
        &self.frame[owed.sent_bytes..]
    }

    /// Nothing is sent any more. Of a frame sent in part all answers count as undeliverable, though the client may have
    /// some of them.
    pub(super) fn give_up(&mut self, owed: &mut Owed, counters: &mut Counters) {
        counters.add(Counter::ACKS_UNDELIVERABLE, owed.queued.into());
        self.strike_off(owed, owed.queued);
        owed.deadline = None;
        owed.given_up = true;
    }

    pub(super) fn housekeeping(&mut self) {
        self.outstanding.store(self.in_flight + self.queued, Ordering::Release);
        if self.is_wanted && self.in_flight == 0 {
            self.is_wanted = false;
            self.wanted.end();
        }
    }
}
