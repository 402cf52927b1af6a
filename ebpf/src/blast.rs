//! The load-stamping program's maps, and the template datagram it stamps.
//!
//! The program runs on the sender's end of a veth pair through `BPF_PROG_TEST_RUN` with live frames: the kernel hands it
//! copies of one template, it stamps what must differ between datagrams and returns `XDP_TX`. Everything that stays the
//! same is laid down once by [`write_template`], so that a run is a few stores an event. Frames come back to it with the
//! last stamps still in them, therefore it writes every byte that can vary, every time.
//!
//! An event with sequence `s` has priority [`priority_of`]`(s)` and topic [`topic_of`]`(s)`: a duplicate is the same
//! sequence stamped again, and is the same event in every byte. Malformed datagrams take their sequences from a
//! numbering (and a producer number) of their own, so that they leave no gap among the events that count.

use core::mem::{offset_of, size_of};

/// Name of the program in the load object.
pub const BLAST_PROGRAM: &str = "blast";
/// Array with one [`BlastConfig`], written by userspace.
pub const BLAST_CONFIG: &str = "BLAST_CONFIG";
/// Per-CPU array with one [`BlastState`], written by the program; userspace zeroes it to start over.
pub const BLAST_STATE: &str = "BLAST_STATE";

/// Events a datagram can hold: what fits 1,472 bytes at 64 bytes an event.
pub const EVENTS_MAX: u32 = 23;
/// Bytes of an event's frame, length field included. The bound keeps 23 of them within what the verifier follows.
pub const FRAME_BYTES_MAX: u32 = 1_472;
/// Ethernet, IPv4 without options, UDP: where the first frame of a template starts.
pub const FIRST_FRAME: u32 = 14 + 20 + 8;
/// Length, flags, topic length.
pub const FRAME_HEADER_BYTES: u32 = 7;
pub const EVENT_ID_BYTES: u32 = 16;
/// Topics are this prefix and [`TOPIC_DIGITS`] decimal digits: `load/000123`.
pub const TOPIC_PREFIX: [u8; 5] = *b"load/";
pub const TOPIC_DIGITS: u32 = 6;
pub const TOPIC_BYTES: u32 = TOPIC_PREFIX.len() as u32 + TOPIC_DIGITS;
/// What six digits can name.
pub const TOPICS_MAX: u32 = 1_000_000;
/// The payload starts with the event's sequence.
pub const SEQUENCE_BYTES: u32 = 8;

/// Shares are given in ten-thousandths.
pub const SHARE_ONE: u32 = 10_000;
/// [`BlastConfig::priority`] for priorities 0 to 4, equally often.
pub const PRIORITY_UNIFORM: u32 = 0xff;
pub const PRIORITY_COUNT: usize = 5;
/// Frame flag: an event id follows the header.
pub const FLAG_ID: u8 = 0x80;
/// Frame flag that makes a frame malformed; set on the last frame of a malformed datagram.
pub const FLAG_RESERVED: u8 = 0x10;
/// Set in the producer number of events in malformed datagrams.
pub const PRODUCER_MALFORMED: u64 = 1 << 63;
/// A duplicate repeats one of this many last events.
pub const DUPLICATE_DISTANCE: u64 = 8;

/// What to stamp. Build it with [`BlastConfig::new`] and write it with [`BlastConfig::to_bytes`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlastConfig {
    /// The event ids' first half; the program adds the number of its CPU.
    pub producer: u64,
    /// 1 to [`EVENTS_MAX`].
    pub events: u32,
    /// Bytes of each frame, length field included.
    pub frame_bytes: u32,
    /// Where the first frame starts in the packet.
    pub first_frame: u32,
    /// Where the event id starts in a frame; 0 for events without one.
    pub id_at: u32,
    /// Where the topic's digits start in a frame. They end the topic, and the payload's sequence follows.
    pub digits_at: u32,
    /// 1 to [`TOPICS_MAX`].
    pub topics: u32,
    /// 0 to 4, or [`PRIORITY_UNIFORM`].
    pub priority: u32,
    /// Duplicates among the events, in ten-thousandths.
    pub duplicates: u32,
    /// Malformed ones among the datagrams, in ten-thousandths.
    pub malformed: u32,
    /// Zero; keeps the value a multiple of eight bytes.
    pub reserved: u32,
}

/// One CPU's numbering and what it handed to `XDP_TX`. Zeroed by userspace, never written while a run is going on.
///
/// Events in malformed datagrams are not in `events`: a receiver rejects such a datagram whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlastState {
    /// The next event's sequence: so many different events have been sent.
    pub sequence: u64,
    pub malformed_sequence: u64,
    /// State of the generator that picks duplicates and malformed datagrams.
    pub random: u64,
    /// All datagrams, malformed ones included.
    pub datagrams: u64,
    pub malformed_datagrams: u64,
    /// Events in well-formed datagrams, duplicates included.
    pub events: u64,
    pub duplicates: u64,
    /// `events` by priority.
    pub priorities: [u64; PRIORITY_COUNT],
    /// Runs whose packet did not fit the configuration: dropped, and a mistake of the caller's.
    pub misfits: u64,
}

