//! What a name knows about its records: which are done, which are with whom, and which wait to be given.
//!
//! - **Thread**: the sender's. Nothing here reads a clock or a disk: times and offsets come from outside.
//! - **In**: offsets as they are read, members that come and go, what is done. **Out**: who gets which record.
//! - **Overload**: a member has at most what it may have in flight, and nothing is read while nobody has room.
//! - **Invariant**: every record before `next` is done or open. An open one is with one member at most, from when it is given until
//!   it is done, its wait is over or the member has gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher};

use crate::runtime::clock::Nanos;
use crate::subscribe::groups::Rendered;
use crate::subscribe::link::ConnectionKey;

/// A connection and the number that its subscription has there.
pub type Key = (ConnectionKey, u32);

/// Records read ahead for members that are busy with earlier ones of the same topics.
const HELD_MAX: usize = 8_192;

/// Who gets records.
#[derive(Debug)]
pub struct Member {
    pub key: Key,
    pub max_in_flight: u32,
    /// Of a group: when a record is given again.
    pub ack_wait: Option<Nanos>,
    /// Of a group: how often a record is given.
    pub max_deliveries: Option<u8>,
    pub in_flight: u32,
    /// Its socket takes something.
    pub is_open: bool,
    /// What it is to be sent.
    pub out: Rendered,
}

impl Member {
    pub fn new(key: Key, max_in_flight: u32, ack_wait: Option<Nanos>, max_deliveries: Option<u8>) -> Self {
        let (in_flight, is_open, out) = (0, true, Rendered::default());
        Self { key, max_in_flight, ack_wait, max_deliveries, in_flight, is_open, out }
    }

    const fn has_room(&self) -> bool {
        self.is_open && self.in_flight < self.max_in_flight
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be given.
    Ready,
    /// To be given once those of its topic before it have ended.
    Held,
    Given {
        to: Key,
        due: Option<Nanos>,
    },
    /// To be dead-lettered,
    Condemned,
    /// and handed over for that.
    Leaving,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    state: State,
    deliveries: u8,
    /// Who had it before.
    last: Option<Key>,
    /// Where topics are kept together; `None` until it has been read in this run.
    topic: Option<u64>,
}

/// A record goes to the member with this index, for the `delivery`-th time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    pub member: usize,
    pub delivery: u8,
}

pub struct Book {
    by_topic: bool,
    /// What is read next.
    next: u64,
    open: BTreeMap<u64, Open>,
    ready: BTreeSet<u64>,
    condemned: BTreeSet<u64>,
    timers: BTreeSet<(Nanos, u64)>,
    /// Open records of each topic, in order; only the first may be given.
    chains: HashMap<u64, BTreeSet<u64>>,
    /// Open records of a topic that is not known.
    unread: usize,
    members: Vec<Member>,
    /// Whose turn it is.
    turn: usize,
    hasher: std::hash::RandomState,
}

