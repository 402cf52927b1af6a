//! Which topics: filters with wildcards, and the set of topics that a segment holds, as far as a filter needs it.

use std::fmt;

/// A filter as MQTT has them: levels between slashes, `+` for any one level, `#` at the end for any number of them, none
/// included. A wildcard at the first level does not match topics that begin with `$`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicFilter(Box<str>);

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for TopicFilter {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl TopicFilter {
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("a filter is not empty");
        }
        if text.len() > usize::from(u16::MAX) || text.contains('\0') {
            return Err("a filter has at most 65535 bytes and no NUL");
        }
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level != "#" || levels.peek().is_some()) {
                return Err("`#` is a level of its own, and the last");
            }
            if level.contains('+') && level != "+" {
                return Err("`+` is a level of its own");
            }
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, topic: &[u8]) -> bool {
        if topic.first() == Some(&b'$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = topic.split(|byte| *byte == b'/');
        for wanted in self.0.as_bytes().split(|byte| *byte == b'/') {
            match (wanted, levels.next()) {
                (b"#", _) => return true,
                (b"+", Some(_)) => {}
                (wanted, Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }

    /// What every topic that matches begins with, up to the end of a level; `None` when the first is a wildcard.
    fn literal_prefix(&self) -> Option<&str> {
        let mut end = 0usize;
        for level in self.0.split('/') {
            if level == "+" || level == "#" {
                return end.checked_sub(1).map(|end| &self.0[..end]);
            }
            end += level.len() + 1;
        }
        Some(&self.0)
    }
}

/// 27 thousand topics and beginnings of topics at one false answer in a hundred.
const SET_BYTES: usize = 32 << 10;
const SET_BITS: u64 = SET_BYTES as u64 * 8;
const PROBES: u64 = 4;

/// A Bloom filter over the topics of a segment and their beginnings, level by level: it never says that a topic is not there
/// which is.
#[derive(Clone, PartialEq, Eq)]
pub struct TopicSet {
    bits: Box<[u8]>,
    /// The topic added last: most events follow one of the same topic.
    last: Vec<u8>,
}

impl fmt::Debug for TopicSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicSet({} bits set)", self.bits.iter().map(|byte| byte.count_ones()).sum::<u32>())
    }
}

impl Default for TopicSet {
    fn default() -> Self {
        Self { bits: vec![0; SET_BYTES].into(), last: Vec::new() }
    }
}

impl TopicSet {
    pub const BYTES: usize = SET_BYTES;

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == SET_BYTES).then(|| Self { bits: bytes.into(), last: Vec::new() })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    pub fn add(&mut self, topic: &[u8]) {
        if topic == self.last && !topic.is_empty() {
            return;
        }
        self.last.clear();
        self.last.extend_from_slice(topic);
        for (end, byte) in topic.iter().enumerate() {
            if *byte == b'/' {
                self.set(key(&topic[..end]));
            }
        }
        self.set(key(topic));
    }

    fn set(&mut self, key: u64) {
        for bit in probes(key) {
            self.bits[(bit / 8) as usize] |= 1 << (bit % 8);
        }
    }

    /// False only if no topic in the set matches.
    pub fn may_match(&self, filter: &TopicFilter) -> bool {
        filter.literal_prefix().is_none_or(|prefix| {
            probes(key(prefix.as_bytes())).all(|bit| self.bits[(bit / 8) as usize] & 1 << (bit % 8) != 0)
        })
    }
}

/// The same on every machine and in every run: it is on disk.
fn key(bytes: &[u8]) -> u64 {
    let key = u64::from(crc32c::crc32c(bytes)) | (bytes.len() as u64 + 1) << 32;
    let key = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let key = (key ^ (key >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    key ^ (key >> 31)
}

fn probes(key: u64) -> impl Iterator<Item = u64> {
    let step = (key >> 32) | 1;
    (0..PROBES).map(move |probe| key.wrapping_add(probe.wrapping_mul(step)) % SET_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(filter: &str, topic: &str) -> bool {
        TopicFilter::parse(filter).unwrap().matches(topic.as_bytes())
    }

    #[test]
    fn filters_match_as_in_mqtt() {
        for (filter, topic) in [
            ("a", "a"),
            ("a/b", "a/b"),
            ("+", "a"),
            ("a/+", "a/b"),
            ("a/+", "a/"),
            ("+/b", "a/b"),
            ("#", "a/b/c"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("a/+/c", "a/b/c"),
            ("/a", "/a"),
            ("+/+", "/a"),
            ("$x/#", "$x/a"),
            ("$x", "$x"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("a", "b"),
            ("a", "a/b"),
            ("a/b", "a"),
            ("+", "a/b"),
            ("a/+", "a"),
            ("a/+", "a/b/c"),
            ("a/#", "ab"),
            ("+", "/a"),
            ("#", "$x"),
            ("+", "$x"),
            ("+/a", "$x/a"),
            ("#", "$esc/hello"),
            ("a/+/c", "a/b/d"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
        for refused in ["", "a#", "#/a", "a/#/b", "a+", "a/b+/c", "a\0"] {
            assert!(TopicFilter::parse(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_set_says_what_is_surely_not_there() {
        let mut set = TopicSet::default();
        set.add(b"plant/7/temp");
        set.add(b"plant/7/temp");
        let may = |filter: &str| set.may_match(&TopicFilter::parse(filter).unwrap());
        assert!(["plant/7/temp", "plant/#", "plant/+/temp", "plant/7", "#", "+/7"].into_iter().all(may));
        assert!(!["plant/8/temp", "plan", "plant/8/#", "other/#"].into_iter().any(may));
        assert_eq!(TopicSet::from_bytes(set.as_bytes()).unwrap().as_bytes(), set.as_bytes());
    }

    proptest! {
        #[test]
        fn no_topic_is_missed(topics in prop::collection::vec("[ab$]?[ab/]{1,6}", 1..40), filter in "[ab$+]{1}(/[ab+]{0,1}){0,3}(/#)?") {
            let Ok(filter) = TopicFilter::parse(&filter) else { return Ok(()) };
            let mut set = TopicSet::default();
            topics.iter().for_each(|topic| set.add(topic.as_bytes()));
            if topics.iter().any(|topic| filter.matches(topic.as_bytes())) {
                prop_assert!(set.may_match(&filter), "{} {:?}", filter, topics);
            }
        }
    }
}
