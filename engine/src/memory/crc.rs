//! CRC-32C, with a short cut for what is short.

/// Up to here one instruction after the other, each of which waits for the last, takes less than what goes before and behind several at
/// a time.
#[cfg(target_arch = "x86_64")]
const SHORT_BYTES: usize = 256;

/// The checksum of what has the checksum `sum`, and `bytes` behind it.
#[inline]
pub fn crc32c_append(sum: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() <= SHORT_BYTES && is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has been asked for what the function needs.
        return unsafe { by_words(sum, bytes) };
    }
    crc32c::crc32c_append(sum, bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn by_words(sum: u32, bytes: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};
    let (words, rest) = bytes.as_chunks();
    let words = words.iter().fold(u64::from(!sum), |state, word| _mm_crc32_u64(state, u64::from_le_bytes(*word)));
    !rest.iter().fold(words as u32, |state, byte| _mm_crc32_u8(state, *byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_that_of_others(sum in any::<u32>(), bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(crc32c_append(sum, &bytes), crc32c::crc32c_append(sum, &bytes));
        }
    }

    #[test]
    fn is_that_of_the_standard() {
        // RFC 3720, B.4: 32 bytes of zeros, and of ones.
        assert_eq!([0, 0xff].map(|byte| crc32c_append(0, &[byte; 32])), [0x8a91_36aa, 0x62a8_ab43]);
    }
}
