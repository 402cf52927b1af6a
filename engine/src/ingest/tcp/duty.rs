//! Turns: which connection is served when, what deadlines do, and how the engine's states are followed.
//!
//! Connections that can be served now stand on the ready list, each at most once, and are served round robin with a
//! budget. Whoever finds no credit or no slot is served before those who come later, or the first on the ready list would
//! take all there is in every cycle. Deadlines need no timers: a sweep looks at a bounded number of connections in each housekeeping, so the idle
//! timeout of one among very many may come some seconds late.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::epoll;
use rustix::net::Shutdown;

use super::connection::{Connection, Phase};
use super::lists::List;
use super::reader::{LINGER_NS, Outcome};
use super::{TcpBackend, listener::Listener};
use crate::control::State;
use crate::frame::Class;
use crate::ingest::{Backend, Intake};
use crate::memory::off_data_path;
use crate::metrics::Counter;
use crate::queue::ClassSet;
use crate::runtime::agent::{Blocking, Cycle};
use crate::runtime::clock::Nanos;
use crate::subscribe::Message;

/// How often a busy runner asks the kernel for readiness.
const HARVEST_INTERVAL_NS: Nanos = 50_000;
/// Connections served in one duty cycle,
const CYCLE_SERVES: usize = 128;
/// and bytes read from them: four slots, which stay in L2 until the next stage has read them.
const CYCLE_BYTES: usize = 256 << 10;
/// Connections looked at in one housekeeping: some microseconds.
const SWEEP_CONNECTIONS: usize = 1024;
/// How soon to look again for what no descriptor announces: a class that is no longer full,
const CLASS_RETRY_NS: Nanos = 100_000;
/// a large slot given back,
const LARGE_RETRY_NS: Nanos = 1_000_000;
/// or the deadline of a connection that is closing.
const SWEEP_RETRY_NS: Nanos = 10_000_000;
/// Room for unfinished frames that must be there before those are tried again that found none.
const CARRY_RETRY_BYTES: usize = 64 << 10;

