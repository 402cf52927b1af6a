//! The book against a model that knows no shortcuts: a map of what each record is.

use std::collections::BTreeMap;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Waiting,
    With { key: Key, due: Option<Nanos> },
    Condemned,
    Ended,
}

struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }
}

/// What a name is like in one run.
#[derive(Clone, Copy, Debug)]
struct Rules {
    is_group: bool,
    by_topic: bool,
}

struct World {
    rules: Rules,
    book: Book,
    random: Random,
    now: Nanos,
    records: BTreeMap<u64, (Is, u8)>,
    members: BTreeMap<Key, (u32, Option<u8>)>,
    joined: ConnectionKey,
    /// Who had a topic last, since somebody came or went.
    owners: HashMap<u64, Key>,
    dead: Vec<u64>,
}

const TOPICS: u64 = 7;
const RECORDS: u64 = 200;

fn topic(offset: u64) -> u64 {
    offset * 31 % TOPICS
}

impl World {
    fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            book: Book::new(rules.by_topic, 0, []),
            random: Random(seed),
            now: 0,
            records: BTreeMap::new(),
            members: BTreeMap::new(),
            joined: 0,
            owners: HashMap::new(),
            dead: Vec::new(),
        }
    }

    fn join(&mut self) {
        if !self.rules.is_group && !self.members.is_empty() {
            return;
        }
        self.joined += 1;
        let (key, most) = ((self.joined, 1), 1 + self.random.below(6) as u32);
        let wait = self.rules.is_group.then(|| 5 + self.random.below(20));
        let deliveries = self.rules.is_group.then(|| 2 + self.random.below(3) as u8);
        self.book.join(Member::new(key, most, wait, deliveries));
        self.members.insert(key, (most, deliveries));
        self.owners.clear();
    }

    fn is_back(&mut self, offset: u64, key: Key) {
        let (is, deliveries) = self.records.get_mut(&offset).unwrap();
        let most = self.members[&key].1;
        *is = if most.is_some_and(|most| *deliveries >= most) { Is::Condemned } else { Is::Waiting };
    }

    fn held_by(&self, key: Key) -> Vec<u64> {
        let is_its = |is: &Is| matches!(is, Is::With { key: its, .. } if *its == key);
        self.records.iter().filter(|(_, (is, _))| is_its(is)).map(|(offset, _)| *offset).collect()
    }

    fn leave(&mut self) {
        let Some(key) = self.any_member() else { return };
        for offset in self.held_by(key) {
            self.is_back(offset, key);
        }
        self.members.remove(&key);
        self.book.leave(key);
        self.owners.clear();
    }

    fn any_member(&mut self) -> Option<Key> {
        let count = self.members.len() as u64;
        let index = if count == 0 { return None } else { self.random.below(count) };
        self.members.keys().nth(index as usize).copied()
    }

    fn expire(&mut self) {
        self.now += self.random.below(8);
        let now = self.now;
        let over: Vec<(u64, Key)> = self
            .records
            .iter()
            .filter_map(|(offset, (is, _))| match is {
                Is::With { key, due: Some(due) } if *due <= now => Some((*offset, *key)),
                _ => None,
            })
            .collect();
        assert_eq!(self.book.expire(now), !over.is_empty());
        over.into_iter().for_each(|(offset, key)| self.is_back(offset, key));
    }

    fn is_given(&mut self, offset: u64, given: Option<Given>) {
        let Some(Given { member, delivery }) = given else { return };
        let member = &self.book.members()[member];
        let (key, due) = (member.key, member.ack_wait.map(|wait| self.now + wait));
        let (is, deliveries) = self.records[&offset];
        assert_eq!(is, Is::Waiting, "record {offset} goes to {key:?} as well");
        assert_eq!(delivery, deliveries + 1);
        self.records.insert(offset, (Is::With { key, due }, delivery));
        assert!(self.held_by(key).len() <= self.members[&key].0 as usize, "{key:?} has more than it may");
        if self.rules.by_topic {
            let its = topic(offset);
            let is_before =
                |(other, (is, _)): (&u64, &(Is, u8))| topic(*other) == its && *is != Is::Ended && *other < offset;
            assert!(!self.records.iter().any(is_before), "record {offset} overtakes one of its topic");
            assert_eq!(*self.owners.entry(its).or_insert(key), key, "topic {its} has moved");
        }
    }

    /// As the sender does: those that come again, then new ones.
    fn give(&mut self) {
        let mut from = 0;
        while let Some(offset) = self.book.next_ready(from) {
            from = offset + 1;
            let given = self.book.give(offset, topic(offset), self.now);
            self.is_given(offset, given);
        }
        let mut budget = 1 + self.random.below(10);
        while budget > 0 && self.book.may_read() && self.book.next() < RECORDS {
            budget -= 1;
            let offset = self.book.next();
            if self.random.below(4) == 0 {
                // It is for somebody else.
                self.book.set_next(offset + 1);
                continue;
            }
            self.records.insert(offset, (Is::Waiting, 0));
            let given = self.book.take_in(offset, topic(offset), self.now);
            self.is_given(offset, given);
        }
    }

    fn done(&mut self) {
        let given: Vec<u64> = self
            .records
            .iter()
            .filter(|(_, (is, count))| *is != Is::Ended && *count > 0)
            .map(|(offset, _)| *offset)
            .collect();
        for offset in given {
            if self.random.below(3) == 0 {
                assert!(self.book.done(offset));
                self.records.get_mut(&offset).unwrap().0 = Is::Ended;
                assert!(!self.book.done(offset), "it was done");
            }
        }
        // Nobody can do what was not given.
        let never = self.records.iter().find(|(_, (is, count))| *is == Is::Waiting && *count == 0);
        assert!(never.is_none_or(|(offset, _)| !self.book.done(*offset)));
    }

    fn bury(&mut self) {
        while let Some(offset) = self.book.next_condemned() {
            assert_eq!(self.records[&offset].0, Is::Condemned);
            self.book.leaves(offset);
            assert!(self.book.position() <= offset, "it is not in the dead letter queue yet");
            self.book.end(offset);
            self.records.get_mut(&offset).unwrap().0 = Is::Ended;
            self.dead.push(offset);
        }
    }

    /// What is on disk is read back into another book.
    fn restart(&mut self) {
        let undone: Vec<(u64, u8)> = self.book.undone().collect();
        self.book = Book::new(self.rules.by_topic, self.book.next(), undone);
        self.members.clear();
        self.owners.clear();
        for (is, _) in self.records.values_mut().filter(|(is, _)| *is != Is::Ended) {
            *is = Is::Waiting;
        }
    }

    fn check(&self) {
        let undone: Vec<(u64, u8)> = self
            .records
            .iter()
            .filter(|(_, (is, _))| *is != Is::Ended)
            .map(|(offset, (_, count))| (*offset, *count))
            .collect();
        assert_eq!(self.book.undone().collect::<Vec<_>>(), undone);
        assert_eq!(self.book.position(), undone.first().map_or(self.book.next(), |(offset, _)| *offset));
        let given = self.records.values().filter(|(is, _)| matches!(is, Is::With { .. })).count();
        assert_eq!(self.book.in_flight(), given as u64);
    }

    fn run(&mut self) {
        for _ in 0..400 {
            match self.random.below(20) {
                0..2 => self.join(),
                2 => self.leave(),
                3 if self.random.below(4) == 0 => self.restart(),
                3..6 => self.expire(),
                6..10 => self.done(),
                10 => self.bury(),
                _ => self.give(),
            }
            self.check();
        }
        // In the end somebody comes who does everything.
        while !self.members.is_empty() {
            self.leave();
        }
        self.bury();
        self.book.join(Member::new((9, 9), 3, None, None));
        self.members.insert((9, 9), (3, None));
        for _ in 0..10 * RECORDS {
            if self.book.position() == RECORDS {
                break;
            }
            self.give();
            self.done();
            self.check();
        }
        assert_eq!((self.book.next(), self.book.position()), (RECORDS, RECORDS), "something was left");
        assert!(self.records.values().all(|(is, _)| *is == Is::Ended));
        assert!(self.book.chains.is_empty() && self.book.timers.is_empty() && self.book.unread == 0);
    }
}

