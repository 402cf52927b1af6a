//! The topic table: an immutable index from topic to class, read without locks and swapped whole.
//!
//! A look-up touches one 8-byte cell of an open-addressed array, and the topic's own bytes only when the cell's
//! hash matches: topics that are not configured, the common case in a flood, cost no comparison. A match is confirmed by
//! comparing bytes, so two topics are never one because their hashes are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::frame::{Class, Parser, Shape};

/// A configured topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicEntry {
    pub name: String,
    pub class: Class,
    pub dedup: bool,
}

#[derive(Clone, Copy)]
struct Route {
    class: Class,
    dedup: bool,
    number: u32,
}

/// One snapshot.
pub struct TopicTable {
    /// Hash in the high half, entry index plus one in the low; zero is empty. At most half full.
    cells: Box<[u64]>,
    mask: usize,
    routes: Box<[Route]>,
    /// Start of each name in `names`, and one end.
    starts: Box<[u32]>,
    names: Box<[u8]>,
}

impl TopicTable {
    /// Builds a table; `parser` gives the process's topic hash, `numbers` the topics' lasting numbers.
    fn build(entries: &[TopicEntry], parser: &Parser, numbers: &mut HashMap<String, u32>) -> Self {
        let size = (entries.len() * 2).next_power_of_two().max(16);
        let mut cells = vec![0u64; size].into_boxed_slice();
        let mut starts = Vec::with_capacity(entries.len() + 1);
        let (mut routes, mut names) = (Vec::with_capacity(entries.len()), Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            let hash = parser.topic_hash(entry.name.as_bytes());
            let mut at = hash as usize & (size - 1);
            while cells[at] != 0 {
                at = (at + 1) & (size - 1);
            }
            cells[at] = u64::from(hash) << 32 | (index as u64 + 1);
            starts.push(names.len() as u32);
            names.extend_from_slice(entry.name.as_bytes());
            let next = numbers.len() as u32;
            let number = *numbers.entry(entry.name.clone()).or_insert(next);
            routes.push(Route { class: entry.class, dedup: entry.dedup, number });
        }
        starts.push(names.len() as u32);
        Self { cells, mask: size - 1, routes: routes.into(), starts: starts.into(), names: names.into() }
    }

    pub fn len(&self) -> usize {
        self.routes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Index of the topic's entry. `topic` is asked for the bytes only when a hash matches.
    #[inline(always)]
    pub fn find<'a>(&self, hash: u32, topic: impl FnOnce() -> &'a [u8]) -> Option<usize> {
        let at = hash as usize & self.mask;
        if self.cells[at] == 0 { None } else { self.probe(at, hash, topic) }
    }

    fn probe<'a>(&self, mut at: usize, hash: u32, topic: impl FnOnce() -> &'a [u8]) -> Option<usize> {
        let mut topic = Some(topic);
        let mut bytes: &[u8] = &[];
        loop {
            let cell = self.cells[at];
            if cell == 0 {
                return None;
            }
            if cell >> 32 == u64::from(hash) {
                if let Some(topic) = topic.take() {
                    bytes = topic();
                }
                let index = (cell as u32 - 1) as usize;
                if self.name(index) == bytes {
                    return Some(index);
                }
            }
            at = (at + 1) & self.mask;
        }
    }

    pub fn name(&self, index: usize) -> &[u8] {
        &self.names[self.starts[index] as usize..self.starts[index + 1] as usize]
    }

    pub fn class(&self, index: usize) -> Class {
        self.routes[index].class
    }

    pub fn dedup(&self, index: usize) -> bool {
        self.routes[index].dedup
    }

    /// The topic's lasting number.
    pub fn number(&self, index: usize) -> u32 {
        self.routes[index].number
    }
}

/// Where dispatchers find the newest snapshot, and the control plane keeps the old ones until nobody reads them.
pub struct TopicTableCell {
    version: AtomicU64,
    current: ArcSwap<TopicTable>,
    control: std::sync::Mutex<Published>,
}

/// The control plane's side; the data path never takes the lock around it.
struct Published {
    parser: Parser,
    numbers: HashMap<String, u32>,
    /// Every snapshot a dispatcher may still hold. Kept here so that the last reference is dropped, and its memory freed, on
    /// the control plane's thread.
    snapshots: Vec<Arc<TopicTable>>,
}