impl TcpBackend {
    /// Serves one connection, taken from a list, and puts it where it belongs. Returns the outcome, and the bytes worked on.
    fn serve(&mut self, index: u32, from: List, intake: &mut Intake) -> (Outcome, usize) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(index) else { return (Outcome::Idle, 0) };
        let (outcome, bytes) = self.reader.serve(connection, intake, now);
        if connection.carry_starved
            || connection.large.is_some()
            || matches!(connection.phase, Phase::Closing { .. })
            || connection.owed.waits_for_client()
        {
            self.watch_until = now + LINGER_NS + SWEEP_RETRY_NS;
        }
        if std::mem::take(&mut connection.waits_for_turn) {
            self.lists.push(List::Turn, index);
        }
        match outcome {
            Outcome::Idle => {}
            Outcome::Again => self.lists.push(List::Ready, index),
            Outcome::NoRoom if from == List::Room && bytes == 0 => self.lists.push_front(List::Room, index),
            Outcome::NoRoom => {
                self.reader.room_is_queued = true;
                self.lists.push(List::Room, index);
            }
            Outcome::NoLarge(class) => {
                self.reader.large_queued.insert(class);
                self.lists.push(List::Large(class), index);
            }
            Outcome::ClassFull(class) => self.lists.push(List::Full(class), index),
            Outcome::NoAckRoom => self.lists.push(List::Acks, index),
            Outcome::Close => self.close(index, intake),
        }
        (outcome, bytes)
    }

    /// Serves those who had waited for room, as long as there is any, then the ready ones, each at most once. Returns how
    /// many had something to do.
    fn serve_ready(&mut self, intake: &mut Intake) -> usize {
        let (mut served, mut bytes) = (0, 0);
        self.reader.large_queued = ClassSet::default();
        Class::ALL.iter().filter(|class| !self.lists.is_empty(List::Large(**class))).for_each(|class| {
            self.reader.large_queued.insert(*class);
        });
        for list in [List::Room, List::Ready] {
            for _ in 0..self.lists.len(list).min(CYCLE_SERVES) {
                if bytes >= CYCLE_BYTES || intake.is_blocked() {
                    return served;
                }
                self.reader.room_is_queued = list == List::Ready && !self.lists.is_empty(List::Room);
                let Some(index) = self.lists.pop(list) else { break };
                let (outcome, count) = self.serve(index, list, intake);
                bytes += count;
                served += usize::from(count > 0 || outcome == Outcome::Close);
                if list == List::Room && outcome == Outcome::NoRoom {
                    break;
                }
            }
        }
        served
    }

    /// Serves those who wait for a large slot, first come first served, as far as there are any or time is up.
    fn serve_waiting(&mut self, intake: &mut Intake) -> usize {
        let mut served = 0;
        self.reader.room_is_queued = !self.lists.is_empty(List::Room);
        while !intake.is_blocked()
            && let Some((class, deadline)) = self.next_for_large()
            && let Some(index) = self.lists.pop(List::Large(class))
        {
            if deadline.is_some() {
                self.reader.large_queued = ClassSet::default();
                self.serve(index, List::Large(class), intake);
                served += 1;
            }
        }
        served
    }

    /// Of those who could have a large slot now, or have waited long enough, who has waited longest: the class and the
    /// deadline of its first one. None: that one is gone, or waits for something else by now.
    fn next_for_large(&mut self) -> Option<(Class, Option<Nanos>)> {
        let mut next: Option<(Class, Option<Nanos>)> = None;
        for class in Class::ALL {
            let Some(index) = self.lists.front(List::Large(class)) else { continue };
            let deadline = self.connections.get_mut(index).and_then(|connection| connection.large_deadline);
            let is_due = deadline.is_none_or(|deadline| self.now >= deadline) || self.reader.large.may_take(class);
            if is_due && next.is_none_or(|(_, first)| deadline < first) {
                next = Some((class, deadline));
            }
        }
        next
    }

    /// Gives turns again to those who waited for a class that is no longer full.
    fn resume_classes(&mut self) {
        self.reader.look();
        for class in Class::ALL.into_iter().filter(|class| !self.reader.is_full(*class)) {
            for _ in 0..CYCLE_SERVES {
                let Some(index) = self.lists.pop(List::Full(class)) else { break };
                self.lists.push(List::Ready, index);
            }
        }
    }

    /// Takes in acknowledgements and sends them, in whatever state: what was taken in before a pause is answered during it.
    /// Returns how many came or whose turn it was.
    fn acknowledge(&mut self, intake: &mut Intake) -> usize {
        let mut work = 0;
        if self.reader.acks.are_in_flight() {
            let mut link = 0;
            while let Some(ack) = self.reader.acks.next(&mut link) {
                work += 1;
                match self.connections.find_for_ack(ack.connection) {
                    Some((index, connection)) => {
                        self.reader.acks.queue(&mut connection.owed, ack, &mut intake.counters);
                        self.lists.push(List::Owed, index);
                    }
                    None => intake.counters.add(Counter::ACKS_UNDELIVERABLE, 1),
                }
            }
        }
        for _ in 0..self.lists.len(List::Turn) {
            let Some(index) = self.lists.pop(List::Turn) else { break };
            self.lists.push(List::Owed, index);
        }
        for _ in 0..self.lists.len(List::Owed).min(CYCLE_SERVES) {
            let Some(index) = self.lists.pop(List::Owed) else { break };
            let Some(connection) = self.connections.get_mut(index) else { continue };
            self.reader.flush_acks(connection, intake, self.now);
            if std::mem::take(&mut connection.waits_for_turn) {
                self.lists.push(List::Turn, index);
                continue;
            }
            connection.last_active = self.now;
            if connection.owed.waits_for_client() {
                self.watch_until = self.now + LINGER_NS + SWEEP_RETRY_NS;
            }
            if connection.held_by_acks || connection.phase != Phase::Open {
                self.lists.push(List::Ready, index);
            }
            work += 1;
        }
        for _ in 0..self.lists.len(List::Acks).min(CYCLE_SERVES) {
            if self.reader.acks.room() == 0 {
                break;
            }
            let Some(index) = self.lists.pop(List::Acks) else { break };
            self.lists.push(List::Ready, index);
        }
        work
    }

    pub(super) fn close(&mut self, index: u32, intake: &mut Intake) {
        // Closing the socket takes it out of the epoll set.
        off_data_path(|| {
            if let Some(mut connection) = self.connections.remove(index) {
                if connection.turn.is_some() {
                    self.leave_subscriber(&connection);
                }
                self.reader.forget(&mut connection, intake);
            }
        });
    }

    /// The sender has the socket too: it stays open until both have let it go.
    #[cold]
    fn leave_subscriber(&self, connection: &Connection) {
        let _ = epoll::delete(&self.epoll, &connection.socket);
        let stays = self.drain_deadline.is_some();
        if !stays {
            let _ = rustix::net::shutdown(&connection.socket, Shutdown::Both);
        }
        if let Some(subscriptions) = &self.reader.subscriptions {
            subscriptions.send_surely(Message::Closed { connection: connection.number.into(), stays });
        }
    }

    /// Looks at the next connections for deadlines that have passed.
    fn sweep(&mut self, intake: &mut Intake, now: Nanos) {
        let count = self.connections.capacity();
        for _ in 0..count.min(SWEEP_CONNECTIONS) {
            let index = if (self.sweep_next as usize) < count { self.sweep_next } else { 0 };
            self.sweep_next = index + 1;
            self.look_at(index, intake, now);
        }
    }

    fn look_at(&mut self, index: u32, intake: &mut Intake, now: Nanos) {
        let has_turn = self.lists.has(List::Ready, index) || self.lists.has(List::Room, index);
        let Some(connection) = self.connections.get_mut(index) else { return };
        if let Phase::Closing { deadline, .. } = connection.phase {
            let deadline = deadline.min(self.drain_deadline.unwrap_or(Nanos::MAX));
            self.watch_until = self.watch_until.max(deadline);
            if now >= deadline {
                self.close(index, intake);
            }
            return;
        }
        let owes = connection.phase == Phase::Finishing || connection.owed.is_outstanding();
        if owes && self.drain_deadline.is_some_and(|deadline| now >= deadline) {
            return self.close(index, intake);
        }
        if self.state == State::Paused {
            return;
        }
        if connection.owed.waits_for_client() || self.drain_deadline.is_some() {
            self.watch_until = now + LINGER_NS;
        }
        if connection.owed.is_late(now) {
            self.reader.acks_unread(connection, intake, now);
            self.lists.push(List::Ready, index);
            return;
        }
        if connection.carry_starved {
            self.watch_until = now + LINGER_NS;
            if self.reader.carries.can_hold(&connection.carry, connection.carry.len() + CARRY_RETRY_BYTES) {
                connection.carry_starved = false;
                connection.readable = true;
                self.lists.push(List::Ready, index);
            }
            return;
        }
        if connection.large.is_some() {
            self.watch_until = now + LINGER_NS;
            if connection.is_large_late(now) {
                // What has come meanwhile counts: the reader looks before it decides.
                connection.readable = true;
                self.lists.push(List::Ready, index);
                return;
            }
        }
        // One that waits for its turn, or for us, is not idle.
        let waits = has_turn
            || connection.turn.is_some()
            || connection.large_deadline.is_some()
            || connection.waits_for.is_some()
            || connection.owed.is_outstanding();
        let silent = now.saturating_sub(connection.last_active);
        if !waits && self.idle_timeout_ns.is_some_and(|timeout| silent >= timeout) {
            self.reader.expire(connection, intake, now);
            self.lists.push(List::Ready, index);
        }
    }

    /// From here on only what is in the sockets already is taken in.
    fn start_draining(&mut self, intake: &mut Intake) {
        self.listener = None;
        let deadline = self.now + self.drain_wait_ns;
        self.drain_deadline = Some(deadline);
        self.watch_until = deadline + SWEEP_RETRY_NS;
        for index in 0..self.connections.capacity() as u32 {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            if let Phase::Closing { .. } = connection.phase {
                self.close(index, intake);
                continue;
            }
            // How much that is must be known beforehand: a sender that goes on would never let a read find nothing.
            let unread = rustix::io::ioctl_fionread(&connection.socket).unwrap_or(0);
            connection.drain_left = Some(usize::try_from(unread).unwrap_or(0));
            connection.readable = true;
            connection.carry_starved = false;
            self.lists.push(List::Ready, index);
        }
    }

    /// Deadlines stood still while nothing was read.
    fn resume(&mut self) {
        let now = self.now;
        for index in 0..self.connections.capacity() as u32 {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            let waited_from = connection.last_active.max(self.paused_at);
            connection.last_active += now.saturating_sub(waited_from);
            connection.owed.postpone(now.saturating_sub(self.paused_at));
            if let Some(deadline) = &mut connection.large_deadline {
                *deadline += now.saturating_sub(self.paused_at);
            }
            if let Some(large) = &mut connection.large {
                large.deadline += now.saturating_sub(self.paused_at);
            }
        }
    }
}

