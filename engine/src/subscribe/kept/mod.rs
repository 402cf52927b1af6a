//! Positions that the engine keeps: durable subscriptions and groups, by their names.
//!
//! ```text
//!   book       which records are done, with whom the others are, who gets the next: no clock, no disk
//!   delivery   reads the log and gives records to members
//!   store      what is kept on disk
//! ```
//!
//! - **Thread**: the sender's, which may wait for the disk.
//! - **In**: members that come and go, what they have done, records of one stream. **Out**: frames to members.
//! - **Overload**: a member has a bounded number of records in flight, and gets none while its socket is full; the rest waits in the log.
//! - **Invariant**: a record that a name was to get is done, in flight, or comes again, also after a crash; or a gap has told of it.

mod book;
mod delivery;
mod store;

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::Arc;

use super::client::Client;
use super::frames::Refusal;
use super::link::ConnectionKey;
use super::reading::Streams;
use super::request::{From, Kept, Subscribe};
use crate::metrics::{Counter, Counters};
use crate::runtime::clock::Nanos;
use crate::storage::log::{Gap, Item, Position, Start, Truncated, View};
use crate::storage::{ConsumerLetters, DEFAULT_STREAM, StorageError, TopicFilter};
pub use book::Key;
use book::{Book, Member};
use delivery::{Desk, Name, Stepped};
pub use store::{NameKind, Saved, Store};

/// How soon a change is on disk; what a crash takes with it comes again.
const SAVE_AFTER_NS: Nanos = 500_000_000;
/// How soon it is tried again where the disk has failed.
const SAVE_RETRY_NS: Nanos = 1_000_000_000;

/// What names are kept with.
#[derive(Default)]
pub struct KeptSpec {
    /// `None`: there is no data directory, and no name.
    pub store: Option<Store>,
    pub saved: Vec<Saved>,
    /// For what groups do not do.
    pub letters: Option<ConsumerLetters>,
    pub names_max: usize,
}

/// All names.
pub struct KeptNames {
    store: Option<Store>,
    letters: Option<ConsumerLetters>,
    names_max: usize,
    names: HashMap<u32, Name>,
    ids: HashMap<(NameKind, Arc<str>), u32>,
    members: HashMap<Key, u32>,
    /// Those that something is to be done for.
    active: Vec<u32>,
    next_id: u32,
    save_due: Option<Nanos>,
    /// The disk has failed, and that has been said.
    is_failing: bool,
    has_more: bool,
}

/// As operators see a name.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Listed {
    pub kind: NameKind,
    pub name: String,
    pub filter: String,
    pub classes: Vec<String>,
    pub stream: String,
    pub by_topic: bool,
    /// The first record that is not done.
    pub position: Position,
    /// Records from there to the end of the stream, whether they match or not; `None` where there is no such stream any more.
    pub lag: Option<u64>,
    pub members: usize,
    /// Delivered and not done.
    pub in_flight: u64,
}

fn truncated(Truncated { first_valid }: Truncated) -> Refusal {
    let Position { epoch, offset } = first_valid;
    let message = format!("there is no such position: the first valid one is epoch {epoch}, offset {offset}");
    Refusal { code: "truncated", message, first_valid: Some(first_valid) }
}

fn unreadable(error: &StorageError) -> Refusal {
    Refusal::new("log_unreadable", error.to_string())
}

impl KeptNames {
    /// With what a run before has kept. A position that a recovery of the log has cut goes on where the log does.
    pub fn new(spec: KeptSpec, streams: &Streams, now: Nanos) -> Self {
        let KeptSpec { store, saved, letters, names_max } = spec;
        let mut this = Self {
            store,
            letters,
            names_max,
            names: HashMap::new(),
            ids: HashMap::new(),
            members: HashMap::new(),
            active: Vec::new(),
            next_id: 0,
            save_due: None,
            is_failing: false,
            has_more: false,
        };
        for saved in saved {
            match restored(saved, streams) {
                Ok(name) => _ = this.insert(name, now),
                Err(name) => tracing::error!(%name, "a kept subscription has no valid filter: it begins anew"),
            }
        }
        this
    }

