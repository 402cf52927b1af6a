//! Giving records of one name to its members: first those that come again, then what is behind the last one read.
//!
//! Records are never kept in memory: one that comes again is read again.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::book::{Book, Given};
use super::store::NameKind;
use crate::metrics::{Counter, Counters};
use crate::runtime::clock::Nanos;
use crate::storage::format::RecordView;
use crate::storage::log::{Gap, Item, Position, Reader, Start, View};
use crate::storage::{ConsumerLetter, ConsumerLetters, StorageError, TopicFilter};
use crate::subscribe::client::Client;
use crate::subscribe::frames::{self, GapNotice};
use crate::subscribe::link::ConnectionKey;
use crate::subscribe::reading::{body, origin};

/// Records passed in one cycle, whether they are for the name or not.
const CYCLE_RECORDS: u64 = 4_096;
/// Records read again in one cycle: each may cost a read of its own.
const CYCLE_AGAIN: usize = 256;
/// A reader goes on to a record that is so near, rather than looking for it.
const NEAR_RECORDS: u64 = 256;

/// A durable subscription or a group.
pub(super) struct Name {
    pub kind: NameKind,
    pub name: Arc<str>,
    pub filter: TopicFilter,
    pub classes: [bool; 3],
    pub stream: String,
    pub by_topic: bool,
    /// Of the stream, when it was seen last.
    pub epoch: u32,
    pub book: Book,
    /// Reads on, while there are members;
    pub reader: Option<Reader>,
    /// reads again.
    pub again: Option<Reader>,
    /// What a recovery of the log has cut, and nobody has been told of: the epoch that ended, and the offsets.
    pub cut: Option<(u32, Gap)>,
    /// As it is on disk, or is to be.
    pub line: Vec<u8>,
    pub is_dirty: bool,
    pub hasher: RandomState,
}

/// What there is to work with.
pub(super) struct Desk<'a> {
    pub clients: &'a mut HashMap<ConnectionKey, Client>,
    pub counters: &'a mut Counters,
    /// What may be rendered for one member at once.
    pub room: usize,
    pub now: Nanos,
    /// Connections that were written to.
    pub touched: &'a mut Vec<ConnectionKey>,
}

/// What came of a cycle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stepped {
    pub records: usize,
    /// There is more to do at once.
    pub has_more: bool,
}

pub(super) enum Found<'r> {
    Record(RecordView<'r>),
    Gap(Gap),
}

/// Reads one record by its offset.
pub(super) fn fetch<'r>(
    again: &'r mut Option<Reader>,
    view: &Arc<View>,
    offset: u64,
) -> Result<Found<'r>, StorageError> {
    let gone = Gap { from: offset, until: offset + 1 };
    let is_near = |reader: &Reader| reader.offset() <= offset && offset - reader.offset() <= NEAR_RECORDS;
    if !again.as_ref().is_some_and(is_near) {
        *again = view.reader(Start::At(Position { epoch: view.epoch, offset }), None).ok();
    }
    let Some(reader) = again else { return Ok(Found::Gap(gone)) };
    while reader.offset() < offset {
        if reader.read_before(offset)?.is_none() {
            break;
        }
    }
    if reader.offset() > offset {
        return Ok(Found::Gap(Gap { from: offset, until: reader.offset() }));
    }
    Ok(match reader.read_before(offset + 1)? {
        Some(Item::Record(record)) if record.offset == offset => Found::Record(record),
        Some(Item::Gap(Gap { until, .. })) => Found::Gap(Gap { from: offset, until }),
        _ => Found::Gap(gone),
    })
}

impl Name {
    /// Gives what can be given now.
    pub fn step(&mut self, view: &Arc<View>, desk: &mut Desk<'_>) -> Result<Stepped, StorageError> {
        self.is_dirty |= self.book.expire(desk.now);
        for member in self.book.members_mut() {
            let client = desk.clients.get(&member.key.0);
            member.is_open = client.is_some_and(|client| client.waiting_bytes() == 0 && !client.is_gone());
        }
        let stepped = self.give_again(view, desk).and_then(|again| {
            let read = self.read_on(view, desk)?;
            Ok(Stepped { records: again.records + read.records, has_more: again.has_more || read.has_more })
        });
        let takes_more = self.send(desk);
        stepped.map(|stepped| Stepped { has_more: stepped.has_more || takes_more, ..stepped })
    }

    /// Gives those that were read before.
    fn give_again(&mut self, view: &Arc<View>, desk: &mut Desk<'_>) -> Result<Stepped, StorageError> {
        let (mut from, mut records) = (0, 0);
        while let Some(offset) = self.book.next_ready(from) {
            if records == CYCLE_AGAIN {
                return Ok(Stepped { records, has_more: true });
            }
            (from, records) = (offset + 1, records + 1);
            self.is_dirty = true;
            match fetch(&mut self.again, view, offset)? {
                Found::Record(record) => {
                    let topic = self.hasher.hash_one(record.event().topic_bytes());
                    if let Some(given) = self.book.give(offset, topic, desk.now) {
                        render(&mut self.book, given, &record, desk);
                    }
                }
                Found::Gap(gap) => self.lose(view, gap, desk),
            }
        }
        Ok(Stepped { records, has_more: false })
    }

