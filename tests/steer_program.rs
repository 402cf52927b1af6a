//! The XDP programs in the kernel do what the shared decision says, for every verdict and counter, and the load program
//! sends what it counts.
//!
//! Runs without a NIC: packets are handed to the program by `BPF_PROG_TEST_RUN`. Without the rights to load programs
//! each test says so in a line that starts with `SKIPPED:` and ends well.

#[path = "steer_program/kernel.rs"]
mod kernel;
#[path = "steer_program/packets.rs"]
mod packets;
#[path = "steer_program/stamping.rs"]
mod stamping;
#[path = "steer_program/surroundings.rs"]
mod surroundings;

use std::io::{self, Write as _};

use eventstream::runtime::clock::kernel_now;
use eventstream_steer::maps::{AddressKey, MODE_REFUSE, MODE_STEER, QUEUE_COUNT, ROW_COUNT, SteerConfig, row};
use eventstream_steer::stamp::{is_due, stamped_time};
use eventstream_steer::{Policy, Verdict, decide};
use kernel::{Counts, Receiver, Steer, XDP_DROP, XDP_PASS, XDP_REDIRECT};
use packets::{Case, Checksum, FRAME_ROOM, GROUP_V4, OWN_V4, OWN_V6, PORT, UdpPacket, cases};
use proptest::prelude::*;
use surroundings::{XskSocket, with_veth_pair};

/// True, after a line that says why, if this machine cannot run the test.
fn is_skipped(test: &str) -> bool {
    let Some(reason) = kernel::missing_rights() else {
        return false;
    };
    skipped(test, &reason);
    true
}

/// Written past the test harness, which keeps what a passing test prints to itself.
fn skipped(test: &str, reason: &str) {
    writeln!(io::stdout(), "SKIPPED: {test}: {reason}").expect("stdout");
}

fn config(refuse: bool, verify_checksum: bool) -> SteerConfig {
    SteerConfig {
        mode: if refuse { MODE_REFUSE } else { MODE_STEER },
        verify_checksum: verify_checksum.into(),
        frame_room: FRAME_ROOM,
        reserved: 0,
    }
}

/// The policy the program's maps are filled with.
struct Same(SteerConfig);

impl Policy for Same {
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

fn configured() -> Steer {
    let mut steer = Steer::load();
    steer.add_port(PORT);
    for address in [OWN_V4, OWN_V6, GROUP_V4] {
        steer.add_address(&address);
    }
    steer.configure(config(false, false));
    steer
}

fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Steered => XDP_REDIRECT,
        Verdict::Refused | Verdict::Filtered => XDP_DROP,
        _ => XDP_PASS,
    }
}

/// Runs the packet and checks the action, and that exactly the verdict's counter and the run counter moved.
fn check(steer: &mut Steer, packet: &[u8], verdict: Verdict, what: &str) {
    let before = steer.counts(0);
    let got = steer.run(packet, Receiver::default());
    let after = steer.counts(0);
    assert_eq!(after, before.plus(verdict), "{what}: expected {}", verdict.name());
    assert_eq!(got, action(verdict), "{what}: action");
}

#[test]
fn every_case_gets_its_verdict_and_its_counter() {
    if is_skipped("every_case_gets_its_verdict_and_its_counter") {
        return;
    }
    let mut steer = configured();
    let socket = XskSocket::new().expect("AF_XDP socket");
    steer.add_socket(0, &socket);
    for Case { name, packet, verify_checksum, refuse, verdict } in cases() {
        steer.configure(config(refuse, verify_checksum));
        check(&mut steer, &packet, verdict, &name);
    }
    for other in 1..ROW_COUNT as u32 {
        assert_eq!(steer.counts(other).runs, 0, "row {other}");
    }
}

#[test]
fn without_a_socket_in_the_map_our_packets_pass_and_are_counted_so() {
    if is_skipped("without_a_socket_in_the_map_our_packets_pass_and_are_counted_so") {
        return;
    }
    let mut steer = configured();
    let packet = UdpPacket::new(OWN_V4, 64).build();
    check(&mut steer, &packet, Verdict::NoSocket, "empty map");
    let socket = XskSocket::new().expect("AF_XDP socket");
    steer.add_socket(1, &socket);
    check(&mut steer, &packet, Verdict::NoSocket, "socket of another queue");
    steer.add_socket(0, &socket);
    check(&mut steer, &packet, Verdict::Steered, "socket of the queue");
    drop(socket);
    check(&mut steer, &packet, Verdict::NoSocket, "socket closed");
}

