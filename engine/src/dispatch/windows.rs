//! How large the windows of batch topics get: a few sets of limits that topic words name by number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::topic_word;
use crate::runtime::clock::Nanos;

/// When a window closes: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WindowLimits {
    pub max_events: u32,
    /// Of the events' frames.
    pub max_bytes: u32,
    /// From its first event on.
    pub max_ns: Nanos,
}

#[derive(Default)]
struct Profile {
    max_events: AtomicU32,
    max_bytes: AtomicU32,
    max_ns: AtomicU64,
}

/// The limits in force. Written by the control plane when it publishes a topic table; an event that is on its way under the
/// table before may meet the next one's limits, which only means that its window closes sooner or later.
#[derive(Default)]
pub struct WindowProfiles([Profile; Self::COUNT]);

impl WindowProfiles {
    /// Different windows that there may be at one time, the class's own among them.
    pub const COUNT: usize = 31;

    /// What the topic's word says; `None` if its events are handled one by one.
    #[inline]
    pub fn limits(&self, word: u32) -> Option<WindowLimits> {
        let number = (word & topic_word::WINDOW) >> topic_word::WINDOW.trailing_zeros();
        self.0.get((number as usize).wrapping_sub(1)).map(Profile::get)
    }

    /// The place in a topic word of limits that are in force.
    pub(super) fn place_of(&self, limits: WindowLimits) -> Option<u32> {
        self.0.iter().position(|profile| profile.get() == limits).map(flag)
    }

    /// Gives each of the wanted limits its place in a topic word: those that are in force keep theirs. Beyond
    /// [`COUNT`](Self::COUNT) different ones, which validated configuration does not have, the rest gets none.
    pub(super) fn assign(&self, wanted: impl Iterator<Item = WindowLimits>) -> HashMap<WindowLimits, u32> {
        let mut missing: Vec<WindowLimits> = Vec::new();
        let mut assigned = HashMap::new();
        for limits in wanted {
            if assigned.contains_key(&limits) || missing.contains(&limits) {
                continue;
            }
            match self.0.iter().position(|profile| profile.get() == limits) {
                Some(index) => drop(assigned.insert(limits, flag(index))),
                None => missing.push(limits),
            }
        }
        let free = (0..Self::COUNT).filter(|index| !assigned.values().any(|used| *used == flag(*index)));
        for (index, limits) in free.collect::<Vec<_>>().into_iter().zip(missing) {
            self.0[index].set(limits);
            assigned.insert(limits, flag(index));
        }
        assigned
    }
}

fn flag(index: usize) -> u32 {
    (index as u32 + 1) << topic_word::WINDOW.trailing_zeros()
}

impl Profile {
    // Relaxed, all of it: each limit is good by itself, and they order nothing.
    fn get(&self) -> WindowLimits {
        WindowLimits {
            max_events: self.max_events.load(Ordering::Relaxed),
            max_bytes: self.max_bytes.load(Ordering::Relaxed),
            max_ns: self.max_ns.load(Ordering::Relaxed),
        }
    }

    fn set(&self, limits: WindowLimits) {
        self.max_events.store(limits.max_events, Ordering::Relaxed);
        self.max_bytes.store(limits.max_bytes, Ordering::Relaxed);
        self.max_ns.store(limits.max_ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_events: u32) -> WindowLimits {
        WindowLimits { max_events, max_bytes: 1000, max_ns: 1 }
    }

    #[test]
    fn limits_keep_their_place_as_long_as_they_are_wanted() {
        let profiles = WindowProfiles::default();
        let first = profiles.assign([10, 20, 10, 30].map(limits).into_iter());
        assert_eq!(first.len(), 3);
        let second = profiles.assign([40, 30, 10].map(limits).into_iter());
        for (limits, flag) in &second {
            assert_eq!(profiles.limits(*flag | topic_word::NAMED | 5), Some(*limits));
        }
        for kept in [10, 30] {
            assert_eq!(first[&limits(kept)], second[&limits(kept)]);
        }
        assert_eq!(profiles.limits(!topic_word::WINDOW), None);
    }

    #[test]
    fn there_is_a_place_for_as_many_as_allowed_whatever_there_was_before() {
        let profiles = WindowProfiles::default();
        let count = WindowProfiles::COUNT as u32;
        for start in [2, 2 + count / 2, 200] {
            let assigned = profiles.assign((start..start + count).map(limits));
            let flags: std::collections::HashSet<u32> = assigned.values().copied().collect();
            assert_eq!((assigned.len(), flags.len()), (count as usize, count as usize));
            assert!(assigned.iter().all(|(limits, flag)| profiles.limits(*flag) == Some(*limits)));
        }
        assert_eq!(profiles.assign((2..3 + count).map(limits)).len(), count as usize, "one too many");
    }
}
