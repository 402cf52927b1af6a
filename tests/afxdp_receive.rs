//! AF_XDP intake on real packets: what a program steers arrives as events, and every datagram is in a counter.
//!
//! Each test has a veth pair between two namespaces of its own. Without the rights for that it says so and passes.

#[path = "afxdp_receive/link.rs"]
mod link;
#[allow(dead_code)] // what the program's own tests use of it is not all used here
#[path = "steer_program/packets.rs"]
mod packets;
#[path = "afxdp_receive/receiver.rs"]
mod receiver;

use std::io::{self, BufRead as _, Write as _};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use eventstream::control::State;
use eventstream::frame::{FrameHeader, Priority, encode};
use eventstream::metrics::{Counter, MalformedReason};
use eventstream::nic::{self, Attach, ChecksumPolicy, Mode, NetEvent, Require, Switch, XdpOptions};
use eventstream_steer::Verdict;
use eventstream_steer::stamp::STAMP_INTERVAL;
use libbpf_rs::ObjectBuilder;
use link::{ENGINE, Link, RawSender, SENDER, ip, with_link};
use receiver::Receiver;
use rustix::thread::{CapabilitySet, CapabilitySets};

const PORT: u16 = 8082;

/// Written past the test harness, which keeps what a passing test prints to itself.
fn skipped(test: &str, reason: &str) {
    writeln!(io::stdout(), "SKIPPED: {test}: {reason}").expect("stdout");
}

/// Runs a test, or says why not.
fn on_link(test: &str, body: impl FnOnce(Link) + Send) {
    if let Err(reason) = with_link(2, body) {
        skipped(test, &reason);
    }
}

/// Opens the interface; `None`, said, where the host has no AF_XDP for us.
fn receiver(test: &str, options: &XdpOptions) -> Option<Receiver> {
    let setup = nic::open(options).expect("the interface exists");
    if setup.program.is_none() {
        skipped(test, &setup.modes[0].reason);
        return None;
    }
    Some(Receiver::new(setup))
}

/// A datagram of `count` events whose payloads are consecutive numbers from `first` on.
fn datagram(first: u64, count: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in first..first + count {
        encode(&mut bytes, &FrameHeader::new(Priority::High), b"sensor/temp", &number.to_be_bytes());
    }
    bytes
}

/// Sends `count` datagrams of three events each, from several ports so that both queues get some.
fn send(to: &str, first: u64, count: u64) {
    let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let sockets: Vec<_> = (0..16).map(|_| UdpSocket::bind(any).unwrap()).collect();
    for number in 0..count {
        let socket = &sockets[number as usize % sockets.len()];
        socket.send_to(&datagram((first + number) * 3, 3), to).unwrap();
    }
}

#[test]
fn both_queues_receive_and_every_datagram_is_counted() {
    const TEST: &str = "both_queues_receive_and_every_datagram_is_counted";
    on_link(TEST, |link| {
        let options = XdpOptions::new(ENGINE, PORT);
        let Some(mut receiver) = receiver(TEST, &options) else { return };
        assert_eq!(receiver.interface.driver, "veth");
        for got in &receiver.modes {
            assert_eq!(got.mode, Mode::NativeCopy, "{got:?}");
            assert!(got.reason.contains("EOPNOTSUPP"), "{got:?}");
        }
        const ROUNDS: u64 = 50;
        for round in 0..ROUNDS {
            link.at_sender(move || send("198.18.0.1:8082", round * 200, 200));
            receiver.step_until("IPv4", |r| r.steered() == r.total(Counter::DATAGRAMS_CONSUMED));
        }
        receiver.step_until("all of IPv4", |r| r.received.len() as u64 == ROUNDS * 600);
        let mut numbers: Vec<_> =
            receiver.received.iter().map(|payload| u64::from_be_bytes(payload[..].try_into().unwrap())).collect();
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(0..ROUNDS * 600), "each event once");
        link.at_sender(|| send("[fd00::1]:8082", 0, 100));
        receiver.step_until("IPv6", |r| r.received.len() as u64 == ROUNDS * 600 + 300);
        for (queue, verdicts) in receiver.verdicts() {
            assert!(verdicts.steered() > 0, "queue {queue} got nothing");
        }
        receiver.check_balance();
    });
}

