//! Which packets are the engine's: a pure function of the packet and the policy.
//!
//! Runs in the XDP program, once per packet, and in userspace tests. A packet that is not certainly ours passes to the
//! kernel untouched; the checks are ordered so that traffic of others is counted by what it is (other port, not UDP)
//! before anything is said about its lengths. What steers is exactly what the engine can read where it lies: one whole
//! UDP datagram whose lengths agree, in one UMEM frame.
//!
//! No IPv4 header checksum is verified: a wrong one means a broken sender or link, which Ethernet's own check finds.

use crate::checksum::{self, VERIFIED_BYTES_MAX};
use crate::maps::{AddressKey, MODE_STEER, SteerConfig, v4_mapped};
use crate::packet::Packet;

const ETHERNET_BYTES: usize = 14;
const VLAN_TAG_BYTES: usize = 4;
const VLAN_TAGS_MAX: usize = 2;
const IPV6_HEADER_BYTES: usize = 40;
/// Bytes of a UDP header, the least a UDP length can say.
pub const UDP_HEADER_BYTES: u16 = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

const PROTOCOL_UDP: u8 = 17;
const IPV6_FRAGMENT: u8 = 44;
/// More-fragments flag and fragment offset of an IPv4 header; either makes it a fragment.
const IPV4_FRAGMENT_MASK: u16 = 0x3fff;

/// What became of a packet: exactly one of these is counted for each run of the program.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Given to the AF_XDP socket of its queue.
    Steered = 0,
    /// Ours, but the engine is paused or draining: dropped.
    Refused = 1,
    /// Ours, but its UDP checksum is wrong: dropped.
    Filtered = 2,
    /// A header goes beyond the end of the packet.
    Truncated = 3,
    /// Neither IPv4 nor IPv6.
    NotIp = 4,
    /// More than two VLAN tags.
    VlanDepth = 5,
    /// IP version or header length contradict the Ethernet type or the standard.
    IpHeader = 6,
    /// A fragment, or an IPv6 packet with a fragment header.
    Fragment = 7,
    /// IPv6 with any other extension header.
    ExtensionHeader = 8,
    NotUdp = 9,
    OtherPort = 10,
    OtherAddress = 11,
    /// IP and UDP lengths disagree, say less than a header, or say more than the packet holds.
    LengthMismatch = 12,
    /// Does not fit a UMEM frame, or is longer than a checksum can be verified over.
    TooLarge = 13,
    /// Ours, but its queue has no AF_XDP socket.
    NoSocket = 14,
}

impl Verdict {
    pub const COUNT: usize = 15;

    /// Every verdict, at the index of its counter.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Steered,
        Self::Refused,
        Self::Filtered,
        Self::Truncated,
        Self::NotIp,
        Self::VlanDepth,
        Self::IpHeader,
        Self::Fragment,
        Self::ExtensionHeader,
        Self::NotUdp,
        Self::OtherPort,
        Self::OtherAddress,
        Self::LengthMismatch,
        Self::TooLarge,
        Self::NoSocket,
    ];

    /// The verdicts that leave the packet to the kernel.
    pub const PASSED: [Self; 12] = [
        Self::Truncated,
        Self::NotIp,
        Self::VlanDepth,
        Self::IpHeader,
        Self::Fragment,
        Self::ExtensionHeader,
        Self::NotUdp,
        Self::OtherPort,
        Self::OtherAddress,
        Self::LengthMismatch,
        Self::TooLarge,
        Self::NoSocket,
    ];

    /// The verdict's stable name, as metrics and reports use it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steered => "steered",
            Self::Refused => "refused",
            Self::Filtered => "filtered",
            Self::Truncated => "passed_truncated",
            Self::NotIp => "passed_not_ip",
            Self::VlanDepth => "passed_vlan_depth",
            Self::IpHeader => "passed_ip_header",
            Self::Fragment => "passed_fragment",
            Self::ExtensionHeader => "passed_extension_header",
            Self::NotUdp => "passed_not_udp",
            Self::OtherPort => "passed_other_port",
            Self::OtherAddress => "passed_other_address",
            Self::LengthMismatch => "passed_length_mismatch",
            Self::TooLarge => "passed_too_large",
            Self::NoSocket => "passed_no_socket",
        }
    }

    /// Whether the packet is left to the kernel.
    pub const fn is_passed(self) -> bool {
        !matches!(self, Self::Steered | Self::Refused | Self::Filtered)
    }
}