    fn insert(&mut self, name: Name, now: Nanos) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.ids.insert((name.kind, name.name.clone()), id);
        self.names.insert(id, name);
        self.save_due.get_or_insert(now + SAVE_AFTER_NS);
        id
    }

    fn remove(&mut self, id: u32) {
        if let Some(name) = self.names.remove(&id) {
            self.ids.remove(&(name.kind, name.name));
        }
    }

    /// A subscription joins a name, which is made if it is new; then it is on disk when this comes back.
    pub fn join(
        &mut self,
        key: Key,
        (asked, kept): (&Subscribe, &Kept),
        classes: [bool; 3],
        streams: &Streams,
        (now, counters): (Nanos, &mut Counters),
    ) -> Result<(), Refusal> {
        if self.store.is_none() {
            let message = "this engine keeps no event log (storage.directory): nothing keeps a position in it";
            return Err(Refusal::new("no_log", message));
        }
        let kind = if kept.is_group { NameKind::Group } else { NameKind::Durable };
        let stream = asked.stream.as_deref().unwrap_or(DEFAULT_STREAM);
        let (index, view) = streams
            .find(stream)
            .and_then(|index| Some((index, streams.view(index)?.clone())))
            .ok_or_else(|| Refusal::new("no_such_stream", format!("the event log has no stream `{stream}`")))?;
        let known = self.ids.get(&(kind, kept.name.as_str().into())).copied();
        let id = match known.and_then(|id| Some((id, self.names.get(&id)?))) {
            Some((id, name)) => {
                may_join(name, asked, kept, classes, stream)?;
                id
            }
            None => {
                if self.names.len() >= self.names_max {
                    counters.add(Counter::SUBSCRIPTION_NAMES_REFUSED, 1);
                    let most = self.names_max;
                    let message = format!("there are {most} names, as many as there may be (subscriptions.names)");
                    return Err(Refusal::new("too_many_names", message));
                }
                let next = start(asked, classes, streams, index, &view)?;
                let name = made(kind, asked, kept, classes, &view, next);
                self.create(name, now)?
            }
        };
        let Some(name) = self.names.get_mut(&id) else { return Ok(()) };
        if name.reader.is_none() {
            let position = Position { epoch: view.epoch, offset: name.book.next() };
            name.reader = Some(view.reader(Start::At(position), Some(name.filter.clone())).map_err(truncated)?);
        }
        let ack_wait = kept.is_group.then_some(kept.ack_wait.as_nanos() as Nanos);
        let max_deliveries = kept.is_group.then_some(kept.max_deliveries);
        name.book.join(Member::new(key, kept.max_in_flight, ack_wait, max_deliveries));
        self.members.insert(key, id);
        self.activate(id);
        Ok(())
    }

    fn activate(&mut self, id: u32) {
        if !self.active.contains(&id) {
            self.active.push(id);
        }
    }

    /// Makes a name. Unless it is on disk, a crash would let it begin later than it was told.
    fn create(&mut self, name: Name, now: Nanos) -> Result<u32, Refusal> {
        let id = self.insert(name, now);
        if let Err(error) = self.save() {
            self.remove(id);
            return Err(Refusal::new("not_kept", format!("the position cannot be kept: {error}")));
        }
        Ok(id)
    }

    /// A member goes. What it has not done is given again.
    pub fn leave(&mut self, key: Key, now: Nanos) {
        let Some(id) = self.members.remove(&key) else { return };
        let Some(name) = self.names.get_mut(&id) else { return };
        name.book.leave(key);
        name.is_dirty = true;
        if name.book.members().is_empty() {
            (name.reader, name.again) = (None, None);
        }
        self.save_due.get_or_insert(now + SAVE_AFTER_NS);
        self.has_more = true;
    }

    /// These records are done. False: it is no member of a name.
    pub fn done(&mut self, key: Key, offsets: &[u64], now: Nanos) -> bool {
        let Some(name) = self.members.get(&key).and_then(|id| self.names.get_mut(id)) else { return false };
        for offset in offsets {
            name.is_dirty |= name.book.done(*offset);
        }
        if name.is_dirty {
            self.save_due.get_or_insert(now + SAVE_AFTER_NS);
        }
        true
    }

    /// Gives members what they have room for. Returns how many records were read; beside an error what could be done is.
    pub fn step(
        &mut self,
        streams: &Streams,
        (clients, counters): (&mut HashMap<ConnectionKey, Client>, &mut Counters),
        (room, now): (usize, Nanos),
        touched: &mut Vec<ConnectionKey>,
    ) -> (usize, Option<StorageError>) {
        let (mut count, mut failed) = (0, None);
        self.has_more = false;
        self.take_buried(now);
        let mut desk = Desk { clients, counters, room, now, touched };
        for id in &self.active {
            let Some(name) = self.names.get_mut(id) else { continue };
            let Some(view) = streams.find(&name.stream).and_then(|index| streams.view(index)) else { continue };
            if let Some((epoch, gap)) = name.cut.take_if(|_| !name.book.members().is_empty()) {
                name.say_gap(epoch, gap, &mut desk);
            }
            match name.step(view, &mut desk) {
                Ok(Stepped { records, has_more }) => {
                    count += records;
                    self.has_more |= has_more;
                }
                Err(error) => failed = Some(error),
            }
            if let Some(letters) = &mut self.letters
                && let Err(error) = name.bury(*id, view, &mut desk, letters)
            {
                failed = Some(error);
            }
            if name.is_dirty {
                self.save_due.get_or_insert(now + SAVE_AFTER_NS);
            }
        }
        let names = &self.names;
        let is_active = |name: &Name| !name.book.members().is_empty() || name.book.next_condemned().is_some();
        self.active.retain(|id| names.get(id).is_some_and(is_active));
        (count, failed)
    }

    /// Records that are in the dead letter queue now are with their groups no more.
    fn take_buried(&mut self, now: Nanos) {
        while let Some((id, offset)) = self.letters.as_mut().and_then(ConsumerLetters::take_ended) {
            let Some(name) = self.names.get_mut(&id) else { continue };
            name.is_dirty |= name.book.end(offset);
            self.save_due.get_or_insert(now + SAVE_AFTER_NS);
        }
    }

    /// Writes what has changed, once that is due.
    pub fn save_if_due(&mut self, now: Nanos) {
        if self.save_due.is_none_or(|due| now < due) {
            return;
        }
        match self.save() {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("positions of subscriptions can be written again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!(%error, "positions of subscriptions cannot be written; after a crash more would come again");
                }
                self.save_due = Some(now + SAVE_RETRY_NS);
            }
        }
    }

    fn save(&mut self) -> Result<(), StorageError> {
        let Some(store) = &self.store else { return Ok(()) };
        for name in self.names.values_mut().filter(|name| name.is_dirty) {
            let saved = saved(name);
            name.line.clear();
            store::encode(&mut name.line, &saved);
        }
        store.write(self.names.len(), self.names.values().map(|name| &name.line[..]))?;
        self.names.values_mut().for_each(|name| name.is_dirty = false);
        self.save_due = None;
        Ok(())
    }

    /// What has not been written is.
    pub fn close(&mut self) {
        if self.save_due.is_some()
            && let Err(error) = self.save()
        {
            tracing::error!(%error, "positions of subscriptions could not be written: what was done last comes again");
        }
    }

    /// There is something to do that nothing will announce.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// When there is something to do though nothing happens.
    pub fn due(&self) -> Option<Nanos> {
        let timers = self.active.iter().filter_map(|id| self.names.get(id)?.book.next_due());
        timers.chain(self.save_due).min()
    }

    /// All names, in order.
    pub fn list(&self, streams: &Streams) -> Vec<Listed> {
        let mut all: Vec<Listed> = self.names.values().map(|name| listed(name, streams)).collect();
        all.sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
        all
    }

    /// Forgets a name that nobody uses. `kind`: needed where there are two.
    pub fn delete(&mut self, kind: Option<NameKind>, name: &str) -> Result<NameKind, String> {
        let is_it = |kind: &NameKind| self.ids.contains_key(&(*kind, name.into()));
        let kinds = [NameKind::Durable, NameKind::Group].into_iter();
        let found: Vec<NameKind> = kinds.filter(|found| kind.is_none_or(|kind| kind == *found)).filter(is_it).collect();
        let kind = match found[..] {
            [] => return Err(format!("there is no subscription of the name {name}")),
            [kind] => kind,
            _ => return Err(format!("{name} is a durable subscription and a group: say which by --kind")),
        };
        let Some(id) = self.ids.get(&(kind, name.into())).copied() else { return Err("it has gone".into()) };
        let members = self.names.get(&id).map_or(0, |name| name.book.members().len());
        if members > 0 {
            return Err(format!("{name} is in use: members: {members}"));
        }
        let Some(gone) = self.names.remove(&id) else { return Err("it has gone".into()) };
        if let Err(error) = self.save() {
            self.names.insert(id, gone);
            return Err(format!("the file of positions cannot be written: {error}"));
        }
        self.ids.remove(&(kind, gone.name));
        Ok(kind)
    }
}