/// Metadata reaches the socket in copy mode: one datagram in so many tells how long it was in the rx ring.
#[test]
fn stamps_say_how_long_packets_were_in_the_ring() {
    const TEST: &str = "stamps_say_how_long_packets_were_in_the_ring";
    on_link(TEST, |link| {
        for attach in [Attach::Native, Attach::Generic] {
            let options = XdpOptions { attach, ..XdpOptions::new(ENGINE, PORT) };
            let Some(mut receiver) = receiver(TEST, &options) else { return };
            for round in 0..10 {
                link.at_sender(move || send("198.18.0.1:8082", round * 200, 200));
                receiver.wait_until_steered((round + 1) * 200);
                // Nobody looks for so long, and a little longer: the clocks are compared to within some error.
                let pause = Duration::from_millis(20);
                std::thread::sleep(pause + Duration::from_millis(1));
                let before = receiver.waited.len();
                receiver.step_until("a round", |r| r.received.len() as u64 == (round + 1) * 600);
                let waited = &receiver.waited[before..];
                assert!(waited.iter().all(|ns| u128::from(*ns) >= pause.as_nanos()), "{attach:?}: {waited:?}");
            }
            // Frames of three events; each queue and CPU stamps its first packet and one in 64 then.
            let stamped = receiver.waited.len() as u64 / 3;
            let queues = receiver.modes.len() as u64;
            let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u64;
            let expected = 2000 / STAMP_INTERVAL;
            assert!((expected / 2..=expected + queues * cpus).contains(&stamped), "{attach:?}: {stamped} of 2000");
            receiver.check_balance();
        }
    });
}

#[test]
fn what_is_not_ours_passes_and_what_is_malformed_is_said() {
    const TEST: &str = "what_is_not_ours_passes_and_what_is_malformed_is_said";
    on_link(TEST, |link| {
        let options = XdpOptions::new(ENGINE, PORT);
        let Some(mut receiver) = receiver(TEST, &options) else { return };
        let other_port = UdpSocket::bind("198.18.0.1:8083").unwrap();
        let behind = UdpSocket::bind("198.18.0.1:8082").unwrap();
        link.at_sender(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"other port", "198.18.0.1:8083").unwrap();
            socket.send_to(&datagram(0, 80), "198.18.0.1:8082").unwrap(); // above a frame, below the MTU
            socket.send_to(b"\0", "198.18.0.1:8082").unwrap();
            socket.send_to(b"", "198.18.0.1:8082").unwrap();
            send("198.18.0.1:8082", 0, 10);
        });
        for socket in [&other_port, &behind] {
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        }
        let mut bytes = [0; 4096];
        assert_eq!(other_port.recv(&mut bytes).unwrap(), 10);
        assert_eq!(behind.recv(&mut bytes).unwrap(), datagram(0, 80).len());
        receiver.step_until("the good ones", |r| r.received.len() == 30);
        let malformed = |reason| receiver.total(Counter::datagram_malformed(reason));
        assert_eq!(malformed(MalformedReason::TrailingBytes), 1);
        assert_eq!(malformed(MalformedReason::EmptyDatagram), 1);
        let passed = |verdict| receiver.verdicts().iter().map(|(_, verdicts)| verdicts.count(verdict)).sum::<u64>();
        assert_eq!((passed(Verdict::OtherPort), passed(Verdict::TooLarge)), (1, 1));
        receiver.check_balance();
    });
}

