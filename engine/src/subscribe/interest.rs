//! Whether anybody may want an event: what the data path asks before it copies one.
//!
//! A counting filter (L. Fan et al., "Summary Cache", 2000) over what subscribed filters begin with: a whole topic where there is no
//! wildcard, the levels before the first one where there is. It never misses a filter that matches, and is wrong the other way
//! now and then; who has the subscriptions looks closely.
//!
//! - **Threads**: one writes, any number asks. An answer costs a look at one counter for the topic, and one for each depth at which
//!   some filter has its first wildcard, whatever the number of subscriptions.
//! - **Invariant**: an event that ends after a subscription was answered is not missed.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use crate::frame::Class;
use crate::storage::TopicFilter;

/// Of these, each a byte, few are not zero: with 100,000 subscriptions one topic in some hundreds is taken for wanted that is not.
const COUNTERS: usize = 1 << 22;
/// Counters of each beginning. One that has once been as high as it can be stays there.
const PROBES: u32 = 2;
/// Depths are bits of a word; deeper filters are asked for at this one.
const DEPTH_MAX: usize = 31;

pub struct Interest {
    classes: [AtomicBool; 3],
    /// Filters of each class.
    class_counts: [AtomicU32; 3],
    counters: Box<[AtomicU8]>,
    /// One bit for each number of levels before a first wildcard.
    depths: AtomicU32,
    depth_counts: [AtomicU32; DEPTH_MAX + 1],
    exact_count: AtomicU32,
    /// How often anything has changed.
    changes: AtomicU32,
    seed: u64,
}

impl std::fmt::Debug for Interest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Interest(depths {:b})", self.depths.load(Ordering::Relaxed))
    }
}

/// What a filter's topics begin with.
enum Beginning<'f> {
    Whole(&'f [u8]),
    /// So many levels, with the slash behind them.
    Levels(usize, &'f [u8]),
}

fn beginning(filter: &str) -> Beginning<'_> {
    let (mut end, mut levels) = (0, 0);
    for level in filter.split('/') {
        if level == "+" || level == "#" {
            return Beginning::Levels(levels, &filter.as_bytes()[..end]);
        }
        if levels == DEPTH_MAX {
            return Beginning::Levels(levels, &filter.as_bytes()[..end]);
        }
        end += level.len() + 1;
        levels += 1;
    }
    Beginning::Whole(filter.as_bytes())
}

impl Interest {
    /// Memory that one takes.
    pub const BYTES: usize = COUNTERS;

    /// `seed`: senders choose topics, and must not be able to choose colliding ones.
    pub fn new(seed: u64) -> Self {
        Self {
            classes: Default::default(),
            class_counts: Default::default(),
            counters: vec![0u8; COUNTERS].into_iter().map(AtomicU8::new).collect(),
            depths: AtomicU32::new(0),
            depth_counts: std::array::from_fn(|_| AtomicU32::new(0)),
            exact_count: AtomicU32::new(0),
            changes: AtomicU32::new(0),
            seed,
        }
    }

    /// By the one who writes.
    pub fn add(&self, filter: &TopicFilter, classes: impl IntoIterator<Item = Class>) {
        self.change(filter, classes, 1);
    }

    pub fn remove(&self, filter: &TopicFilter, classes: impl IntoIterator<Item = Class>) {
        self.change(filter, classes, -1);
    }