const _: () = {
    assert!(size_of::<BlastConfig>() == 48);
    assert!(offset_of!(BlastConfig, events) == 8);
    assert!(offset_of!(BlastConfig, malformed) == 40);
    assert!(size_of::<BlastState>() == 104);
    assert!(offset_of!(BlastState, datagrams) == 24);
    assert!(offset_of!(BlastState, priorities) == 56);
    // The verifier gives up on packet offsets beyond 16 bits.
    assert!(FIRST_FRAME + (EVENTS_MAX + 1) * FRAME_BYTES_MAX < 0xffff);
};

/// Spreads sequences over priorities and topics: the golden ratio in 64 bits, as in Fibonacci hashing.
#[inline(always)]
pub const fn spread(sequence: u64) -> u64 {
    sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The topic of the event with this spread sequence, from its upper half.
#[inline(always)]
pub const fn topic_of(spread: u64, topics: u32) -> u32 {
    (((spread >> 32) * topics as u64) >> 32) as u32
}

/// The priority of the event with this spread sequence, from its lower half.
#[inline(always)]
pub const fn priority_of(spread: u64) -> u8 {
    (((spread & 0xffff_ffff) * PRIORITY_COUNT as u64) >> 32) as u8
}

/// The decimal digits of a topic number below [`TOPICS_MAX`] as ASCII, first digit in the lowest byte, two zero bytes
/// above. Eight digits are split in halves three times, all at once, because a division costs a BPF program as much as
/// the rest of an event's stamping.
#[inline(always)]
pub const fn topic_digits(topic: u32) -> u64 {
    let topic = topic as u64;
    // Reciprocals, exact in these ranges: topic < 10^6, then lanes below 10^4, then lanes below 100.
    let upper = (topic * 109_951_163) >> 40;
    let fours = upper | ((topic - upper * 10_000) << 32);
    let upper = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let pairs = upper | ((fours - upper * 100) << 16);
    let upper = ((pairs * 103) >> 10) & 0x000f_000f_000f_000f;
    let digits = upper | ((pairs - upper * 10) << 8);
    (digits | 0x3030_3030_3030_3030) >> 16
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub source: [u8; 4],
    pub destination: [u8; 4],
    pub source_port: u16,
    pub destination_port: u16,
}

/// Why a configuration cannot be stamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlastError {
    /// Not 1 to [`EVENTS_MAX`].
    Events,
    /// Shorter than header, id, topic and sequence, or longer than [`FRAME_BYTES_MAX`].
    FrameBytes,
    /// Not 1 to [`TOPICS_MAX`].
    Topics,
    /// Neither 0 to 4 nor [`PRIORITY_UNIFORM`].
    Priority,
    /// A share above [`SHARE_ONE`], or duplicates of events without ids.
    Share,
    /// The buffer is shorter than [`BlastConfig::packet_bytes`].
    Buffer,
}

impl core::fmt::Display for BlastError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::Events => "events per datagram must be 1 to 23",
            Self::FrameBytes => "frame must hold header, id, topic and 8 bytes, and be at most 1472 bytes",
            Self::Topics => "topics must be 1 to 1000000",
            Self::Priority => "priority must be 0 to 4, or uniform",
            Self::Share => "shares must be at most 10000, and duplicates need event ids",
            Self::Buffer => "the buffer is shorter than the packet",
        })
    }
}

impl core::error::Error for BlastError {}

impl BlastConfig {
    /// The layout of [`write_template`], checked: everything the program later relies on is within bounds.
    pub fn new(events: u32, frame_bytes: u32, with_ids: bool) -> Result<Self, BlastError> {
        if events == 0 || events > EVENTS_MAX {
            return Err(BlastError::Events);
        }
        let id_bytes = if with_ids { EVENT_ID_BYTES } else { 0 };
        let topic_at = FRAME_HEADER_BYTES + id_bytes;
        let sequence_at = topic_at + TOPIC_BYTES;
        if frame_bytes < sequence_at + SEQUENCE_BYTES || frame_bytes > FRAME_BYTES_MAX {
            return Err(BlastError::FrameBytes);
        }
        Ok(Self {
            producer: 1,
            events,
            frame_bytes,
            first_frame: FIRST_FRAME,
            id_at: if with_ids { FRAME_HEADER_BYTES } else { 0 },
            digits_at: topic_at + TOPIC_PREFIX.len() as u32,
            topics: 1,
            priority: PRIORITY_UNIFORM,
            duplicates: 0,
            malformed: 0,
            reserved: 0,
        })
    }

