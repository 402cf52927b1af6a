//! The connections of an agent, by a key that also names the occupant, and by the number that events carry.
//!
//! - **Thread**: the ingest agent's. Memory grows only when a connection is accepted, up to a fixed number of entries.
//! - **Invariant**: a key names one connection for ever: an entry used again has another generation, so an event that the
//!   kernel reported for its former occupant finds nobody. An entry is not used again before the last acknowledgement for its
//!   former occupant has come, so none of these finds another.

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

/// How connections are numbered for events, apart from zero: by generation and index, so that a number comes again only
/// when an entry has been used as often as there are generations. Divided by the number of agents it leaves the agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbering {
    agent: u32,
    agents: u32,
    index_bits: u32,
    generations: u32,
}

impl Numbering {
    /// For `limit` entries.
    fn new(limit: usize, agent: u32, agents: u32) -> Self {
        let index_bits = usize::BITS - limit.leading_zeros();
        let generations = (u32::MAX / agents) >> index_bits;
        Self { agent, agents, index_bits, generations: generations.max(1) }
    }

    pub(super) fn number(self, key: Key) -> u32 {
        let generation = key.generation() % self.generations;
        (generation << self.index_bits | (key.index() + 1)) * self.agents + self.agent
    }

    fn index(self, number: u32) -> u32 {
        ((number / self.agents) & ((1 << self.index_bits) - 1)).wrapping_sub(1)
    }
}

#[derive(Debug, Default)]
struct Entry {
    generation: u32,
    connection: Option<Box<Connection>>,
    /// Acknowledgements for a former occupant that have not come yet.
    late_acks: u32,
}

#[derive(Debug)]
pub(super) struct Slab {
    entries: Vec<Entry>,
    free: Vec<u32>,
    limit: usize,
    live: usize,
    pub(super) numbering: Numbering,
}

impl Slab {
    /// Of the `agent`-th of `agents`.
    pub(super) fn new(limit: usize, agent: u32, agents: u32) -> Self {
        let numbering = Numbering::new(limit, agent, agents);
        Self { entries: Vec::new(), free: Vec::new(), limit, live: 0, numbering }
    }

    pub(super) fn len(&self) -> usize {
        self.live
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live == 0
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
        self.live += 1;
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
        entry.late_acks = connection.owed.in_flight();
        if entry.late_acks == 0 {
            self.free.push(index);
        }
        self.live -= 1;
        Some(connection)
    }

    /// The connection that an acknowledgement is for, and its index. `None`: it is gone, and the acknowledgement is
    /// struck off.
    pub(super) fn find_for_ack(&mut self, number: u32) -> Option<(u32, &mut Connection)> {
        let index = self.numbering.index(number);
        let entry = self.entries.get_mut(index as usize)?;
        if entry.connection.is_none() && entry.late_acks > 0 {
            entry.late_acks -= 1;
            if entry.late_acks == 0 {
                self.free.push(index);
            }
        }
        Some((index, entry.connection.as_deref_mut()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_agent_and_index_and_are_never_zero() {
        for (limit, agents) in [(1, 1), (64, 3), (16_448, 1), (1_000_064, 16)] {
            for agent in 0..agents {
                let numbering = Numbering::new(limit, agent, agents);
                let mut seen = std::collections::BTreeSet::new();
                for generation in [0, 1, numbering.generations - 1] {
                    for index in [0, limit as u32 / 2, limit as u32 - 1] {
                        let number = numbering.number(Key::new(generation, index));
                        assert!(number != 0 && number % agents == agent && numbering.index(number) == index);
                        seen.insert((number, generation, index));
                    }
                }
                let numbers: std::collections::BTreeSet<_> = seen.iter().map(|(number, ..)| number).collect();
                assert_eq!(numbers.len(), seen.len(), "{limit} {agents}");
                assert!(numbering.generations >= 64, "{limit} {agents}: {}", numbering.generations);
            }
        }
    }
}
