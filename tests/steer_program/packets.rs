//! Packets for the steering tests: a builder, and one table of cases with the verdict each must get.
//!
//! The table is run twice, by the steer crate's own tests on the pure decision and by `steer_program` on the program in
//! the kernel, so that both are held to the same expectations.

use eventstream_steer::Verdict;
use eventstream_steer::maps::{AddressKey, v4_mapped};

pub const PORT: u16 = 8082;
pub const OWN_V4: AddressKey = v4_mapped([198, 18, 0, 1]);
pub const OWN_V6: AddressKey = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub const GROUP_V4: AddressKey = v4_mapped([239, 1, 2, 3]);
/// Packet bytes a 2048-byte UMEM frame holds behind its headroom.
pub const FRAME_ROOM: u32 = 1_792;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Absent,
    Right,
    Wrong,
}

/// A UDP packet to be built; the fields are what a sender could choose.
#[derive(Clone, Debug)]
pub struct UdpPacket {
    /// Ethernet types of the VLAN tags, outermost first.
    pub tags: Vec<u16>,
    /// Destination; IPv4 if v4-mapped.
    pub destination: AddressKey,
    /// IPv4 option bytes, a multiple of four.
    pub option_bytes: usize,
    pub port: u16,
    pub payload: Vec<u8>,
    pub checksum: Checksum,
    /// Bytes behind the IP packet.
    pub padding: usize,
}

impl UdpPacket {
    pub fn new(destination: AddressKey, payload_bytes: usize) -> Self {
        Self {
            tags: Vec::new(),
            destination,
            option_bytes: 0,
            port: PORT,
            payload: (0..payload_bytes).map(|index| (index * 7 + 3) as u8).collect(),
            checksum: Checksum::Right,
            padding: 0,
        }
    }

    pub fn is_v6(&self) -> bool {
        self.destination[..12] != OWN_V4[..12]
    }

