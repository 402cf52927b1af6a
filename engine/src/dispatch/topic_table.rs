//! The topic table: an immutable index from topic to class, read without locks and swapped whole.
//!
//! A look-up touches one 8-byte cell of an open-addressed array, and the topic's record and its bytes only when the cell's
//! hash matches: topics that are not configured, the common case in a flood, cost no comparison. A match is confirmed by
//! comparing bytes, so two topics are never one because their hashes are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::topic_word;
use crate::frame::{Class, Parser, Shape};
use crate::memory::{Slab, prefetch};

/// A configured topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicEntry {
    pub name: String,
    pub class: Class,
    pub dedup: bool,
}

/// What is known of a topic, on half a cache line: a look-up touches its cell and this.
#[repr(C, align(32))]
struct Record {
    /// [`topic_word`] with the flags.
    word: u32,
    /// Where the part of the name that is not in `head` begins.
    tail: u32,
    length: u16,
    class: Class,
    head: [u8; HEAD_BYTES],
}

/// Bytes of a name beside its record; longer names cost another line.
const HEAD_BYTES: usize = 21;

const _: () = assert!(size_of::<Record>() == 32);

/// Entries from which a table no longer stays in the second-level cache beside everything else there: cells and records are
/// then asked for ahead.
const LARGE: usize = 4096;

/// One snapshot.
pub struct TopicTable {
    /// Hash in the high half, entry index plus one in the low; zero is empty. At most half full.
    cells: Slab<u64>,
    mask: usize,
    records: Slab<Record>,
    /// Of names that are longer than a record has room for, the rest.
    tails: Box<[u8]>,
}

impl TopicTable {
    /// Events of which the places are asked for before the first of them is looked up: more misses than a core has on their
    /// way at once, and few enough that what was asked for is still there when it is used.
    pub const FETCHED_TOGETHER: usize = 32;

    /// Builds a table; `parser` gives the process's topic hash, `numbers` the topics' lasting numbers.
    fn build(entries: &[TopicEntry], parser: &Parser, numbers: &mut HashMap<String, u32>) -> Self {
        let size = Self::cell_count(entries.len());
        let mut cells = Slab::from_fn(size, |_| 0);
        let mut tails = Vec::new();
        let records = Slab::from_fn(entries.len(), |index| {
            let entry = &entries[index];
            let name = entry.name.as_bytes();
            let hash = parser.topic_hash(name);
            let mut at = hash as usize & (size - 1);
            while cells[at] != 0 {
                at = (at + 1) & (size - 1);
            }
            cells[at] = u64::from(hash) << 32 | (index as u64 + 1);
            let next = numbers.len() as u32;
            let number = *numbers.entry(entry.name.clone()).or_insert(next);
            let flags = topic_word::NAMED | if entry.dedup { topic_word::DEDUP } else { 0 };
            let (start, rest) = name.split_at(name.len().min(HEAD_BYTES));
            let mut head = [0; HEAD_BYTES];
            head[..start.len()].copy_from_slice(start);
            let (tail, length) = (tails.len() as u32, name.len() as u16);
            tails.extend_from_slice(rest);
            Record { word: number | flags, tail, length, class: entry.class, head }
        });
        Self { cells, mask: size - 1, records, tails: tails.into() }
    }

    /// Memory of a table of so many topics, but for what of their names has no room in their records.
    pub const fn bytes(len: usize) -> usize {
        Slab::<u64>::bytes(Self::cell_count(len)) + Slab::<Record>::bytes(len)
    }

    const fn cell_count(len: usize) -> usize {
        let count = (len * 2).next_power_of_two();
        if count < 16 { 16 } else { count }
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether it pays to [`fetch`](Self::fetch) what is looked up.
    pub fn is_large(&self) -> bool {
        self.len() >= LARGE
    }

    /// Asks the cache for what the look-ups of these hashes touch, so that they do not wait for one another. Of more than
    /// [`FETCHED_TOGETHER`](Self::FETCHED_TOGETHER) the rest is left out.
    pub fn fetch(&self, hashes: impl Iterator<Item = u32>) {
        let (mut places, mut count) = ([0; Self::FETCHED_TOGETHER], 0);
        for (place, hash) in places.iter_mut().zip(hashes) {
            *place = hash as usize & self.mask;
            prefetch(&self.cells[*place]);
            count += 1;
        }
        for place in &places[..count] {
            // The first cell is nearly always the one; where not, nothing is lost but the help.
            let index = (self.cells[*place] as u32).wrapping_sub(1);
            if let Some(record) = self.records.get(index as usize) {
                prefetch(record);
            }
        }
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
                if self.is_called(index, bytes) {
                    return Some(index);
                }
            }
            at = (at + 1) & self.mask;
        }
    }

    #[inline]
    fn is_called(&self, index: usize, name: &[u8]) -> bool {
        let record = &self.records[index];
        let length = usize::from(record.length);
        if name.len() != length {
            return false;
        }
        let (start, rest) = name.split_at(length.min(HEAD_BYTES));
        let tail = record.tail as usize;
        start == &record.head[..start.len()] && (rest.is_empty() || rest == &self.tails[tail..tail + rest.len()])
    }

    pub fn class(&self, index: usize) -> Class {
        self.records[index].class
    }

    /// What a worker is told of the topic.
    pub fn word(&self, index: usize) -> u32 {
        self.records[index].word
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
        assert!(table.is_large());
        table.fetch([0, u32::MAX, parser().topic_hash(b"t/x")].into_iter());
    }

    #[test]
    fn names_of_every_length_are_compared_to_their_end() {
        let long: String = ('a'..='z').cycle().take(255).collect();
        let entries: Vec<_> = (1..=255).map(|length| entry(&long[..length], Class::Batch)).collect();
        let cell = TopicTableCell::new(&entries, parser());
        let (_, table) = cell.load();
        for (index, entry) in entries.iter().enumerate() {
            let (name, hash) = (entry.name.as_bytes(), parser().topic_hash(entry.name.as_bytes()));
            assert_eq!(table.find(hash, || name), Some(index));
            for differs in 0..name.len() {
                let mut other = name.to_vec();
                other[differs] ^= 1;
                assert_eq!(table.find(hash, || &other), None, "byte {differs} of {}", name.len());
            }
        }
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
        assert_eq!(new.word(0) & topic_word::NUMBER, 1);
        assert_eq!(cell.retire(), 2, "a dispatcher holds the old one");
        drop(old);
        assert_eq!(cell.retire(), 1);
    }
}
