//! The sender: takes events from workers and from the log, and writes them to those who subscribed.
//!
//! - **Thread**: a runner of its own, beside the data threads: it may wait for the disk, and sending costs more than all that comes
//!   before. It waits for no subscriber.
//! - **In**: batches of live events from each worker whose class is in no log; records of the log; requests. **Out**: frames on the
//!   sockets of subscribers.
//! - **Overload**: what a socket does not take waits in a bounded buffer. Beyond that live events are dropped and counted, or the
//!   subscriber is disconnected, as it has asked for; events that are in the log are read again from there, later.
//! - **Invariant**: `matched = delivered + dropped + waiting`. Within a subscription events come in the order in which they ended or
//!   were appended.

mod requests;
mod sending;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

use rustix::event::{Timespec, epoll};

use super::client::Client;
use super::groups::{Groups, Rendered};
use super::interest::Interest;
use super::kept::{KeptNames, KeptSpec};
use super::link::{ConnectionKey, Message};
use super::outlet::OutletEnd;
use super::reading::{Cursor, Streams};
use crate::memory::off_data_path;
use crate::metrics::{Counter, Counters};
use crate::runtime::agent::{Agent, Blocking, Cycle};
use crate::runtime::clock::{Clock, Nanos};
use crate::storage::LogReaders;

/// How long subscribers may take to read the last events when the engine goes.
const LAST_WORDS_NS: Nanos = 250_000_000;
const HARVEST_EVENTS: usize = 128;
/// How soon to try again where the other writer has the turn.
const TURN_RETRY_NS: Nanos = 100_000;
/// How soon to try again after the disk has failed.
const DISK_RETRY_NS: Nanos = 100_000_000;

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub struct SenderLimits {
    pub subs_per_connection: usize,
    /// What may wait for one socket.
    pub backlog_bytes: usize,
}

/// What a sender is made of.
pub struct SenderSpec {
    pub name: String,
    pub requests: Receiver<Message>,
    pub outlets: Vec<OutletEnd>,
    pub streams: Streams,
    /// Classes that are in the log.
    pub logged: [bool; 3],
    pub interest: Arc<Interest>,
    pub limits: SenderLimits,
    pub kept: KeptSpec,
    /// To be told whether anybody reads the log.
    pub readers: Option<LogReaders>,
    pub clock: Clock,
}

pub struct Sender {
    spec: SenderSpec,
    epoll: OwnedFd,
    clients: HashMap<ConnectionKey, Client>,
    groups: Groups,
    cursors: HashMap<(ConnectionKey, u32), Cursor>,
    kept: KeptNames,
    /// Connections to be written to.
    listed: Vec<ConnectionKey>,
    /// Some of them could not be, as it was not our turn.
    waits_for_turn: bool,
    /// The disk is not asked before.
    disk_retry_at: Nanos,
    /// It has been said that it fails.
    disk_fails: bool,
    overflowed: u64,
    /// Of the subscription that was made last.
    serial: u64,
    counters: Counters,
    waiting: Arc<AtomicU64>,
    now: Nanos,
    /// Cursors have more to read and room for it.
    has_more: bool,
    scratch: Rendered,
}

