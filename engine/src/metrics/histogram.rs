//! A latency histogram one thread records into and others may read at any time.
//!
//! HdrHistogram's bucket scheme (sub-buckets of equal width within each power of two) over atomics with a single
//! writer, so recording is one load and one store of a private line: the crate's own histogram cannot be read while
//! another thread records. Reading copies the buckets into an `hdrhistogram::Histogram`, which answers the percentiles; its
//! buckets are parts of ours, so that it adds no error.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// 64 sub-buckets a power of two: values are kept to within 1.6 %.
const SUB_BITS: u32 = 6;
const SUBS: usize = 1 << SUB_BITS;
/// Up to 2^40 ns, 18 minutes: beyond it everything counts as that.
const MAX_BITS: u32 = 40;
const BUCKETS: usize = (MAX_BITS - SUB_BITS + 1) as usize * SUBS;

/// Percentiles in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LatencySummary {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
    /// Values recorded.
    pub count: u64,
}

/// Clones share the same buckets; only one of them may record.
#[derive(Clone)]
pub struct Histogram {
    buckets: Arc<[AtomicU64]>,
    max: Arc<AtomicU64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), max: Arc::new(AtomicU64::new(0)) }
    }
}

fn bucket(value: u64) -> usize {
    let value = value.min((1 << MAX_BITS) - 1);
    let bits = 64 - value.leading_zeros();
    if bits <= SUB_BITS {
        return value as usize;
    }
    let shift = bits - SUB_BITS - 1;
    // The top bit is implied: bits SUB_BITS below it choose the sub-bucket.
    (shift as usize + 1) * SUBS + ((value >> shift) as usize - SUBS)
}

/// The largest value that falls into a bucket: percentiles err on the slow side.
fn bucket_top(index: usize) -> u64 {
    if index < SUBS {
        return index as u64;
    }
    let shift = index / SUBS - 1;
    (((index % SUBS + SUBS) as u64 + 1) << shift) - 1
}

impl Histogram {
    /// Records `count` values of `value` nanoseconds. One thread only.
    #[inline]
    pub fn record(&self, value: u64, count: u64) {
        let cell = &self.buckets[bucket(value)];
        // A plain load and store: with one writer nothing can come between.
        cell.store(cell.load(Ordering::Relaxed) + count, Ordering::Relaxed);
        if value > self.max.load(Ordering::Relaxed) {
            self.max.store(value, Ordering::Relaxed);
        }
    }

    /// Adds this histogram's values to `into`.
    pub fn add_to(&self, into: &mut hdrhistogram::Histogram<u64>) {
        for (index, cell) in self.buckets.iter().enumerate() {
            let count = cell.load(Ordering::Relaxed);
            if count > 0 {
                into.saturating_record_n(bucket_top(index), count);
            }
        }
    }

    /// Percentiles over several agents' histograms.
    pub fn summarize<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> LatencySummary {
        let Ok(mut all) = hdrhistogram::Histogram::new_with_bounds(1, 1 << MAX_BITS, 3) else {
            return LatencySummary::default();
        };
        let mut max = 0;
        for histogram in histograms {
            histogram.add_to(&mut all);
            max = max.max(histogram.max.load(Ordering::Relaxed));
        }
        if all.is_empty() {
            return LatencySummary::default();
        }
        let at = |quantile| all.value_at_quantile(quantile).min(max);
        LatencySummary { p50: at(0.5), p99: at(0.99), p999: at(0.999), max, count: all.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(value in 0u64..1 << MAX_BITS) {
            let index = bucket(value);
            proptest::prop_assert!(value <= bucket_top(index));
            proptest::prop_assert!(index == 0 || value > bucket_top(index - 1));
            proptest::prop_assert!((bucket_top(index) - value) * 64 <= value);
        }

        #[test]
        fn a_single_value_is_told_as_its_buckets_top(value in 1u64..1 << MAX_BITS) {
            let histogram = Histogram::default();
            histogram.record(value, 1);
            histogram.record((1 << MAX_BITS) - 1, 1); // or the maximum would be the answer
            proptest::prop_assert_eq!(Histogram::summarize([&histogram]).p50, bucket_top(bucket(value)));
        }
    }

    #[test]
    fn summary_finds_the_percentiles() {
        let histogram = Histogram::default();
        (1..=1000).for_each(|value| histogram.record(value * 1000, 1));
        let summary = Histogram::summarize([&histogram]);
        assert!((500_000..=507_812).contains(&summary.p50), "{summary:?}");
        assert!((990_000..=1_000_000).contains(&summary.p99), "{summary:?}");
        assert_eq!(summary.max, 1_000_000);
        assert_eq!(summary.count, 1000);
    }
}
