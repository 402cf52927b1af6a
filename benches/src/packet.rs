//! Whole packets for senders that bypass the kernel's stack: Ethernet, IPv4 or IPv6, UDP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
const PROTOCOL_UDP: u8 = 17;
const HOP_LIMIT: u8 = 64;

/// Who talks to whom. Both addresses are of one family: checked by [`Headers::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
}

/// The headers before a payload whose length never changes.
#[derive(Clone, Debug)]
pub struct Headers {
    bytes: Vec<u8>,
    /// Where the UDP checksum stands and what the pseudo header adds to it; `None` over IPv4, where zero says there is
    /// none, so that stamping does not have to read every byte it sends.
    checksum: Option<(usize, u32)>,
}

impl Headers {
    /// `None` when source and destination are of different families, or the payload is too long for UDP.
    pub fn new(endpoints: &Endpoints, payload_bytes: usize) -> Option<Self> {
        let udp_bytes = u16::try_from(payload_bytes + UDP_BYTES).ok()?;
        let mut bytes = Vec::with_capacity(ETHERNET_BYTES + IPV6_BYTES + UDP_BYTES);
        bytes.extend(endpoints.destination_mac);
        bytes.extend(endpoints.source_mac);
        let mut pseudo_header = None;
        match (endpoints.source, endpoints.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                write_ipv4(&mut bytes, source, destination, udp_bytes)?;
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                write_ipv6(&mut bytes, source, destination, udp_bytes);
                let addresses = sum(&source.octets()) + sum(&destination.octets());
                pseudo_header = Some(addresses + u32::from(udp_bytes) + u32::from(PROTOCOL_UDP));
            }
            _ => return None,
        }
        bytes.extend(endpoints.source_port.to_be_bytes());
        bytes.extend(endpoints.destination_port.to_be_bytes());
        bytes.extend(udp_bytes.to_be_bytes());
        bytes.extend([0, 0]);
        let checksum_at = bytes.len() - 2;
        Some(Self { bytes, checksum: pseudo_header.map(|sum| (checksum_at, sum)) })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Sets what depends on the payload. `packet` starts with [`Headers::bytes`].
    #[inline]
    pub fn finish(&self, packet: &mut [u8]) {
        let Some((checksum_at, pseudo_header)) = self.checksum else { return };
        packet[checksum_at..checksum_at + 2].fill(0);
        let udp = &packet[checksum_at - 6..];
        let checksum = match !fold(pseudo_header + sum(udp)) {
            // Zero says there is none, which IPv6 does not allow.
            0 => 0xffff,
            checksum => checksum,
        };
        packet[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn write_ipv4(bytes: &mut Vec<u8>, source: Ipv4Addr, destination: Ipv4Addr, udp_bytes: u16) -> Option<()> {
    let total_bytes = udp_bytes.checked_add(IPV4_BYTES as u16)?;
    bytes.extend(0x0800_u16.to_be_bytes());
    let start = bytes.len();
    // Version and header length, no service class; no identification, don't fragment.
    bytes.extend([0x45, 0]);
    bytes.extend(total_bytes.to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, HOP_LIMIT, PROTOCOL_UDP, 0, 0]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    let checksum = !fold(sum(&bytes[start..]));
    bytes[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

fn write_ipv6(bytes: &mut Vec<u8>, source: Ipv6Addr, destination: Ipv6Addr, udp_bytes: u16) {
    bytes.extend(0x86dd_u16.to_be_bytes());
    bytes.extend([0x60, 0, 0, 0]);
    bytes.extend(udp_bytes.to_be_bytes());
    bytes.extend([PROTOCOL_UDP, HOP_LIMIT]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
}

/// Sum of 16-bit words, unfolded: 64 KiB of them stay below 2^31.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(2);
    let last = words.remainder().first().map_or(0, |byte| u32::from(*byte) << 8);
    words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>() + last
}

fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(source: &str, destination: &str) -> Endpoints {
        Endpoints {
            source_mac: [2, 0, 0, 0, 0, 2],
            destination_mac: [2, 0, 0, 0, 0, 1],
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port: 40_000,
            destination_port: 8082,
        }
    }

    #[test]
    fn ipv4_has_a_header_checksum_and_no_other() {
        let headers = Headers::new(&endpoints("198.18.0.2", "198.18.0.1"), 1_472).unwrap();
        let bytes = headers.bytes();
        assert_eq!(bytes.len(), 42);
        assert_eq!(fold(sum(&bytes[14..34])), 0xffff);
        assert_eq!(bytes[16..18], 1_500_u16.to_be_bytes());
        assert_eq!(bytes[38..42], [0x05, 0xc8, 0, 0]);
        let mut packet = [bytes, &[7; 1_472]].concat();
        headers.finish(&mut packet);
        assert_eq!(packet[40..42], [0, 0]);
    }

    #[test]
    fn the_steering_program_finds_the_payload() {
        for (source, destination, start) in [("198.18.0.2", "198.18.0.1", 42), ("fd00::2", "fd00::1", 62)] {
            let headers = Headers::new(&endpoints(source, destination), 101).unwrap();
            let mut packet = [headers.bytes(), &[7; 101]].concat();
            headers.finish(&mut packet);
            let datagram = eventstream_steer::Datagram::locate(&packet[..]).unwrap();
            assert_eq!((datagram.payload_at, datagram.payload_bytes), (start, 101));
        }
    }

    #[test]
    fn ipv6_has_a_checksum_that_holds_for_every_payload() {
        let endpoints = endpoints("fd00::2", "fd00::1");
        for (filling, payload_bytes) in [(0, 64), (0xff, 1_451), (0x5a, 1)] {
            let headers = Headers::new(&endpoints, payload_bytes).unwrap();
            let mut packet = [headers.bytes(), &vec![filling; payload_bytes]].concat();
            headers.finish(&mut packet);
            let pseudo = sum(&packet[22..54]) + (payload_bytes + 8) as u32 + 17;
            assert_eq!(fold(pseudo + sum(&packet[54..])), 0xffff);
            assert_ne!(packet[60..62], [0, 0]);
        }
    }

    #[test]
    fn what_cannot_be_a_packet_is_refused() {
        assert!(Headers::new(&endpoints("198.18.0.2", "fd00::1"), 64).is_none());
        assert!(Headers::new(&endpoints("198.18.0.2", "198.18.0.1"), 65_508).is_none());
    }
}
