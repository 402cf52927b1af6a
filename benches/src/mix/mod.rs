//! What is sent: which event carries which sequence, topic, priority and id, and where those stand in a frame.
//!
//! [`Mix`] is the description, checked once; [`Stamper`] walks through it, one datagram at a time, writing only the bytes
//! that differ between datagrams into a template laid down beforehand. Both follow the in-kernel stamping program
//! ([`eventstream_steer::blast`]) byte for byte where it can do the same, so that a receiver verifies either with the same
//! arithmetic: everything about an event follows from its sequence.
//!
//! Invariant: a duplicate equals an earlier event of the same producer in every byte but the sent time.

mod stamper;

use std::fmt;

use eventstream::frame::{FLAG_ID, FLAG_TIME, HEADER_BYTES, LENGTH_BYTES};
use eventstream_steer::blast::{self, EVENT_ID_BYTES, SEQUENCE_BYTES, SHARE_ONE, TOPIC_DIGITS, TOPICS_MAX};

pub use stamper::{Stamped, Stamper, Tally};

/// Priorities an event can have.
pub const PRIORITY_COUNT: usize = blast::PRIORITY_COUNT;
/// The largest UDP payload over IPv4.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Producer numbers end here: above 2^63 they mark malformed datagrams, and flows count up from what was given.
const PRODUCER_END: u64 = blast::PRODUCER_MALFORMED / 2;

const FLAGS_AT: usize = LENGTH_BYTES;
const TOPIC_LENGTH_AT: usize = FLAGS_AT + 1;
const ID_AT: usize = LENGTH_BYTES + HEADER_BYTES;
const TIME_BYTES: usize = 8;

/// What to send. Start from [`Mix::default`], set what differs, and let [`Mix::layout`] check it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    pub events_per_datagram: usize,
    /// Bytes of a frame, length field included.
    pub frame_bytes: usize,
    pub topics: u32,
    /// Topics are this prefix and six digits.
    pub topic_prefix: String,
    /// Lowest and highest priority; those between are equally frequent.
    pub priorities: (u8, u8),
    pub ids: bool,
    pub timestamps: bool,
    /// Duplicates among the events, in ten-thousandths.
    pub duplicates: u32,
    /// Malformed ones among the datagrams, in ten-thousandths.
    pub malformed: u32,
    /// First half of the event ids; every further flow of the same sender adds one.
    pub producer: u64,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            events_per_datagram: 23,
            frame_bytes: 64,
            topics: 1_000,
            topic_prefix: "load/".to_owned(),
            priorities: (0, 4),
            ids: false,
            timestamps: false,
            duplicates: 0,
            malformed: 0,
            producer: 1,
        }
    }
}

/// Why a mix cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MixError {
    Events(usize),
    /// What was asked for, and the least that holds header, id, time, topic and sequence.
    FrameBytes(usize, usize),
    DatagramBytes(usize),
    Topics(u32),
    TopicPrefix(String),
    Priorities(u8, u8),
    Share(&'static str, u32),
    DuplicatesWithoutIds,
    Producer(u64),
}

impl fmt::Display for MixError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Events(events) => write!(formatter, "events per datagram {events}: must be at least 1"),
            Self::FrameBytes(bytes, least) => {
                write!(formatter, "frame bytes {bytes}: header, topic and payload need at least {least}")
            }
            Self::DatagramBytes(bytes) => {
                write!(formatter, "datagrams of {bytes} bytes: at most {DATAGRAM_BYTES_MAX} fit in UDP")
            }
            Self::Topics(topics) => write!(formatter, "topics {topics}: must be 1 to {TOPICS_MAX}"),
            Self::TopicPrefix(prefix) => {
                write!(formatter, "topic prefix {prefix:?}: at most 249 bytes, without NUL, '+' and '#', not '$esc/'")
            }
            Self::Priorities(low, high) => {
                write!(formatter, "priorities {low}-{high}: must be within 0-4, lowest first")
            }
            Self::Share(name, share) => {
                write!(formatter, "{name} {share}: must be at most {SHARE_ONE} ten-thousandths")
            }
            Self::DuplicatesWithoutIds => write!(formatter, "duplicates need event ids"),
            Self::Producer(producer) => {
                write!(formatter, "producer {producer}: must be below 2^62")
            }
        }
    }
}

impl std::error::Error for MixError {}

/// A checked mix: where in a frame the parts that vary stand.
#[derive(Clone, Debug)]
pub struct Layout {
    mix: Mix,
    time_at: usize,
    topic_at: usize,
    digits_at: usize,
    sequence_at: usize,
}