/// The packets the program is tested with in the kernel, here over the link and into the engine: VLAN tags, options,
/// fragments, extension headers, lies about lengths.
#[test]
fn every_kind_of_packet_ends_where_it_belongs() {
    const TEST: &str = "every_kind_of_packet_ends_where_it_belongs";
    on_link(TEST, |link| {
        // A socket stays in the namespace it was made in.
        let sender = link.at_sender(|| RawSender::new(SENDER)).unwrap();
        for (verify, policy) in [(false, ChecksumPolicy::Auto), (true, ChecksumPolicy::Always)] {
            let group = "239.1.2.3".parse().unwrap();
            let options = XdpOptions {
                verify_udp_checksum: policy,
                multicast_groups: vec![group],
                ..XdpOptions::new(ENGINE, PORT)
            };
            let Some(mut receiver) = receiver(TEST, &options) else { return };
            // Shorter than an Ethernet header nothing can be sent.
            let sendable = |case: &packets::Case| case.verify_checksum == verify && case.packet.len() > 14;
            for case in packets::cases().into_iter().filter(sendable) {
                let switch = if case.refuse { Switch::Refuse } else { Switch::Steer };
                receiver.program.set_switch(switch).unwrap();
                let counted = |r: &Receiver, verdict| r.verdicts().iter().map(|(_, v)| v.count(verdict)).sum::<u64>();
                let before = (counted(&receiver, case.verdict), receiver.steered());
                sender.send(&case.packet).unwrap_or_else(|error| panic!("{}: {error}", case.name));
                receiver.step_until(&case.name, |r| counted(r, case.verdict) > before.0);
                let steered = receiver.steered() - before.1;
                assert_eq!(steered, u64::from(case.verdict == Verdict::Steered), "{}", case.name);
            }
            receiver.check_balance();
        }
    });
}

#[test]
fn overload_is_attributed_and_passes() {
    const TEST: &str = "overload_is_attributed_and_passes";
    on_link(TEST, |link| {
        let options = XdpOptions { frames: 256, rx_ring: 128, fill_ring: 256, ..XdpOptions::new(ENGINE, PORT) };
        let Some(mut receiver) = receiver(TEST, &options) else { return };
        link.at_sender(|| send("198.18.0.1:8082", 0, 5_000));
        receiver.check_balance();
        let lost = receiver.total(Counter::KERNEL_RX_DROPPED) + receiver.total(Counter::KERNEL_RX_RING_FULL);
        assert!(lost > 500, "lost {lost}"); // the link itself may lose most
        let before = receiver.received.len();
        link.at_sender(|| send("198.18.0.1:8082", 0, 50));
        receiver.step_until("after the overload", |r| r.received.len() == before + 150);
        receiver.check_balance();
    });
}

#[test]
fn refused_while_paused_and_drained_to_the_last() {
    const TEST: &str = "refused_while_paused_and_drained_to_the_last";
    on_link(TEST, |link| {
        let options = XdpOptions::new(ENGINE, PORT);
        let Some(mut receiver) = receiver(TEST, &options) else { return };
        link.at_sender(|| send("198.18.0.1:8082", 0, 100));
        receiver.program.set_switch(Switch::Refuse).unwrap();
        receiver.state.set(State::Paused);
        link.at_sender(|| send("198.18.0.1:8082", 0, 70));
        receiver.step_until("what was steered before", |r| r.received.len() == 300);
        receiver.check_balance();
        let refused: u64 = receiver.verdicts().iter().map(|(_, verdicts)| verdicts.refused()).sum();
        assert_eq!(refused, 70);
        receiver.program.set_switch(Switch::Steer).unwrap();
        receiver.state.set(State::Running);
        link.at_sender(|| send("198.18.0.1:8082", 0, 100));
        receiver.program.set_switch(Switch::Refuse).unwrap();
        receiver.program.wait_for_runs();
        receiver.state.set(State::Draining);
        assert!(!receiver.is_drained());
        receiver.step_until("the drain", Receiver::is_drained);
        assert_eq!(receiver.received.len(), 600);
        receiver.check_balance();
        receiver.program.detach();
        let attached = nic::Interface::named(ENGINE).unwrap().attached;
        assert!(attached.is_empty(), "{attached:?}");
    });
}

