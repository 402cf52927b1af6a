//! From workers and the log to sockets: what is rendered, sent, kept waiting and dropped.

use std::sync::Arc;

use super::super::client::{Client, Way, Written};
use super::super::frames;
use super::super::link::ConnectionKey;
use super::super::reading::{Got, say_gap};
use super::super::request::Slow;
use super::{DISK_RETRY_NS, Sender};
use crate::metrics::{Counter, Counters};
use crate::storage::StorageError;
use crate::storage::log::{Gap, View};

/// Batches of each outlet in one cycle.
const CYCLE_BATCHES: usize = 4;
/// Reads of each stream's end in one cycle.
const CYCLE_READS: usize = 4;

impl Sender {
    /// Lets those whose positions are kept have what they have room for. Returns how many records that were.
    pub(super) fn step_kept(&mut self) -> usize {
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

    /// Takes what workers have handed over, and sends it. Returns how many events that was.
    pub(super) fn take_live(&mut self) -> usize {
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
    pub(super) fn read_tails(&mut self) -> usize {
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
    pub(super) fn say_gap_to_all(&mut self, view: &View, gap: Gap) {
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

    /// Says it once, until something [was read](Self::disk_works) again.
    #[cold]
    pub(super) fn disk_failed(&mut self, error: &StorageError) {
        if !std::mem::replace(&mut self.disk_fails, true) {
            tracing::error!(%error, "the event log cannot be read for subscribers; it is tried again");
        }
        self.disk_retry_at = self.now + DISK_RETRY_NS;
    }

    /// Something has been read in this cycle, and nothing has failed.
    #[cold]
    pub(super) fn disk_works(&mut self) {
        self.disk_fails = false;
        tracing::info!("the event log can be read for subscribers again");
    }

    /// Sends what groups have rendered to their members.
    pub(super) fn send_groups(&mut self) {
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
        if self.groups.at_tail() == 0 {
            // Who comes next begins at the end, and not where the last one stopped.
            self.spec.streams.leave();
        }
        self.spec.streams.mark();
        blocked.into_iter().for_each(|connection| self.list(connection));
    }

    /// A subscription that does not get on reads by itself from here on: others do not wait for it.
    #[cold]
    pub(super) fn leave_tail(&mut self, connection: ConnectionKey, sub: u32) {
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
    pub(super) fn step_cursors(&mut self) -> usize {
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
    pub(super) fn catch_up(&mut self, connection: ConnectionKey, sub: u32) {
        if self.cursors.get(&(connection, sub)).is_none_or(|cursor| cursor.is_ahead(&self.spec.streams)) {
            return;
        }
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
    pub(super) fn write_on(&mut self) -> usize {
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
