//! One connection: its socket, what it has sent in part, and what it has not been told yet.
//!
//! - **Thread**: the ingest agent's. **In**: readiness from epoll. **Out**: bytes to and from the socket.
//! - **Overload**: answers wait in a small buffer; when it is full the connection is not read until the client has read.
//! - **Invariant**: `position` is the stream offset of the first byte that is not processed; it is what a partial frame
//!   in `carry` or `large` begins with.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::acks::Owed;
use super::carry::Carry;
use super::control::ANSWER_BYTES_MAX;
use crate::frame::Class;
use crate::memory::{Slot, off_data_path};
use crate::runtime::clock::Nanos;
use crate::subscribe::{Turn, Writer};

/// Answers kept for a client that does not read them; room for one more must be there before a request is taken up.
const OUT_BYTES_MAX: usize = 4 * ANSWER_BYTES_MAX;
/// Taken as the size of a frame until the connection has shown its own.
const FRAME_BYTES_GUESS: u32 = 64;

/// A frame above a slot on its way into a large one.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) slot: Slot,
    pub(super) class: Class,
    pub(super) filled: usize,
    /// Bytes of the whole frame, length field included.
    pub(super) needed: usize,
    /// When the connection loses the slot, unless more has come by then.
    pub(super) deadline: Nanos,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Not read any more: it gets the acknowledgements of what it has sent, then its goodbye, if there is one.
    Finishing,
    /// Told goodbye: nothing more is taken in. What still comes is thrown away for a while, because closing a socket
    /// with unread bytes sends a reset, which would destroy the last answer on its way.
    Closing {
        deadline: Nanos,
        discard_left: usize,
        shut: bool,
    },
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: OwnedFd,
    /// As events carry it.
    pub(super) number: u32,
    pub(super) phase: Phase,
    /// The socket may hold bytes: set by epoll, cleared by a read that got less than it asked for.
    pub(super) readable: bool,
    /// The peer has ended its side: a short read does not mean that the end has been seen.
    pub(super) hangup: bool,
    pub(super) position: u64,
    pub(super) carry: Carry,
    /// Bytes, counted from the start of `carry`, with which more can be told of its first frame. At most the carry's
    /// length when it holds whole frames that wait for credit.
    pub(super) needed: usize,
    /// Bytes of the whole frame, as it has announced them.
    pub(super) whole: usize,
    pub(super) large: Option<Filling>,
    /// Class of the large frame that was announced last.
    pub(super) large_class: Class,
    /// When waiting for a large slot ends.
    pub(super) large_deadline: Option<Nanos>,
    /// The class of its next frame, which was full: nothing is done for it until that is over.
    pub(super) waits_for: Option<Class>,
    /// There was no room left for an unfinished frame; its bytes are still in the socket.
    pub(super) carry_starved: bool,
    pub(super) out: Vec<u8>,
    /// Acknowledgements.
    pub(super) owed: Owed,
    /// Its turn has ended because of these: the client does not read them, or too many are under way.
    pub(super) held_by_acks: bool,
    /// The last that it will be told.
    pub(super) goodbye: Vec<u8>,
    /// The client's side refuses bytes; answers to it are dropped.
    deaf: bool,
    /// When bytes of it last came in or were worked on.
    pub(super) last_active: Nanos,
    /// Bytes of a typical frame, for sizing reads by credit.
    pub(super) frame_bytes: u32,
    /// While draining: bytes that were in the socket when it began.
    pub(super) drain_left: Option<usize>,
    /// Never was one of the served: over the limit.
    pub(super) refused: bool,
    /// Whose turn it is to write, where events are sent to it too.
    pub(super) turn: Option<Turn>,
    /// It was not ours when something was to be written.
    pub(super) waits_for_turn: bool,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd, number: u32, now: Nanos) -> Self {
        Self {
            socket,
            number,
            phase: Phase::Open,
            readable: false,
            hangup: false,
            position: 0,
            carry: Carry::default(),
            needed: 0,
            whole: 0,
            large: None,
            large_class: Class::Realtime,
            large_deadline: None,
            waits_for: None,
            carry_starved: false,
            out: Vec::new(),
            owed: Owed::default(),
            held_by_acks: false,
            goodbye: Vec::new(),
            deaf: false,
            last_active: now,
            frame_bytes: FRAME_BYTES_GUESS,
            drain_left: None,
            refused: false,
            turn: None,
            waits_for_turn: false,
        }
    }

    /// Reads without waiting.
    pub(super) fn receive(&self, into: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
        loop {
            match rustix::net::recv(&self.socket, &mut *into, flags | RecvFlags::DONTWAIT) {
                Ok((_, count)) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Sends what can be sent. Epoll announces the rest: a refused send arms its edge.
    pub(super) fn flush(&mut self) {
        if !self.out.is_empty() && !self.owed.is_mid_frame() && self.may_write() {
            off_data_path(|| self.flush_some());
            self.has_written();
        }
    }

    /// Whether it is our turn to write to the socket.
    pub(super) fn may_write(&mut self) -> bool {
        let is_ours = self.turn.as_ref().is_none_or(|turn| turn.take(Writer::Reader));
        self.waits_for_turn |= !is_ours;
        is_ours
    }

    /// Gives the turn back, unless a frame is written in part.
    pub(super) fn has_written(&self) {
        if let Some(turn) = &self.turn
            && self.out.is_empty()
            && !self.owed.is_mid_frame()
        {
            turn.give_back(Writer::Reader);
        }
    }

    #[cold]
    fn flush_some(&mut self) {
        while !self.out.is_empty() {
            match rustix::net::send(&self.socket, &self.out, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // What is wrong with the connection, the next read tells.
                Err(_) => {
                    self.deaf = true;
                    self.out.clear();
                }
            }
        }
        // An idle connection holds no buffer.
        off_data_path(|| self.out = Vec::new());
    }

    /// Whether there is room for one more answer, after trying to make some.
    pub(super) fn can_answer(&mut self) -> bool {
        if self.out.len() + ANSWER_BYTES_MAX > OUT_BYTES_MAX {
            self.flush();
        }
        // Whoever drains does not wait for a client that does not read.
        self.deaf || self.drain_left.is_some() || self.out.len() + ANSWER_BYTES_MAX <= OUT_BYTES_MAX
    }

    /// Where an answer is appended; `None` when it is to be dropped.
    pub(super) fn answer(&mut self) -> Option<&mut Vec<u8>> {
        let has_room = self.out.len() + ANSWER_BYTES_MAX <= OUT_BYTES_MAX;
        (has_room && !self.deaf).then_some(&mut self.out)
    }

    /// The last answer of all has room beyond the bound.
    pub(super) fn answer_goodbye(&mut self) {
        let goodbye = std::mem::take(&mut self.goodbye);
        if !self.deaf {
            self.out.extend_from_slice(&goodbye);
        }
    }

    /// Whether the stream stands inside a frame.
    pub(super) fn is_inside_frame(&self) -> bool {
        self.large.is_some() || !self.carry.is_empty()
    }

    /// Whether the time is over in which the large frame should have gone on.
    pub(super) fn is_large_late(&self, now: Nanos) -> bool {
        self.large.as_ref().is_some_and(|large| now >= large.deadline)
    }

    /// Whether bytes already read can be worked on without reading more.
    pub(super) fn has_pending(&self) -> bool {
        (!self.carry.is_empty() && self.needed <= self.carry.len())
            || self.large.as_ref().is_some_and(|large| large.filled == large.needed)
    }
}