    pub fn ip_at(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    pub fn udp_at(&self) -> usize {
        self.ip_at() + if self.is_v6() { 40 } else { 20 + self.option_bytes }
    }

    pub fn build(&self) -> Vec<u8> {
        let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in &self.tags {
            packet.extend(tag.to_be_bytes());
            packet.extend([0x00, 0x2a]);
        }
        let udp_bytes = self.payload.len() as u16 + 8;
        let addresses =
            if self.is_v6() { self.push_v6(&mut packet, udp_bytes) } else { self.push_v4(&mut packet, udp_bytes) };
        let udp_at = packet.len();
        packet.extend(4_242_u16.to_be_bytes());
        packet.extend(self.port.to_be_bytes());
        packet.extend(udp_bytes.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(&self.payload);
        let checksum = match self.checksum {
            Checksum::Absent => 0,
            Checksum::Right => udp_checksum(&addresses, &packet[udp_at..]),
            Checksum::Wrong => match udp_checksum(&addresses, &packet[udp_at..]) ^ 0x0100 {
                0 => 0x0200, // zero would say that there is none
                wrong => wrong,
            },
        };
        packet[udp_at + 6..udp_at + 8].copy_from_slice(&checksum.to_be_bytes());
        packet.resize(packet.len() + self.padding, 0xee);
        packet
    }

    fn push_v4(&self, packet: &mut Vec<u8>, udp_bytes: u16) -> Vec<u8> {
        let header_bytes = 20 + self.option_bytes;
        packet.extend(0x0800_u16.to_be_bytes());
        packet.extend([0x40 | (header_bytes / 4) as u8, 0]);
        packet.extend((header_bytes as u16 + udp_bytes).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        let mut addresses = vec![198, 18, 0, 2];
        addresses.extend(&self.destination[12..]);
        packet.extend(&addresses);
        packet.resize(packet.len() + self.option_bytes, 1); // no-operation options
        addresses
    }

    fn push_v6(&self, packet: &mut Vec<u8>, udp_bytes: u16) -> Vec<u8> {
        packet.extend(0x86dd_u16.to_be_bytes());
        packet.extend([0x60, 0, 0, 0]);
        packet.extend(udp_bytes.to_be_bytes());
        packet.extend([17, 64]);
        let mut addresses = OWN_V6.to_vec();
        addresses[15] = 2;
        addresses.extend(&self.destination);
        packet.extend(&addresses);
        addresses
    }
}

/// The checksum by the book, word by big-endian word: an oracle for the summing under test.
fn udp_checksum(addresses: &[u8], udp: &[u8]) -> u16 {
    let mut sum = 17 + udp.len() as u64;
    for part in [addresses, udp] {
        for word in part.chunks(2) {
            sum += u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    match !(sum as u16) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// A packet and what must become of it.
pub struct Case {
    pub name: String,
    pub packet: Vec<u8>,
    pub verify_checksum: bool,
    pub refuse: bool,
    pub verdict: Verdict,
}

fn case(name: &str, packet: Vec<u8>, verdict: Verdict) -> Case {
    Case { name: name.into(), packet, verify_checksum: false, refuse: false, verdict }
}

/// Every verdict that depends on the packet and the switches; [`Verdict::NoSocket`] depends on the queue.
pub fn cases() -> Vec<Case> {
    let mut all = steered_cases();
    all.extend(passed_cases());
    all.extend(length_cases());
    all.extend(checksum_cases());
    let own = UdpPacket::new(OWN_V4, 64).build();
    all.push(Case { refuse: true, ..case("ours while refusing", own.clone(), Verdict::Refused) });
    let other = UdpPacket { port: PORT + 1, ..UdpPacket::new(OWN_V4, 64) }.build();
    all.push(Case { refuse: true, ..case("other port while refusing", other, Verdict::OtherPort) });
    all
}

fn steered_cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (family, own) in [("v4", OWN_V4), ("v6", OWN_V6), ("v4 group", GROUP_V4)] {
        for tags in [&[][..], &[0x8100], &[0x88a8], &[0x88a8, 0x8100], &[0x8100, 0x8100]] {
            for payload_bytes in [0, 1, 18, 64, 1_472] {
                let name = format!("{family}, tags {tags:x?}, {payload_bytes} bytes");
                let packet = UdpPacket { tags: tags.to_vec(), ..UdpPacket::new(own, payload_bytes) };
                all.push(case(&name, packet.build(), Verdict::Steered));
            }
        }
    }
    for option_bytes in [4, 20, 40] {
        let packet = UdpPacket { option_bytes, ..UdpPacket::new(OWN_V4, 64) };
        all.push(case(&format!("{option_bytes} option bytes"), packet.build(), Verdict::Steered));
    }
    let padded = UdpPacket { padding: 18, ..UdpPacket::new(OWN_V4, 0) };
    all.push(case("padded to 60 bytes", padded.build(), Verdict::Steered));
    let full = UdpPacket::new(OWN_V4, FRAME_ROOM as usize - 42);
    all.push(case("exactly the frame's room", full.build(), Verdict::Steered));
    all
}

fn passed_cases() -> Vec<Case> {
    let v4 = UdpPacket::new(OWN_V4, 64);
    let v6 = UdpPacket::new(OWN_V6, 64);
    let mut all = Vec::new();
    let mut add = |name: &str, base: &UdpPacket, offset: usize, bytes: &[u8], verdict| {
        let mut packet = base.build();
        packet[offset..offset + bytes.len()].copy_from_slice(bytes);
        all.push(case(name, packet, verdict));
    };
    add("ARP", &v4, 12, &[0x08, 0x06], Verdict::NotIp);
    add("802.3 length field", &v4, 12, &[0x00, 0x40], Verdict::NotIp);
    add("v6 type over a v4 header", &v4, 12, &[0x86, 0xdd], Verdict::IpHeader);
    add("v4 type over a v6 header", &v6, 12, &[0x08, 0x00], Verdict::IpHeader);
    add("v4 header of 16 bytes", &v4, 14, &[0x44], Verdict::IpHeader);
    add("TCP over v4", &v4, 23, &[6], Verdict::NotUdp);
    add("TCP over v6", &v6, 20, &[6], Verdict::NotUdp);
    add("no next header", &v6, 20, &[59], Verdict::NotUdp);
    add("first fragment", &v4, 20, &[0x20, 0x00], Verdict::Fragment);
    add("last fragment", &v4, 20, &[0x00, 0xb9], Verdict::Fragment);
    add("v6 fragment", &v6, 20, &[44], Verdict::Fragment);
    for next_header in [0, 43, 50, 51, 60, 135, 139, 140] {
        let name = format!("v6 extension {next_header}");
        add(&name, &v6, 20, &[next_header], Verdict::ExtensionHeader);
    }
    let three = UdpPacket { tags: vec![0x88a8, 0x8100, 0x8100], ..v4.clone() };
    all.push(case("three tags", three.build(), Verdict::VlanDepth));
    for port in [0, PORT - 1, PORT + 1, PORT + 64, PORT ^ 0x8000, u16::MAX] {
        let packet = UdpPacket { port, ..v4.clone() };
        all.push(case(&format!("port {port}"), packet.build(), Verdict::OtherPort));
    }
    let mut other = OWN_V6;
    other[15] = 9;
    for destination in [v4_mapped([198, 18, 0, 9]), v4_mapped([255; 4]), other] {
        let packet = UdpPacket { destination, ..v4.clone() };
        all.push(case(&format!("to {destination:?}"), packet.build(), Verdict::OtherAddress));
    }
    all
}

fn length_cases() -> Vec<Case> {
    let mut all = Vec::new();
    for base in [UdpPacket::new(OWN_V4, 64), UdpPacket::new(OWN_V6, 64)] {
        let length_at = base.ip_at() + if base.is_v6() { 4 } else { 2 };
        let right = base.build();
        let mut add = |name: &str, offset: usize, bytes: [u8; 2]| {
            let mut packet = right.clone();
            packet[offset..offset + 2].copy_from_slice(&bytes);
            all.push(case(name, packet, Verdict::LengthMismatch));
        };
        add("UDP length one short", base.udp_at() + 4, [0, 71]);
        add("UDP length one long", base.udp_at() + 4, [0, 73]);
        add("UDP length below its header", base.udp_at() + 4, [0, 7]);
        add("UDP length zero", base.udp_at() + 4, [0, 0]);
        add("IP length zero", length_at, [0, 0]);
        add("IP length at most", length_at, [0xff, 0xff]);
        let missing = right[..right.len() - 1].to_vec();
        all.push(case("one byte missing", missing, Verdict::LengthMismatch));
        // From the first byte behind the Ethernet header (the kernel takes no shorter test packet) to the last of UDP's.
        for byte_count in 14..base.udp_at() + 8 {
            let cut = right[..byte_count].to_vec();
            all.push(case(&format!("cut to {byte_count}"), cut, Verdict::Truncated));
        }
    }
    for (tags, byte_count) in [(1, 17), (2, 21)] {
        let packet = UdpPacket { tags: vec![0x8100; tags], ..UdpPacket::new(OWN_V4, 64) };
        let cut = packet.build()[..byte_count].to_vec();
        all.push(case("cut in a tag", cut, Verdict::Truncated));
    }
    let large = UdpPacket::new(OWN_V4, FRAME_ROOM as usize - 41);
    all.push(case("one byte above the room", large.build(), Verdict::TooLarge));
    let padded = UdpPacket { padding: 1_751, ..UdpPacket::new(OWN_V4, 0) };
    all.push(case("padded above the room", padded.build(), Verdict::TooLarge));
    all
}

fn checksum_cases() -> Vec<Case> {
    let mut all = Vec::new();
    for own in [OWN_V4, OWN_V6] {
        // All rests of eight, and the longest that fits.
        for payload_bytes in (0..=24).chain([1_471, 1_472, 1_700]) {
            for checksum in [Checksum::Absent, Checksum::Right, Checksum::Wrong] {
                let packet = UdpPacket {
                    checksum,
                    tags: vec![0x8100; payload_bytes % 3],
                    padding: payload_bytes % 5,
                    ..UdpPacket::new(own, payload_bytes)
                };
                let verdict = match checksum {
                    Checksum::Right => Verdict::Steered,
                    Checksum::Absent if !packet.is_v6() => Verdict::Steered,
                    Checksum::Absent | Checksum::Wrong => Verdict::Filtered,
                };
                let name = format!("{checksum:?} checksum, v6 {}, {payload_bytes} bytes", packet.is_v6());
                let built = packet.build();
                all.push(case(&format!("{name}, unverified"), built.clone(), Verdict::Steered));
                all.push(Case { verify_checksum: true, ..case(&name, built, verdict) });
            }
        }
    }
    all
}
