//! Taking events in over TCP: thousands of connections on one thread.
//!
//! - **Thread**: the ingest agent's. **In**: byte streams, watched by an epoll set of our own, edge-triggered.
//!   **Out**: events, through the [`Intake`], pointing into the slots the kernel wrote the bytes to.
//! - **Overload**: nothing of a TCP sender is ever dropped for want of room: it is not read. That holds for credit
//!   (events accepted and not yet taken by a worker), free slots, room for unfinished frames and the dispatcher's
//!   queue. A connection left with unread bytes stays on a list and gets its turn, with a byte budget; those that wait for
//!   credit or a slot get them in the order in which they came.
//! - **Slow classes**: a class that has a quarter of the credits, or whose worker pins its part of a quarter of the slots,
//!   is full: the dispatcher says so, and no frame of it is taken in until it no longer is. Connections whose next frame is
//!   one wait, all others go on. What is on the way to the dispatcher, and may still be of that class, is bounded as well:
//!   an eighth of either. So two classes that do not get on at all hold three quarters of either at most, and the third
//!   always has the rest. Large slots are [shared out](large_slots) by themselves. The events of a worker that has stalled
//!   hold nothing up: the dispatcher dead-letters what exceeds its share.
//! - **Invariant**: `frames found = accepted + control + malformed`. A frame counts as found when it is whole, or when
//!   its stream is refused or ends inside it; bytes of a frame never read are nobody's but the sender's.
//!
//! [`duty`] gives connections their turns by the [`lists`] they stand on, [`reader`] serves one, [`scan`] looks through its bytes, [`control`] answers the protocol's own frames,
//! [`acks`] sends what events have come to, [`carry`] keeps what lies between two reads, [`slab`] and [`connection`] hold the state, [`listener`] accepts.

mod acks;
mod carry;
mod connection;
mod control;
mod duty;
mod large_slots;
mod listener;
mod lists;
mod reader;
mod scan;
mod slab;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::net::{SendFlags, Shutdown, sockopt};

pub use self::acks::AckInlet;
use self::connection::Connection;
use self::control::Fault;
use self::listener::Listener;
use self::lists::{List, Lists};
use self::reader::Reader;
use self::slab::{Key, Slab};
use super::Intake;
use crate::control::State;
use crate::frame::{Class, LENGTH_BYTES, Shape};
use crate::memory::{FramePool, off_data_path};
use crate::metrics::Counter;
use crate::queue::{Feedback, Progress};
use crate::runtime::clock::Nanos;
use crate::subscribe::SubscriptionLink;

/// Readiness events taken from the kernel at once.
const HARVEST_EVENTS: usize = 128;
/// Connections accepted in one duty cycle.
const CYCLE_ACCEPTS: usize = 64;
/// Connections over the limit that may wait for their refusal to be read.
const REFUSED_WAITING_MAX: usize = 64;

/// A silent peer is asked whether it is there after so long,
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
/// then so often,
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
/// and is gone if it has not answered as often.
const KEEPALIVE_TRIES: u32 = 3;

const LISTENER: u64 = u64::MAX;

/// How many events may be on their way to the workers.
#[derive(Clone, Debug)]
pub struct Credits {
    /// Events accepted and not settled, at most.
    pub limit: u64,
    /// From the dispatcher.
    pub feedback: Arc<Feedback>,
}

impl Credits {
    /// With so many a class is full: more than can come in before it is looked at again, so that a class whose worker gets on
    /// is seldom full.
    pub const fn of_a_class(&self) -> u64 {
        at_least_one(self.limit / 4)
    }

    /// Events that may be on their way to the dispatcher.
    const fn ahead(&self) -> u64 {
        at_least_one(self.limit / 8)
    }

    /// Of all credits, those that no event holds.
    fn free(&self, accepted: u64, progress: &Progress) -> u64 {
        self.limit.saturating_sub(accepted.saturating_sub(progress.settled))
    }

    /// Events that may be accepted now.
    fn left(&self, accepted: u64, progress: &Progress) -> u64 {
        let ahead = accepted.saturating_sub(progress.dispatched);
        let left = self.ahead().saturating_sub(ahead);
        // The dispatcher makes room at once: system calls for the last few cost more than to wait for it.
        if left <= self.ahead() / 8 { 0 } else { left.min(self.free(accepted, progress)) }
    }
}