    fn change(&self, filter: &TopicFilter, classes: impl IntoIterator<Item = Class>, by: i32) {
        // Relaxed: the one writer reads what it has written.
        let step = |counter: &AtomicU32| {
            let count = counter.load(Ordering::Relaxed).saturating_add_signed(by);
            // Release: paired with the Acquire in `wants`. The class comes last, and who sees it sees the rest.
            counter.store(count, Ordering::Release);
            count
        };
        let mark = |bytes: &[u8], kind: u64| {
            for counter in self.counters(bytes, kind) {
                let count = counter.load(Ordering::Relaxed);
                if count < u8::MAX {
                    counter.store(count.saturating_add_signed(by as i8), Ordering::Release);
                }
            }
        };
        match beginning(filter.as_str()) {
            Beginning::Whole(topic) => {
                mark(topic, 0);
                step(&self.exact_count);
            }
            Beginning::Levels(depth, levels) => {
                if depth > 0 {
                    mark(levels, !0);
                }
                let count = step(&self.depth_counts[depth]);
                let (depths, bit) = (self.depths.load(Ordering::Relaxed), 1 << depth);
                self.depths.store(if count > 0 { depths | bit } else { depths & !bit }, Ordering::Release);
                // `a/#` is for `a` as well.
                if let Some(parent) = levels.strip_suffix(b"/")
                    && filter.as_str().len() == levels.len() + 1
                    && filter.as_str().ends_with('#')
                {
                    mark(parent, 0);
                    step(&self.exact_count);
                }
            }
        }
        for class in classes {
            let count = step(&self.class_counts[class as usize]);
            self.classes[class as usize].store(count > 0, Ordering::Release);
        }
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Whether any event of the class may be wanted.
    #[inline]
    pub fn has(&self, class: Class) -> bool {
        self.classes[class as usize].load(Ordering::Acquire)
    }

    /// As long as this is the same, so are the answers.
    #[inline]
    pub fn changes(&self) -> u32 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether an event of this topic may be wanted. No class is looked at.
    pub fn wants(&self, topic: &[u8]) -> bool {
        let depths = self.depths.load(Ordering::Acquire);
        if depths & 1 != 0 && topic.first() != Some(&b'$') {
            return true;
        }
        if self.exact_count.load(Ordering::Acquire) > 0 && self.may_have(topic, 0) {
            return true;
        }
        if depths >> 1 == 0 {
            return false;
        }
        let mut depth = 0;
        for (at, byte) in topic.iter().enumerate() {
            if *byte == b'/' {
                depth += 1;
                if depth > DEPTH_MAX {
                    return false;
                }
                if depths & 1 << depth != 0 && self.may_have(&topic[..=at], !0) {
                    return true;
                }
            }
        }
        false
    }

    fn may_have(&self, bytes: &[u8], kind: u64) -> bool {
        self.counters(bytes, kind).all(|counter| counter.load(Ordering::Acquire) > 0)
    }

    fn counters(&self, bytes: &[u8], kind: u64) -> impl Iterator<Item = &AtomicU8> {
        let mut hash = self.seed ^ kind ^ bytes.len() as u64;
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            hash = crate::fold::fold(hash ^ u64::from_le_bytes(*word), 0x9e37_79b9_7f4a_7c15 | self.seed);
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = crate::fold::fold(hash ^ u64::from_le_bytes(last), 0xbf58_476d_1ce4_e5b9);
        (0..PROBES).map(move |probe| &self.counters[(hash >> (32 * probe)) as usize % COUNTERS])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    #[test]
    fn nobody_s_topics_are_hardly_ever_wanted() {
        let interest = Interest::new(7);
        for number in 0..100_000 {
            interest.add(&filter(&format!("plant/{number}/temp")), [Class::Realtime]);
        }
        interest.add(&filter("site/9/+/x"), [Class::Batch]);
        let wanted = (0..10_000).filter(|number| interest.wants(format!("plant/{number}/speed").as_bytes())).count();
        assert!(wanted < 100, "{wanted}");
        assert!(interest.wants(b"site/9/a/b") && !interest.wants(b"site/8/a/x"));
        assert!(interest.has(Class::Realtime) && interest.has(Class::Batch) && !interest.has(Class::Transactional));
    }

    proptest! {
        /// Whatever comes and goes, nothing that a filter matches is missed, and after all have gone nothing is wanted.
        #[test]
        fn no_filter_that_matches_is_missed(
            filters in prop::collection::vec("([ab+]|\\$s)(/[ab+]?){0,3}(/#)?|#", 1..12),
            topics in prop::collection::vec("([ab]|\\$s)(/[ab]?){0,3}", 1..12),
            kept in 0..12usize,
        ) {
            let filters: Vec<_> = filters.iter().map(|text| filter(text)).collect();
            let interest = Interest::new(1);
            filters.iter().for_each(|filter| interest.add(filter, [Class::Realtime]));
            let kept = kept.min(filters.len());
            filters[kept..].iter().for_each(|filter| interest.remove(filter, [Class::Realtime]));
            for topic in &topics {
                if filters[..kept].iter().any(|filter| filter.matches(topic.as_bytes())) {
                    prop_assert!(interest.wants(topic.as_bytes()), "{topic} {:?}", &filters[..kept]);
                }
            }
            filters[..kept].iter().for_each(|filter| interest.remove(filter, [Class::Realtime]));
            prop_assert!(topics.iter().all(|topic| !interest.wants(topic.as_bytes())));
            prop_assert!(!interest.has(Class::Realtime));
        }
    }
}
