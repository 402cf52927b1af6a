//! The 16-byte event id and its seeded hash.
#![forbid(unsafe_code)]

use std::hash::{BuildHasher, RandomState};

use crate::fold::fold;

/// The id a sender gave an event: 16 opaque bytes, compared in full.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EventId(pub [u8; 16]);

impl EventId {
    /// The usual form: a producer's number and its sequence, both big-endian.
    pub const fn from_parts(producer: u64, sequence: u64) -> Self {
        Self((((producer as u128) << 64) | sequence as u128).to_be_bytes())
    }

    /// Producer and sequence of an id in the usual form; of any other id, its two halves.
    pub const fn parts(self) -> (u64, u64) {
        let whole = u128::from_be_bytes(self.0);
        ((whole >> 64) as u64, whole as u64)
    }

    /// The bytes as two words that a machine has at hand: for the table alone, as their order of bytes is the machine's.
    #[inline]
    pub(super) const fn halves(self) -> [u64; 2] {
        let whole = u128::from_ne_bytes(self.0);
        [whole as u64, (whole >> 64) as u64]
    }

    #[inline]
    pub(super) const fn from_halves([first, second]: [u64; 2]) -> Self {
        Self(((second as u128) << 64 | first as u128).to_ne_bytes())
    }
}

impl std::fmt::Debug for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Keys drawn once per table, so that no sender can choose ids that share a bucket.
pub(super) struct Seed {
    keys: [u64; 3],
}

impl Seed {
    pub(super) fn random() -> Self {
        if cfg!(any(loom_model, shuttle_model)) {
            // A model must run the same way each time.
            return Self { keys: [1, 2, 3] };
        }
        // The standard library's hasher state is the process's source of random keys: no dependency for 24 bytes.
        let state = RandomState::new();
        Self { keys: [0u64, 1, 2].map(|i| state.hash_one(i)) }
    }

    /// Two folded multiplications. One would leave the order of consecutive sequences visible in the low bits; the
    /// second spreads them over bucket number and fingerprint alike.
    #[inline]
    pub(super) fn hash(&self, id: EventId) -> u64 {
        let [one, other] = id.halves();
        let first = fold(one ^ self.keys[0], other ^ self.keys[1]);
        fold(first ^ self.keys[2], 0x9e37_79b9_7f4a_7c15)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_big_endian_and_round_trip() {
        let id = EventId::from_parts(1, 0x0203);
        assert_eq!(id.0, [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 3]);
        assert_eq!(id.parts(), (1, 0x0203));
        assert_eq!(EventId::from_halves(id.halves()), id);
        assert_eq!(format!("{id:?}"), "00000000000000010000000000000203");
    }

    #[test]
    fn consecutive_sequences_spread_evenly() {
        let seed = Seed::random();
        let (mut high, mut low) = ([0u32; 256], [0u32; 256]);
        for sequence in 0..256 * 256 {
            let hash = seed.hash(EventId::from_parts(7, sequence));
            high[(hash >> 56) as usize] += 1;
            low[(hash & 255) as usize] += 1;
        }
        // 256 expected in each; eight standard deviations either side.
        for count in high.iter().chain(&low) {
            assert!((128..=384).contains(count), "{count} of 256");
        }
    }
}
