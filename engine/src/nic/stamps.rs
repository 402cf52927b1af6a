//! Reading the stamps that the steering program lays before some packets: how long those waited in the rx ring.
//!
//! - **Thread**: the ingest agent's. **In**: the bytes before each packet. **Out**: the waiting times of those with a stamp.
//! - **Invariant**: a stamp is believed at most once. Old ones stay in frames that packets without a stamp are written to; as
//!   one queue's packets are stamped and read in order, only what is newer than all that was read is this packet's own.
//!
//! One thing escapes that rule: a stamped packet that the kernel wrote to a frame and then found no room for in the rx ring.
//! The frame goes to one of the next packets, which then seems as old as that one: the time of at most
//! [`STAMP_INTERVAL`](eventstream_steer::stamp::STAMP_INTERVAL) packets, on a ring that was full.

use eventstream_steer::stamp::{STAMP_BYTES, stamped_time};

use crate::runtime::clock::{Clock, Nanos};

/// Nothing waits so long in a ring that anybody reads: an older stamp is no stamp.
const AGE_MAX_NS: Nanos = 60_000_000_000;
/// How far the two clocks may differ between two comparisons: their error, and a millisecond's drift.
const CLOCK_ERROR_NS: Nanos = 2_000;

/// One queue's.
#[derive(Debug)]
pub struct StampReader {
    clock: Clock,
    /// What to add to our clock for the kernel's.
    to_kernel: i64,
    /// The newest stamp believed, by the kernel's clock.
    newest: Nanos,
}

impl StampReader {
    pub fn new(clock: Clock) -> Self {
        let mut reader = Self { clock, to_kernel: 0, newest: 0 };
        reader.compare_clocks();
        reader
    }

    pub fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// Called about every millisecond.
    pub fn compare_clocks(&mut self) {
        self.to_kernel = self.clock.to_kernel().unwrap_or(self.to_kernel);
    }

    /// How long the packet with this before it had been there at `now`, if it has a stamp that can be believed.
    #[inline]
    pub fn waited(&mut self, before: &[u8; STAMP_BYTES], now: Nanos) -> Option<Nanos> {
        let stamped = stamped_time(before)?;
        self.believed(stamped, now)
    }

    #[cold]
    fn believed(&mut self, stamped: Nanos, now: Nanos) -> Option<Nanos> {
        let now = now.wrapping_add_signed(self.to_kernel);
        let is_past = stamped <= now.saturating_add(CLOCK_ERROR_NS);
        let age = now.saturating_sub(stamped);
        if stamped <= self.newest || !is_past || age > AGE_MAX_NS {
            return None;
        }
        self.newest = stamped;
        Some(age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventstream_steer::stamp::stamp;
    use std::sync::Arc;

    const NOW: Nanos = 100_000_000_000;

    fn reader() -> StampReader {
        StampReader::new(Clock::manual(Arc::default()))
    }

    fn bytes(time: Nanos) -> [u8; STAMP_BYTES] {
        stamp(time).as_flattened().try_into().unwrap()
    }

    #[test]
    fn a_stamp_says_how_long_the_packet_has_waited() {
        let mut reader = reader();
        assert_eq!(reader.waited(&[0; STAMP_BYTES], NOW), None);
        assert_eq!(reader.waited(&bytes(NOW - 700), NOW), Some(700));
        assert_eq!(reader.waited(&bytes(NOW + 1), NOW), Some(0), "clocks are compared to within an error");
    }

    #[test]
    fn an_old_stamp_in_a_used_frame_is_not_believed_again() {
        let mut reader = reader();
        assert_eq!(reader.waited(&bytes(NOW - 700), NOW), Some(700));
        assert_eq!(reader.waited(&bytes(NOW - 700), NOW + 50), None);
        assert_eq!(reader.waited(&bytes(NOW - 701), NOW + 50), None);
        assert_eq!(reader.waited(&bytes(NOW - 699), NOW + 50), Some(749));
    }

    #[test]
    fn what_cannot_be_is_not_believed_and_hides_nothing() {
        let mut reader = reader();
        for time in [NOW + CLOCK_ERROR_NS + 1, u64::MAX, NOW - AGE_MAX_NS - 1, 1, 0] {
            assert_eq!(reader.waited(&bytes(time), NOW), None, "{time}");
        }
        assert_eq!(reader.waited(&bytes(NOW - AGE_MAX_NS), NOW), Some(AGE_MAX_NS));
    }
}
