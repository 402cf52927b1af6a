//! The topic table: an immutable index from topic to class, read without locks and swapped whole.
//!
//! A look-up touches one cache line, a bucket of two records, and seldom a second one: of a large table each line is a miss.
//! The topic's bytes are asked for only when a record's hash matches: topics that are not configured, the common case in a
//! flood, cost no comparison. A match is confirmed by comparing bytes, so two topics are never one because their hashes are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::topic_word;
use super::windows::{WindowLimits, WindowProfiles};
use crate::frame::{Class, Parser, Shape};
use crate::memory::{CACHE_LINE_BYTES, Slab, prefetch};

/// A configured topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicEntry {
    pub name: String,
    pub class: Class,
    pub dedup: bool,
    /// A retry holds back the topic's later events.
    pub strict: bool,
    /// Its events are handled in windows; of batch topics only.
    pub window: Option<WindowLimits>,
}

/// What is known of a topic, on half a cache line.
#[repr(C)]
#[derive(Clone, Copy)]
struct Record {
    hash: u32,
    /// [`topic_word`] with the flags, of which one is always set: zero is an empty place.
    word: u32,
    length: u16,
    class: Class,
    /// The name; of one that is too long, its first [`START_BYTES`] and where the rest of it begins.
    name: [u8; NAME_BYTES],
}

impl Record {
    const NONE: Self = Self { hash: 0, word: 0, length: 0, class: Class::Batch, name: [0; NAME_BYTES] };

    const fn is_empty(&self) -> bool {
        self.word == 0
    }
}

/// Bytes of a name that is whole in its record; longer ones cost another line.
const NAME_BYTES: usize = 21;
const START_BYTES: usize = NAME_BYTES - size_of::<u32>();

/// Records that lie on a line. The second is used when the first is; both, and the next bucket is tried.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Bucket([Record; BUCKET]);

const BUCKET: usize = 2;

const _: () = assert!(size_of::<Bucket>() == CACHE_LINE_BYTES && topic_word::NAMED != 0);

/// What the table knows of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub class: Class,
    /// What a worker is told of the topic: [`topic_word`].
    pub word: u32,
}

/// Entries from which a table no longer stays in the second-level cache beside everything else there: buckets are then asked
/// for ahead.
const LARGE: usize = 4096;

/// One snapshot.
pub struct TopicTable {
    /// At most half full.
    buckets: Slab<Bucket>,
    len: usize,
    /// Of names that are longer than a record has room for, the rest.
    tails: Box<[u8]>,
}

impl TopicTable {
    /// So many events ahead of its look-up at least, and twice as many at most, an event's bucket is asked for: less than what
    /// a core can have on its way at once. With 16 an event took as long or a little longer, with 32 a fifth longer.
    pub const FETCHED_AHEAD: usize = 8;

    /// Builds a table; `parser` gives the process's topic hash, `numbers` the topics' lasting numbers.
    fn build(
        entries: &[TopicEntry],
        parser: &Parser,
        numbers: &mut HashMap<String, u32>,
        windows: &HashMap<WindowLimits, u32>,
    ) -> Self {
        let buckets = Slab::from_fn(Self::bucket_count(entries.len()), |_| Bucket([Record::NONE; BUCKET]));
        let mut table = Self { buckets, len: 0, tails: Box::default() };
        let mut tails = Vec::new();
        for entry in entries {
            let next = numbers.len() as u32 & topic_word::NUMBER;
            let number = *numbers.entry(entry.name.clone()).or_insert(next);
            let flag = |is_set, flag| if is_set { flag } else { 0 };
            let window = entry.window.filter(|_| entry.class == Class::Batch);
            let window = window.and_then(|limits| windows.get(&limits)).copied().unwrap_or(0);
            let flags = window | flag(entry.dedup, topic_word::DEDUP) | flag(entry.strict, topic_word::STRICT);
            let bytes = entry.name.as_bytes();
            let mut name = [0; NAME_BYTES];
            match name.get_mut(..bytes.len()) {
                Some(whole) => whole.copy_from_slice(bytes),
                None => {
                    let (start, rest) = bytes.split_at(START_BYTES);
                    name[..START_BYTES].copy_from_slice(start);
                    name[START_BYTES..].copy_from_slice(&(tails.len() as u32).to_ne_bytes());
                    tails.extend_from_slice(rest);
                }
            }
            let (hash, length) = (parser.topic_hash(bytes), bytes.len() as u16);
            table.insert(Record { hash, word: number | topic_word::NAMED | flags, length, class: entry.class, name });
        }
        Self { tails: tails.into(), ..table }
    }

    fn insert(&mut self, record: Record) {
        self.len += 1;
        let mut at = self.place(record.hash);
        loop {
            if let Some(free) = self.buckets[at].0.iter_mut().find(|place| place.is_empty()) {
                *free = record;
                return;
            }
            at = self.after(at);
        }
    }

    /// Memory of a table of so many topics, but for what of their names has no room in their records.
    pub const fn bytes(len: usize) -> usize {
        Slab::<Bucket>::bytes(Self::bucket_count(len))
    }

