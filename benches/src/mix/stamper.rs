//! Stamping: the bytes that make each datagram unlike every other.
//!
//! Runs on the sending thread, between every two datagrams; nothing here allocates or looks at a clock. The generator of
//! duplicates and malformed datagrams is the in-kernel program's, state for state.

use std::ops::AddAssign;

use eventstream::frame::FLAGS_RESERVED;
use eventstream_steer::blast::{self, DUPLICATE_DISTANCE, FLAG_RESERVED, PRODUCER_MALFORMED, SHARE_ONE, TOPIC_DIGITS};

use super::{FLAGS_AT, ID_AT, Layout, PRIORITY_COUNT, TIME_BYTES};

const _: () = assert!(FLAG_RESERVED & !FLAGS_RESERVED == 0, "the flag that spoils a frame is a reserved one");

/// What was stamped into one datagram: to be counted once the datagram has been handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamped {
    pub is_malformed: bool,
    /// Duplicates among the events.
    pub duplicates: u16,
    /// Events by priority.
    pub priorities: [u16; PRIORITY_COUNT],
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All datagrams, malformed ones included.
    pub datagrams: u64,
    pub malformed_datagrams: u64,
    /// Events in well-formed datagrams, duplicates included.
    pub events: u64,
    pub events_in_malformed: u64,
    /// Those of `events` that repeat an earlier one.
    pub duplicates: u64,
    /// `events` by priority.
    pub priorities: [u64; PRIORITY_COUNT],
}

impl Tally {
    /// Counts one datagram that was handed over.
    #[inline]
    pub fn count(&mut self, stamped: &Stamped) {
        let events: u64 = stamped.priorities.iter().map(|count| u64::from(*count)).sum();
        self.datagrams += 1;
        if stamped.is_malformed {
            self.malformed_datagrams += 1;
            self.events_in_malformed += events;
            return;
        }
        self.events += events;
        self.duplicates += u64::from(stamped.duplicates);
        for (sum, count) in self.priorities.iter_mut().zip(stamped.priorities) {
            *sum += u64::from(count);
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.datagrams += other.datagrams;
        self.malformed_datagrams += other.malformed_datagrams;
        self.events += other.events;
        self.events_in_malformed += other.events_in_malformed;
        self.duplicates += other.duplicates;
        for (sum, count) in self.priorities.iter_mut().zip(other.priorities) {
            *sum += count;
        }
    }
}

/// One producer's way through a mix.
#[derive(Clone, Debug)]
pub struct Stamper {
    layout: Layout,
    producer: u64,
    sequence: u64,
    malformed_sequence: u64,
    random: u64,
    duplicate_threshold: u64,
    malformed_threshold: u64,
}

/// What one datagram's stamping carries from event to event.
struct Numbering {
    producer: [u8; 8],
    next: u64,
    random: u64,
    stamped: Stamped,
}

impl Stamper {
    /// The stamper of one flow: a queue or a connection, with a producer number of its own.
    ///
    /// # Panics
    /// When `flow` carries the producer number into the half that marks malformed datagrams.
    pub fn new(layout: &Layout, flow: u64) -> Self {
        let producer = layout.mix.producer + flow;
        assert!(producer < PRODUCER_MALFORMED, "producer {producer} is in the half for malformed datagrams");
        Self {
            layout: layout.clone(),
            producer,
            sequence: 0,
            malformed_sequence: 0,
            random: 0,
            duplicate_threshold: threshold(layout.mix.duplicates),
            malformed_threshold: threshold(layout.mix.malformed),
        }
    }

    pub fn producer(&self) -> u64 {
        self.producer
    }

