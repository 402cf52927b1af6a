//! When a packet was seen: a stamp that the steering program lays before one packet in [`STAMP_INTERVAL`].
//!
//! It lies in the packet's metadata, the [`STAMP_BYTES`] before its first byte, by `bpf_xdp_adjust_meta`. In zero-copy mode
//! the program writes it where the socket's owner reads; in copy mode the kernel copies metadata along, in front of the
//! packet (`__xsk_rcv` in net/xdp/xsk.c). A driver that has no room for metadata answers with an error: then its packets
//! have no stamps, and nothing else is different.
//!
//! What lies before a packet without a stamp is whatever the frame held before, old stamps among it. A reader therefore
//! believes only what is newer than everything it has read of the queue.

/// Bytes of a stamp: a magic number, then nanoseconds of CLOCK_MONOTONIC.
pub const STAMP_BYTES: usize = 16;
/// Of so many steered packets of a queue and CPU the first is stamped: a stamp costs the program two calls, and an
/// estimate of a percentile does not gain from every packet.
pub const STAMP_INTERVAL: u64 = 64;

/// Unlikely in what else may lie before a packet; a driver's own metadata among it.
const MAGIC: [u8; 8] = *b"ESrxtime";

/// Whether the packet is to be stamped with which so many have been steered.
#[inline(always)]
pub const fn is_due(steered: u64) -> bool {
    steered % STAMP_INTERVAL == 1
}

/// The bytes that say that a packet was seen at `time_ns`.
#[inline(always)]
pub const fn stamp(time_ns: u64) -> [[u8; 8]; 2] {
    [MAGIC, time_ns.to_ne_bytes()]
}

/// The time in what lies before a packet, if it is a stamp. Input: it may be somebody else's or an old one.
#[inline(always)]
pub fn stamped_time(bytes: &[u8; STAMP_BYTES]) -> Option<u64> {
    let (magic, time) = bytes.split_first_chunk::<8>()?;
    (*magic == MAGIC).then_some(u64::from_ne_bytes(*time.first_chunk()?))
}