    /// Gives what is read for the first time.
    fn read_on(&mut self, view: &Arc<View>, desk: &mut Desk<'_>) -> Result<Stepped, StorageError> {
        let end = view.end_offset();
        let (mut passed, mut records) = (0, 0);
        while self.book.may_read() {
            let Some(reader) = self.reader.as_mut().filter(|reader| reader.offset() < end) else { break };
            if passed >= CYCLE_RECORDS {
                return Ok(Stepped { records, has_more: true });
            }
            let before = reader.offset();
            let (mut gap, mut found) = (None, true);
            // What others are for is passed in bounded steps, too.
            match reader.read_before(end.min(before + CYCLE_RECORDS - passed))? {
                Some(Item::Record(record)) if self.classes[record.class as usize] => {
                    let topic = self.hasher.hash_one(record.event().topic_bytes());
                    records += 1;
                    if let Some(given) = self.book.take_in(record.offset, topic, desk.now) {
                        render(&mut self.book, given, &record, desk);
                    }
                }
                Some(Item::Record(_)) => {}
                Some(Item::Gap(missing)) => gap = Some(missing),
                None => found = false,
            }
            let after = reader.offset();
            if !found && after == before {
                break;
            }
            self.book.set_next(after);
            self.is_dirty |= after > before;
            passed += (after - before).max(1);
            if let Some(gap) = gap {
                self.lose(view, gap, desk);
            }
        }
        Ok(Stepped { records, has_more: false })
    }

    /// Hands what was given often enough to the dead letter queue.
    pub fn bury(
        &mut self,
        id: u32,
        view: &Arc<View>,
        desk: &mut Desk<'_>,
        letters: &mut ConsumerLetters,
    ) -> Result<(), StorageError> {
        while let Some(offset) = self.book.next_condemned().filter(|_| letters.has_room()) {
            match fetch(&mut self.again, view, offset)? {
                Found::Record(record) => {
                    let letter = ConsumerLetter {
                        class: record.class,
                        group: self.name.clone(),
                        arrival_ns: record.arrival_ns.unwrap_or(record.time_ns),
                        frame: record.frame.to_vec(),
                        ticket: (id, offset),
                    };
                    if !letters.send(letter) {
                        return Ok(());
                    }
                    self.book.leaves(offset);
                    desk.counters.add(Counter::SUBSCRIPTION_DEAD_LETTERED, 1);
                }
                Found::Gap(gap) => self.lose(view, gap, desk),
            }
        }
        Ok(())
    }

    /// Records are not kept any more.
    #[cold]
    pub fn lose(&mut self, view: &Arc<View>, gap: Gap, desk: &mut Desk<'_>) {
        self.book.lose(gap.from, gap.until);
        self.is_dirty = true;
        if gap.until > self.book.next() {
            // One that was to come again is gone, and with it what was to be read next: that is one gap.
            self.book.set_next(gap.until);
            let position = Position { epoch: view.epoch, offset: gap.until };
            let filter = Some(self.filter.clone());
            self.reader = self.reader.take().and_then(|_| view.reader(Start::At(position), filter).ok());
        }
        self.send(desk);
        self.say_gap(view.epoch, gap, desk);
    }

    /// Tells every member.
    pub fn say_gap(&self, epoch: u32, gap: Gap, desk: &mut Desk<'_>) {
        let Gap { from, until } = gap;
        for member in self.book.members() {
            let (connection, sub) = member.key;
            let Some(client) = desk.clients.get_mut(&connection) else { continue };
            let notice = GapNotice { sub, stream: &self.stream, epoch, from, to: until, count: until - from };
            client.say(|out| frames::gap(out, &notice));
            desk.touched.push(connection);
        }
    }

    /// Sends what was rendered. Returns whether somebody takes more than was rendered at once.
    fn send(&mut self, desk: &mut Desk<'_>) -> bool {
        let mut takes_more = false;
        for member in self.book.members_mut().iter_mut().filter(|member| member.out.frames > 0) {
            let (connection, sub) = member.key;
            if let Some(client) = desk.clients.get_mut(&connection) {
                client.send(sub, member.out.frames, &member.out.bytes);
                desk.counters.add(Counter::SUBSCRIPTION_DELIVERED, client.take_delivered());
                if client.waiting_bytes() > 0 {
                    desk.touched.push(connection);
                } else {
                    takes_more |= !member.is_open;
                }
            }
            member.out.clear();
        }
        takes_more
    }
}

fn render(book: &mut Book, given: Given, record: &RecordView<'_>, desk: &mut Desk<'_>) {
    let Given { member, delivery } = given;
    let member = &mut book.members_mut()[member];
    frames::event(&mut member.out.bytes, member.key.1, delivery, &origin(record), body(record));
    member.out.frames += 1;
    member.is_open &= member.out.bytes.len() < desk.room;
    let counter = if delivery == 1 { Counter::SUBSCRIPTION_MATCHED } else { Counter::SUBSCRIPTION_REDELIVERED };
    desk.counters.add(counter, 1);
}