impl Backend for TcpBackend {
    fn receive(&mut self, intake: &mut Intake, state: State, cycle: &Cycle) -> usize {
        self.now = cycle.now;
        if !cycle.busy || cycle.now.saturating_sub(self.last_harvest) >= HARVEST_INTERVAL_NS {
            self.harvest();
        }
        let mut work = self.acknowledge(intake);
        if state == State::Paused {
            return work;
        }
        work += self.accept(intake);
        self.resume_classes();
        work += self.serve_waiting(intake);
        work += self.serve_ready(intake);
        if self.reader.take_published() {
            intake.wake();
        }
        if self.drained() {
            self.reader.close_slot(intake, None);
        }
        work
    }

    fn start(&mut self, intake: &mut Intake) {
        self.reader.start(intake);
    }

    fn state_changed(&mut self, intake: &mut Intake, state: State) {
        match (self.state, state) {
            (State::Draining, _) => {}
            (_, State::Draining) => self.start_draining(intake),
            (State::Paused, State::Paused) => {}
            (_, State::Paused) => self.paused_at = self.now,
            (State::Paused, _) => self.resume(),
            _ => {}
        }
        self.state = state;
    }

    fn drained(&self) -> bool {
        // Answers for those who are gone are waited for as well: they are counted.
        self.listener.is_none() && self.connections.is_empty() && !self.reader.acks.are_in_flight()
    }

