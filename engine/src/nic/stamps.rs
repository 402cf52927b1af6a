//! Reading the stamps that the steering program lays before some packets: how long those waited in the rx ring.
//!
//! - **Thread**: the ingest agent's. **In**: the bytes before some packets. **Out**: the waiting times of those with a stamp.
//! - **Invariant**: a stamp is believed for no packet but its own. Old ones stay in frames that packets without a stamp are
//!   written to. What was believed is not believed again: it is no newer than the newest that was. What was passed over is
//!   no newer than when the events of its packet arrived; a stamp of the packet that is in the frame now is.
//!
//! Two things escape these rules. A stamped packet that the kernel wrote to a frame and then found no room for in the rx ring:
//! the frame goes to one of the next packets, which then seems as old as that one, by the time of at most [`STAMP_INTERVAL`]
//! packets on a ring that was full. And a stamp that was passed over before a malformed packet, which leaves no arrival.
//!
//! Stamps lie in a cache line that nothing else of a packet does, and lines are what the data path waits for most: looking
//! before every packet cost the whole engine some 2 to 3 %. So the packets after a stamp are passed over up to the one that
//! is due next; where no stamps come, most packets are.

use eventstream_steer::stamp::{STAMP_BYTES, STAMP_INTERVAL, stamped_time};

use crate::runtime::clock::{Clock, Nanos};

/// Nothing waits so long in a ring that anybody reads: an older stamp is no stamp.
const AGE_MAX_NS: Nanos = 60_000_000_000;
/// How far the two clocks may differ between two comparisons: their error, and a millisecond's drift.
const CLOCK_ERROR_NS: Nanos = 2_000;
/// Packets in a row without a stamp that say that none come: of so many one has a stamp even where several CPUs feed a queue
/// and each counts for itself, or where half of the packets are lost.
const LOOKS_IN_VAIN: u32 = 4 * STAMP_INTERVAL as u32;
/// Packets to pass over then: of all, one in seventeen is looked at.
const LONG_REST: u32 = 16 * LOOKS_IN_VAIN;

/// One queue's.
#[derive(Debug)]
pub struct StampReader {
    clock: Clock,
    /// What to add to our clock for the kernel's.
    to_kernel: i64,
    /// The newest stamp believed, by the kernel's clock.
    newest: Nanos,
    /// Packets to pass over before the next look.
    rest: u32,
    /// Looks since the last stamp or rest.
    in_vain: u32,
}