impl Sender {
    pub fn new(mut spec: SenderSpec) -> Result<Self, String> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| format!("subscribers' sockets: {error}"))?;
        let kept = KeptNames::new(std::mem::take(&mut spec.kept), &spec.streams, spec.clock.now());
        Ok(Self {
            kept,
            spec,
            epoll,
            clients: HashMap::new(),
            groups: Groups::default(),
            cursors: HashMap::new(),
            listed: Vec::new(),
            waits_for_turn: false,
            disk_retry_at: 0,
            disk_fails: false,
            overflowed: 0,
            serial: 0,
            counters: Counters::default(),
            waiting: Arc::default(),
            now: 0,
            has_more: false,
            scratch: Rendered::default(),
        })
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Frames that wait for sockets; a term of the ledger.
    pub fn waiting_gauge(&self) -> Arc<AtomicU64> {
        self.waiting.clone()
    }

    fn close(&mut self, connection: ConnectionKey) {
        let Some(client) = self.clients.get(&connection) else { return };
        let subs: Vec<u32> = client.subs.keys().copied().collect();
        for sub in subs {
            self.remove(connection, sub);
        }
        if let Some(mut client) = self.clients.remove(&connection) {
            self.counters.add(Counter::SUBSCRIPTION_DELIVERED, client.take_delivered());
            self.counters.add(Counter::SUBSCRIPTION_DROPPED_GONE, client.give_up());
            // The dup of a socket keeps it in the set.
            let _ = epoll::delete(&self.epoll, &client.socket);
        }
    }

    fn list(&mut self, connection: ConnectionKey) {
        if let Some(client) = self.clients.get_mut(&connection).filter(|client| !client.is_listed) {
            client.is_listed = true;
            self.listed.push(connection);
        }
    }

    /// Takes readiness from the kernel.
    fn harvest(&mut self) {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let none = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [none; HARVEST_EVENTS];
        let Ok(count) = epoll::wait(&self.epoll, &mut events[..], Some(&at_once)) else { return };
        for event in events.iter().take(count) {
            self.list(event.data.u64());
        }
    }

    fn publish_waiting(&self) {
        let waiting = self.clients.values().map(Client::waiting_frames).sum();
        self.waiting.store(waiting, Ordering::Release);
    }
}

impl Agent for Sender {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn duty_cycle(&mut self, cycle: &Cycle) -> usize {
        self.now = cycle.now;
        // Nothing here is on the data path.
        off_data_path(|| {
            let mut work = self.take_requests();
            if let Some(readers) = &self.spec.readers {
                readers.set(!self.clients.is_empty());
            }
            if self.clients.is_empty() {
                work += self.step_kept();
                // What was for somebody who has gone.
                return work + self.take_live();
            }
            work += self.take_live();
            let mut read = self.read_tails();
            self.send_groups();
            read += self.step_cursors();
            read += self.step_kept();
            if self.disk_fails && read > 0 && self.disk_retry_at <= self.now {
                self.disk_works();
            }
            work + read + self.write_on()
        })
    }

    fn housekeeping(&mut self, _now: Nanos) {
        let overflowed = self.spec.outlets.iter().map(OutletEnd::overflowed).sum();
        self.counters.add(Counter::SUBSCRIPTION_OVERFLOWED, overflowed - self.overflowed);
        self.overflowed = overflowed;
        self.publish_waiting();
        self.counters.flush();
    }

    fn blocking(&self) -> Blocking {
        let is_failing = self.disk_retry_at > self.now;
        if self.has_more || (self.kept.has_more() && !is_failing) {
            return Blocking::Forbidden;
        }
        let turn = self.waits_for_turn.then_some(self.now + TURN_RETRY_NS);
        let disk = is_failing.then_some(self.disk_retry_at);
        let kept = self.kept.due().map(|due| if is_failing { due.max(self.disk_retry_at) } else { due });
        match turn.into_iter().chain(disk).chain(kept).min() {
            Some(due) => Blocking::Until(due),
            None => Blocking::Allowed,
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.epoll.as_fd()]
    }

    fn close(&mut self) {
        // What has come to its end is sent as far as sockets take it.
        let deadline = self.spec.clock.now() + LAST_WORDS_NS;
        loop {
            let now = self.spec.clock.now();
            let work = self.duty_cycle(&Cycle { now, busy: true });
            let waits = self.has_more || self.clients.values().any(|client| client.waiting_bytes() > 0);
            if now >= deadline || (work == 0 && !waits) {
                break;
            }
            if work == 0 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        self.harvest();
        let connections: Vec<ConnectionKey> = self.clients.keys().copied().collect();
        connections.into_iter().for_each(|connection| self.close(connection));
        self.kept.close();
        self.publish_waiting();
        self.counters.flush();
    }
}