/// What the decision asks of its surroundings: the maps in the program, plain values in tests.
pub trait Policy {
    fn config(&self) -> SteerConfig;
    fn has_port(&self, port: u16) -> bool;
    fn has_address(&self, address: &AddressKey) -> bool;
}

/// Where a UDP datagram lies in a packet, from headers that were all there. The lengths are still only claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Headers {
    is_v6: bool,
    /// Source address; the destination follows it.
    addresses_at: usize,
    udp_at: usize,
    /// What the IP header leaves for UDP; less than nothing is zero.
    ip_payload_bytes: u16,
    udp_bytes: u16,
    destination_port: u16,
}

/// A whole UDP datagram in a packet: every position is within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub is_v6: bool,
    /// Position of the source address: 4 bytes for IPv4, 16 for IPv6.
    pub source_at: usize,
    /// Position of the UDP header, which starts with the source port.
    pub udp_at: usize,
    pub payload_at: usize,
    /// From the UDP header, never from the frame: Ethernet pads short ones.
    pub payload_bytes: usize,
}

impl Datagram {
    /// Finds the datagram in a packet, by the same steps as [`decide`]. For readers of steered frames.
    pub fn locate<P: Packet + ?Sized>(packet: &P) -> Result<Self, Verdict> {
        let headers = Headers::read(packet)?;
        headers.check_lengths(packet)?;
        Ok(Self {
            is_v6: headers.is_v6,
            source_at: headers.addresses_at,
            udp_at: headers.udp_at,
            payload_at: headers.udp_at + usize::from(UDP_HEADER_BYTES),
            payload_bytes: usize::from(headers.udp_bytes - UDP_HEADER_BYTES),
        })
    }
}

