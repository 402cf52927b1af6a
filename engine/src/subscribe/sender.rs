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

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

use rustix::event::{Timespec, epoll};

use super::client::{Client, Sub, Way, Written};
use super::frames::{self, Count, Refusal};
use super::groups::{Groups, Kind, Rendered, wants_logged};
use super::interest::Interest;
use super::kept::{KeptNames, KeptSpec};
use super::link::{ConnectionKey, Message, NameCommand};
use super::matcher::Place;
use super::outlet::OutletEnd;
use super::reading::{Cursor, Got, Streams, say_gap};
use super::request::{From, Refused, Request, Slow, Subscribe};
use crate::memory::off_data_path;
use crate::metrics::{Counter, Counters};
use crate::runtime::agent::{Agent, Blocking, Cycle};
use crate::runtime::clock::{Clock, Nanos};
use crate::storage::StorageError;
use crate::storage::log::{Gap, Start, Truncated, View};

/// Of a subscription that is in none.
const NO_GROUP: Place = Place::MAX;
/// Requests taken up in one cycle.
const CYCLE_REQUESTS: usize = 256;
/// Batches of each outlet in one cycle.
const CYCLE_BATCHES: usize = 4;
/// Reads of each stream's end in one cycle.
const CYCLE_READS: usize = 4;
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

    /// Takes up what connections ask. Returns how much that was.
    fn take_requests(&mut self) -> usize {
        let mut count = 0;
        while count < CYCLE_REQUESTS {
            let Ok(message) = self.spec.requests.try_recv() else { break };
            count += 1;
            match message {
                Message::Opened { connection, socket, turn } => {
                    let flags = epoll::EventFlags::OUT | epoll::EventFlags::ET;
                    // Without it the socket is tried again whenever something else happens.
                    let _ = epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(connection), flags);
                    self.clients.insert(connection, Client::new(socket, turn));
                }
                Message::Asked { connection, at_byte, asked } => self.answer(connection, at_byte, asked),
                Message::Names(command) => self.obey(command),
                Message::Closed { stays: true, .. } => {}
                Message::Closed { connection, .. } => self.close(connection),
            }
        }
        count
    }

    fn answer(&mut self, connection: ConnectionKey, at_byte: u64, asked: Result<Request, Refused>) {
        if !self.clients.contains_key(&connection) {
            return;
        }
        let about = match &asked {
            Ok(Request::Subscribe(subscribe)) => Some(subscribe.sub),
            Ok(Request::Unsubscribe(sub) | Request::Count(sub) | Request::Done { sub, .. }) => Some(*sub),
            Err((sub, _)) => *sub,
        };
        let answered = match asked {
            Ok(Request::Subscribe(subscribe)) => self.subscribe(connection, &subscribe),
            Ok(Request::Unsubscribe(sub)) => self.unsubscribe(connection, sub),
            Ok(Request::Count(sub)) => self.count(connection, sub),
            Ok(Request::Done { sub, offsets }) => self.done(connection, sub, &offsets),
            Err((_, refusal)) => Err(refusal),
        };
        if let Err(refusal) = answered
            && let Some(client) = self.clients.get_mut(&connection)
        {
            client.say(|out| frames::error(out, about, &refusal, at_byte, false));
        }
        self.list(connection);
    }

    fn subscribe(&mut self, connection: ConnectionKey, asked: &Subscribe) -> Result<(), Refusal> {
        let Some(client) = self.clients.get(&connection) else { return Ok(()) };
        let sub = asked.sub;
        if client.subs.contains_key(&sub) {
            return Err(Refusal::new("sub_in_use", format!("this connection has a subscription {sub}")));
        }
        let most = self.spec.limits.subs_per_connection;
        if client.subs.len() >= most {
            let message = format!("this connection has {most} subscriptions, as many as one may have");
            return Err(Refusal::new("too_many_subscriptions", message));
        }
        if asked.kept.is_some() {
            return self.subscribe_kept(connection, asked);
        }
        let is_live = asked.from == From::Live && asked.stream.is_none();
        let default = if is_live { [true; 3] } else { self.spec.logged };
        let classes = asked.classes.unwrap_or(default);
        let has_log = !self.spec.streams.is_empty();
        if !is_live && !has_log {
            let message =
                "this engine keeps no event log (storage.directory): subscriptions start live, and have no stream";
            return Err(Refusal::new("no_log", message));
        }
        let follows = has_log && wants_logged(classes);
        let cursor = if is_live { None } else { Some(self.cursor(asked, classes)?) };
        let kind = Kind { sub, filter: asked.filter.clone(), classes };
        let group = self.groups.add(kind, connection);
        self.spec.interest.add(&asked.filter, self.live_classes(classes));
        let way = match (follows, &cursor) {
            (false, _) => Way::None,
            (true, None) => Way::Tail,
            (true, Some(_)) => Way::Cursor,
        };
        if way == Way::Tail {
            self.join_tail(group, connection);
        }
        self.cursors.extend(cursor.map(|cursor| ((connection, sub), cursor)));
        self.opened(connection, asked, group, way);
        Ok(())
    }

    fn opened(&mut self, connection: ConnectionKey, asked: &Subscribe, group: Place, way: Way) {
        if let Some(client) = self.clients.get_mut(&connection) {
            self.serial += 1;
            let (serial, sub, slow) = (self.serial, asked.sub, asked.slow);
            let (delivered, dropped, waiting, untold) = (0, 0, 0, 0);
            client.subs.insert(sub, Sub { serial, group, way, slow, delivered, dropped, waiting, untold });
            client.say(|out| frames::ok(out, sub));
        }
        self.counters.add(Counter::SUBSCRIPTIONS_OPENED, 1);
    }

    /// One whose position is kept: it joins a name, not those at the end of the log.
    fn subscribe_kept(&mut self, connection: ConnectionKey, asked: &Subscribe) -> Result<(), Refusal> {
        let Some(kept) = &asked.kept else { return Ok(()) };
        let classes = asked.classes.unwrap_or(self.spec.logged);
        let (key, at) = ((connection, asked.sub), (self.now, &mut self.counters));
        self.kept.join(key, (asked, kept), classes, &self.spec.streams, at)?;
        self.opened(connection, asked, NO_GROUP, Way::Kept);
        Ok(())
    }

    fn done(&mut self, connection: ConnectionKey, sub: u32, offsets: &[u64]) -> Result<(), Refusal> {
        if self.kept.done((connection, sub), offsets, self.now) {
            return Ok(());
        }
        let is_known = self.clients.get(&connection).is_some_and(|client| client.subs.contains_key(&sub));
        Err(if is_known { no_position(sub) } else { no_such_sub(sub) })
    }

    fn obey(&mut self, command: NameCommand) {
        // Whoever asked may have given up; then nobody misses the answer.
        match command {
            NameCommand::List(answer) => _ = answer.send(self.kept.list(&self.spec.streams)),
            NameCommand::Delete { kind, name, answer } => _ = answer.send(self.kept.delete(kind, &name)),
        }
    }

    /// Lets those whose positions are kept have what they have room for. Returns how many records that were.
    fn step_kept(&mut self) -> usize {
        let mut count = 0;
        if self.now >= self.disk_retry_at {
            let (room, mut touched) = (self.spec.limits.backlog_bytes / 2, Vec::new());
            let with = (&mut self.clients, &mut self.counters);
            let (read, failed) = self.kept.step(&self.spec.streams, with, (room, self.now), &mut touched);
            count = read;
            touched.into_iter().for_each(|connection| self.list(connection));
            if let Some(error) = failed {
                self.disk_failed(&error);
            }
        }
        self.kept.save_if_due(self.now);
        count
    }

    /// Of these classes, those whose events come from workers.
    fn live_classes(&self, classes: [bool; 3]) -> impl Iterator<Item = crate::frame::Class> + use<> {
        let has_log = !self.spec.streams.is_empty();
        let logged = self.spec.logged;
        crate::frame::Class::ALL
            .into_iter()
            .filter(move |class| classes[*class as usize] && !(has_log && logged[*class as usize]))
    }

    fn cursor(&self, asked: &Subscribe, classes: [bool; 3]) -> Result<Cursor, Refusal> {
        let streams = &self.spec.streams;
        let truncated = |Truncated { first_valid }: Truncated| Refusal {
            code: "truncated",
            message: format!(
                "there is no such position: the first valid one is epoch {}, offset {}",
                first_valid.epoch, first_valid.offset
            ),
            first_valid: Some(first_valid),
        };
        let find = |stream: &String| {
            let found = streams.find(stream);
            found.ok_or_else(|| Refusal::new("no_such_stream", format!("the event log has no stream `{stream}`")))
        };
        let only = asked.stream.as_ref().map(find).transpose()?;
        let (only, start) = match &asked.from {
            From::Live => (only, Start::Latest),
            From::Earliest => (only, Start::Earliest),
            From::Time(time) => (only, Start::Time(*time)),
            From::Latest => {
                return streams
                    .cursor_at_last(&asked.filter, classes, only)
                    .map_err(|error| Refusal::new("log_unreadable", error.to_string()));
            }
            From::At { stream, position } => (Some(find(stream)?), Start::At(*position)),
        };
        streams.cursor(&asked.filter, classes, only, start).map_err(truncated)
    }

    fn join_tail(&mut self, group: u32, connection: ConnectionKey) {
        if let Err(error) = self.spec.streams.follow() {
            self.disk_failed(&error);
        }
        self.groups.set_at_tail(group, connection, true);
    }

    fn unsubscribe(&mut self, connection: ConnectionKey, sub: u32) -> Result<(), Refusal> {
        if !self.remove(connection, sub) {
            return Err(no_such_sub(sub));
        }
        if let Some(client) = self.clients.get_mut(&connection) {
            client.say(|out| frames::ok(out, sub));
        }
        Ok(())
    }

    /// Ends a subscription. What waits for its socket is sent all the same.
    fn remove(&mut self, connection: ConnectionKey, sub: u32) -> bool {
        let Some(gone) = self.clients.get_mut(&connection).and_then(|client| client.subs.remove(&sub)) else {
            return false;
        };
        self.cursors.remove(&(connection, sub));
        self.kept.leave((connection, sub), self.now);
        if let Some(group) = self.groups.get_mut(gone.group) {
            let (filter, classes) = (group.kind.filter.clone(), group.kind.classes);
            self.spec.interest.remove(&filter, self.live_classes(classes));
        }
        self.groups.remove(gone.group, connection);
        if self.groups.at_tail() == 0 {
            self.spec.streams.leave();
        }
        self.counters.add(Counter::SUBSCRIPTIONS_CLOSED, 1);
        true
    }

    fn count(&mut self, connection: ConnectionKey, sub: u32) -> Result<(), Refusal> {
        let client = self.clients.get_mut(&connection);
        let count = client.as_ref().and_then(|client| client.subs.get(&sub)).map(|of| Count {
            sub,
            delivered: of.delivered,
            dropped: of.dropped,
            waiting: of.waiting,
        });
        match (client, count) {
            (Some(client), Some(count)) => client.say(|out| frames::count(out, &count)),
            _ => return Err(no_such_sub(sub)),
        }
        Ok(())
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

    /// Takes what workers have handed over, and sends it. Returns how many events that was.
    fn take_live(&mut self) -> usize {
        let mut count = 0;
        for index in 0..self.spec.outlets.len() {
            for _ in 0..CYCLE_BATCHES {
                let outlet = &mut self.spec.outlets[index];
                let Some(batch) = outlet.full.take() else { break };
                let (class, mut at) = (outlet.class, 0);
                while let Some(made) = batch.event(at) {
                    at += made.bytes.len();
                    count += 1;
                    if self.groups.render_live(class, &made) {
                        self.send_groups();
                    }
                }
                self.spec.outlets[index].give_back(batch);
            }
            self.spec.outlets[index].release();
        }
        count
    }

    /// Reads on at the end of the log, for all who are there.
    fn read_tails(&mut self) -> usize {
        if self.groups.at_tail() == 0 || self.now < self.disk_retry_at {
            return 0;
        }
        let (mut count, mut gaps) = (0, Vec::new());
        for stream in 0..self.spec.streams.len() {
            for _ in 0..CYCLE_READS {
                let note = |view: &Arc<View>, gap| gaps.push((view.clone(), gap));
                match self.spec.streams.read_tail(stream, &mut self.groups, note) {
                    Ok((read, is_much)) => {
                        count += read;
                        for (view, gap) in gaps.drain(..) {
                            self.say_gap_to_all(&view, gap);
                        }
                        if !is_much {
                            break;
                        }
                        self.send_groups();
                    }
                    Err(error) => {
                        self.disk_failed(&error);
                        break;
                    }
                }
            }
        }
        count
    }

    #[cold]
    fn say_gap_to_all(&mut self, view: &View, gap: Gap) {
        self.send_groups();
        let mut told = Vec::new();
        for (connection, client) in &mut self.clients {
            let subs: Vec<u32> =
                client.subs.iter().filter(|(_, sub)| sub.way == Way::Tail).map(|(sub, _)| *sub).collect();
            for sub in subs {
                client.say(|out| say_gap(out, sub, view, gap));
                told.push(*connection);
            }
        }
        told.into_iter().for_each(|connection| self.list(connection));
    }

    #[cold]
    fn disk_failed(&mut self, error: &StorageError) {
        tracing::error!(%error, "the event log cannot be read for subscribers; it is tried again");
        self.disk_retry_at = self.now + DISK_RETRY_NS;
    }

    /// Sends what groups have rendered to their members.
    fn send_groups(&mut self) {
        let touched = self.groups.take_touched();
        let (backlog, mut matched) = (self.spec.limits.backlog_bytes, 0);
        let (mut blocked, mut left_behind) = (Vec::new(), Vec::new());
        for place in &touched {
            let Some(group) = self.groups.get_mut(*place) else { continue };
            let number = group.kind.sub;
            for member in &group.members {
                let Some(client) = self.clients.get_mut(&member.connection) else { continue };
                if group.live.frames > 0 {
                    matched += u64::from(group.live.frames);
                    let has_room =
                        client.waiting_bytes() + group.live.bytes.len() <= backlog.max(group.live.bytes.len());
                    if has_room {
                        client.send(number, group.live.frames, &group.live.bytes);
                    } else {
                        drop_live(client, number, group.live.frames.into(), &mut self.counters);
                    }
                }
                if member.is_at_tail && group.logged.frames > 0 {
                    if client.waiting_bytes() > backlog / 2 {
                        left_behind.push((member.connection, number));
                    } else {
                        matched += u64::from(group.logged.frames);
                        client.send(number, group.logged.frames, &group.logged.bytes);
                    }
                }
                self.counters.add(Counter::SUBSCRIPTION_DELIVERED, client.take_delivered());
                if client.waiting_bytes() > 0 {
                    blocked.push(member.connection);
                }
            }
            group.live.clear();
            group.logged.clear();
        }
        self.counters.add(Counter::SUBSCRIPTION_MATCHED, matched);
        self.groups.give_back(touched);
        for (connection, sub) in left_behind {
            self.leave_tail(connection, sub);
        }
        self.spec.streams.mark();
        blocked.into_iter().for_each(|connection| self.list(connection));
    }

    /// A subscription that does not get on reads by itself from here on: others do not wait for it.
    #[cold]
    fn leave_tail(&mut self, connection: ConnectionKey, sub: u32) {
        let Some(of) = self.clients.get_mut(&connection).and_then(|client| client.subs.get_mut(&sub)) else { return };
        of.way = Way::Cursor;
        let group = of.group;
        let Some(kind) = self.groups.get_mut(group).map(|group| group.kind.clone()) else { return };
        let cursor = self.spec.streams.cursor_at_sent(&kind.filter, kind.classes);
        self.cursors.insert((connection, sub), cursor);
        self.groups.set_at_tail(group, connection, false);
        self.counters.add(Counter::SUBSCRIPTIONS_FELL_BEHIND, 1);
    }

    /// Lets those who read by themselves read on. Returns how many records that were.
    fn step_cursors(&mut self) -> usize {
        self.has_more = false;
        if self.cursors.is_empty() || self.now < self.disk_retry_at {
            return 0;
        }
        let (mut count, mut caught_up, mut failed) = (0, Vec::new(), None);
        let room = self.spec.limits.backlog_bytes / 2;
        for ((connection, sub), cursor) in &mut self.cursors {
            let Some(client) = self.clients.get_mut(connection) else { continue };
            if client.waiting_bytes() > 0 {
                continue;
            }
            let (rendered, mut notices) = (&mut self.scratch, Vec::new());
            rendered.clear();
            match cursor.step(*sub, &self.spec.streams, room, rendered, &mut notices) {
                Ok((Got::CaughtUp, passed)) => {
                    count += passed;
                    caught_up.push((*connection, *sub));
                }
                Ok((Got::On, passed)) => count += passed,
                Err(error) => failed = Some(error),
            }
            if !notices.is_empty() {
                client.say(|out| out.extend_from_slice(&notices));
            }
            if rendered.frames > 0 {
                self.counters.add(Counter::SUBSCRIPTION_MATCHED, rendered.frames.into());
                client.send(*sub, rendered.frames, &rendered.bytes);
                self.counters.add(Counter::SUBSCRIPTION_DELIVERED, client.take_delivered());
            }
            if client.waiting_bytes() == 0 {
                self.has_more |= cursor.has_more(&self.spec.streams);
            } else if !client.is_listed {
                client.is_listed = true;
                self.listed.push(*connection);
            }
        }
        for (connection, sub) in caught_up {
            self.catch_up(connection, sub);
        }
        if let Some(error) = failed {
            self.disk_failed(&error);
        }
        count
    }

    /// A subscription has read all that there is, and joins those who are at the end.
    fn catch_up(&mut self, connection: ConnectionKey, sub: u32) {
        let Some(of) = self.clients.get_mut(&connection).and_then(|client| client.subs.get_mut(&sub)) else { return };
        of.way = Way::Tail;
        let group = of.group;
        // Those at the end go on where the first of them is.
        if let Some(cursor) = self.cursors.remove(&(connection, sub)) {
            self.spec.streams.follow_from(cursor);
        }
        self.groups.set_at_tail(group, connection, true);
    }

    /// Writes to those whose sockets may take something again. Returns how many of them did.
    fn write_on(&mut self) -> usize {
        self.harvest();
        self.waits_for_turn = false;
        let mut listed = std::mem::take(&mut self.listed);
        let count = listed.len();
        let mut gone = Vec::new();
        listed.retain(|connection| {
            let Some(client) = self.clients.get_mut(connection) else { return false };
            let written = client.flush();
            self.counters.add(Counter::SUBSCRIPTION_DELIVERED, client.take_delivered());
            client.is_listed = written == Written::NotOurTurn;
            match written {
                Written::All => tell_dropped(client),
                Written::Blocked => {}
                Written::NotOurTurn => self.waits_for_turn = true,
                Written::Gone => gone.push(*connection),
            }
            client.is_listed |= client.waiting_bytes() > 0 && written == Written::All;
            client.is_listed
        });
        self.listed.append(&mut listed);
        // Their readers tell when they are closed; until then nothing more is for them.
        for connection in gone {
            let subs: Vec<u32> =
                self.clients.get(&connection).map(|client| client.subs.keys().copied().collect()).unwrap_or_default();
            let waiting = self.clients.get_mut(&connection).map_or(0, Client::give_up);
            self.counters.add(Counter::SUBSCRIPTION_DROPPED_GONE, waiting);
            for sub in subs {
                self.remove(connection, sub);
            }
        }
        count
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

fn no_such_sub(sub: u32) -> Refusal {
    Refusal::new("no_such_sub", format!("this connection has no subscription {sub}"))
}

fn no_position(sub: u32) -> Refusal {
    Refusal::new("bad_request", format!("subscription {sub} is neither durable nor of a group: nothing of it is done"))
}

/// Does for a subscriber that does not read what it has asked for.
#[cold]
fn drop_live(client: &mut Client, sub: u32, frames: u64, counters: &mut Counters) {
    counters.add(Counter::SUBSCRIPTION_DROPPED_SLOW, frames);
    let Some(of) = client.subs.get_mut(&sub) else { return };
    of.dropped += frames;
    of.untold += frames;
    if of.slow == Slow::Disconnect && !client.is_gone() {
        counters.add(Counter::SUBSCRIBERS_DISCONNECTED, 1);
        client.disconnect();
    }
}

/// Tells a subscriber that reads again what it has missed.
fn tell_dropped(client: &mut Client) {
    let untold: Vec<(u32, u64)> = client
        .subs
        .iter_mut()
        .filter(|(_, sub)| sub.untold > 0)
        .map(|(number, sub)| (*number, std::mem::take(&mut sub.untold)))
        .collect();
    for (sub, count) in untold {
        client.say(|out| frames::dropped(out, sub, count));
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
            if self.clients.is_empty() {
                work += self.step_kept();
                // What was for somebody who has gone.
                return work + self.take_live();
            }
            work += self.take_live();
            work += self.read_tails();
            self.send_groups();
            work += self.step_cursors();
            work += self.step_kept();
            work + self.write_on()
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