#[test]
fn what_was_closed_can_be_opened_at_once() {
    const TEST: &str = "what_was_closed_can_be_opened_at_once";
    on_link(TEST, |link| {
        for round in 0..10 {
            let options = XdpOptions::new(ENGINE, PORT);
            let Some(mut receiver) = receiver(TEST, &options) else { return };
            let modes = &receiver.modes;
            assert!(modes.iter().all(|got| got.mode == Mode::NativeCopy), "round {round}: {modes:?}");
            link.at_sender(|| send("198.18.0.1:8082", 0, 32));
            receiver.step_until("this time's", |r| r.received.len() == 96);
        }
    });
}

#[test]
fn generic_mode_works_where_it_is_asked_for() {
    const TEST: &str = "generic_mode_works_where_it_is_asked_for";
    on_link(TEST, |link| {
        let options = XdpOptions { attach: Attach::Generic, ..XdpOptions::new(ENGINE, PORT) };
        let Some(mut receiver) = receiver(TEST, &options) else { return };
        assert!(receiver.modes.iter().all(|got| got.mode == Mode::GenericCopy), "{:?}", receiver.modes);
        link.at_sender(|| send("198.18.0.1:8082", 0, 100));
        receiver.step_until("generic", |r| r.received.len() == 300);
        receiver.check_balance();
    });
}

#[test]
fn one_queue_alone_leaves_the_other_to_the_kernel() {
    const TEST: &str = "one_queue_alone_leaves_the_other_to_the_kernel";
    on_link(TEST, |link| {
        let options = XdpOptions { queues: Some(vec![1]), ..XdpOptions::new(ENGINE, PORT) };
        let Some(mut receiver) = receiver(TEST, &options) else { return };
        let behind = UdpSocket::bind("198.18.0.1:8082").unwrap();
        behind.set_nonblocking(true).unwrap();
        link.at_sender(|| send("198.18.0.1:8082", 0, 100));
        receiver.check_balance();
        let unserved = receiver.program.verdicts(0).unwrap();
        let mut bytes = [0; 2048];
        let by_kernel = std::iter::from_fn(|| behind.recv(&mut bytes).ok()).count() as u64;
        assert!(by_kernel > 0);
        assert_eq!((by_kernel, unserved.steered()), (unserved.count(Verdict::NoSocket), 0));
        assert_eq!(by_kernel + receiver.steered(), 100);
    });
}

#[test]
fn addresses_are_followed_and_the_interfaces_end_is_noticed() {
    const TEST: &str = "addresses_are_followed_and_the_interfaces_end_is_noticed";
    on_link(TEST, |link| {
        let options = XdpOptions::new(ENGINE, PORT);
        let Some(mut receiver) = receiver(TEST, &options) else { return };
        let steer = |receiver: &mut Receiver, command: &str| {
            ip(command).unwrap();
            let events = receiver.watch.poll().unwrap();
            assert_eq!(events, [NetEvent::AddressesChanged], "{command}");
            receiver.program.set_addresses(&receiver.watch.addresses()).unwrap()
        };
        let change = steer(&mut receiver, &format!("addr add 198.18.0.7/24 dev {ENGINE}"));
        assert_eq!((change.added, change.removed), (1, 0));
        link.at_sender(|| send("198.18.0.7:8082", 0, 10));
        receiver.step_until("the new address", |r| r.received.len() == 30);
        let change = steer(&mut receiver, &format!("addr del 198.18.0.7/24 dev {ENGINE}"));
        assert_eq!((change.added, change.removed), (0, 1));
        std::thread::scope(|scope| {
            let load = scope.spawn(|| link.at_sender(send_until_refused));
            receiver.step_until("the load", |r| r.received.len() > 3_000);
            ip(&format!("link del {ENGINE}")).unwrap();
            let start = Instant::now();
            while !receiver.watch.poll().unwrap().contains(&NetEvent::LinkRemoved) {
                assert!(start.elapsed() < Duration::from_secs(2), "not noticed");
                receiver.step();
            }
            load.join().unwrap();
        });
        receiver.check_balance();
        receiver.program.detach();
    });
}