    fn housekeeping(&mut self, intake: &mut Intake, now: Nanos) {
        self.reader.housekeeping(intake, now);
        self.sweep(intake, now);
    }

    fn end(&mut self, intake: &mut Intake) {
        self.reader.close_slot(intake, None);
        for index in 0..self.connections.capacity() {
            if let Some(mut connection) = self.connections.remove(index as u32) {
                self.reader.release(&mut connection);
                self.reader.acks.give_up(&mut connection.owed, &mut intake.counters);
            }
        }
    }

    fn blocking(&self) -> Blocking {
        let due = self.listener.as_ref().and_then(Listener::due);
        let until = |delay| Blocking::Until(self.now + delay);
        if !self.lists.is_empty(List::Owed) {
            return Blocking::Forbidden;
        }
        if self.state == State::Paused {
            return if self.now < self.watch_until { until(SWEEP_RETRY_NS) } else { Blocking::Allowed };
        }
        if !self.lists.is_empty(List::Ready)
            || !self.lists.is_empty(List::Room)
            || due.is_some_and(|due| due <= self.now)
        {
            return Blocking::Forbidden;
        }
        if !self.lists.is_empty(List::Turn) {
            return until(CLASS_RETRY_NS);
        }
        let waits = |list: fn(Class) -> List| Class::ALL.iter().any(|class| !self.lists.is_empty(list(*class)));
        if waits(List::Full) {
            return until(CLASS_RETRY_NS);
        }
        if waits(List::Large) {
            return until(LARGE_RETRY_NS);
        }
        match due {
            Some(due) => Blocking::Until(due),
            None if self.now < self.watch_until => until(SWEEP_RETRY_NS),
            None => Blocking::Allowed,
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.epoll.as_fd()]
    }
}