    /// As many as there are records, which is room for twice as many.
    const fn bucket_count(len: usize) -> usize {
        if len < 8 { 8 } else { len }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it pays to [`fetch`](Self::fetch) what is looked up.
    pub fn is_large(&self) -> bool {
        self.len >= LARGE
    }

    /// The bucket in which a hash is looked for first. Multiply-shift instead of a mask: the number of buckets need not be a
    /// power of two.
    #[inline(always)]
    fn place(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.buckets.len() as u64) >> 32) as usize
    }

    fn after(&self, place: usize) -> usize {
        if place + 1 < self.buckets.len() { place + 1 } else { 0 }
    }

    /// Asks the cache for what the look-ups of these hashes touch, so that they do not wait for one another.
    pub fn fetch(&self, hashes: impl Iterator<Item = u32>) {
        for hash in hashes {
            prefetch(&self.buckets[self.place(hash)]);
        }
    }

    /// What the table knows of the topic. `topic` is asked for the bytes only when a hash matches.
    #[inline(always)]
    pub fn find<'a>(&self, hash: u32, topic: impl Fn() -> &'a [u8]) -> Option<Found> {
        if self.is_empty() {
            return None;
        }
        let mut at = self.place(hash);
        loop {
            let Bucket([first, second]) = &self.buckets[at];
            // Chosen, not branched on: which of the two it is nothing could predict.
            let record = if first.hash == hash { first } else { second };
            if record.hash == hash && !record.is_empty() && self.is_called(record, topic()) {
                return Some(Found { class: record.class, word: record.word });
            }
            if second.is_empty() {
                return None;
            }
            if record.hash == hash && second.hash == hash && self.is_called(second, topic()) {
                return Some(Found { class: second.class, word: second.word });
            }
            at = self.after(at);
        }
    }

    #[inline]
    fn is_called(&self, record: &Record, name: &[u8]) -> bool {
        if name.len() != usize::from(record.length) {
            return false;
        }
        if let Some(whole) = record.name.get(..name.len()) {
            return whole == name;
        }
        let (start, at) = record.name.split_at(START_BYTES);
        let (name_start, rest) = name.split_at(START_BYTES);
        let at = at.try_into().map_or(0, u32::from_ne_bytes) as usize;
        start == name_start && rest == &self.tails[at..at + rest.len()]
    }
}

/// Where dispatchers find the newest snapshot, and the control plane keeps the old ones until nobody reads them.
pub struct TopicTableCell {
    version: AtomicU64,
    windows: Arc<WindowProfiles>,
    /// Of topics without entry.
    unnamed_window: Option<WindowLimits>,
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
        Self::with_windows(entries, None, parser)
    }

    /// With windows of this size for batch topics without entry.
    pub fn with_windows(entries: &[TopicEntry], unnamed_window: Option<WindowLimits>, parser: Parser) -> Arc<Self> {
        let (mut numbers, windows) = (HashMap::new(), WindowProfiles::default());
        let assigned = windows.assign(wanted(unnamed_window, entries));
        let table = Arc::new(TopicTable::build(entries, &parser, &mut numbers, &assigned));
        let control = Published { parser, numbers, snapshots: vec![table.clone()] };
        Arc::new(Self {
            version: AtomicU64::new(0),
            windows: Arc::new(windows),
            unnamed_window,
            current: ArcSwap::new(table),
            control: std::sync::Mutex::new(control),
        })
    }

    /// Swaps in a new table; returns its number of topics. Control plane only.
    pub fn publish(&self, entries: &[TopicEntry]) -> usize {
        let mut control = self.control.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Published { parser, numbers, snapshots } = &mut *control;
        let assigned = self.windows.assign(wanted(self.unnamed_window, entries));
        let table = Arc::new(TopicTable::build(entries, parser, numbers, &assigned));
        let count = table.len();
        snapshots.push(table.clone());
        self.current.store(table);
        // Release: paired with the Acquire in `newer_than`.
        self.version.fetch_add(1, Ordering::Release);
        count
    }

    /// What topic words say of windows.
    pub fn windows(&self) -> &Arc<WindowProfiles> {
        &self.windows
    }

    /// What the topic words of batch topics without entry say of them.
    pub(super) fn unnamed_window(&self) -> u32 {
        let wanted = self.unnamed_window;
        // It is in force as long as it is wanted, and is found again.
        wanted.and_then(|limits| self.windows.place_of(limits)).unwrap_or(0)
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
        self.current.load().find(hash, || topic).map_or_else(|| shape.priority().class(), |found| found.class)
    }

    /// Whether there is a newer table than that of `version`: one load a duty cycle.
    #[inline]
    pub fn newer_than(&self, version: u64) -> bool {
        self.version.load(Ordering::Acquire) != version
    }
}

