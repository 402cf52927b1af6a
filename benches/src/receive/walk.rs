//! The least a receiver has to do with a datagram: follow the length fields, and hash each topic as if to look it up.

use serde::Serialize;

use eventstream::frame::{FLAG_ID, FLAG_TIME, HEADER_BYTES, LENGTH_BYTES};

const ID_BYTES: usize = 16;
const TIME_BYTES: usize = 8;
/// Odd, with bits all over: the golden ratio in 64 bits.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// What has been received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    pub datagrams: u64,
    pub events: u64,
    /// Datagrams whose length fields lead nowhere; none of their events is among the above.
    pub malformed: u64,
    /// Of all topics. Nobody needs it, but being reported it has to be worked out.
    pub hash: u64,
}

impl Seen {
    #[inline]
    pub fn datagram(&mut self, bytes: &[u8]) {
        self.datagrams += 1;
        match walk(bytes) {
            Some((events, hash)) => {
                self.events += events;
                self.hash ^= hash;
            }
            None => self.malformed += 1,
        }
    }

    /// A packet whose headers cannot be read.
    #[cold]
    pub fn unreadable(&mut self) {
        self.datagrams += 1;
        self.malformed += 1;
    }
}

/// Events of a datagram and what their topics hash to.
#[inline]
fn walk(mut rest: &[u8]) -> Option<(u64, u64)> {
    let (mut events, mut hash) = (0, 0_u64);
    while !rest.is_empty() {
        let (length, body) = rest.split_first_chunk::<LENGTH_BYTES>()?;
        let (frame, after) = body.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let ([head, high, low], _) = frame.split_first_chunk::<HEADER_BYTES>()?;
        let id = if head & FLAG_ID == 0 { 0 } else { ID_BYTES };
        let time = if head & FLAG_TIME == 0 { 0 } else { TIME_BYTES };
        let topic = frame.get(HEADER_BYTES + id + time..)?.get(..usize::from(u16::from_be_bytes([*high, *low])))?;
        hash = hash.rotate_left(1) ^ hash_of(topic);
        events += 1;
        rest = after;
    }
    Some((events, hash))
}

/// When the first frame says that it was to be sent.
#[inline]
pub fn sent_time(datagram: &[u8]) -> Option<u64> {
    let head = *datagram.get(LENGTH_BYTES)?;
    let id = if head & FLAG_ID == 0 { 0 } else { ID_BYTES };
    let time = datagram.get(LENGTH_BYTES + HEADER_BYTES + id..)?.first_chunk()?;
    (head & FLAG_TIME != 0).then(|| u64::from_be_bytes(*time))
}

/// Eight bytes at a time, the last eight once more if need be: what a fast hash of a short text is today.
#[inline]
fn hash_of(topic: &[u8]) -> u64 {
    let fold = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(MULTIPLIER);
        product as u64 ^ (product >> 64) as u64
    };
    let (words, rest) = topic.as_chunks::<8>();
    let hash = words.iter().fold(topic.len() as u64, |hash, word| fold(hash, u64::from_le_bytes(*word)));
    match topic.last_chunk::<8>() {
        Some(_) if rest.is_empty() => hash,
        Some(word) => fold(hash, u64::from_le_bytes(*word)),
        None => fold(hash, rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::{Mix, Stamper};

    fn datagram(mix: Mix) -> Vec<u8> {
        let layout = mix.layout().unwrap();
        let mut bytes = layout.template();
        Stamper::new(&layout, 0).stamp(&mut bytes, 77);
        bytes
    }

    #[test]
    fn a_sent_time_is_found_behind_an_id_and_without_one() {
        for ids in [false, true] {
            let mix = Mix { ids, timestamps: true, ..Mix::default() };
            assert_eq!(sent_time(&datagram(mix.clone())), Some(77));
            assert_eq!(sent_time(&datagram(Mix { timestamps: false, ..mix })), None);
        }
        assert_eq!(sent_time(&[]), None);
        assert_eq!(sent_time(&[0, 0, 0, 9, FLAG_TIME, 0, 1, 2]), None);
    }

    #[test]
    fn every_event_of_the_generators_is_walked() {
        for (ids, timestamps) in [(false, false), (true, false), (true, true)] {
            let mut seen = Seen::default();
            seen.datagram(&datagram(Mix { ids, timestamps, ..Mix::default() }));
            assert_eq!((seen.datagrams, seen.events, seen.malformed), (1, 23, 0));
            assert_ne!(seen.hash, 0);
        }
    }

    #[test]
    fn a_cut_datagram_is_malformed_unless_it_is_cut_between_frames() {
        let whole = datagram(Mix::default());
        for length in 1..whole.len() {
            let mut seen = Seen::default();
            seen.datagram(&whole[..length]);
            let frames = (length % 64 == 0).then_some(length as u64 / 64);
            assert_eq!((seen.events, seen.malformed == 0), (frames.unwrap_or(0), frames.is_some()), "{length}");
        }
    }

    #[test]
    fn every_byte_of_a_topic_counts() {
        for length in 1..30 {
            let topic = vec![b'a'; length];
            for at in 0..length {
                let mut other = topic.clone();
                other[at] = b'b';
                assert_ne!(hash_of(&topic), hash_of(&other), "{length} {at}");
            }
        }
    }
}