#[test]
fn nothing_is_lost_and_nothing_is_with_two_at_once() {
    let mut dead = 0;
    for seed in 1..=40u64 {
        for (is_group, by_topic) in [(false, false), (true, false), (true, true)] {
            let mut world = World::new(Rules { is_group, by_topic }, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            world.run();
            assert!(is_group || world.dead.is_empty());
            dead += world.dead.len();
        }
    }
    assert!(dead > 50, "the runs were too easy: {dead}");
}

fn member(number: ConnectionKey, most: u32) -> Member {
    Member::new((number, 1), most, Some(100), Some(3))
}

#[test]
fn members_take_turns_and_the_next_time_is_another_ones() {
    let mut book = Book::new(false, 0, []);
    (0..3).for_each(|number| book.join(member(number, 2)));
    let to: Vec<usize> = (0..6).map(|offset| book.take_in(offset, offset, 0).unwrap().member).collect();
    assert_eq!(to, [0, 1, 2, 0, 1, 2]);
    assert!(!book.may_read(), "nobody has room");
    assert!(book.done(0) && book.done(1) && book.done(2));
    assert!(book.expire(100));
    // Records 3, 4 and 5 were with 0, 1 and 2.
    for offset in 3..6u64 {
        assert_eq!(book.next_ready(0), Some(offset));
        let given = book.give(offset, offset, 100).unwrap();
        assert_ne!(given.member as u64, offset - 3);
        assert_eq!(given.delivery, 2);
    }
}

#[test]
fn one_alone_gets_again_what_it_let_lie() {
    let mut book = Book::new(false, 5, [(3, 1)]);
    book.join(member(1, 4));
    assert_eq!((book.next_ready(0), book.position(), book.may_read()), (Some(3), 3, false));
    assert_eq!(book.give(3, 0, 0), Some(Given { member: 0, delivery: 2 }));
    book.expire(100);
    assert_eq!(book.give(3, 0, 100), Some(Given { member: 0, delivery: 3 }));
    book.expire(200);
    assert_eq!((book.next_ready(0), book.next_condemned()), (None, Some(3)));
    // It was late, but it is done.
    assert!(book.done(3));
    assert_eq!((book.next_condemned(), book.position()), (None, 5));
}

#[test]
fn a_topic_waits_for_its_own_only() {
    let mut book = Book::new(true, 0, []);
    book.join(member(1, 8));
    assert!(book.take_in(0, 7, 0).is_some());
    assert!(book.take_in(1, 7, 0).is_none());
    assert!(book.take_in(2, 8, 0).is_some());
    assert_eq!(book.next_ready(0), None);
    book.done(2);
    assert_eq!(book.next_ready(0), None);
    book.done(0);
    assert_eq!(book.next_ready(0), Some(1));
}

#[test]
fn what_the_log_has_lost_is_open_no_more() {
    let mut book = Book::new(true, 0, []);
    book.join(member(1, 8));
    (0..6).for_each(|offset| _ = book.take_in(offset, offset % 2, 0));
    book.lose(0, 4);
    assert_eq!((book.position(), book.in_flight(), book.next_ready(0)), (4, 0, Some(4)));
}