fn wanted(unnamed: Option<WindowLimits>, entries: &[TopicEntry]) -> impl Iterator<Item = WindowLimits> {
    let named = entries.iter().filter(|entry| entry.class == Class::Batch).filter_map(|entry| entry.window);
    unnamed.into_iter().chain(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Limits, Priority, Transport};

    fn parser() -> Parser {
        Parser::new(Limits { frame_bytes: 1 << 20, topic_bytes: 255 }, Transport::Tcp, Priority::Critical, 42)
    }

    fn entry(name: &str, class: Class) -> TopicEntry {
        TopicEntry { name: name.into(), class, dedup: false, strict: false, window: None }
    }

    fn word_of(table: &TopicTable, name: &str) -> u32 {
        table.find(parser().topic_hash(name.as_bytes()), || name.as_bytes()).expect("its topic").word
    }

    #[test]
    fn finds_each_topic_and_no_other() {
        let entries: Vec<_> = (0..10_000).map(|i| entry(&format!("t/{i}"), Class::ALL[i % 3])).collect();
        let cell = TopicTableCell::new(&entries, parser());
        let (_, table) = cell.load();
        for (i, wanted) in entries.iter().enumerate() {
            let name = wanted.name.as_bytes();
            let found = table.find(parser().topic_hash(name), || name).unwrap();
            assert_eq!((found.word & topic_word::NUMBER, found.class), (i as u32, wanted.class));
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
            assert_eq!(table.find(hash, || name).map(|found| found.word & topic_word::NUMBER), Some(index as u32));
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
    fn topics_of_one_hash_are_found_in_whatever_bucket_and_behind_the_last() {
        let mut table = TopicTable::build(&[], &parser(), &mut HashMap::new(), &HashMap::new());
        let names = *b"abcde";
        for (number, first) in (1..).zip(names) {
            let mut name = [0; NAME_BYTES];
            name[0] = first;
            let word = topic_word::NAMED | number;
            table.insert(Record { hash: u32::MAX, word, length: 1, class: Class::Batch, name });
        }
        for (number, name) in (1..).zip(&names) {
            let found = table.find(u32::MAX, || std::slice::from_ref(name));
            assert_eq!(found.map(|found| found.word & topic_word::NUMBER), Some(number));
        }
        assert_eq!(table.find(u32::MAX, || b"f"), None);
        assert_eq!(table.find(0, || b"a"), None, "an empty place has no hash, and zero is none");
    }

    #[test]
    fn a_topic_is_told_to_the_worker_with_what_is_asked_for_it() {
        let entries = [(false, false), (true, false), (false, true), (true, true)];
        let entries = entries.map(|(dedup, strict)| TopicEntry { dedup, strict, ..entry("t", Class::Batch) });
        let named = entries.map(|entry| TopicEntry { name: format!("{entry:?}"), ..entry });
        let (_, table) = TopicTableCell::new(&named, parser()).load();
        for (index, entry) in named.iter().enumerate() {
            let word = word_of(&table, &entry.name);
            let told = [topic_word::DEDUP, topic_word::STRICT, topic_word::NAMED].map(|flag| word & flag != 0);
            assert_eq!(told, [entry.dedup, entry.strict, true]);
            assert_eq!(topic_word::strict_key(word), entry.strict.then_some(index as u32));
        }
    }

    #[test]
    fn batch_topics_are_told_with_their_windows_over_reloads() {
        let limits = |max_events| Some(WindowLimits { max_events, max_bytes: 1 << 20, max_ns: 1 });
        let windowed = |name, class, max_events| TopicEntry { window: limits(max_events), ..entry(name, class) };
        let entries =
            [windowed("a", Class::Batch, 10), windowed("b", Class::Transactional, 10), entry("c", Class::Batch)];
        let cell = TopicTableCell::with_windows(&entries, limits(20), parser());
        let told = |cell: &TopicTableCell, name| cell.windows().limits(word_of(&cell.load().1, name));
        assert_eq!(["a", "b", "c"].map(|name| told(&cell, name)), [limits(10), None, None]);
        assert_eq!(cell.windows().limits(cell.unnamed_window()), limits(20));
        cell.publish(&[windowed("d", Class::Batch, 30), windowed("a", Class::Batch, 20)]);
        assert_eq!(["d", "a"].map(|name| told(&cell, name)), [limits(30), limits(20)]);
        assert_eq!(cell.windows().limits(cell.unnamed_window()), limits(20));
    }

    #[test]
    fn numbers_outlive_a_reload_and_old_tables_do_not() {
        let cell = TopicTableCell::new(&[entry("a", Class::Batch), entry("b", Class::Batch)], parser());
        let (version, old) = cell.load();
        cell.publish(&[entry("b", Class::Realtime)]);
        assert!(cell.newer_than(version));
        let (_, new) = cell.load();
        let found = new.find(parser().topic_hash(b"b"), || b"b").unwrap();
        assert_eq!((found.word & topic_word::NUMBER, found.class), (1, Class::Realtime));
        assert_eq!(cell.retire(), 2, "a dispatcher holds the old one");
        drop(old);
        assert_eq!(cell.retire(), 1);
    }
}