#[test]
fn steered_packets_that_are_due_are_stamped_and_no_others() {
    if is_skipped("steered_packets_that_are_due_are_stamped_and_no_others") {
        return;
    }
    let mut steer = configured();
    let ours = UdpPacket::new(OWN_V4, 64).build();
    for _ in 0..2 {
        assert_eq!(steer.run_with_metadata(&ours), (XDP_PASS, Vec::new()), "without a socket");
    }
    let socket = XskSocket::new().expect("AF_XDP socket");
    steer.add_socket(0, &socket);
    // The test stays on no CPU, and each CPU counts for itself: all that is steered tells which packets may be due.
    let (mut stamped, mut newest) = (0, 0);
    for steered in 1..=200 {
        let before = kernel_now();
        let (action, metadata) = steer.run_with_metadata(&ours);
        assert_eq!(action, XDP_REDIRECT, "packet {steered}");
        if metadata.is_empty() {
            continue;
        }
        let time = stamped_time(metadata[..].try_into().expect("a stamp's size")).expect("a stamp");
        assert!(time > newest && (before..=kernel_now()).contains(&time), "packet {steered}: {time}");
        (stamped, newest) = (stamped + 1, time);
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let least = (1..=200 / cpus).filter(|steered| is_due(*steered)).count() as u64;
    assert!((least..=4 + cpus).contains(&stamped), "{stamped} stamps");
    steer.configure(config(true, false));
    for _ in 0..64 * cpus {
        assert_eq!(steer.run_with_metadata(&ours), (XDP_DROP, Vec::new()), "refused");
    }
}

#[test]
fn an_unconfigured_program_passes_everything() {
    if is_skipped("an_unconfigured_program_passes_everything") {
        return;
    }
    let mut steer = Steer::load();
    let packet = UdpPacket::new(OWN_V4, 64).build();
    check(&mut steer, &packet, Verdict::OtherPort, "no port");
    steer.add_port(PORT);
    check(&mut steer, &packet, Verdict::OtherAddress, "no address");
    steer.add_address(&OWN_V4);
    check(&mut steer, &packet, Verdict::TooLarge, "no room");
}

#[test]
fn each_queue_is_counted_in_its_own_row_and_those_beyond_in_one() {
    const TEST: &str = "each_queue_is_counted_in_its_own_row_and_those_beyond_in_one";
    if is_skipped(TEST) {
        return;
    }
    let result = with_veth_pair(QUEUE_COUNT as u32 + 2, |pair| {
        let mut steer = configured();
        let socket = XskSocket::new().expect("AF_XDP socket");
        let ours = UdpPacket::new(OWN_V4, 64).build();
        let others = UdpPacket { port: PORT + 1, ..UdpPacket::new(OWN_V4, 64) }.build();
        for queue in 0..QUEUE_COUNT as u32 {
            steer.add_socket(queue, &socket);
        }
        for queue in [0, 1, 2, 63, 64, 65] {
            let expected = if queue < 64 { Verdict::Steered } else { Verdict::NoSocket };
            let from = Receiver { interface_index: pair.receiver, queue };
            let before = steer.counts(row(queue));
            assert_eq!(steer.run(&ours, from), action(expected), "queue {queue}");
            assert_eq!(steer.run(&others, from), XDP_PASS, "queue {queue}");
            let after = before.plus(expected).plus(Verdict::OtherPort);
            assert_eq!(steer.counts(row(queue)), after, "queue {queue}");
        }
        assert_eq!(steer.counts(row(64)).runs, 4);
    });
    if let Err(reason) = result {
        skipped(TEST, &reason);
    }
}

/// Packets near the edge of every check: a well-formed one with a few bytes changed, cut or padded.
fn packets_to_try() -> impl Strategy<Value = Vec<u8>> {
    let tag = prop_oneof![Just(0x8100_u16), Just(0x88a8)];
    let destination = prop_oneof![Just(OWN_V4), Just(OWN_V6), Just(GROUP_V4), any::<[u8; 16]>()];
    let checksum = prop_oneof![Just(Checksum::Absent), Just(Checksum::Right), Just(Checksum::Wrong)];
    let port = prop_oneof![4 => Just(PORT), 1 => any::<u16>()];
    let payload = prop::collection::vec(any::<u8>(), 0..200);
    let base = (prop::collection::vec(tag, 0..4), destination, checksum, port, payload);
    // Half of the changes hit a field that decides, or set a value that means something there.
    let position = prop_oneof![0_usize..120, prop::sample::select(vec![12, 13, 14, 16, 17, 18, 20, 23, 38, 39])];
    let value =
        prop_oneof![any::<u8>(), prop::sample::select(vec![0, 6, 17, 43, 44, 60, 0x08, 0x45, 0x46, 0x60, 0x81, 0xdd])];
    let changes = prop::collection::vec((position, value), 0..4);
    let padding = prop_oneof![9 => 0_usize..40, 1 => 1_600_usize..2_000];
    (base, 0_usize..11, padding, changes, prop::option::weighted(0.2, 14_usize..140)).prop_map(
        |((tags, destination, checksum, port, payload), options, padding, changes, cut)| {
            let option_bytes = options * 4;
            let packet = UdpPacket { tags, destination, option_bytes, port, payload, checksum, padding };
            let mut packet = packet.build();
            for (position, byte) in changes {
                let byte_count = packet.len();
                packet[position % byte_count] = byte;
            }
            packet.truncate(cut.unwrap_or(usize::MAX));
            packet
        },
    )
}

#[test]
fn program_and_pure_decision_agree_on_changed_packets() {
    if is_skipped("program_and_pure_decision_agree_on_changed_packets") {
        return;
    }
    let mut steer = configured();
    let socket = XskSocket::new().expect("AF_XDP socket");
    steer.add_socket(0, &socket);
    let mut expected = Counts { runs: 0, verdicts: [0; Verdict::COUNT] };
    let steer_cell = std::cell::RefCell::new((&mut steer, &mut expected));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let tried = (packets_to_try(), prop::bool::weighted(0.05), any::<bool>());
    runner
        .run(&tried, |(packet, refuse, verify_checksum)| {
            let (steer, expected) = &mut *steer_cell.borrow_mut();
            let config = config(refuse, verify_checksum);
            steer.configure(config);
            let verdict = decide(&packet[..], &Same(config));
            prop_assert_eq!(steer.run(&packet, Receiver::default()), action(verdict));
            **expected = expected.plus(verdict);
            // Passing is one action for many reasons: look at the counters often enough to name the packet.
            if verdict.is_passed() || expected.runs % 64 == 0 {
                prop_assert_eq!(&steer.counts(0), &**expected);
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(steer.counts(0), expected);
    for verdict in Verdict::ALL {
        let is_reached = expected.verdicts[verdict as usize] > 0;
        assert!(is_reached || verdict == Verdict::NoSocket, "{}", verdict.name());
    }
}