/// Whether a subscription is one to a name as it is.
fn may_join(name: &Name, asked: &Subscribe, kept: &Kept, classes: [bool; 3], stream: &str) -> Result<(), Refusal> {
    let is_same = name.filter == asked.filter
        && name.classes == classes
        && name.stream == stream
        && name.by_topic == kept.by_topic;
    if !is_same {
        let code = if kept.is_group { "group_mismatch" } else { "durable_mismatch" };
        let message = format!(
            "{} `{}` has another filter, key, stream or other classes: its filter is `{}`",
            name.kind.as_str(),
            name.name,
            name.filter
        );
        return Err(Refusal::new(code, message));
    }
    if !kept.is_group && !name.book.members().is_empty() {
        let message = format!("another connection has the durable subscription `{}`", name.name);
        return Err(Refusal::new("durable_in_use", message));
    }
    Ok(())
}

/// The offset that a new name begins with.
fn start(
    asked: &Subscribe,
    classes: [bool; 3],
    streams: &Streams,
    index: usize,
    view: &Arc<View>,
) -> Result<u64, Refusal> {
    let at = |start| view.reader(start, None).map(|reader| reader.offset()).map_err(truncated);
    match &asked.from {
        From::Live => Ok(view.end_offset()),
        From::Earliest => at(Start::Earliest),
        From::Latest => {
            let last = streams.last_that_matches(index, &asked.filter, classes).map_err(|error| unreadable(&error))?;
            Ok(last.map_or_else(|| view.end_offset(), |position| position.offset))
        }
        From::At { position, .. } => at(Start::At(*position)),
        From::Time(time_ns) => {
            let mut reader = view.reader(Start::Time(*time_ns), None).map_err(truncated)?;
            let first = reader.read_before(view.end_offset()).map_err(|error| unreadable(&error))?;
            Ok(match first {
                Some(Item::Record(record)) => record.offset,
                Some(Item::Gap(gap)) => gap.from,
                None => reader.offset(),
            })
        }
    }
}