impl TopicTableCell {
    pub fn new(entries: &[TopicEntry], parser: Parser) -> Arc<Self> {
        let mut numbers = HashMap::new();
        let table = Arc::new(TopicTable::build(entries, &parser, &mut numbers));
        let control = Published { parser, numbers, snapshots: vec![table.clone()] };
        Arc::new(Self {
            version: AtomicU64::new(0),
            current: ArcSwap::new(table),
            control: std::sync::Mutex::new(control),
        })
    }

    /// Swaps in a new table; returns its number of topics. Control plane only.
    pub fn publish(&self, entries: &[TopicEntry]) -> usize {
        let mut control = self.control.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Published { parser, numbers, snapshots } = &mut *control;
        let table = Arc::new(TopicTable::build(entries, parser, numbers));
        let count = table.len();
        snapshots.push(table.clone());
        self.current.store(table);
        // Release: paired with the Acquire in `newer_than`.
        self.version.fetch_add(1, Ordering::Release);
        count
    }

    /// Frees snapshots that no dispatcher holds any more; returns how many are left. Control plane only.
    pub fn retire(&self) -> usize {
        let mut control = self.control.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let current = self.current.load_full();
        control.snapshots.retain(|table| Arc::ptr_eq(table, &current) || Arc::strong_count(table) > 1);
        control.snapshots.len()
    }

    pub fn load(&self) -> (u64, Arc<TopicTable>) {
        // The version first: a table newer than its version is only looked for once more.
        let version = self.version.load(Ordering::Acquire);
        (version, self.current.load_full())
    }

    /// The class of one topic, for those who ask seldom: where a dispatcher would send an event of that shape. The first look
    /// that a thread takes allocates its place among the readers.
    pub fn class_of(&self, hash: u32, shape: Shape, topic: &[u8]) -> Class {
        let table = self.current.load();
        let index = table.find(hash, || topic);
        index.map_or_else(|| shape.priority().class(), |index| table.class(index))
    }

    /// Whether there is a newer table than that of `version`: one load a duty cycle.
    #[inline]
    pub fn newer_than(&self, version: u64) -> bool {
        self.version.load(Ordering::Acquire) != version
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Limits, Priority, Transport};

    fn parser() -> Parser {
        Parser::new(Limits { frame_bytes: 1 << 20, topic_bytes: 255 }, Transport::Tcp, Priority::Critical, 42)
    }

    fn entry(name: &str, class: Class) -> TopicEntry {
        TopicEntry { name: name.into(), class, dedup: false }
    }

    #[test]
    fn finds_each_topic_and_no_other() {
        let entries: Vec<_> = (0..10_000).map(|i| entry(&format!("t/{i}"), Class::ALL[i % 3])).collect();
        let cell = TopicTableCell::new(&entries, parser());
        let (_, table) = cell.load();
        for (i, wanted) in entries.iter().enumerate() {
            let name = wanted.name.as_bytes();
            let found = table.find(parser().topic_hash(name), || name).unwrap();
            assert_eq!((found, table.class(found)), (i, wanted.class));
        }
        assert_eq!(table.find(parser().topic_hash(b"t/x"), || b"t/x"), None);
    }

    #[test]
    fn equal_hashes_are_not_equal_topics() {
        let cell = TopicTableCell::new(&[entry("a", Class::Batch)], parser());
        let (_, table) = cell.load();
        assert_eq!(table.find(parser().topic_hash(b"a"), || b"b"), None);
    }

    #[test]
    fn numbers_outlive_a_reload_and_old_tables_do_not() {
        let cell = TopicTableCell::new(&[entry("a", Class::Batch), entry("b", Class::Batch)], parser());
        let (version, old) = cell.load();
        cell.publish(&[entry("b", Class::Realtime)]);
        assert!(cell.newer_than(version));
        let (_, new) = cell.load();
        assert_eq!(new.number(0), 1);
        assert_eq!(cell.retire(), 2, "a dispatcher holds the old one");
        drop(old);
        assert_eq!(cell.retire(), 1);
    }
}
