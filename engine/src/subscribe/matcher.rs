//! Which subscriptions a topic is for, however many there are.
//!
//! Filters without wildcards stand in a map of whole topics, the others in a tree of levels. What a topic came to is remembered until
//! the subscriptions change: topics repeat, and most events follow one of the same.

use std::collections::HashMap;
use std::sync::Arc;

use crate::storage::TopicFilter;

/// Topics whose subscriptions are remembered.
const REMEMBERED_MAX: usize = 1 << 16;

/// A place in the matcher's owner's table.
pub type Place = u32;

#[derive(Default)]
struct Node {
    levels: HashMap<Box<[u8]>, u32>,
    /// Below `+`.
    any: Option<u32>,
    /// Filters that end here,
    ends: Vec<Place>,
    /// and those that end here with `#`.
    rests: Vec<Place>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.levels.is_empty() && self.any.is_none() && self.ends.is_empty() && self.rests.is_empty()
    }
}

pub struct Matcher {
    exact: HashMap<Box<[u8]>, Vec<Place>>,
    /// The first is the root.
    nodes: Vec<Node>,
    free: Vec<u32>,
    remembered: HashMap<Box<[u8]>, Arc<[Place]>>,
    /// What was asked last: most events follow one of the same topic.
    last: Option<Answer>,
}

/// A topic and what it came to.
type Answer = (Box<[u8]>, Arc<[Place]>);

impl Default for Matcher {
    fn default() -> Self {
        let nodes = vec![Node::default()];
        Self { exact: HashMap::new(), nodes, free: Vec::new(), remembered: HashMap::new(), last: None }
    }
}

fn is_wild(level: &[u8]) -> bool {
    level == b"+" || level == b"#"
}

impl Matcher {
    pub fn add(&mut self, filter: &TopicFilter, place: Place) {
        self.forget();
        let text = filter.as_str().as_bytes();
        if !text.split(|byte| *byte == b'/').any(is_wild) {
            self.exact.entry(text.into()).or_default().push(place);
            return;
        }
        let mut at = 0;
        for level in text.split(|byte| *byte == b'/') {
            if level == b"#" {
                self.nodes[at as usize].rests.push(place);
                return;
            }
            at = self.child(at, level);
        }
        self.nodes[at as usize].ends.push(place);
    }

    fn child(&mut self, at: u32, level: &[u8]) -> u32 {
        let node = &self.nodes[at as usize];
        let known = if level == b"+" { node.any } else { node.levels.get(level).copied() };
        if let Some(known) = known {
            return known;
        }
        let new = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            (self.nodes.len() - 1) as u32
        });
        let node = &mut self.nodes[at as usize];
        if level == b"+" {
            node.any = Some(new);
        } else {
            node.levels.insert(level.into(), new);
        }
        new
    }

    /// Takes back what was added.
    pub fn remove(&mut self, filter: &TopicFilter, place: Place) {
        self.forget();
        let text = filter.as_str().as_bytes();
        if let Some(places) = self.exact.get_mut(text) {
            places.retain(|other| *other != place);
            if places.is_empty() {
                self.exact.remove(text);
            }
            return;
        }
        let levels: Vec<&[u8]> = text.split(|byte| *byte == b'/').collect();
        self.remove_below(0, &levels, place);
    }

    fn remove_below(&mut self, at: u32, levels: &[&[u8]], place: Place) {
        let node = &mut self.nodes[at as usize];
        let Some((level, rest)) = levels.split_first() else {
            return node.ends.retain(|other| *other != place);
        };
        if *level == b"#" {
            return node.rests.retain(|other| *other != place);
        }
        let below = if *level == b"+" { node.any } else { node.levels.get(*level).copied() };
        let Some(below) = below else { return };
        self.remove_below(below, rest, place);
        if self.nodes[below as usize].is_empty() {
            self.free.push(below);
            let node = &mut self.nodes[at as usize];
            if *level == b"+" {
                node.any = None;
            } else {
                node.levels.remove(*level);
            }
        }
    }

    /// The places of all filters that match, each once, in no order.
    #[inline]
    pub fn find(&mut self, topic: &[u8]) -> &[Place] {
        if self.last.as_ref().is_none_or(|(last, _)| **last != *topic) {
            self.look_up(topic);
        }
        self.last.as_ref().map_or(&[], |(_, places)| places)
    }

    fn look_up(&mut self, topic: &[u8]) {
        let places = match self.remembered.get(topic) {
            Some(places) => places.clone(),
            None => {
                let mut found = self.exact.get(topic).cloned().unwrap_or_default();
                let levels: Vec<&[u8]> = topic.split(|byte| *byte == b'/').collect();
                self.descend(0, &levels, topic.first() == Some(&b'$'), &mut found);
                if self.remembered.len() >= REMEMBERED_MAX {
                    self.remembered.clear();
                }
                let places = Arc::<[Place]>::from(found);
                self.remembered.insert(topic.into(), places.clone());
                places
            }
        };
        self.last = Some((topic.into(), places));
    }

    fn forget(&mut self) {
        self.remembered.clear();
        self.last = None;
    }

    /// `guarded`: wildcards of this level are not for the topic.
    fn descend(&self, at: u32, levels: &[&[u8]], guarded: bool, found: &mut Vec<Place>) {
        let node = &self.nodes[at as usize];
        if !guarded {
            found.extend(&node.rests);
        }
        let Some((level, rest)) = levels.split_first() else {
            return found.extend(&node.ends);
        };
        if let Some(below) = node.levels.get(*level) {
            self.descend(*below, rest, false, found);
        }
        if let Some(below) = node.any.filter(|_| !guarded) {
            self.descend(below, rest, false, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against asking each filter by itself.
        #[test]
        fn finds_what_each_filter_says(
            filters in prop::collection::vec("([ab+]|\\$s)(/[ab+]?){0,3}(/#)?|#", 1..16),
            topics in prop::collection::vec("([ab]|\\$s)(/[ab]?){0,3}", 1..12),
            gone in prop::collection::vec(any::<bool>(), 16),
        ) {
            let filters: Vec<_> = filters.iter().map(|text| TopicFilter::parse(text).unwrap()).collect();
            let mut matcher = Matcher::default();
            for (place, filter) in filters.iter().enumerate() {
                matcher.add(filter, place as Place);
                matcher.find(topics[0].as_bytes());
            }
            for (place, filter) in filters.iter().enumerate().filter(|(place, _)| gone[*place]) {
                matcher.remove(filter, place as Place);
            }
            for topic in &topics {
                let matches = |place: &usize| !gone[*place] && filters[*place].matches(topic.as_bytes());
                let wanted: Vec<Place> = (0..filters.len()).filter(matches).map(|place| place as Place).collect();
                for _ in 0..2 {
                    let mut found = matcher.find(topic.as_bytes()).to_vec();
                    found.sort_unstable();
                    prop_assert_eq!(&found, &wanted, "{}", topic);
                }
            }
            for (place, filter) in filters.iter().enumerate().filter(|(place, _)| !gone[*place]) {
                matcher.remove(filter, place as Place);
            }
            prop_assert!(matcher.nodes[0].is_empty() && matcher.exact.is_empty());
            prop_assert_eq!(matcher.free.len() + 1, matcher.nodes.len());
        }
    }
}