fn made(kind: NameKind, asked: &Subscribe, kept: &Kept, classes: [bool; 3], view: &View, next: u64) -> Name {
    Name {
        kind,
        name: kept.name.as_str().into(),
        filter: asked.filter.clone(),
        classes,
        stream: view.stream.clone(),
        by_topic: kept.by_topic,
        epoch: view.epoch,
        book: Book::new(kept.by_topic, next, []),
        reader: None,
        again: None,
        cut: None,
        line: Vec::new(),
        is_dirty: true,
        hasher: RandomState::new(),
    }
}

/// A name as it was kept. An error: its name, as what it is cannot be understood.
fn restored(saved: Saved, streams: &Streams) -> Result<Name, String> {
    let Ok(filter) = TopicFilter::parse(&saved.filter) else { return Err(saved.name) };
    let Saved { kind, name, classes, stream, by_topic, mut epoch, mut next, mut undone, .. } = saved;
    let mut cut = None;
    if let Some(view) = streams.find(&stream).and_then(|index| streams.view(index)) {
        if let Err(Truncated { first_valid }) = view.reader(Start::At(Position { epoch, offset: next }), None) {
            cut = Some((epoch, Gap { from: first_valid.offset, until: next.max(first_valid.offset) }));
            next = first_valid.offset;
            undone.retain(|(offset, _)| *offset < next);
        }
        epoch = view.epoch;
    }
    let (book, name) = (Book::new(by_topic, next, undone), name.into());
    let (reader, again, line, hasher) = (None, None, Vec::new(), RandomState::new());
    Ok(Name {
        kind,
        name,
        filter,
        classes,
        stream,
        by_topic,
        epoch,
        book,
        reader,
        again,
        cut,
        line,
        is_dirty: true,
        hasher,
    })
}

fn saved(name: &Name) -> Saved {
    Saved {
        kind: name.kind,
        name: name.name.to_string(),
        filter: name.filter.to_string(),
        classes: name.classes,
        stream: name.stream.clone(),
        by_topic: name.by_topic,
        epoch: name.epoch,
        next: name.book.next(),
        undone: name.book.undone().collect(),
    }
}

fn listed(name: &Name, streams: &Streams) -> Listed {
    let offset = name.book.position();
    let view = streams.find(&name.stream).and_then(|index| streams.view(index));
    let classes = crate::frame::Class::ALL.into_iter().filter(|class| name.classes[*class as usize]);
    Listed {
        kind: name.kind,
        name: name.name.to_string(),
        filter: name.filter.to_string(),
        classes: classes.map(|class| class.to_string()).collect(),
        stream: name.stream.clone(),
        by_topic: name.by_topic,
        position: Position { epoch: name.epoch, offset },
        lag: view.map(|view| view.end_offset().saturating_sub(offset)),
        members: name.book.members().len(),
        in_flight: name.book.in_flight(),
    }
}

#[cfg(test)]
mod tests;
