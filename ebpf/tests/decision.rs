//! The steering decision by itself: every verdict, every place a packet can end, every bit a checksum must notice.

#[path = "../../tests/steer_program/packets.rs"]
mod packets;

use eventstream_steer::maps::{AddressKey, MODE_REFUSE, MODE_STEER, SteerConfig};
use eventstream_steer::{Datagram, Packet, Policy, Verdict, decide};
use packets::{Case, Checksum, FRAME_ROOM, GROUP_V4, OWN_V4, OWN_V6, PORT, UdpPacket, cases};

struct Fixed(SteerConfig);

impl Policy for Fixed {
    fn config(&self) -> SteerConfig {
        self.0
    }

    fn has_port(&self, port: u16) -> bool {
        port == PORT
    }

    fn has_address(&self, address: &AddressKey) -> bool {
        [OWN_V4, OWN_V6, GROUP_V4].contains(address)
    }
}

fn policy(refuse: bool, verify_checksum: bool) -> Fixed {
    Fixed(SteerConfig {
        mode: if refuse { MODE_REFUSE } else { MODE_STEER },
        verify_checksum: verify_checksum.into(),
        frame_room: FRAME_ROOM,
        reserved: 0,
    })
}

#[test]
fn every_case_gets_its_verdict() {
    for Case { name, packet, verify_checksum, refuse, verdict } in cases() {
        assert_eq!(decide(&packet[..], &policy(refuse, verify_checksum)), verdict, "{name}");
    }
}

#[test]
fn the_cases_cover_every_verdict_but_the_callers_own() {
    for verdict in Verdict::ALL {
        let is_covered = cases().iter().any(|case| case.verdict == verdict);
        assert_eq!(is_covered, verdict != Verdict::NoSocket, "{}", verdict.name());
    }
}

#[test]
fn verdicts_are_numbered_as_their_counters_are() {
    for (index, verdict) in Verdict::ALL.into_iter().enumerate() {
        assert_eq!(verdict as usize, index);
        assert_eq!(verdict.is_passed(), Verdict::PASSED.contains(&verdict));
        assert_eq!(verdict.is_passed(), verdict.name().starts_with("passed_"));
    }
}

#[test]
fn a_packet_cut_anywhere_is_never_steered() {
    for base in [UdpPacket::new(OWN_V4, 9), UdpPacket::new(OWN_V6, 9)] {
        for tags in [vec![], vec![0x8100], vec![0x88a8, 0x8100]] {
            let base = UdpPacket { tags, ..base.clone() };
            let packet = base.build();
            for byte_count in 0..packet.len() {
                let verdict = decide(&packet[..byte_count], &policy(false, true));
                let headers_end = base.udp_at() + 8;
                let expected = if byte_count < headers_end { Verdict::Truncated } else { Verdict::LengthMismatch };
                assert_eq!(verdict, expected, "{base:?} cut to {byte_count}");
            }
        }
    }
}

#[test]
fn an_unconfigured_program_steers_nothing() {
    let packet = UdpPacket::new(OWN_V4, 64).build();
    assert_eq!(decide(&packet[..], &Fixed(SteerConfig::default())), Verdict::TooLarge);
}

#[test]
fn an_unknown_mode_refuses() {
    let packet = UdpPacket::new(OWN_V4, 64).build();
    let mut policy = policy(false, false);
    policy.0.mode = 7;
    assert_eq!(decide(&packet[..], &policy), Verdict::Refused);
}

#[test]
fn any_single_wrong_bit_is_filtered() {
    for base in [UdpPacket::new(OWN_V4, 13), UdpPacket::new(OWN_V6, 13)] {
        let right = base.build();
        let udp_at = base.udp_at();
        // The port and the length decide before the checksum does.
        for position in (udp_at..udp_at + 2).chain(udp_at + 6..right.len()) {
            for bit in 0..8 {
                let mut packet = right.clone();
                packet[position] ^= 1 << bit;
                let verdict = decide(&packet[..], &policy(false, true));
                assert_eq!(verdict, Verdict::Filtered, "byte {position} bit {bit}");
            }
        }
    }
}

#[test]
fn checksums_are_verified_up_to_the_bound_and_pass_beyond_it() {
    for (payload_bytes, checksum, verdict) in [
        (4_088, Checksum::Right, Verdict::Steered),
        (4_088, Checksum::Wrong, Verdict::Filtered),
        (4_089, Checksum::Right, Verdict::TooLarge),
    ] {
        let packet = UdpPacket { checksum, ..UdpPacket::new(OWN_V4, payload_bytes) }.build();
        let mut policy = policy(false, true);
        policy.0.frame_room = 8_000;
        assert_eq!(decide(&packet[..], &policy), verdict, "{payload_bytes}");
    }
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_sent_as_ones() {
    // Two payload bytes that bring the sum to all ones, so that the checksum would be zero: found by trying.
    let found = (0..=u16::MAX).any(|word| {
        let mut base = UdpPacket::new(OWN_V6, 2);
        base.payload = word.to_be_bytes().to_vec();
        let packet = base.build();
        let is_ones = packet[base.udp_at() + 6..base.udp_at() + 8] == [0xff, 0xff];
        is_ones && decide(&packet[..], &policy(false, true)) == Verdict::Steered
    });
    assert!(found);
}

#[test]
fn what_is_steered_can_be_located() {
    for Case { name, packet, verdict, .. } in cases() {
        let located = Datagram::locate(&packet[..]);
        if verdict != Verdict::Steered {
            continue;
        }
        let datagram = located.unwrap_or_else(|verdict| panic!("{name}: {verdict:?}"));
        let end = datagram.payload_at + datagram.payload_bytes;
        let payload = &packet[datagram.payload_at..end];
        assert_eq!(payload, UdpPacket::new(OWN_V4, payload.len()).payload, "{name}");
        assert_eq!(packet.u16_be(datagram.udp_at), Some(4_242), "{name}");
        let source: &[u8] = if datagram.is_v6 { &OWN_V6[..15] } else { &[198, 18, 0] };
        assert_eq!(&packet[datagram.source_at..][..source.len()], source, "{name}");
    }
}
