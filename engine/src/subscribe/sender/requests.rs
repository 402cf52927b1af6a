//! What connections ask: how subscriptions begin, answer and end.

use rustix::event::epoll;

use super::super::client::{Client, Sub, Way};
use super::super::frames::{self, Count, Refusal};
use super::super::groups::{Kind, wants_logged};
use super::super::link::{ConnectionKey, Message, NameCommand};
use super::super::matcher::Place;
use super::super::reading::Cursor;
use super::super::request::{From, Refused, Request, Subscribe};
use super::Sender;
use crate::metrics::Counter;
use crate::storage::log::{Start, Truncated};

/// Of a subscription that is in none.
const NO_GROUP: Place = Place::MAX;
/// What may wait for a socket with the answers to what its client asks, in times of what may wait without.
const ANSWERS_MAX: usize = 2;
/// Requests taken up in one cycle.
const CYCLE_REQUESTS: usize = 256;

impl Sender {
    /// Takes up what connections ask. Returns how much that was.
    pub(super) fn take_requests(&mut self) -> usize {
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

    pub(super) fn answer(&mut self, connection: ConnectionKey, at_byte: u64, asked: Result<Request, Refused>) {
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
            self.counters.add(Counter::SUBSCRIPTION_REQUESTS_REFUSED, 1);
        }
        // Who asks and asks and reads no answer is not to fill the memory.
        if let Some(client) = self.clients.get_mut(&connection)
            && client.waiting_bytes() > ANSWERS_MAX * self.spec.limits.backlog_bytes
        {
            self.counters.add(Counter::SUBSCRIBERS_DISCONNECTED, u64::from(!client.is_gone()));
            client.disconnect();
        }
        self.list(connection);
    }

    pub(super) fn subscribe(&mut self, connection: ConnectionKey, asked: &Subscribe) -> Result<(), Refusal> {
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

    pub(super) fn opened(&mut self, connection: ConnectionKey, asked: &Subscribe, group: Place, way: Way) {
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
    pub(super) fn subscribe_kept(&mut self, connection: ConnectionKey, asked: &Subscribe) -> Result<(), Refusal> {
        let Some(kept) = &asked.kept else { return Ok(()) };
        let classes = asked.classes.unwrap_or(self.spec.logged);
        let (key, at) = ((connection, asked.sub), (self.now, &mut self.counters));
        self.kept.join(key, (asked, kept), classes, &self.spec.streams, at)?;
        self.opened(connection, asked, NO_GROUP, Way::Kept);
        Ok(())
    }

    pub(super) fn done(&mut self, connection: ConnectionKey, sub: u32, offsets: &[u64]) -> Result<(), Refusal> {
        if self.kept.done((connection, sub), offsets, self.now) {
            return Ok(());
        }
        let is_known = self.clients.get(&connection).is_some_and(|client| client.subs.contains_key(&sub));
        Err(if is_known { no_position(sub) } else { no_such_sub(sub) })
    }

    pub(super) fn obey(&mut self, command: NameCommand) {
        // Whoever asked may have given up; then nobody misses the answer.
        match command {
            NameCommand::List(answer) => _ = answer.send(self.kept.list(&self.spec.streams)),
            NameCommand::Delete { kind, name, answer } => _ = answer.send(self.kept.delete(kind, &name)),
        }
    }

    /// Of these classes, those whose events come from workers.
    pub(super) fn live_classes(&self, classes: [bool; 3]) -> impl Iterator<Item = crate::frame::Class> + use<> {
        let has_log = !self.spec.streams.is_empty();
        let logged = self.spec.logged;
        crate::frame::Class::ALL
            .into_iter()
            .filter(move |class| classes[*class as usize] && !(has_log && logged[*class as usize]))
    }

    pub(super) fn cursor(&self, asked: &Subscribe, classes: [bool; 3]) -> Result<Cursor, Refusal> {
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

    pub(super) fn join_tail(&mut self, group: u32, connection: ConnectionKey) {
        self.spec.streams.follow();
        self.groups.set_at_tail(group, connection, true);
    }

    pub(super) fn unsubscribe(&mut self, connection: ConnectionKey, sub: u32) -> Result<(), Refusal> {
        if !self.remove(connection, sub) {
            return Err(no_such_sub(sub));
        }
        if let Some(client) = self.clients.get_mut(&connection) {
            client.say(|out| frames::ok(out, sub));
        }
        Ok(())
    }

    /// Ends a subscription. What waits for its socket is sent all the same.
    pub(super) fn remove(&mut self, connection: ConnectionKey, sub: u32) -> bool {
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

    pub(super) fn count(&mut self, connection: ConnectionKey, sub: u32) -> Result<(), Refusal> {
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
}

fn no_such_sub(sub: u32) -> Refusal {
    Refusal::new("no_such_sub", format!("this connection has no subscription {sub}"))
}

fn no_position(sub: u32) -> Refusal {
    Refusal::new("bad_request", format!("subscription {sub} is neither durable nor of a group: nothing of it is done"))
}
