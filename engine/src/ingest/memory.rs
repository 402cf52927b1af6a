//! Taking events in from memory: the backend of tests that step the whole pipeline on one thread.
//!
//! - **Thread**: the agent's. **In**: datagrams that a [`MemorySender`] was given, from any thread. **Out**: events,
//!   through the [`Intake`].
//! - **Overload**: what does not fit waits in the queue between sender and backend, which has no bound: the test owns
//!   both ends. Unlike every other backend this one loses nothing.
//! - **Invariant**: each datagram sent is counted received once, in the order of sending, and ends parsed, malformed or
//!   (above a slot's size) truncated.
//!
//! It takes in whatever it was sent in every state but paused; a drain is over when the queue is empty.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Backend, Intake};
use crate::control::State;
use crate::memory::Peer;
use crate::metrics::Counter;
use crate::runtime::agent::{Blocking, Cycle};

/// Datagrams taken in by one duty cycle, as from a socket.
const BATCH: usize = 64;

struct Datagram {
    bytes: Vec<u8>,
    peer: Peer,
}

/// Gives datagrams to a [`MemoryBackend`]. Cheap to clone.
#[derive(Clone, Default)]
pub struct MemorySender(Arc<Mutex<VecDeque<Datagram>>>);

impl MemorySender {
    pub fn send(&self, datagram: &[u8], from: Option<SocketAddr>) {
        let peer = from.map_or(Peer::NONE, Peer::from);
        self.queue().push_back(Datagram { bytes: datagram.to_vec(), peer });
    }

    /// Datagrams not taken in yet.
    pub fn waiting(&self) -> usize {
        self.queue().len()
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Datagram>> {
        // A sender that panicked left the queue whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receives what its senders were given.
pub struct MemoryBackend(MemorySender);

impl MemoryBackend {
    pub fn new() -> (MemorySender, Self) {
        let sender = MemorySender::default();
        (sender.clone(), Self(sender))
    }
}

impl Backend for MemoryBackend {
    fn receive(&mut self, intake: &mut Intake, state: State, cycle: &Cycle) -> usize {
        let mut taken = 0;
        while taken < BATCH && state != State::Paused && !intake.is_blocked() {
            let mut queue = self.0.queue();
            let Some(length) = queue.front().map(|datagram| datagram.bytes.len()) else { break };
            if length > intake.pool.slot_bytes() {
                intake.counters.add(Counter::DATAGRAMS_TRUNCATED, 1);
                queue.pop_front();
                taken += 1;
                continue;
            }
            let Some(mut slot) = intake.pool.acquire() else { break };
            let Some(datagram) = queue.pop_front() else { break };
            drop(queue);
            intake.pool.bytes_mut(&mut slot)[..length].copy_from_slice(&datagram.bytes);
            intake.counters.add(Counter::DATAGRAMS_SOCKET_RECEIVED, 1);
            intake.datagram(slot, 0, length, cycle.now, datagram.peer);
            taken += 1;
        }
        if taken > 0 {
            intake.wake();
        }
        taken
    }

    fn drained(&self) -> bool {
        self.0.waiting() == 0
    }

    /// No descriptor announces a datagram: a runner with this backend never blocks.
    fn blocking(&self) -> Blocking {
        Blocking::Forbidden
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameHeader, Limits, Parser, Priority, Transport, encode};
    use crate::ingest::IntakeSpec;
    use crate::memory::{FramePool, Frames, PoolSpec, Region, Releaser};
    use crate::queue::mpsc;

    #[test]
    fn what_was_sent_comes_out_in_order() {
        let pool = FramePool::new(0, Region::map(4 * 256).unwrap(), &PoolSpec { slot_bytes: 256, reliable: false });
        let frames = Frames::new(&[&pool]);
        let (mut producers, mut events) = mpsc::queue(1024, 1);
        let limits = Limits { frame_bytes: 1 << 20, topic_bytes: 255 };
        let parser = Parser::new(limits, Transport::Udp, Priority::Critical, 7);
        let mut intake = Intake::new(IntakeSpec { pool, queue: producers.remove(0), parser, waker: None });
        let (sender, mut backend) = MemoryBackend::new();
        let from: SocketAddr = "[2001:db8::1]:7".parse().unwrap();
        for number in 0..10_u8 {
            let mut datagram = Vec::new();
            encode(&mut datagram, &FrameHeader::new(Priority::Low), b"t", &[number]);
            sender.send(&datagram, Some(from));
        }
        sender.send(&[0; 257], None);
        sender.send(&[], None);
        let cycle = Cycle { now: 1, busy: false };
        assert_eq!(backend.receive(&mut intake, State::Paused, &cycle), 0);
        let mut releaser = Releaser::new(frames.clone());
        let mut numbers = Vec::new();
        while backend.receive(&mut intake, State::Draining, &cycle) > 0 {
            while let Some(event) = events.take() {
                numbers.push(*frames.bytes(&event).last().unwrap());
                assert_eq!(frames.peer(&event), from);
                releaser.release(event);
            }
            events.release();
            releaser.flush();
        }
        assert_eq!(numbers, (0..10).collect::<Vec<u8>>(), "though there are only four slots");
        assert!(backend.drained());
        let counters = [Counter::DATAGRAMS_SOCKET_RECEIVED, Counter::DATAGRAMS_PARSED, Counter::DATAGRAMS_TRUNCATED];
        assert_eq!(counters.map(|counter| intake.counters.get(counter)), [11, 10, 1]);
        intake.pool.reclaim();
        assert_eq!(intake.pool.free(), 4);
    }
}
