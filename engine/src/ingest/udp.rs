//! Taking events in from the kernel's UDP socket: one backend for each socket.
//!
//! - **Thread**: the socket's ingest agent. **In**: datagrams, many a system call, written by the kernel straight into
//!   slots of the agent's pool; with `UDP_GRO` a slot may hold a run of them. **Out**: events, through the [`Intake`].
//! - **Overload**: when the dispatcher's queue is full, or no slot is free, nothing is read: the socket's buffer fills
//!   and the kernel drops and counts (`datagrams_socket_dropped`). What was read already waits here, in its order.
//! - **Invariant**: a datagram is counted received when it is handed to the parser, so `received = parsed + malformed`
//!   holds between any two duty cycles. One that did not fit its slot is counted truncated and nothing else; slots of
//!   64 KiB fit every datagram, and every run of them, that UDP can carry.
//!
//! While the engine is paused or draining the socket has a filter that rejects everything; what was in its buffer
//! before was taken in and is still read. The kernel counts what the filter rejects as drops of the socket, so those
//! are in `datagrams_socket_dropped` too, once; `datagrams_socket_refused` tells how many of them there were.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll;

use super::{Backend, Intake};
use crate::control::State;
use crate::memory::{Peer, Slot};
use crate::metrics::Counter;
use crate::nic::{Messages, UdpSocket};
use crate::runtime::agent::{Blocking, Cycle};
use crate::runtime::clock::Nanos;

/// How long the socket must stay empty behind its filter to count as drained: a packet that passed before the filter
/// was there may still be on its way into the buffer, in a softirq on another core.
const DRAIN_PAUSE_NS: Nanos = 1_000_000;
/// How soon to look for free slots again: they come back without a descriptor becoming readable.
const SLOT_PAUSE_NS: Nanos = 1_000_000;
/// Events after which a duty cycle ends, though messages are left: one run of small frames is many thousand, and the
/// stages behind share this core's L1. As many as 64 datagrams of 1.5 kB with events of 64 bytes.
const BURST_EVENTS: usize = 2048;

/// How a backend reads.
#[derive(Clone, Debug)]
pub struct UdpOptions {
    /// Messages taken by one system call.
    pub batch: usize,
    /// How often a socket that was found empty is asked again while other agents of its runner are busy.
    pub poll_interval_ns: Nanos,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self { batch: 64, poll_interval_ns: 50_000 }
    }
}

/// A message that was read and not yet handed to the intake.
struct Received {
    slot: Slot,
    bytes: usize,
    segment_bytes: usize,
    datagrams: usize,
    peer: Peer,
}

/// How far the emptying of a refusing socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    /// The buffer was not empty when last seen, or nothing is refused.
    Open,
    EmptySince(Nanos),
    Over,
}

/// The running total of a counter of the kernel's that wraps at 32 bits.
#[derive(Debug, Default)]
struct Drops {
    last: u32,
    total: u64,
}

impl Drops {
    /// Takes in a reading and returns how many are new.
    fn advance(&mut self, now: u32) -> u64 {
        let new = u64::from(now.wrapping_sub(self.last));
        self.last = now;
        self.total += new;
        new
    }
}

/// Receives from one socket.
pub struct UdpBackend {
    socket: UdpSocket,
    options: UdpOptions,
    messages: Messages,
    /// Acquired and not filled yet; kept from call to call.
    slots: Vec<Slot>,
    pending: VecDeque<Received>,
    /// Before this a busy runner's cycles do not ask the socket.
    next_poll: Nanos,
    now: Nanos,
    /// The pool had no slot when it was last asked.
    starving: bool,
    /// What the state asks for, and what the kernel has agreed to.
    should_refuse: bool,
    refuses: bool,
    drain: Drain,
    drops: Drops,
    readiness: Readiness,
}

impl UdpBackend {
    /// # Errors
    /// When the kernel gives no epoll descriptor.
    pub fn new(socket: UdpSocket, options: UdpOptions) -> io::Result<Self> {
        let readiness = Readiness::new(&socket)?;
        let batch = options.batch.max(1);
        Ok(Self {
            socket,
            options,
            messages: Messages::new(batch),
            slots: Vec::with_capacity(batch),
            pending: VecDeque::with_capacity(batch),
            next_poll: 0,
            now: 0,
            starving: false,
            should_refuse: false,
            refuses: false,
            drain: Drain::Open,
            drops: Drops::default(),
            readiness,
        })
    }

    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Reads one batch into `pending`. Returns how many messages came.
    #[inline]
    fn read(&mut self, intake: &mut Intake) -> usize {
        while self.slots.len() < self.messages.capacity() {
            let Some(slot) = intake.pool.acquire() else { break };
            self.slots.push(slot);
        }
        self.starving = self.slots.is_empty();
        if self.starving {
            return 0;
        }
        let offered = self.slots.len();
        let received = match self.messages.receive(&self.socket, &intake.pool, &mut self.slots) {
            Ok(received) => received,
            Err(error) => {
                self.saw_nothing(intake, &error);
                return 0;
            }
        };
        self.drain = Drain::Open;
        // Fewer than there was room for: the buffer was empty at the end.
        self.next_poll = if received < offered { self.now + self.options.poll_interval_ns } else { 0 };
        let mut truncated = 0;
        for (index, slot) in self.slots.drain(..received).enumerate() {
            let message = self.messages.message(index);
            if message.truncated {
                truncated += message.datagrams() as u64;
                intake.pool.give_back(slot);
                continue;
            }
            let (bytes, segment_bytes, datagrams) = (message.bytes, message.segment_bytes, message.datagrams());
            self.pending.push_back(Received { slot, bytes, segment_bytes, datagrams, peer: message.peer });
        }
        intake.counters.add(Counter::DATAGRAMS_TRUNCATED, truncated);
        received
    }

