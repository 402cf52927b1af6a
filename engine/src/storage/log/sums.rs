//! Checksums of many overlapping parts of a file, in the time of one.
//!
//! Behind damage a record may begin at every multiple of 8, and whoever sends events can fill a payload with what looks like
//! the beginnings of long ones: a checksum of each would take years. So the file is summed up once, with the sum noted at
//! every multiple of 8, and the checksum of a part is worked out from the sums at its two ends.

use std::collections::VecDeque;
use std::io;

use super::super::disk::DiskFile;
use super::super::format::RECORD_ALIGN;
use crate::memory::crc32c_append;

/// Read in one go.
const READ_BYTES: u64 = 64 << 10;
const ALIGN: u64 = RECORD_ALIGN as u64;

/// The polynomial of CRC32C without its highest term; as in the checksums the lowest bit is the highest power.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// By how much a checksum is multiplied for 1, 2, 4, … times 8 bytes that follow.
const STEPS: [u32; 32] = {
    // x, the first power.
    let mut steps = [1 << 30; 32];
    // x to the power of 64, the bits of 8 bytes.
    let mut doubled = 0;
    while doubled < 6 {
        steps[0] = multiply(steps[0], steps[0]);
        doubled += 1;
    }
    let mut step = 1;
    while step < steps.len() {
        steps[step] = multiply(steps[step - 1], steps[step - 1]);
        step += 1;
    }
    steps
};

/// The product of two polynomials, modulo that of the checksum.
const fn multiply(left: u32, mut right: u32) -> u32 {
    let (mut product, mut bit) = (0, 1 << 31);
    while bit != 0 {
        if left & bit != 0 {
            product ^= right;
        }
        right = right >> 1 ^ if right & 1 != 0 { POLYNOMIAL } else { 0 };
        bit >>= 1;
    }
    product
}

/// What a checksum becomes by so many bytes of zeros.
fn shifted(mut sum: u32, bytes: u64) -> u32 {
    let mut steps = bytes / ALIGN;
    while steps != 0 {
        sum = multiply(sum, STEPS[steps.trailing_zeros() as usize]);
        steps &= steps - 1;
    }
    sum
}

/// Of one file, asked for parts that begin ever further behind.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// At `start` and at every multiple of 8 behind it, of what is between there and where it began.
    sums: VecDeque<u32>,
    start: u64,
    buffer: Vec<u8>,
}

impl Sums {
    /// The CRC32C of the bytes from `from` to `until`, both multiples of 8. `None` where the file ends before.
    pub fn checksum(&mut self, file: &dyn DiskFile, from: u64, until: u64) -> io::Result<Option<u32>> {
        self.begin_at(from);
        let wanted = ((until - from) / ALIGN) as usize;
        while self.sums.len() <= wanted {
            let at = self.start + (self.sums.len() as u64 - 1) * ALIGN;
            self.buffer.resize((until - at).min(READ_BYTES) as usize, 0);
            let read = file.pread(&mut self.buffer, at)?;
            let (words, _) = self.buffer[..read].as_chunks::<RECORD_ALIGN>();
            if words.is_empty() {
                return Ok(None);
            }
            let mut sum = self.sums.back().copied().unwrap_or_default();
            self.sums.extend(words.iter().map(|word| {
                sum = crc32c_append(sum, word);
                sum
            }));
        }
        let (first, last) = (self.sums[0], self.sums[wanted]);
        Ok(Some(shifted(first, until - from) ^ last))
    }

    /// Forgets the file.
    pub fn clear(&mut self) {
        self.sums.clear();
    }

    fn begin_at(&mut self, from: u64) {
        let passed = (from.saturating_sub(self.start) / ALIGN) as usize;
        if from < self.start || passed >= self.sums.len() {
            self.sums.clear();
            self.sums.push_back(0);
        } else {
            self.sums.drain(..passed);
        }
        self.start = from;
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::disk::{Disk as _, RealDisk};
    use super::super::super::scratch::Scratch;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_part_has_the_checksum_that_it_has_by_itself(
            seed in any::<u64>(),
            parts in prop::collection::vec((0..3000u64, 0..30_000u64), 1..20),
        ) {
            let scratch = Scratch::new("sums");
            let path = scratch.path().join("file");
            let bytes: Vec<u8> = (0..200_003u64).map(|at| (at.wrapping_mul(seed | 1) >> 7) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let file = RealDisk.open_to_read(&path).unwrap();
            let (mut sums, mut from) = (Sums::default(), 0);
            for (on, words) in parts {
                from += on * ALIGN;
                let until = from + words * ALIGN;
                let expected = bytes.get(from as usize..until as usize);
                let expected = expected.map(crc32c::crc32c);
                prop_assert_eq!(sums.checksum(&*file, from, until).unwrap(), expected, "{}..{}", from, until);
            }
        }
    }
}
