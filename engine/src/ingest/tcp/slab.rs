//! The connections of an agent, by a number that also names the occupant.
//!
//! - **Thread**: the ingest agent's. Memory grows only when a connection is accepted, up to a fixed number of entries.
//! - **Invariant**: a key names one connection for ever: an entry used again has another generation, so an event that the
//!   kernel reported for its former occupant finds nobody.

use super::connection::Connection;

/// Generation and index, as epoll carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u64);

impl Key {
    fn new(generation: u32, index: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(index))
    }

    pub(super) fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub(super) fn raw(self) -> u64 {
        self.0
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn index(self) -> u32 {
        self.0 as u32
    }
}

#[derive(Debug, Default)]
struct Entry {
    generation: u32,
    connection: Option<Box<Connection>>,
}

#[derive(Debug)]
pub(super) struct Slab {
    entries: Vec<Entry>,
    free: Vec<u32>,
    limit: usize,
}

impl Slab {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: Vec::new(), free: Vec::new(), limit }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries there have ever been at once.
    pub(super) fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// The key the next connection will have; `None` when all entries are taken.
    pub(super) fn next_key(&mut self) -> Option<Key> {
        if self.free.is_empty() {
            if self.entries.len() >= self.limit {
                return None;
            }
            self.free.push(self.entries.len() as u32);
            self.entries.push(Entry::default());
        }
        let index = *self.free.last()?;
        Some(Key::new(self.entries[index as usize].generation, index))
    }

    /// Puts a connection where [`next_key`](Self::next_key) said.
    pub(super) fn insert(&mut self, connection: Box<Connection>) -> Option<u32> {
        let index = self.free.pop()?;
        self.entries[index as usize].connection = Some(connection);
        Some(index)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Connection> {
        self.entries.get_mut(index as usize)?.connection.as_deref_mut()
    }

    /// The connection `key` was made for and its index, unless it is gone.
    pub(super) fn find(&mut self, key: Key) -> Option<(u32, &mut Connection)> {
        let entry = self.entries.get_mut(key.index() as usize)?;
        if entry.generation != key.generation() {
            return None;
        }
        Some((key.index(), entry.connection.as_deref_mut()?))
    }

    pub(super) fn remove(&mut self, index: u32) -> Option<Box<Connection>> {
        let entry = self.entries.get_mut(index as usize)?;
        let connection = entry.connection.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(index);
        Some(connection)
    }
}