/// The verdict on a packet. [`Verdict::Steered`] means it is to be given to its queue's socket; whether there is one,
/// only the caller can find out ([`Verdict::NoSocket`] is never returned).
#[inline(always)]
pub fn decide<P: Packet + ?Sized>(packet: &P, policy: &impl Policy) -> Verdict {
    match ours(packet, policy) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

#[inline(always)]
fn ours<P: Packet + ?Sized>(packet: &P, policy: &impl Policy) -> Result<Verdict, Verdict> {
    let headers = Headers::read(packet)?;
    if !policy.has_port(headers.destination_port) {
        return Err(Verdict::OtherPort);
    }
    if !policy.has_address(&headers.destination(packet)?) {
        return Err(Verdict::OtherAddress);
    }
    headers.check_lengths(packet)?;
    let config = policy.config();
    if packet.byte_count() > config.frame_room as usize {
        return Err(Verdict::TooLarge);
    }
    if config.verify_checksum != 0 {
        headers.verify_checksum(packet)?;
    }
    if config.mode == MODE_STEER { Ok(Verdict::Steered) } else { Ok(Verdict::Refused) }
}

impl Headers {
    #[inline(always)]
    fn read<P: Packet + ?Sized>(packet: &P) -> Result<Self, Verdict> {
        let (ethertype, ip_at) = network_header(packet)?;
        match ethertype {
            ETHERTYPE_IPV4 => Self::read_v4(packet, ip_at),
            ETHERTYPE_IPV6 => Self::read_v6(packet, ip_at),
            ETHERTYPE_VLAN | ETHERTYPE_QINQ => Err(Verdict::VlanDepth),
            _ => Err(Verdict::NotIp),
        }
    }

    #[inline(always)]
    fn read_v4<P: Packet + ?Sized>(packet: &P, ip_at: usize) -> Result<Self, Verdict> {
        let header: [u8; 20] = packet.bytes(ip_at).ok_or(Verdict::Truncated)?;
        let header_bytes = (header[0] & 0x0f) * 4;
        if header[0] >> 4 != 4 || header_bytes < 20 {
            return Err(Verdict::IpHeader);
        }
        if header[9] != PROTOCOL_UDP {
            return Err(Verdict::NotUdp);
        }
        if u16::from_be_bytes([header[6], header[7]]) & IPV4_FRAGMENT_MASK != 0 {
            return Err(Verdict::Fragment);
        }
        let total_bytes = u16::from_be_bytes([header[2], header[3]]);
        Self {
            is_v6: false,
            addresses_at: ip_at + 12,
            udp_at: ip_at + usize::from(header_bytes),
            ip_payload_bytes: total_bytes.saturating_sub(u16::from(header_bytes)),
            udp_bytes: 0,
            destination_port: 0,
        }
        .with_udp(packet)
    }

    #[inline(always)]
    fn read_v6<P: Packet + ?Sized>(packet: &P, ip_at: usize) -> Result<Self, Verdict> {
        // The addresses are read later, by position; reading their end here shows that they are there.
        let start: [u8; 8] = packet.bytes(ip_at).ok_or(Verdict::Truncated)?;
        let _: [u8; 2] = packet.bytes(ip_at + IPV6_HEADER_BYTES - 2).ok_or(Verdict::Truncated)?;
        if start[0] >> 4 != 6 {
            return Err(Verdict::IpHeader);
        }
        match start[6] {
            PROTOCOL_UDP => {}
            IPV6_FRAGMENT => return Err(Verdict::Fragment),
            // Hop-by-hop, routing, ESP, AH, destination options, mobility, HIP, Shim6 (IANA's extension header types).
            0 | 43 | 50 | 51 | 60 | 135 | 139 | 140 => return Err(Verdict::ExtensionHeader),
            _ => return Err(Verdict::NotUdp),
        }
        Self {
            is_v6: true,
            addresses_at: ip_at + 8,
            udp_at: ip_at + IPV6_HEADER_BYTES,
            ip_payload_bytes: u16::from_be_bytes([start[4], start[5]]),
            udp_bytes: 0,
            destination_port: 0,
        }
        .with_udp(packet)
    }

    #[inline(always)]
    fn with_udp<P: Packet + ?Sized>(self, packet: &P) -> Result<Self, Verdict> {
        let udp: [u8; 8] = packet.bytes(self.udp_at).ok_or(Verdict::Truncated)?;
        Ok(Self {
            destination_port: u16::from_be_bytes([udp[2], udp[3]]),
            udp_bytes: u16::from_be_bytes([udp[4], udp[5]]),
            ..self
        })
    }

    #[inline(always)]
    fn destination<P: Packet + ?Sized>(&self, packet: &P) -> Result<AddressKey, Verdict> {
        if self.is_v6 {
            packet.bytes(self.addresses_at + 16)
        } else {
            packet.bytes(self.addresses_at + 4).map(v4_mapped)
        }
        .ok_or(Verdict::Truncated)
    }

    #[inline(always)]
    fn check_lengths<P: Packet + ?Sized>(&self, packet: &P) -> Result<(), Verdict> {
        let agrees = self.udp_bytes >= UDP_HEADER_BYTES && self.udp_bytes == self.ip_payload_bytes;
        if agrees && self.udp_at + usize::from(self.udp_bytes) <= packet.byte_count() {
            Ok(())
        } else {
            Err(Verdict::LengthMismatch)
        }
    }

    /// Zero means "not summed", which IPv4 allows and IPv6 does not.
    #[inline(always)]
    fn verify_checksum<P: Packet + ?Sized>(&self, packet: &P) -> Result<(), Verdict> {
        if usize::from(self.udp_bytes) > VERIFIED_BYTES_MAX {
            return Err(Verdict::TooLarge);
        }
        if packet.u16_be(self.udp_at + 6).ok_or(Verdict::Truncated)? == 0 {
            return if self.is_v6 { Err(Verdict::Filtered) } else { Ok(()) };
        }
        let seed =
            checksum::pseudo_header(packet, self.addresses_at, self.is_v6, self.udp_bytes).ok_or(Verdict::Truncated)?;
        if checksum::folds_to_ones(packet, self.udp_at, usize::from(self.udp_bytes), seed) {
            Ok(())
        } else {
            Err(Verdict::Filtered)
        }
    }
}

/// The Ethernet type behind at most [`VLAN_TAGS_MAX`] tags, and where what it names starts.
#[inline(always)]
fn network_header<P: Packet + ?Sized>(packet: &P) -> Result<(u16, usize), Verdict> {
    let mut at = ETHERNET_BYTES;
    let mut ethertype = packet.u16_be(at - 2).ok_or(Verdict::Truncated)?;
    for _ in 0..VLAN_TAGS_MAX {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        at += VLAN_TAG_BYTES;
        ethertype = packet.u16_be(at - 2).ok_or(Verdict::Truncated)?;
    }
    Ok((ethertype, at))
}
