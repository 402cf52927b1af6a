//! How old datagrams are when they have been received.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::Latency;
use super::walk::sent_time;

/// A minute: longer than a measurement.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// Significant digits of a recorded time.
const DIGITS: u8 = 3;

/// From the first frame's sent time until now.
#[derive(Debug)]
pub struct Ages(Histogram<u64>);

impl Ages {
    pub fn new() -> Result<Self, String> {
        Histogram::new_with_max(LATENCY_MAX_NS, DIGITS).map(Self).map_err(|error| error.to_string())
    }

    /// Of a datagram that was there at `now`, by the clock of [`unix_now`](eventstream::runtime::clock::unix_now). A sender's
    /// clock that is ahead says nothing.
    #[inline]
    pub fn record(&mut self, datagram: &[u8], now: u64) {
        if let Some(waited) = sent_time(datagram).and_then(|sent| now.checked_sub(sent)) {
            self.0.saturating_record(waited);
        }
    }

    /// Something that took so long.
    pub fn note(&mut self, took: Duration) {
        self.0.saturating_record(took.as_nanos() as u64);
    }

    pub fn latency(&self) -> Latency {
        let at = |share| self.0.value_at_quantile(share);
        Latency { count: self.0.len(), p50: at(0.5), p99: at(0.99), p999: at(0.999), max: self.0.max() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut ages = Ages::new().unwrap();
        (1..=1_000).for_each(|value| ages.0.saturating_record(value * 1_000));
        let latency = ages.latency();
        assert_eq!(latency.count, 1_000);
        for (found, expected) in [(latency.p50, 500_000), (latency.p99, 990_000), (latency.max, 1_000_000)] {
            assert!(found.abs_diff(expected) <= expected / 500, "{latency:?}");
        }
    }
}
