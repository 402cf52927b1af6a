//! One pass over a topic's bytes: its hash, and whether any byte of it may mean more than itself.
//!
//! The hash chains folded multiplications over words of eight bytes, with key and multiplier drawn from the seed: senders
//! choose topics, and must not be able to choose colliding ones. The check works on the same words, eight bytes at a time ("Bit
//! Twiddling Hacks", S. Anderson). It is coarse: below `,` lie NUL, `#`, `+` and the `$` of the protocol's own topics, and
//! what else lies there is rare enough in a topic to be looked at twice.

use crate::fold::fold;

/// Eight times the lowest byte that means nothing but itself.
const LOWEST: u64 = u64::from_ne_bytes([b','; 8]);
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Keys of the hash: the process's own.
#[derive(Clone, Debug)]
pub(super) struct TopicHash {
    key: u64,
    multiplier: u64,
}

impl TopicHash {
    pub(super) fn new(seed: u64) -> Self {
        // splitmix64 (Steele, Lea, Flood 2014): neighbouring seeds give unrelated keys.
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ (word >> 31)
        };
        // An odd multiplier loses no bit of what it is multiplied with.
        Self { key: next(), multiplier: next() | 1 }
    }

    /// The hash of a topic by itself.
    pub(super) fn of(&self, topic: &[u8]) -> u32 {
        let last = match topic.last_chunk() {
            Some(word) => u64::from_le_bytes(*word),
            None => topic.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)) << unused_bits(topic),
        };
        self.of_words(topic, last).0
    }

    /// The hash, and whether a byte is outside `,` to DEL of ASCII. `last` is the little-endian word that ends with the
    /// topic; where the topic is shorter than a word, what stands in it before the topic does not matter.
    #[inline(always)]
    pub(super) fn of_words(&self, topic: &[u8], last: u64) -> (u32, bool) {
        let (mut hash, mut found) = (self.key ^ topic.len() as u64, 0);
        // All but the last word; that one overlaps the one before instead of being padded.
        let mut rest = topic;
        while let Some((word, after)) = rest.split_first_chunk::<8>()
            && !after.is_empty()
        {
            let word = u64::from_le_bytes(*word);
            hash = fold(hash ^ word, self.multiplier);
            found |= suspicious(word);
            rest = after;
        }
        let last = if topic.len() < 8 { without_before(last, topic) } else { last };
        hash = fold(hash ^ last, self.multiplier);
        found |= suspicious(last);
        (hash as u32, found & HIGHS != 0)
    }
}

/// The last word of a topic shorter than that, with bytes before it such as no rule is about.
fn without_before(last: u64, topic: &[u8]) -> u64 {
    let mask = u64::MAX << unused_bits(topic);
    (last & mask) | (LOWEST & !mask)
}

/// Bits of the last word that are not the topic's.
fn unused_bits(topic: &[u8]) -> u32 {
    8 * 8_usize.saturating_sub(topic.len().max(1)) as u32
}

/// Has a high bit set if a byte is outside `,` to DEL of ASCII, and only then. As long as all bytes are at least `,`, taking that from
/// each borrows from none and leaves less than 0x80; the lowest byte below it wraps.
#[inline(always)]
const fn suspicious(word: u64) -> u64 {
    word | word.wrapping_sub(LOWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The word that ends with `topic` where it stands behind `before`.
    fn last(before: &[u8], topic: &[u8]) -> u64 {
        u64::from_le_bytes(*[before, topic].concat().last_chunk().unwrap())
    }

    #[test]
    fn every_byte_that_may_mean_something_is_found_wherever_it_stands() {
        let hash = TopicHash::new(1);
        for length in 1..=40 {
            for at in 0..length {
                for byte in 0..=255_u8 {
                    let mut topic = vec![b'a'; length];
                    topic[at] = byte;
                    let wanted = !(b','..0x80).contains(&byte);
                    let (_, found) = hash.of_words(&topic, last(&[0; 8], &topic));
                    assert_eq!(found, wanted, "byte {byte:#x} at {at} of {length}");
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn what_stands_before_a_topic_does_not_matter(before: [u8; 8], topic in proptest::collection::vec(1u8.., 1..40)) {
            let hash = TopicHash::new(2);
            proptest::prop_assert_eq!(hash.of_words(&topic, last(&before, &topic)).0, hash.of(&topic));
        }
    }

    #[test]
    fn like_topics_spread_evenly_over_high_and_low_bits() {
        let hash = TopicHash::new(3);
        let (mut high, mut low) = ([0_u32; 64], [0_u32; 64]);
        for number in 0..64 * 1024 {
            let hash = hash.of(format!("sensor/{number}").as_bytes());
            high[(hash >> 26) as usize] += 1;
            low[(hash & 63) as usize] += 1;
        }
        // 1024 expected in each; eight standard deviations either side.
        assert!(high.iter().chain(&low).all(|count| (768..=1280).contains(count)), "{high:?} {low:?}");
    }

    #[test]
    fn seeds_give_hashes_of_their_own() {
        let of = |seed| TopicHash::new(seed).of(b"sensor/temp");
        assert!(of(1) != of(2) && of(1) == of(1));
    }
}
