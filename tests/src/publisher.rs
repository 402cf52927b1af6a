//! A client that has each event acknowledged, and sends again what was not when its connection broke.

use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use eventstream::frame::Priority;

use crate::acks::{Ack, Reader, Told, asking};
use crate::client::connect;
use crate::random::Random;

pub const DURABLE: u8 = 1;
pub const WRITTEN: u8 = 2;
pub const PROCESSED: u8 = 3;
pub const DEAD_LETTERED: u8 = 4;
pub const DUPLICATE: u8 = 0x80;

/// Events that are not acknowledged at any time.
const WINDOW: usize = 256;
/// One in so many is an event that was acknowledged before, and must be told to be a duplicate.
const REPEATS_ONE_IN: usize = 100;
/// It is one of so many last ones: those that were acknowledged longer ago than the window may be forgotten.
const REPEATS_OF: usize = 5000;

/// Bytes of an event that a reader of the log can tell from its id alone.
pub fn payload_of(id: u64) -> Vec<u8> {
    let mut random = Random::new(id);
    let bound = if random.one_in(50) { 4000 } else { 120 };
    let bytes = 8 + random.below(bound);
    let mut payload = id.to_be_bytes().to_vec();
    payload.resize(bytes, random.draw() as u8);
    payload
}

/// Ids that were acknowledged, once for each time they were.
#[derive(Clone, Default)]
pub struct Acknowledged(Arc<Mutex<Vec<u64>>>);

impl Acknowledged {
    pub fn ids(&self) -> Vec<u64> {
        self.with(|ids| ids.clone())
    }

    pub fn count(&self) -> usize {
        self.with(|ids| ids.len())
    }

    fn any_recent(&self, random: &mut Random) -> Option<u64> {
        self.with(|ids| {
            let last = &ids[ids.len().saturating_sub(REPEATS_OF)..];
            (!last.is_empty()).then(|| *random.pick(last))
        })
    }

    fn add(&self, id: u64) {
        self.with(|ids| ids.push(id));
    }

    fn with<R>(&self, work: impl FnOnce(&mut Vec<u64>) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub struct Publisher {
    number: u64,
    topics: Vec<&'static str>,
    random: Random,
    made: u64,
    limit: u64,
    /// Sent, perhaps several times, and not acknowledged. Those that are sent again after they were are in both.
    waiting: HashSet<u64>,
    acknowledged: Acknowledged,
    statuses: BTreeMap<u8, u64>,
}

impl Publisher {
    /// Its ids begin with its number; its topics take turns.
    pub fn new(number: u64, seed: u64, topics: &[&'static str]) -> Self {
        Self {
            number,
            topics: topics.to_vec(),
            random: Random::new(seed ^ number),
            made: 0,
            limit: u64::MAX,
            waiting: HashSet::new(),
            acknowledged: Acknowledged::default(),
            statuses: BTreeMap::new(),
        }
    }

    /// It makes no more than so many events.
    pub fn limited(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    fn id(&self, sequence: u64) -> u64 {
        self.number << 32 | sequence
    }

    /// Every id that was ever sent.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        (0..self.made).map(|sequence| self.id(sequence))
    }

    /// For others, while it publishes.
    pub fn acknowledged(&self) -> Acknowledged {
        self.acknowledged.clone()
    }

    /// How many acknowledgements there were of each status.
    pub fn statuses(&self) -> &BTreeMap<u8, u64> {
        &self.statuses
    }

    /// Sends what waits, then new events, until the connection breaks, or everything is acknowledged after `stop` was set or
    /// the limit reached. True: everything is.
    pub fn publish(&mut self, port: u16, stop: &AtomicBool) -> bool {
        let mut stream = connect(port);
        let mut reader = Reader::new(&stream);
        let mut again: Vec<u64> = self.waiting.iter().copied().collect();
        again.sort_unstable();
        if self.send(&mut stream, &again).is_err() {
            return false;
        }
        loop {
            let stops = stop.load(Ordering::Relaxed) || self.made == self.limit;
            if stops && self.waiting.is_empty() {
                return true;
            }
            let fresh = if stops { Vec::new() } else { self.make() };
            let mut told = Told::default();
            if self.send(&mut stream, &fresh).is_err() || !matches!(reader.try_next(&mut told), Ok(true)) {
                return false;
            }
            assert!(told.others.is_empty(), "{told:?}");
            told.acks.iter().for_each(|ack| self.take(ack));
        }
    }

    /// As many as are missing to a window.
    fn make(&mut self) -> Vec<u64> {
        let mut ids = Vec::new();
        while self.waiting.len() < WINDOW && self.made < self.limit {
            let repeated = self.random.one_in(REPEATS_ONE_IN).then(|| self.acknowledged.any_recent(&mut self.random));
            let id = repeated.flatten().unwrap_or_else(|| {
                self.made += 1;
                self.id(self.made - 1)
            });
            if self.waiting.insert(id) {
                ids.push(id);
            }
        }
        ids
    }

    fn send(&self, stream: &mut TcpStream, ids: &[u64]) -> std::io::Result<()> {
        let frame = |id: &u64| {
            let topic = self.topics[*id as usize % self.topics.len()];
            asking(Priority::Medium, Some(*id), topic, &payload_of(*id))
        };
        stream.write_all(&ids.iter().flat_map(frame).collect::<Vec<u8>>())
    }

    fn take(&mut self, ack: &Ack) {
        let id = u128::from_be_bytes(ack.id) as u64;
        assert!(self.waiting.remove(&id), "{ack:?} was not asked for, or is told twice");
        let kept = ack.status & !DUPLICATE;
        assert!(matches!(kept, DURABLE | WRITTEN | DEAD_LETTERED), "{ack:?}");
        self.acknowledged.add(id);
        *self.statuses.entry(ack.status).or_default() += 1;
    }
}