const fn at_least_one(count: u64) -> u64 {
    if count == 0 { 1 } else { count }
}

/// Which class a frame will be of: asked with topic hash, shape and topic, seldom, and not bindingly.
pub type ClassOf = Box<dyn Fn(u32, Shape, &[u8]) -> Class + Send>;

/// How TCP is served by one agent.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    pub address: IpAddr,
    /// 0: any free one.
    pub port: u16,
    /// The agent's place among those that listen on the port, and how many these are.
    pub agent: u32,
    pub agents: u32,
    pub max_connections: usize,
    /// Bytes read from one connection before the next one gets its turn.
    pub connection_budget_bytes: usize,
    /// How long a connection waits for a large slot.
    pub large_wait_ns: Nanos,
    /// How long it may take, once it has the slot, for every 64 KiB of the frame.
    pub large_fill_ns: Nanos,
    /// How long a client may leave its acknowledgements unread.
    pub ack_wait_ns: Nanos,
    /// How long connections may stay open in a drain, for the acknowledgements that they are owed.
    pub drain_wait_ns: Nanos,
    /// Memory for bytes of unfinished frames, and of frames that wait for credit, over all connections.
    pub carry_bytes: usize,
    /// Closes a connection that sent nothing for so long.
    pub idle_timeout_ns: Option<Nanos>,
    /// The largest value of a frame's length field; the same as the parser's.
    pub max_frame_bytes: u32,
    /// Told to clients.
    pub dedup_window_ms: u64,
    /// Told to clients.
    pub run_id: String,
    pub credits: Credits,
    /// To who sends events to subscribers.
    pub subscriptions: Option<SubscriptionLink>,
}

/// Receives from all connections of one listener.
pub struct TcpBackend {
    epoll: OwnedFd,
    last_harvest: Nanos,
    /// Gone once the engine drains.
    listener: Option<Listener>,
    local_port: u16,
    max_connections: usize,
    idle_timeout_ns: Option<Nanos>,
    connections: Slab,
    lists: Lists,
    reader: Reader,
    state: State,
    paused_at: Nanos,
    drain_wait_ns: Nanos,
    /// When the last connections are closed, once the engine drains.
    drain_deadline: Option<Nanos>,
    now: Nanos,
    /// Until when some deadline needs the sweep to come round.
    watch_until: Nanos,
    sweep_next: u32,
}