impl StampReader {
    pub fn new(clock: Clock) -> Self {
        let mut reader = Self { clock, to_kernel: 0, newest: 0, rest: 0, in_vain: 0 };
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

    /// Whether the next packet is to be looked at; asked once for each.
    #[inline]
    pub fn is_due(&mut self) -> bool {
        let is_due = self.rest == 0;
        self.rest = self.rest.saturating_sub(1);
        is_due
    }

    /// Whether one of the next packets, so many and one, is to be looked at.
    #[inline]
    pub fn is_due_within(&self, packets: usize) -> bool {
        self.rest as usize <= packets
    }

    /// How long the packet with this before it had been there at `now`, if it has a stamp that can be believed. What was in
    /// its frame before had arrived at `former`.
    pub fn waited(&mut self, before: &[u8; STAMP_BYTES], former: Nanos, now: Nanos) -> Option<Nanos> {
        let waited = stamped_time(before).and_then(|stamped| self.believed(stamped, former, now));
        match waited {
            Some(_) => (self.rest, self.in_vain) = (STAMP_INTERVAL as u32 - 1, 0),
            None if self.in_vain + 1 == LOOKS_IN_VAIN => (self.rest, self.in_vain) = (LONG_REST, 0),
            None => self.in_vain += 1,
        }
        waited
    }

    fn believed(&mut self, stamped: Nanos, former: Nanos, now: Nanos) -> Option<Nanos> {
        let [former, now] = [former, now].map(|time| time.saturating_add_signed(self.to_kernel));
        let age = now.saturating_sub(stamped);
        // Between two packets a frame goes through the engine and back, which takes longer than the clocks' error.
        let is_left_over = stamped <= self.newest || stamped <= former.saturating_add(CLOCK_ERROR_NS);
        if is_left_over || stamped > now.saturating_add(CLOCK_ERROR_NS) || age > AGE_MAX_NS {
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
        assert_eq!(reader.waited(&[0; STAMP_BYTES], 0, NOW), None);
        assert_eq!(reader.waited(&bytes(NOW - 700), 0, NOW), Some(700));
        assert_eq!(reader.waited(&bytes(NOW + 1), 0, NOW), Some(0), "clocks are compared to within an error");
    }

    #[test]
    fn what_is_said_to_be_near_is_the_next_look() {
        let mut reader = reader();
        assert!(reader.is_due_within(0), "without a stamp so far each packet is looked at");
        assert!(reader.waited(&bytes(NOW - 700), 0, NOW).is_some());
        let due: Vec<bool> = (0..STAMP_INTERVAL).map(|_| reader.is_due_within(2) | reader.is_due()).collect();
        assert_eq!(due.iter().filter(|due| **due).count(), 3);
        assert!(due.ends_with(&[true; 3]), "the one to be looked at, and those two packets before it");
    }

    #[test]
    fn an_old_stamp_in_a_used_frame_is_not_believed_again() {
        let mut reader = reader();
        assert_eq!(reader.waited(&bytes(NOW - 700), 0, NOW), Some(700));
        assert_eq!(reader.waited(&bytes(NOW - 700), 0, NOW + 50), None);
        assert_eq!(reader.waited(&bytes(NOW - 701), 0, NOW + 50), None);
        assert_eq!(reader.waited(&bytes(NOW - 699), 0, NOW + 50), Some(749));
    }

    #[test]
    fn a_stamp_that_was_passed_over_is_not_believed_later() {
        let mut reader = reader();
        let former = NOW - 50_000;
        assert_eq!(
            reader.waited(&bytes(former - 300), former, NOW),
            None,
            "it had waited 300 ns and was not looked at"
        );
        assert_eq!(reader.waited(&bytes(former + CLOCK_ERROR_NS + 1), former, NOW), Some(50_000 - CLOCK_ERROR_NS - 1));
    }

    #[test]
    fn a_frame_that_held_nothing_before_holds_no_stamp_back() {
        let mut reader = reader();
        for (to_kernel, time) in [(-5, NOW - 700), (5, NOW - 600)] {
            reader.to_kernel = to_kernel;
            assert!(reader.waited(&bytes(time), 0, NOW).is_some(), "{to_kernel}");
        }
    }

    #[test]
    fn what_cannot_be_is_not_believed_and_hides_nothing() {
        let mut reader = reader();
        for time in [NOW + CLOCK_ERROR_NS + 1, u64::MAX, NOW - AGE_MAX_NS - 1, 1, 0] {
            assert_eq!(reader.waited(&bytes(time), 0, NOW), None, "{time}");
        }
        assert_eq!(reader.waited(&bytes(NOW - AGE_MAX_NS), 0, NOW), Some(AGE_MAX_NS));
    }

    #[test]
    fn every_stamp_is_found_and_little_else_is_looked_at() {
        let mut reader = reader();
        let (mut looks, mut found) = (0, 0);
        for packet in 0..100 * STAMP_INTERVAL {
            if reader.is_due() {
                looks += 1;
                // The first stamped packet is not the first that is read.
                let before = if packet % STAMP_INTERVAL == 40 { bytes(NOW + packet) } else { [0; STAMP_BYTES] };
                found += u64::from(reader.waited(&before, 0, NOW + packet + 500).is_some());
            }
        }
        assert_eq!((looks, found), (40 + 100, 100));
    }

    #[test]
    fn where_stamps_end_or_never_come_few_packets_are_looked_at() {
        let mut reader = reader();
        let packets = 100 * u64::from(LONG_REST);
        let looks =
            (0..packets).filter(|_| reader.is_due() && reader.waited(&[0; STAMP_BYTES], 0, NOW).is_none()).count();
        assert!((packets / 20..packets / 16).contains(&(looks as u64)), "{looks} of {packets}");
    }
}