impl Mix {
    /// Checks everything [`Stamper`] relies on.
    pub fn layout(&self) -> Result<Layout, MixError> {
        let prefix = self.topic_prefix.as_bytes();
        if self.events_per_datagram == 0 {
            return Err(MixError::Events(0));
        }
        if self.topics == 0 || self.topics > TOPICS_MAX {
            return Err(MixError::Topics(self.topics));
        }
        let is_forbidden = |byte: &u8| matches!(byte, 0 | b'+' | b'#');
        if prefix.len() > 249 || prefix.iter().any(is_forbidden) || self.topic_prefix.starts_with("$esc/") {
            return Err(MixError::TopicPrefix(self.topic_prefix.clone()));
        }
        let (low, high) = self.priorities;
        if low > high || usize::from(high) >= PRIORITY_COUNT {
            return Err(MixError::Priorities(low, high));
        }
        for (name, share) in [("duplicates", self.duplicates), ("malformed", self.malformed)] {
            if share > SHARE_ONE {
                return Err(MixError::Share(name, share));
            }
        }
        if self.duplicates > 0 && !self.ids {
            return Err(MixError::DuplicatesWithoutIds);
        }
        if self.producer >= PRODUCER_END {
            return Err(MixError::Producer(self.producer));
        }
        let time_at = ID_AT + if self.ids { EVENT_ID_BYTES as usize } else { 0 };
        let topic_at = time_at + if self.timestamps { TIME_BYTES } else { 0 };
        let digits_at = topic_at + prefix.len();
        let sequence_at = digits_at + TOPIC_DIGITS as usize;
        let least = sequence_at + SEQUENCE_BYTES as usize;
        if self.frame_bytes < least {
            return Err(MixError::FrameBytes(self.frame_bytes, least));
        }
        let datagram_bytes = self.frame_bytes.saturating_mul(self.events_per_datagram);
        if datagram_bytes > DATAGRAM_BYTES_MAX {
            return Err(MixError::DatagramBytes(datagram_bytes));
        }
        Ok(Layout { mix: self.clone(), time_at, topic_at, digits_at, sequence_at })
    }
}

impl Layout {
    pub fn mix(&self) -> &Mix {
        &self.mix
    }

    /// Bytes of every datagram.
    pub fn datagram_bytes(&self) -> usize {
        self.mix.events_per_datagram * self.mix.frame_bytes
    }

    /// Topic of the event with this sequence, as the receiver sees it.
    pub fn topic(&self, sequence: u64) -> String {
        let topic = blast::topic_of(blast::spread(sequence), self.mix.topics);
        format!("{}{topic:06}", self.mix.topic_prefix)
    }

    /// Priority of the event with this sequence.
    pub fn priority(&self, sequence: u64) -> u8 {
        stamper::priority_within(self.mix.priorities, blast::spread(sequence))
    }

    /// A datagram with everything that is the same in all of them; [`Stamper::stamp`] makes it one that can be sent.
    pub fn template(&self) -> Vec<u8> {
        let mut datagram = vec![b'.'; self.datagram_bytes()];
        let prefix = self.mix.topic_prefix.as_bytes();
        for frame in datagram.chunks_exact_mut(self.mix.frame_bytes) {
            let following = (self.mix.frame_bytes - LENGTH_BYTES) as u32;
            let topic_bytes = (prefix.len() + TOPIC_DIGITS as usize) as u16;
            frame[..LENGTH_BYTES].copy_from_slice(&following.to_be_bytes());
            frame[FLAGS_AT] = self.flags();
            frame[TOPIC_LENGTH_AT..ID_AT].copy_from_slice(&topic_bytes.to_be_bytes());
            frame[self.topic_at..self.digits_at].copy_from_slice(prefix);
            frame[self.digits_at..self.sequence_at].fill(b'0');
        }
        datagram
    }

    fn flags(&self) -> u8 {
        (if self.mix.ids { FLAG_ID } else { 0 }) | (if self.mix.timestamps { FLAG_TIME } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_sent_is_refused_by_name() {
        let refused = |change: fn(&mut Mix)| {
            let mut mix = Mix { ids: true, ..Mix::default() };
            change(&mut mix);
            mix.layout().unwrap_err()
        };
        assert_eq!(refused(|mix| mix.events_per_datagram = 0), MixError::Events(0));
        assert_eq!(refused(|mix| mix.frame_bytes = 41), MixError::FrameBytes(41, 42));
        assert_eq!(refused(|mix| mix.events_per_datagram = 1_024), MixError::DatagramBytes(65_536));
        assert_eq!(refused(|mix| mix.topics = 0), MixError::Topics(0));
        assert_eq!(refused(|mix| mix.topics = 1_000_001), MixError::Topics(1_000_001));
        assert_eq!(refused(|mix| mix.topic_prefix = "a/#/".into()), MixError::TopicPrefix("a/#/".into()));
        assert_eq!(refused(|mix| mix.topic_prefix = "$esc/".into()), MixError::TopicPrefix("$esc/".into()));
        assert_eq!(refused(|mix| mix.priorities = (3, 2)), MixError::Priorities(3, 2));
        assert_eq!(refused(|mix| mix.priorities = (0, 5)), MixError::Priorities(0, 5));
        assert_eq!(refused(|mix| mix.malformed = 10_001), MixError::Share("malformed", 10_001));
        assert_eq!(refused(|mix| mix.producer = 1 << 62), MixError::Producer(1 << 62));
        let without_ids = Mix { duplicates: 1, ..Mix::default() };
        assert_eq!(without_ids.layout().unwrap_err(), MixError::DuplicatesWithoutIds);
    }

    #[test]
    fn the_smallest_frames_hold_what_they_must() {
        for (ids, timestamps, least) in [(false, false, 26), (true, false, 42), (false, true, 34), (true, true, 50)] {
            let mix = Mix { ids, timestamps, frame_bytes: least, ..Mix::default() };
            assert_eq!(mix.layout().unwrap().template().len(), 23 * least);
            let mix = Mix { frame_bytes: least - 1, ..mix };
            assert_eq!(mix.layout().unwrap_err(), MixError::FrameBytes(least - 1, least));
        }
    }
}