impl TcpBackend {
    /// Binds and listens. Slots of `large` take the frames that do not fit a slot of the intake's pool.
    pub fn bind(options: TcpOptions, large: FramePool, class_of: ClassOf, acks: AckInlet) -> Result<Self, String> {
        let frame_bytes = options.max_frame_bytes as usize + LENGTH_BYTES;
        if large.slot_bytes() < frame_bytes {
            return Err(format!("large slots of {} bytes cannot hold frames of {frame_bytes}", large.slot_bytes()));
        }
        let listener = Listener::bind(options.address, options.port, options.agents > 1)?;
        let watch = || {
            let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&set, &listener, epoll::EventData::new_u64(LISTENER), flags)?;
            rustix::io::Result::Ok(set)
        };
        let epoll = watch().map_err(|error| format!("cannot watch TCP port {}: {error}", listener.port()))?;
        Ok(Self {
            epoll,
            last_harvest: 0,
            local_port: listener.port(),
            listener: Some(listener),
            max_connections: options.max_connections,
            idle_timeout_ns: options.idle_timeout_ns,
            connections: Slab::new(options.max_connections + REFUSED_WAITING_MAX, options.agent, options.agents),
            lists: Lists::default(),
            reader: Reader::new(&options, large, class_of, acks)?,
            state: State::Running,
            paused_at: 0,
            drain_wait_ns: options.drain_wait_ns,
            drain_deadline: None,
            now: 0,
            watch_until: 0,
            sweep_next: 0,
        })
    }

    /// The port that was bound.
    pub fn local_port(&self) -> u16 {
        self.local_port
    }

    /// The pool of slots for frames above a slot: it needs its place among the [`Frames`](crate::memory::Frames).
    pub fn large_pool(&self) -> &FramePool {
        self.reader.large.pool()
    }

    /// Acknowledgements asked for and neither sent nor given up; a term of the ledger.
    pub fn outstanding_acks_gauge(&self) -> Arc<AtomicU64> {
        self.reader.acks.outstanding_gauge()
    }

    /// Takes readiness from the kernel; edges must be taken even when nothing may be read, or the set stays readable
    /// and the runner awake.
    fn harvest(&mut self) {
        self.last_harvest = self.now;
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let none = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [none; HARVEST_EVENTS];
        let Ok(count) = epoll::wait(&self.epoll, &mut events[..], Some(&at_once)) else { return };
        for event in events.iter().take(count) {
            let (flags, data) = (event.flags, event.data.u64());
            if data == LISTENER {
                self.listener.iter_mut().for_each(Listener::set_ready);
                continue;
            }
            let Some((index, connection)) = self.connections.find(Key::from_raw(data)) else { continue };
            let ends = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
            connection.hangup |= flags.intersects(ends);
            connection.readable |= flags.intersects(ends | epoll::EventFlags::IN);
            if connection.owed.has_queued() {
                self.lists.push(List::Owed, index);
            }
            // Otherwise only writable, which matters to one with something to say, or for which reading had stopped.
            if connection.readable || !connection.out.is_empty() {
                self.lists.push(List::Ready, index);
            }
        }
    }

    fn accept(&mut self, intake: &mut Intake) -> usize {
        for accepted in 0..CYCLE_ACCEPTS {
            let now = self.now;
            let Some(socket) = self.listener.as_mut().and_then(|listener| listener.accept(now)) else {
                return accepted;
            };
            off_data_path(|| self.admit(socket, intake));
        }
        CYCLE_ACCEPTS
    }

    fn admit(&mut self, socket: OwnedFd, intake: &mut Intake) {
        // An answer waits for nobody; a socket that refuses the option works all the same.
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        // A peer that vanished without a word is found out within half a minute, also without an idle timeout: it may have a durable
        // subscription that another waits for. One that answers and does not read is not taken for gone.
        let _ = sockopt::set_socket_keepalive(&socket, true);
        let _ = sockopt::set_tcp_keepidle(&socket, KEEPALIVE_AFTER);
        let _ = sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_EVERY);
        let _ = sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_TRIES);
        let refused = self.connections.len() >= self.max_connections;
        let counter = if refused { Counter::TCP_CONNECTIONS_REFUSED } else { Counter::TCP_CONNECTIONS_OPENED };
        let Some(key) = self.connections.next_key() else {
            intake.counters.add(Counter::TCP_CONNECTIONS_REFUSED, 1);
            return self.refuse_at_once(&socket);
        };
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        if epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(key.raw()), flags).is_err() {
            intake.counters.add(Counter::TCP_CONNECTIONS_REFUSED, 1);
            return self.refuse_at_once(&socket);
        }
        intake.counters.add(counter, 1);
        let number = self.connections.numbering.number(key);
        let mut connection = Box::new(Connection::new(socket, number, self.now));
        if refused {
            connection.refused = true;
            self.reader.refuse(&mut connection, self.refusal(), self.now);
        }
        // Here, so that the lists never grow while bytes are taken in.
        self.lists.reserve(self.connections.capacity());
        if let Some(index) = self.connections.insert(connection)
            && refused
        {
            self.lists.push(List::Ready, index);
        }
    }

    #[cold]
    fn refusal(&self) -> Fault {
        let message = format!("{} connections are open, no more are served", self.connections.len());
        Fault { code: "too_many_connections", message, at_byte: 0 }
    }

    /// No place even to wait for the refusal to be read: it may be lost to a reset.
    #[cold]
    fn refuse_at_once(&self, socket: &OwnedFd) {
        let mut frame = Vec::new();
        self.refusal().encode(&mut frame, true);
        let _ = rustix::net::send(socket, &frame, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        let _ = rustix::net::shutdown(socket, Shutdown::Write);
    }
}