    #[cold]
    fn saw_nothing(&mut self, intake: &mut Intake, error: &io::Error) {
        self.next_poll = self.now + self.options.poll_interval_ns;
        if error.kind() != io::ErrorKind::WouldBlock {
            return; // interrupted, or a pending error of the socket: it says nothing about the buffer
        }
        self.drain = match self.drain {
            Drain::Open if self.should_refuse => Drain::EmptySince(self.now),
            Drain::EmptySince(since) if self.now.saturating_sub(since) >= DRAIN_PAUSE_NS => Drain::Over,
            other => other,
        };
        if self.drain == Drain::Over {
            // Nothing will come for them before the engine goes on.
            self.give_slots_back(intake);
        }
    }

    fn give_slots_back(&mut self, intake: &mut Intake) {
        self.slots.drain(..).for_each(|slot| intake.pool.give_back(slot));
    }

    /// Whether the socket may be asked now.
    #[inline]
    fn is_due(&self, state: State, cycle: &Cycle) -> bool {
        // Where the kernel did not take the filter, a paused engine leaves everything in the buffer.
        if state == State::Paused && !self.refuses {
            return false;
        }
        !cycle.busy || cycle.now >= self.next_poll
    }

    /// Brings the filter in line with the state. Tried again in housekeeping if the kernel declines.
    fn apply_refusal(&mut self, intake: &mut Intake) {
        if self.refuses == self.should_refuse {
            return;
        }
        self.count_drops(intake);
        if self.socket.refuse(self.should_refuse).is_ok() {
            self.refuses = self.should_refuse;
        }
    }

    /// A drop while the filter is there is its doing: it comes before the check for room.
    fn count_drops(&mut self, intake: &mut Intake) {
        // Fails only without a socket; what was read last stays.
        let Ok(drops) = self.socket.drops() else { return };
        let new = self.drops.advance(drops);
        intake.counters.set(Counter::DATAGRAMS_SOCKET_DROPPED, self.drops.total);
        if self.refuses {
            intake.counters.add(Counter::DATAGRAMS_SOCKET_REFUSED, new);
        }
    }
}

impl Backend for UdpBackend {
    fn receive(&mut self, intake: &mut Intake, state: State, cycle: &Cycle) -> usize {
        self.now = cycle.now;
        let mut done = 0;
        if self.pending.is_empty() && self.is_due(state, cycle) {
            let read = self.read(intake);
            done = read - self.pending.len(); // the truncated ones
        }
        let mut events = 0;
        while let Some(message) = self.pending.pop_front() {
            let Received { slot, bytes, segment_bytes, datagrams, peer } = message;
            intake.counters.add(Counter::DATAGRAMS_SOCKET_RECEIVED, datagrams as u64);
            events += intake.segments(slot, bytes, segment_bytes, cycle.now, peer);
            done += datagrams;
            if intake.is_blocked() || events >= BURST_EVENTS {
                break;
            }
        }
        if events > 0 {
            intake.wake();
        }
        if !cycle.busy {
            // The runner may block after this cycle.
            let waits = self.starving || (state == State::Paused && !self.refuses);
            self.readiness.watch(&self.socket, !waits);
        }
        done
    }

    fn state_changed(&mut self, intake: &mut Intake, state: State) {
        self.should_refuse = !state.takes_in();
        self.apply_refusal(intake);
        self.drain = Drain::Open;
        self.next_poll = 0;
    }

    fn drained(&self) -> bool {
        self.pending.is_empty() && self.drain == Drain::Over
    }

    fn housekeeping(&mut self, intake: &mut Intake, _now: Nanos) {
        self.apply_refusal(intake);
        self.count_drops(intake);
    }

    fn end(&mut self, intake: &mut Intake) {
        self.give_slots_back(intake);
        self.pending.drain(..).for_each(|received| intake.pool.give_back(received.slot));
    }

    fn blocking(&self) -> Blocking {
        if !self.pending.is_empty() {
            return Blocking::Forbidden;
        }
        if self.starving {
            return Blocking::Until(self.now + SLOT_PAUSE_NS);
        }
        match self.drain {
            Drain::EmptySince(since) => Blocking::Until(since + DRAIN_PAUSE_NS),
            _ => Blocking::Allowed,
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.readiness.set.as_fd()]
    }
}

/// What the runner waits on instead of the socket: an epoll set with the socket as its only member, which can be told
/// to look away. A socket with unread datagrams stays readable, and would keep a runner awake that can do nothing about
/// it: there is no free slot, or the engine is paused.
struct Readiness {
    set: OwnedFd,
    watches: bool,
}

impl Readiness {
    fn new(socket: &UdpSocket) -> io::Result<Self> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&set, socket.as_fd(), epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        Ok(Self { set, watches: true })
    }

    #[inline]
    fn watch(&mut self, socket: &UdpSocket, watches: bool) {
        if watches != self.watches {
            let flags = if watches { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
            let changed = epoll::modify(&self.set, socket.as_fd(), epoll::EventData::new_u64(0), flags);
            // On failure the old state stays, and the next cycle tries again.
            self.watches = if changed.is_ok() { watches } else { self.watches };
        }
    }
}

#[cfg(test)]
mod tests;