    /// The rest of the configuration, checked.
    pub fn with_mix(self, topics: u32, priority: u32, duplicates: u32, malformed: u32) -> Result<Self, BlastError> {
        if topics == 0 || topics > TOPICS_MAX {
            return Err(BlastError::Topics);
        }
        if priority >= PRIORITY_COUNT as u32 && priority != PRIORITY_UNIFORM {
            return Err(BlastError::Priority);
        }
        if duplicates > SHARE_ONE || malformed > SHARE_ONE || (duplicates > 0 && self.id_at == 0) {
            return Err(BlastError::Share);
        }
        Ok(Self { topics, priority, duplicates, malformed, ..self })
    }

    /// Bytes of a packet with this many events.
    pub const fn packet_bytes(&self) -> usize {
        (self.first_frame + self.events * self.frame_bytes) as usize
    }

    /// The map value.
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        bytes[..8].copy_from_slice(&self.producer.to_ne_bytes());
        let fields = [
            self.events,
            self.frame_bytes,
            self.first_frame,
            self.id_at,
            self.digits_at,
            self.topics,
            self.priority,
            self.duplicates,
            self.malformed,
            self.reserved,
        ];
        for (chunk, field) in bytes[8..].chunks_exact_mut(4).zip(fields) {
            chunk.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

impl BlastState {
    /// One CPU's value as read from the map; `None` if it is not [`BlastState`]'s size.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        let word = |index: usize| -> Option<u64> { Some(u64::from_ne_bytes(*bytes.get(index * 8..)?.first_chunk()?)) };
        Some(Self {
            sequence: word(0)?,
            malformed_sequence: word(1)?,
            random: word(2)?,
            datagrams: word(3)?,
            malformed_datagrams: word(4)?,
            events: word(5)?,
            duplicates: word(6)?,
            priorities: [word(7)?, word(8)?, word(9)?, word(10)?, word(11)?],
            misfits: word(12)?,
        })
    }
}

/// Writes the packet the program stamps and returns its length: Ethernet, IPv4, UDP without checksum (zero, which IPv4
/// allows: stamping would have to mend it), and the configured number of frames.
pub fn write_template(packet: &mut [u8], endpoints: &Endpoints, config: &BlastConfig) -> Result<usize, BlastError> {
    let byte_count = config.packet_bytes();
    let packet = packet.get_mut(..byte_count).ok_or(BlastError::Buffer)?;
    let (headers, frames) = packet.split_at_mut(FIRST_FRAME as usize);
    write_headers(headers, endpoints, frames.len() as u16);
    for frame in frames.chunks_exact_mut(config.frame_bytes as usize) {
        write_frame(frame, config);
    }
    Ok(byte_count)
}

fn write_headers(headers: &mut [u8], endpoints: &Endpoints, payload_bytes: u16) {
    headers[..6].copy_from_slice(&endpoints.destination_mac);
    headers[6..12].copy_from_slice(&endpoints.source_mac);
    headers[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
    let ip = &mut headers[14..34];
    // Version and header length, no service class, length; no id, don't fragment; TTL 64, UDP, checksum to come.
    ip[..2].copy_from_slice(&[0x45, 0]);
    ip[2..4].copy_from_slice(&(payload_bytes + 28).to_be_bytes());
    ip[4..12].copy_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip[12..16].copy_from_slice(&endpoints.source);
    ip[16..20].copy_from_slice(&endpoints.destination);
    let sum: u32 = ip.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    let checksum = !((sum >> 16) + sum) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let udp = &mut headers[34..42];
    udp[..2].copy_from_slice(&endpoints.source_port.to_be_bytes());
    udp[2..4].copy_from_slice(&endpoints.destination_port.to_be_bytes());
    udp[4..6].copy_from_slice(&(payload_bytes + 8).to_be_bytes());
    udp[6..8].copy_from_slice(&[0, 0]);
}

fn write_frame(frame: &mut [u8], config: &BlastConfig) {
    frame.fill(b'.');
    let following = config.frame_bytes - 4;
    frame[..4].copy_from_slice(&following.to_be_bytes());
    frame[4] = if config.id_at == 0 { 0 } else { FLAG_ID };
    frame[5..7].copy_from_slice(&(TOPIC_BYTES as u16).to_be_bytes());
    let digits_at = config.digits_at as usize;
    frame[digits_at - TOPIC_PREFIX.len()..digits_at].copy_from_slice(&TOPIC_PREFIX);
    frame[digits_at..digits_at + TOPIC_DIGITS as usize].fill(b'0');
}