    /// The next event's sequence: so many different events have been stamped into well-formed datagrams.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Makes a template, or a datagram stamped earlier, the next datagram.
    ///
    /// # Panics
    /// When `datagram` is not as long as the layout's template.
    #[inline]
    pub fn stamp(&mut self, datagram: &mut [u8], sent_time_ns: u64) -> Stamped {
        assert_eq!(datagram.len(), self.layout.datagram_bytes(), "the buffer is no template of this layout");
        let random = advance(self.random);
        let is_malformed = random >> 32 < self.malformed_threshold;
        let mut numbering = Numbering {
            producer: self.producer.to_be_bytes(),
            next: self.sequence,
            random,
            stamped: Stamped { is_malformed, ..Stamped::default() },
        };
        if is_malformed {
            numbering.producer = (self.producer | PRODUCER_MALFORMED).to_be_bytes();
            numbering.next = self.malformed_sequence;
        }
        for frame in datagram.chunks_exact_mut(self.layout.mix.frame_bytes) {
            let sequence = numbering.pick(self.duplicate_threshold);
            self.layout.write_event(frame, &mut numbering, sequence, sent_time_ns);
        }
        self.random = numbering.random;
        if is_malformed {
            self.malformed_sequence = numbering.next;
            let last = datagram.len() - self.layout.mix.frame_bytes;
            datagram[last + FLAGS_AT] = self.layout.flags() | FLAG_RESERVED;
        } else {
            self.sequence = numbering.next;
        }
        numbering.stamped
    }
}

impl Numbering {
    /// The sequence to stamp: the next one, or now and then one of the last few again.
    #[inline(always)]
    fn pick(&mut self, duplicate_threshold: u64) -> u64 {
        if duplicate_threshold != 0 {
            self.random = advance(self.random);
            if self.random >> 32 < duplicate_threshold && self.next >= DUPLICATE_DISTANCE {
                self.stamped.duplicates += 1;
                return self.next - 1 - (self.random >> 16) % DUPLICATE_DISTANCE;
            }
        }
        let sequence = self.next;
        self.next += 1;
        sequence
    }
}

impl Layout {
    #[inline(always)]
    fn write_event(&self, frame: &mut [u8], numbering: &mut Numbering, sequence: u64, sent_time_ns: u64) {
        let spread = blast::spread(sequence);
        let priority = priority_within(self.mix.priorities, spread);
        numbering.stamped.priorities[usize::from(priority)] += 1;
        frame[FLAGS_AT] = self.flags() | priority;
        let sequence = sequence.to_be_bytes();
        if self.mix.ids {
            frame[ID_AT..ID_AT + 8].copy_from_slice(&numbering.producer);
            frame[ID_AT + 8..ID_AT + 16].copy_from_slice(&sequence);
        }
        if self.mix.timestamps {
            frame[self.time_at..self.time_at + TIME_BYTES].copy_from_slice(&sent_time_ns.to_be_bytes());
        }
        let digits = blast::topic_digits(blast::topic_of(spread, self.mix.topics)).to_le_bytes();
        let varying = &mut frame[self.digits_at..][..TOPIC_DIGITS as usize + 8];
        varying[..TOPIC_DIGITS as usize].copy_from_slice(&digits[..TOPIC_DIGITS as usize]);
        varying[TOPIC_DIGITS as usize..].copy_from_slice(&sequence);
    }
}

/// The priority for a spread sequence, from its lower half: for 0 to 4 what [`blast::priority_of`] says.
#[inline(always)]
pub(super) fn priority_within((low, high): (u8, u8), spread: u64) -> u8 {
    let count = u64::from(high - low) + 1;
    low + (((spread & 0xffff_ffff) * count) >> 32) as u8
}

/// A share in ten-thousandths as a bound for the upper half of a random number.
fn threshold(share: u32) -> u64 {
    // Rounded up, so that a share of one exceeds every 32-bit number.
    u64::from(share) * ((1 << 32) / u64::from(SHARE_ONE) + 1)
}

/// The next state of a 64-bit linear congruential generator; its upper half is random enough to pick by.
#[inline(always)]
fn advance(random: u64) -> u64 {
    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use eventstream::frame::{FrameView, Limits, Parser, Priority, Transport};
    use eventstream::metrics::MalformedReason;

    use super::*;
    use crate::mix::Mix;

    fn mix() -> Mix {
        Mix { ids: true, duplicates: 100, ..Mix::default() }
    }

    #[test]
    fn ids_are_unique_apart_from_duplicates_and_duplicates_are_equal() {
        let layout = mix().layout().unwrap();
        let (mut stamper, mut datagram) = (Stamper::new(&layout, 2), layout.template());
        let (mut tally, mut seen, mut repeats) = (Tally::default(), HashMap::new(), 0_u64);
        for _ in 0..5_000 {
            tally.count(&stamper.stamp(&mut datagram, 0));
            for frame in datagram.chunks(64) {
                assert_eq!(frame[7..15], 3_u64.to_be_bytes(), "producer 1, flow 2");
                assert_eq!(frame[15..23], frame[34..42], "the payload carries the sequence");
                if let Some(earlier) = seen.insert(frame[7..23].to_vec(), frame.to_vec()) {
                    assert_eq!(earlier, frame, "a duplicate is the same event");
                    repeats += 1;
                }
            }
        }
        assert_eq!(tally.events, 5_000 * 23);
        assert_eq!(tally.duplicates, repeats);
        assert_eq!(tally.events - tally.duplicates, stamper.sequence());
        assert_eq!(tally.priorities.iter().sum::<u64>(), tally.events);
        assert!((1_000..1_300).contains(&repeats), "1 % of 115,000: {repeats}");
    }

    #[test]
    fn shares_are_what_was_asked_for() {
        let mix = Mix { malformed: 500, priorities: (1, 3), ..mix() };
        let layout = mix.layout().unwrap();
        let (mut stamper, mut datagram) = (Stamper::new(&layout, 0), layout.template());
        let mut tally = Tally::default();
        for _ in 0..20_000 {
            tally.count(&stamper.stamp(&mut datagram, 0));
        }
        assert_eq!(tally.datagrams, 20_000);
        assert!((900..1_100).contains(&tally.malformed_datagrams), "5 %: {tally:?}");
        assert_eq!(tally.events_in_malformed, tally.malformed_datagrams * 23);
        assert_eq!(tally.events, (20_000 - tally.malformed_datagrams) * 23);
        let [none, low, medium, high, still_none] = tally.priorities;
        assert_eq!((none, still_none), (0, 0));
        for count in [low, medium, high] {
            assert!(count.abs_diff(tally.events / 3) < tally.events / 100, "{tally:?}");
        }
    }

    #[test]
    fn malformed_datagrams_leave_no_gap_and_no_trace() {
        let layout = Mix { malformed: 5_000, ..mix() }.layout().unwrap();
        let (mut stamper, mut datagram) = (Stamper::new(&layout, 0), layout.template());
        let mut next = 0;
        for _ in 0..1_000 {
            let stamped = stamper.stamp(&mut datagram, 0);
            let reserved = datagram.chunks(64).filter(|frame| frame[4] & FLAGS_RESERVED != 0).count();
            assert_eq!(reserved, usize::from(stamped.is_malformed), "exactly one frame of a malformed datagram");
            let producer = u64::from_be_bytes(datagram[7..15].try_into().unwrap());
            assert_eq!(producer & PRODUCER_MALFORMED != 0, stamped.is_malformed);
            for frame in datagram.chunks(64).filter(|_| !stamped.is_malformed) {
                let sequence = u64::from_be_bytes(frame[15..23].try_into().unwrap());
                assert!(sequence <= next, "{sequence} after {next}");
                next = next.max(sequence + 1);
            }
        }
    }

    #[test]
    fn the_engine_reads_what_was_stamped() {
        let limits = Limits { frame_bytes: 1 << 20, topic_bytes: 255 };
        let parser = Parser::new(limits, Transport::Udp, Priority::Critical, 1);
        for (ids, timestamps) in [(true, true), (true, false), (false, true), (false, false)] {
            let mix = Mix { ids, timestamps, topic_prefix: "a/b/".to_owned(), ..Mix::default() };
            let layout = mix.layout().unwrap();
            let (mut stamper, mut datagram) = (Stamper::new(&layout, 0), layout.template());
            let (mut frames, mut sequence) = (Vec::new(), 0_u64);
            for _ in 0..100 {
                stamper.stamp(&mut datagram, 77);
                parser.datagram(&datagram, &mut frames).unwrap();
                assert_eq!(frames.len(), 23);
                for frame in &frames {
                    let bytes = &datagram[frame.offset as usize..][..frame.length as usize];
                    let view = FrameView::new(bytes, frame.shape);
                    assert_eq!(view.topic(), layout.topic(sequence));
                    assert_eq!(view.priority() as u8, layout.priority(sequence));
                    assert_eq!(view.payload()[..8], sequence.to_be_bytes());
                    assert_eq!(view.id().is_some(), ids);
                    assert_eq!(view.sent_time_ns(), timestamps.then_some(77));
                    sequence += 1;
                }
            }
        }
    }

    #[test]
    fn the_engine_refuses_a_malformed_datagram() {
        let limits = Limits { frame_bytes: 1 << 20, topic_bytes: 255 };
        let parser = Parser::new(limits, Transport::Udp, Priority::Critical, 1);
        let layout = Mix { malformed: SHARE_ONE, ..mix() }.layout().unwrap();
        let (mut stamper, mut datagram) = (Stamper::new(&layout, 0), layout.template());
        for _ in 0..100 {
            assert!(stamper.stamp(&mut datagram, 0).is_malformed);
            let refused = parser.datagram(&datagram, &mut Vec::new()).unwrap_err();
            assert_eq!(refused.reason, MalformedReason::ReservedFlag);
        }
    }
}