impl Book {
    /// `undone`: those before `next` that are not done, with how often they were given.
    pub fn new(by_topic: bool, next: u64, undone: impl IntoIterator<Item = (u64, u8)>) -> Self {
        let open = |(offset, deliveries)| (offset, Open { state: State::Ready, deliveries, last: None, topic: None });
        let open: BTreeMap<u64, Open> = undone.into_iter().map(open).collect();
        Self {
            by_topic,
            next,
            ready: open.keys().copied().collect(),
            condemned: BTreeSet::new(),
            timers: BTreeSet::new(),
            chains: HashMap::new(),
            unread: open.len(),
            open,
            members: Vec::new(),
            turn: 0,
            hasher: std::hash::RandomState::new(),
        }
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    /// Everything before was read, whether it was for these members or not.
    pub fn set_next(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// The first that is not done.
    pub fn position(&self) -> u64 {
        self.open.first_key_value().map_or(self.next, |(offset, _)| *offset)
    }

    /// Those before `next` that are not done, with how often they were given.
    pub fn undone(&self) -> impl Iterator<Item = (u64, u8)> {
        self.open.iter().map(|(offset, open)| (*offset, open.deliveries))
    }

    pub fn in_flight(&self) -> u64 {
        self.members.iter().map(|member| u64::from(member.in_flight)).sum()
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn members_mut(&mut self) -> &mut [Member] {
        &mut self.members
    }

    pub fn join(&mut self, member: Member) {
        self.members.push(member);
    }

    /// What the member has not done goes to the others.
    pub fn leave(&mut self, key: Key) {
        let Some(place) = self.members.iter().position(|member| member.key == key) else { return };
        let is_its = |open: &Open| matches!(open.state, State::Given { to, .. } if to == key);
        let its: Vec<u64> = self.open.iter().filter(|(_, open)| is_its(open)).map(|(offset, _)| *offset).collect();
        its.into_iter().for_each(|offset| self.give_back(offset));
        self.members.remove(place);
    }

    /// Takes back what is not done in time. Returns whether anything was.
    pub fn expire(&mut self, now: Nanos) -> bool {
        let mut any = false;
        while let Some((due, offset)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
            any = true;
            self.timers.remove(&(due, offset));
            self.give_back(offset);
        }
        any
    }

    pub fn next_due(&self) -> Option<Nanos> {
        self.timers.first().map(|(due, _)| *due)
    }

    fn give_back(&mut self, offset: u64) {
        let Some(open) = self.open.get_mut(&offset) else { return };
        let State::Given { to, due } = open.state else { return };
        (open.state, open.last) = (State::Ready, Some(to));
        let deliveries = open.deliveries;
        due.map(|due| self.timers.remove(&(due, offset)));
        let Some(member) = self.members.iter_mut().find(|member| member.key == to) else { return };
        member.in_flight -= 1;
        if member.max_deliveries.is_some_and(|most| deliveries >= most) {
            open.state = State::Condemned;
            self.condemned.insert(offset);
        } else {
            self.ready.insert(offset);
        }
    }

    /// A record that was given is done, whoever says so. False: it is not open, or never was given.
    pub fn done(&mut self, offset: u64) -> bool {
        let was_given = self.open.get(&offset).is_some_and(|open| open.deliveries > 0);
        was_given && self.end(offset)
    }

    /// A record is nobody's any more.
    pub fn end(&mut self, offset: u64) -> bool {
        let Some(open) = self.open.remove(&offset) else { return false };
        self.unread -= usize::from(open.topic.is_none());
        match open.state {
            State::Ready => _ = self.ready.remove(&offset),
            State::Condemned => _ = self.condemned.remove(&offset),
            State::Given { to, due } => {
                due.map(|due| self.timers.remove(&(due, offset)));
                if let Some(member) = self.members.iter_mut().find(|member| member.key == to) {
                    member.in_flight -= 1;
                }
            }
            State::Held | State::Leaving => {}
        }
        if self.by_topic
            && let Some(topic) = open.topic
        {
            self.unchain(topic, offset);
        }
        true
    }

    fn unchain(&mut self, topic: u64, offset: u64) {
        let Some(chain) = self.chains.get_mut(&topic) else { return };
        chain.remove(&offset);
        let Some(first) = chain.first().copied() else {
            self.chains.remove(&topic);
            return;
        };
        if let Some(open) = self.open.get_mut(&first).filter(|open| open.state == State::Held) {
            open.state = State::Ready;
            self.ready.insert(first);
        }
    }

    /// Ends all that was open from `from` on, before `until`.
    pub fn lose(&mut self, from: u64, until: u64) {
        let lost: Vec<u64> = self.open.range(from..until.max(from)).map(|(offset, _)| *offset).collect();
        lost.into_iter().for_each(|offset| _ = self.end(offset));
    }

    pub fn has_room(&self) -> bool {
        self.members.iter().any(Member::has_room)
    }

    /// Whether another record is to be read behind the last one.
    pub fn may_read(&self) -> bool {
        let is_next =
            if self.by_topic { self.unread == 0 && self.open.len() < self.most() } else { self.ready.is_empty() };
        is_next && self.has_room()
    }

    fn most(&self) -> usize {
        let given: usize = self.members.iter().map(|member| member.max_in_flight as usize).sum();
        given.min(self.in_flight() as usize + HELD_MAX)
    }

    /// The first record from `from` on that waits to be given, and may be.
    pub fn next_ready(&self, from: u64) -> Option<u64> {
        if !self.has_room() {
            return None;
        }
        let fits = |offset: &&u64| match self.open.get(offset).and_then(|open| open.topic) {
            Some(topic) if self.by_topic => self.members[self.member_of(topic)].has_room(),
            _ => true,
        };
        self.ready.range(from..).find(fits).copied()
    }

    /// The member that has a topic: the one that goes with it best (highest random weight, Thaler and Ravishankar 1998), so that
    /// another that comes or goes moves no topics but its own.
    fn member_of(&self, topic: u64) -> usize {
        let weight = |member: &Member| {
            let mut hasher = self.hasher.build_hasher();
            hasher.write_u64(topic);
            hasher.write_u64(member.key.0);
            hasher.write_u32(member.key.1);
            (hasher.finish(), member.key)
        };
        (0..self.members.len()).max_by_key(|index| weight(&self.members[*index])).unwrap_or_default()
    }

    /// The next member in turn with room; one that has had the record already only if no other has any.
    fn member_in_turn(&self, last: Option<Key>) -> Option<usize> {
        let count = self.members.len();
        let in_turn = (0..count).map(|step| (self.turn + step) % count);
        let mut with_room = in_turn.filter(|index| self.members[*index].has_room());
        let is_another = |index: &usize| Some(self.members[*index].key) != last;
        let first = with_room.next()?;
        Some(if is_another(&first) { first } else { with_room.find(is_another).unwrap_or(first) })
    }

    /// A record that was read for the first time. `topic`: a number for its topic. `None`: it waits.
    pub fn take_in(&mut self, offset: u64, topic: u64, now: Nanos) -> Option<Given> {
        self.set_next(offset + 1);
        self.open.insert(offset, Open { state: State::Ready, deliveries: 0, last: None, topic: None });
        self.unread += 1;
        self.ready.insert(offset);
        self.give(offset, topic, now)
    }

    /// Gives a record that is ready, if somebody has room for it.
    pub fn give(&mut self, offset: u64, topic: u64, now: Nanos) -> Option<Given> {
        let open = self.open.get_mut(&offset).filter(|open| open.state == State::Ready)?;
        let last = open.last;
        if open.topic.is_none() {
            open.topic = Some(topic);
            self.unread -= 1;
            if self.by_topic {
                let chain = self.chains.entry(topic).or_default();
                chain.insert(offset);
                if chain.first() != Some(&offset) {
                    open.state = State::Held;
                    self.ready.remove(&offset);
                    return None;
                }
            }
        }
        let index = if self.by_topic {
            Some(self.member_of(topic)).filter(|index| self.members.get(*index).is_some_and(Member::has_room))
        } else {
            self.member_in_turn(last)
        }?;
        self.turn = index + 1;
        let member = &mut self.members[index];
        member.in_flight += 1;
        let (to, due) = (member.key, member.ack_wait.map(|wait| now + wait));
        let open = self.open.get_mut(&offset)?;
        (open.state, open.deliveries) = (State::Given { to, due }, open.deliveries.saturating_add(1));
        let delivery = open.deliveries;
        self.ready.remove(&offset);
        due.map(|due| self.timers.insert((due, offset)));
        Some(Given { member: index, delivery })
    }

    /// The next one to be dead-lettered.
    pub fn next_condemned(&self) -> Option<u64> {
        self.condemned.first().copied()
    }

    /// It has been handed over: it is [ended](Self::end) when it is in the dead letter queue.
    pub fn leaves(&mut self, offset: u64) {
        if let Some(open) = self.open.get_mut(&offset).filter(|_| self.condemned.remove(&offset)) {
            open.state = State::Leaving;
        }
    }
}

#[cfg(test)]
mod tests;