/// Load until the link is gone.
fn send_until_refused() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let datagram = datagram(0, 3);
    while socket.send_to(&datagram, "198.18.0.1:8082").is_ok() {}
}

#[test]
fn a_packet_wakes_a_sleeping_agent() {
    const TEST: &str = "a_packet_wakes_a_sleeping_agent";
    on_link(TEST, |link| {
        let options = XdpOptions::new(ENGINE, PORT);
        let Some(mut receiver) = receiver(TEST, &options) else { return };
        assert!(!receiver.sleep(Duration::from_millis(20)), "woken by nothing");
        for round in 1..=5 {
            std::thread::scope(|scope| {
                let load = scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(100)); // by then it sleeps
                    link.at_sender(|| send("198.18.0.1:8082", 0, 1));
                });
                assert!(receiver.sleep(Duration::from_secs(5)), "slept through a packet");
                load.join().unwrap();
            });
            receiver.step_until("the packet", |r| r.received.len() == 3 * round);
        }
        receiver.check_balance();
    });
}

#[test]
fn an_interface_that_is_down_comes_back() {
    const TEST: &str = "an_interface_that_is_down_comes_back";
    on_link(TEST, |link| {
        let options = XdpOptions::new(ENGINE, PORT);
        let Some(mut receiver) = receiver(TEST, &options) else { return };
        for (state, event) in [("down", NetEvent::LinkDown), ("up", NetEvent::LinkUp)] {
            ip(&format!("link set {ENGINE} {state}")).unwrap();
            assert!(receiver.watch.poll().unwrap().contains(&event), "{state}");
        }
        receiver.program.set_addresses(&receiver.watch.addresses()).unwrap();
        link.at_sender(|| send("198.18.0.1:8082", 0, 10));
        receiver.step_until("up again", |r| r.received.len() == 30);
        receiver.check_balance();
    });
}

#[test]
fn a_stale_program_is_replaced_and_a_strangers_left_alone() {
    const TEST: &str = "a_stale_program_is_replaced_and_a_strangers_left_alone";
    on_link(TEST, |link| {
        let options = XdpOptions::new(ENGINE, PORT);
        let index = nic::Interface::named(ENGINE).unwrap().index as i32;
        // Attached over netlink a program outlives its process, as one of an older kernel's would.
        let attach = |object: &[u8]| -> libbpf_rs::Result<()> {
            let object = ObjectBuilder::default().open_memory(object)?.load()?;
            let program = object.progs().next().expect("a program");
            libbpf_rs::Xdp::new(program.as_fd()).attach(index, libbpf_rs::XdpFlags::DRV_MODE)
        };
        if let Err(error) = attach(eventstream_steer::STEER_OBJECT) {
            skipped(TEST, &error.to_string());
            return;
        }
        let setup = nic::open(&options).unwrap();
        assert_eq!((setup.stale_removed.len(), setup.modes[0].mode), (1, Mode::NativeCopy), "{:?}", setup.modes);
        let mut receiver = Receiver::new(setup);
        link.at_sender(|| send("198.18.0.1:8082", 0, 10));
        receiver.step_until("after the stale one", |r| r.received.len() == 30);

        let second = nic::open(&options).unwrap();
        assert!(second.modes[0].reason.contains("an engine that is running"), "{:?}", second.modes);
        drop(second);
        drop(receiver);

        attach(eventstream_steer::BLAST_OBJECT).unwrap();
        let before = nic::Interface::named(ENGINE).unwrap().attached;
        let setup = nic::open(&options).unwrap();
        assert!(setup.program.is_none() && setup.queues.is_empty());
        for got in &setup.modes {
            assert_eq!(got.mode, Mode::Socket);
            assert!(got.reason.contains("somebody else's"), "{got:?}");
            assert!(got.reason.contains(&before[0].program_id.to_string()), "{got:?}");
        }
        let required = XdpOptions { require: Require::Native, ..options };
        let error = nic::open(&required).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("native is required") && error.contains("somebody else's"), "{error}");
        assert_eq!(nic::Interface::named(ENGINE).unwrap().attached, before);
    });
}

