//! Subscriptions that get the same bytes: one group renders each event once, whatever the number of its members.
//!
//! Members are those with the same number, filter and classes, as clients of one kind are. What is rendered in a cycle is sent at its
//! end, so that each member costs a system call a cycle and not an event.

use std::collections::HashMap;

use super::frames::{self, Made, Origin};
use super::link::ConnectionKey;
use super::matcher::{Matcher, Place};
use crate::frame::Class;
use crate::storage::{TopicFilter, is_logged};

/// Rendered bytes after which a group is sent within a cycle.
pub const RENDERED_MAX: usize = 256 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    pub sub: u32,
    pub filter: TopicFilter,
    pub classes: [bool; 3],
}

/// Frames of a cycle.
#[derive(Debug, Default)]
pub struct Rendered {
    pub bytes: Vec<u8>,
    pub frames: u32,
}

impl Rendered {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.frames = 0;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub connection: ConnectionKey,
    /// It gets what is read at the end of the log.
    pub is_at_tail: bool,
}

#[derive(Debug)]
pub struct Group {
    pub kind: Kind,
    pub members: Vec<Member>,
    at_tail: usize,
    /// Events that are in no log,
    pub live: Rendered,
    /// and those that have come into one.
    pub logged: Rendered,
}

#[derive(Default)]
pub struct Groups {
    places: HashMap<Kind, Place>,
    groups: Vec<Option<Group>>,
    free: Vec<Place>,
    matcher: Matcher,
    /// Those with rendered frames.
    touched: Vec<Place>,
    at_tail: usize,
}

impl Groups {
    pub fn get_mut(&mut self, place: Place) -> Option<&mut Group> {
        self.groups.get_mut(place as usize)?.as_mut()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Members that get what is read at the end of the log.
    pub fn at_tail(&self) -> usize {
        self.at_tail
    }

    pub fn add(&mut self, kind: Kind, connection: ConnectionKey) -> Place {
        let place = match self.places.get(&kind) {
            Some(place) => *place,
            None => {
                let place = self.free.pop().unwrap_or_else(|| {
                    self.groups.push(None);
                    (self.groups.len() - 1) as Place
                });
                self.matcher.add(&kind.filter, place);
                self.places.insert(kind.clone(), place);
                let (live, logged) = (Rendered::default(), Rendered::default());
                self.groups[place as usize] = Some(Group { kind, members: Vec::new(), at_tail: 0, live, logged });
                place
            }
        };
        if let Some(group) = self.get_mut(place) {
            group.members.push(Member { connection, is_at_tail: false });
        }
        place
    }

    pub fn remove(&mut self, place: Place, connection: ConnectionKey) {
        self.set_at_tail(place, connection, false);
        let Some(group) = self.get_mut(place) else { return };
        group.members.retain(|member| member.connection != connection);
        if group.members.is_empty() {
            let kind = group.kind.clone();
            self.matcher.remove(&kind.filter, place);
            self.places.remove(&kind);
            self.groups[place as usize] = None;
            self.touched.retain(|other| *other != place);
            self.free.push(place);
        }
    }

    pub fn set_at_tail(&mut self, place: Place, connection: ConnectionKey, at_tail: bool) {
        let Some(group) = self.groups.get_mut(place as usize).and_then(Option::as_mut) else { return };
        for member in group.members.iter_mut().filter(|member| member.connection == connection) {
            if member.is_at_tail != at_tail {
                member.is_at_tail = at_tail;
                let change = |count: usize| if at_tail { count + 1 } else { count - 1 };
                (group.at_tail, self.at_tail) = (change(group.at_tail), change(self.at_tail));
            }
        }
    }

    /// Renders an event that is in no log for every group that it is for. Returns whether some group has rendered so much that it
    /// is to be sent.
    #[inline]
    pub fn render_live(&mut self, class: Class, made: &Made<'_>) -> bool {
        self.render(made.topic(), class, false, |sub, out| made.copy_for(sub, out))
    }

    /// The same of one that has come into the log, given as the bytes behind its length field.
    pub fn render_logged(&mut self, topic: &[u8], origin: &Origin, body: &[u8]) -> bool {
        self.render(topic, origin.class, true, |sub, out| frames::event(out, sub, 1, origin, body))
    }

    #[inline]
    fn render(&mut self, topic: &[u8], class: Class, in_log: bool, mut render: impl FnMut(u32, &mut Vec<u8>)) -> bool {
        let mut is_much = false;
        for place in self.matcher.find(topic) {
            let Some(group) = self.groups.get_mut(*place as usize).and_then(Option::as_mut) else { continue };
            if !group.kind.classes[class as usize] || (in_log && group.at_tail == 0) {
                continue;
            }
            if group.live.frames == 0 && group.logged.frames == 0 {
                self.touched.push(*place);
            }
            let rendered = if in_log { &mut group.logged } else { &mut group.live };
            render(group.kind.sub, &mut rendered.bytes);
            rendered.frames += 1;
            is_much |= rendered.bytes.len() >= RENDERED_MAX;
        }
        is_much
    }

    /// The groups that have something to send, which is theirs to clear.
    pub fn take_touched(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.touched)
    }

    /// Gives the list back, so that it is not made anew.
    pub fn give_back(&mut self, mut touched: Vec<Place>) {
        touched.clear();
        if self.touched.is_empty() {
            self.touched = touched;
        }
    }
}

/// Whether a subscription with these classes wants events that are in a log, where there is one.
pub fn wants_logged(classes: [bool; 3]) -> bool {
    Class::ALL.iter().any(|class| is_logged(*class) && classes[*class as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameHeader, Priority, encode};

    fn kind(sub: u32, filter: &str, classes: [bool; 3]) -> Kind {
        Kind { sub, filter: TopicFilter::parse(filter).unwrap(), classes }
    }

    #[test]
    fn an_event_is_rendered_once_for_each_kind_that_wants_it() {
        let mut groups = Groups::default();
        let all = groups.add(kind(1, "#", [true; 3]), 10);
        assert_eq!(groups.add(kind(1, "#", [true; 3]), 11), all);
        let other = groups.add(kind(2, "a", [true, false, false]), 10);
        let mut frame = Vec::new();
        encode(&mut frame, &FrameHeader::new(Priority::High), b"a", b"x");
        let origin = |class| Origin { class, epoch: 0, offset: 0, received_ns: 0 };
        let mut live = Vec::new();
        frames::event(&mut live, 0, 1, &origin(Class::Realtime), &frame[4..]);
        groups.render_live(Class::Realtime, &Made::first(&live).unwrap());
        groups.render_logged(b"a", &origin(Class::Batch), &frame[4..]);
        groups.set_at_tail(all, 11, true);
        groups.render_logged(b"a", &origin(Class::Batch), &frame[4..]);
        groups.render_logged(b"b", &origin(Class::Batch), &frame[4..]);
        let counts = |group: &Group| (group.live.frames, group.logged.frames);
        assert_eq!(groups.get_mut(all).map(|group| counts(group)), Some((1, 2)));
        assert_eq!(groups.get_mut(other).map(|group| counts(group)), Some((1, 0)));
        let mut touched = groups.take_touched();
        touched.sort_unstable();
        assert_eq!(touched, [all, other]);
        groups.remove(other, 10);
        groups.remove(all, 10);
        assert!(!groups.is_empty() && groups.at_tail() == 1);
        groups.remove(all, 11);
        assert!(groups.is_empty() && groups.at_tail() == 0);
    }
}
