//! UDP checksum verification (RFC 768, RFC 8200 section 8.1), shared with the XDP program.
//!
//! The sum is taken over native-endian words: whether the folded sum is all ones does not depend on byte order
//! (RFC 1071), and so the program needs no swap per word.

use crate::packet::Packet;

/// UDP header and payload that can be verified: the most a 4096-byte UMEM frame can hold. The bound is what lets the
/// verifier see the loop end.
pub const VERIFIED_BYTES_MAX: usize = 4_096;

const UDP_PROTOCOL: u16 = 17;

/// Adds the eight bytes as two 32-bit words: a 64-bit sum of them cannot overflow within [`VERIFIED_BYTES_MAX`].
#[inline(always)]
fn words(bytes: [u8; 8]) -> u64 {
    let both = u64::from_ne_bytes(bytes);
    (both >> 32) + (both & 0xffff_ffff)
}

/// The pseudo-header's share of the sum: addresses (IPv4: eight bytes, IPv6: thirty-two), protocol and UDP length.
#[inline(always)]
pub fn pseudo_header<P: Packet + ?Sized>(packet: &P, addresses_at: usize, is_v6: bool, udp_bytes: u16) -> Option<u64> {
    let mut sum = u64::from(UDP_PROTOCOL.to_be()) + u64::from(udp_bytes.to_be());
    sum += words(packet.bytes(addresses_at)?);
    if is_v6 {
        sum += words(packet.bytes(addresses_at + 8)?);
        sum += words(packet.bytes(addresses_at + 16)?);
        sum += words(packet.bytes(addresses_at + 24)?);
    }
    Some(sum)
}

/// Whether `seed` plus the UDP datagram of `byte_count` bytes at `position` folds to all ones. `byte_count` is at least a
/// UDP header and at most [`VERIFIED_BYTES_MAX`].
///
/// What is left behind the last whole eight bytes is taken first, so that nothing but the sum is alive where the loop
/// can end: otherwise the verifier follows a different rest for every number of rounds, and gives up.
#[inline(always)]
pub fn folds_to_ones<P: Packet + ?Sized>(packet: &P, position: usize, byte_count: usize, seed: u64) -> bool {
    let mut sum = seed;
    let rest = byte_count % 8;
    if rest != 0 {
        let Some(last) = packet.bytes(position + byte_count - 8) else {
            return false;
        };
        // In little-endian the last bytes in memory are the uppermost; moved down they are followed by zeroes.
        let last = u64::from_le_bytes(last) >> (64 - 8 * rest);
        sum += words(last.to_le_bytes());
    }
    for round in 0..VERIFIED_BYTES_MAX / 8 {
        if round >= byte_count / 8 {
            break;
        }
        let Some(bytes) = packet.bytes(position + 8 * round) else {
            return false;
        };
        sum += words(bytes);
    }
    fold(sum) == 0xffff
}

#[inline(always)]
fn fold(sum: u64) -> u64 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum >> 16) + (sum & 0xffff)
}