#[test]
fn without_rights_every_queue_is_the_kernel_sockets() {
    const TEST: &str = "without_rights_every_queue_is_the_kernel_sockets";
    on_link(TEST, |_link| {
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, none).expect("capabilities can be given up"); // this thread's alone
        let options = XdpOptions::new(ENGINE, PORT);
        let setup = nic::open(&options).expect("no rights are no error");
        assert!(setup.program.is_none() && setup.queues.is_empty());
        assert_eq!(setup.modes.len(), 2);
        assert!(
            setup.modes.iter().all(|got| got.mode == Mode::Socket && got.reason.contains("EPERM")),
            "{:?}",
            setup.modes
        );
        let required = XdpOptions { require: Require::Native, ..options };
        assert!(nic::open(&required).is_err());
    });
}

/// Set for the process that [`a_killed_engine_leaves_nothing_attached`] kills.
const VICTIM_VARIABLE: &str = "EVENTSTREAM_TEST_VICTIM";

#[test]
fn a_killed_engine_leaves_nothing_attached() {
    const TEST: &str = "a_killed_engine_leaves_nothing_attached";
    on_link(TEST, |link| {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(VICTIM_VARIABLE, ENGINE)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(); // in this thread's namespace
        let lines = io::BufReader::new(victim.stdout.take().unwrap()).lines();
        let said = lines.map_while(Result::ok).find(|line| line.starts_with("opened:")).expect("the victim speaks");
        if said != "opened: native-copy" {
            skipped(TEST, &said);
        }
        link.at_sender(|| send("198.18.0.1:8082", 0, 1_000));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let Some(mut receiver) = receiver(TEST, &XdpOptions::new(ENGINE, PORT)) else { return };
        link.at_sender(|| send("198.18.0.1:8082", 0, 10));
        receiver.step_until("after the kill", |r| r.received.len() == 30);
        receiver.check_balance();
    });
}

/// Not a test of its own: opens the interface, says so and waits to be killed.
#[test]
fn victim() {
    let Ok(interface) = std::env::var(VICTIM_VARIABLE) else { return };
    let setup = nic::open(&XdpOptions::new(&interface, PORT)).unwrap();
    let got = &setup.modes[0];
    let said = if got.mode == Mode::NativeCopy { "native-copy" } else { &got.reason };
    println!("\nopened: {said}"); // the harness may have begun a line
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn zero_copy_cannot_be_had_here_and_its_requirement_says_why() {
    const TEST: &str = "zero_copy_cannot_be_had_here_and_its_requirement_says_why";
    on_link(TEST, |_link| {
        let options = XdpOptions { require: Require::Zerocopy, ..XdpOptions::new(ENGINE, PORT) };
        let error = nic::open(&options).map(|_| ()).unwrap_err().to_string();
        if error.contains("EPERM") {
            skipped(TEST, &error.to_string());
            return;
        }
        assert!(error.contains("zerocopy is required") && error.contains("EOPNOTSUPP"), "{error}");
        let missing = XdpOptions { queues: Some(vec![2]), ..XdpOptions::new(ENGINE, PORT) };
        let error = nic::open(&missing).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("no receive queue 2"), "{error}");
    });
}
