//! The backend against real sockets on loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::*;
use crate::frame::{FrameHeader, Limits, Parser, Priority, Transport, encode};
use crate::ingest::IntakeSpec;
use crate::memory::{Event, FramePool, Frames, PoolSpec, Region, Releaser};
use crate::metrics::MalformedReason;
use crate::nic::{Gro, UdpSocketOptions, send_in_segments};
use crate::queue::mpsc;

const SLOT: usize = 64 << 10;

struct Bench {
    backend: UdpBackend,
    intake: Intake,
    events: mpsc::Consumer<Event>,
    frames: Frames,
    state: State,
    now: Nanos,
}

/// What a test may want otherwise.
struct Setup {
    slot_bytes: usize,
    slots: usize,
    depth: usize,
    address: IpAddr,
    gro: Gro,
    receive_buffer_bytes: u32,
}

const PLAIN: Setup = Setup {
    slot_bytes: SLOT,
    slots: 128,
    depth: 1 << 14,
    address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    gro: Gro::Auto,
    receive_buffer_bytes: 4 << 20,
};

fn options(setup: &Setup) -> UdpSocketOptions {
    UdpSocketOptions {
        address: setup.address,
        port: 0,
        reuse_port: false,
        receive_buffer_bytes: setup.receive_buffer_bytes,
        gro: setup.gro,
    }
}

fn bench(setup: &Setup) -> Bench {
    let spec = PoolSpec { slot_bytes: setup.slot_bytes, reliable: false };
    let pool = FramePool::new(0, Region::map(setup.slots * setup.slot_bytes).unwrap(), &spec);
    let frames = Frames::new(&[&pool]);
    let (mut producers, events) = mpsc::queue(setup.depth, 1);
    let limits = Limits { frame_bytes: 1 << 20, topic_bytes: 255 };
    let parser = Parser::new(limits, Transport::Udp, Priority::Critical, 7);
    let intake = Intake::new(IntakeSpec { pool, queue: producers.remove(0), parser, waker: None });
    let socket = UdpSocket::bind(&options(setup)).unwrap();
    let backend = UdpBackend::new(socket, UdpOptions::default()).unwrap();
    Bench { backend, intake, events, frames, state: State::Running, now: 1 }
}

fn frame(number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes, &FrameHeader::new(Priority::High), b"t", format!("{number:08}").as_bytes());
    bytes
}

fn datagram(numbers: impl Iterator<Item = usize>) -> Vec<u8> {
    numbers.flat_map(frame).collect()
}

fn send_each(sender: &std::net::UdpSocket, numbers: std::ops::Range<usize>, bytes: impl Fn(usize) -> Vec<u8>) {
    numbers.for_each(|number| assert_ne!(sender.send(&bytes(number)).unwrap(), 0));
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.backend.end(&mut self.intake);
        let mut releaser = Releaser::new(self.frames.clone());
        while self.intake.push_pending() > 0 || self.intake.is_blocked() {
            std::iter::from_fn(|| self.events.take()).for_each(|event| releaser.release(event));
            self.events.release();
        }
        std::iter::from_fn(|| self.events.take()).for_each(|event| releaser.release(event));
    }
}

impl Bench {
    fn step(&mut self, busy: bool) -> usize {
        self.intake.push_pending();
        let cycle = Cycle { now: self.now, busy };
        let work =
            if self.intake.is_blocked() { 0 } else { self.backend.receive(&mut self.intake, self.state, &cycle) };
        assert_eq!(self.received(), self.parsed() + self.malformed(), "between any two cycles");
        work
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.backend.state_changed(&mut self.intake, state);
    }

    /// A sender on loopback, connected so that a run of datagrams needs no address.
    fn sender(&self, address: &str) -> std::net::UdpSocket {
        let any = if address.contains(':') { "[::1]:0" } else { "127.0.0.1:0" };
        let socket = std::net::UdpSocket::bind(any).unwrap();
        let address: IpAddr = address.parse().unwrap();
        socket.connect(SocketAddr::new(address, self.backend.socket.local_port())).unwrap();
        socket
    }

    /// Takes what was published and ends it: the numbers in the payloads.
    fn numbers(&mut self) -> Vec<usize> {
        let mut releaser = Releaser::new(self.frames.clone());
        let taken: Vec<Event> = std::iter::from_fn(|| self.events.take()).collect();
        self.events.release();
        let mut numbers = Vec::new();
        for event in taken {
            let bytes = self.frames.bytes(&event);
            numbers.push(std::str::from_utf8(&bytes[bytes.len() - 8..]).unwrap().parse().unwrap());
            releaser.release(event);
        }
        numbers
    }

    /// Steps and takes until nothing more comes.
    fn all_numbers(&mut self) -> Vec<usize> {
        let mut numbers = Vec::new();
        loop {
            let work = self.step(false);
            let new = self.numbers();
            if work == 0 && new.is_empty() {
                return numbers;
            }
            numbers.extend(new);
        }
    }

    fn received(&self) -> u64 {
        self.count(Counter::DATAGRAMS_SOCKET_RECEIVED)
    }

    fn parsed(&self) -> u64 {
        self.count(Counter::DATAGRAMS_PARSED)
    }

    fn malformed(&self) -> u64 {
        MalformedReason::ALL.iter().map(|reason| self.count(Counter::datagram_malformed(*reason))).sum()
    }

    fn count(&self, counter: Counter) -> u64 {
        self.intake.counters.get(counter)
    }

    fn dropped(&mut self) -> u64 {
        self.backend.housekeeping(&mut self.intake, self.now);
        self.count(Counter::DATAGRAMS_SOCKET_DROPPED)
    }

    /// Whether a runner that waits on the backend's descriptor would be woken.
    fn is_ready(&self) -> bool {
        let mut ready =
            [rustix::event::PollFd::from_borrowed_fd(self.backend.descriptors()[0], rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut ready, Some(&rustix::event::Timespec::default())).unwrap() > 0
    }
}

#[test]
fn datagrams_become_events_in_order() {
    let mut bench = bench(&PLAIN);
    let sender = bench.sender("127.0.0.1");
    for number in 0..150 {
        sender.send(&datagram(number * 10..number * 10 + 10)).unwrap();
    }
    assert_eq!(bench.all_numbers(), (0..1500).collect::<Vec<_>>());
    assert_eq!((bench.received(), bench.parsed(), bench.dropped()), (150, 150, 0));
}

#[test]
fn both_families_come_over_one_socket_with_their_senders() {
    let mut bench = bench(&PLAIN);
    if let Some(reason) = bench.backend.socket.without_ipv6() {
        eprintln!("no IPv6 on this host ({reason}): not tested");
        return;
    }
    for address in ["127.0.0.1", "::1"] {
        let sender = bench.sender(address);
        sender.send(&frame(1)).unwrap();
        assert!(bench.is_ready());
        assert_eq!(bench.step(false), 1);
        let event = bench.events.take().unwrap();
        assert_eq!(bench.frames.peer(&event), sender.local_addr().unwrap());
        assert_eq!(bench.frames.arrival_ns(&event), bench.now);
        Releaser::new(bench.frames.clone()).release(event);
        bench.events.release();
    }
    let mut v4_only = self::bench(&Setup { address: Ipv4Addr::LOCALHOST.into(), ..PLAIN });
    let sender = v4_only.sender("127.0.0.1");
    sender.send(&frame(2)).unwrap();
    v4_only.step(false);
    let event = v4_only.events.take().unwrap();
    assert_eq!(v4_only.frames.peer(&event), sender.local_addr().unwrap());
    Releaser::new(v4_only.frames.clone()).release(event);
}

#[test]
fn a_run_of_datagrams_is_split_and_each_judged_alone() {
    let mut bench = bench(&Setup { gro: Gro::On, ..PLAIN });
    let sender = bench.sender("::1");
    let bytes = datagram(0..2).len();
    send_in_segments(&sender, bytes as u16).unwrap();
    let mut run = datagram(0..40);
    run[5 * bytes + 5] = 0; // the topic length of the sixth datagram's first frame
    run[5 * bytes + 6] = 0;
    run.extend([0; 3]); // and a last one that is shorter than any frame
    sender.send(&run).unwrap();
    assert_eq!(bench.step(false), 21);
    let expected: Vec<_> = (0..40).filter(|number| ![10, 11].contains(number)).collect();
    assert_eq!(bench.numbers(), expected);
    assert_eq!((bench.received(), bench.parsed()), (21, 19));
    let reasons = [MalformedReason::TopicEmpty, MalformedReason::TrailingBytes];
    assert_eq!(reasons.map(|reason| bench.count(Counter::datagram_malformed(reason))), [1, 1]);
    assert_eq!(bench.count(Counter::BYTES_RECEIVED), run.len() as u64);
    bench.intake.pool.reclaim();
    assert_eq!(bench.intake.pool.free() + bench.backend.slots.len(), PLAIN.slots);
    // Without one good datagram the slot comes back at once.
    sender.send(&vec![0; 10 * bytes]).unwrap();
    assert_eq!((bench.step(false), bench.malformed()), (10, 12));
    assert_eq!(bench.intake.pool.free() + bench.backend.slots.len(), PLAIN.slots);
}

#[test]
fn an_empty_datagram_is_malformed() {
    let mut bench = bench(&PLAIN);
    bench.sender("127.0.0.1").send(&[]).unwrap();
    assert_eq!(bench.step(false), 1);
    assert_eq!(bench.count(Counter::datagram_malformed(MalformedReason::EmptyDatagram)), 1);
}

#[test]
fn the_largest_datagram_fits_and_a_slot_too_small_is_said_so() {
    let mut large = bench(&PLAIN);
    let mut bytes = Vec::new();
    let number = format!("{:08}", 7);
    encode(&mut bytes, &FrameHeader::new(Priority::Low), b"t", &[&vec![0; 65_507 - 16], number.as_bytes()].concat());
    assert_eq!(bytes.len(), 65_507, "all that IPv4 can carry");
    large.sender("127.0.0.1").send(&bytes).unwrap();
    assert_eq!(large.all_numbers(), [7]);
    assert_eq!(large.count(Counter::DATAGRAMS_TRUNCATED), 0);

    let mut small = bench(&Setup { slot_bytes: 64, slots: 16, gro: Gro::On, ..PLAIN });
    let sender = small.sender("::1");
    sender.send(&datagram(0..9)).unwrap();
    sender.send(&frame(1)).unwrap();
    send_in_segments(&sender, frame(1).len() as u16).unwrap();
    sender.send(&datagram(2..7)).unwrap();
    assert_eq!(small.all_numbers(), [1]);
    assert_eq!(small.count(Counter::DATAGRAMS_TRUNCATED), 1 + 5, "each datagram of the run");
    assert_eq!((small.received(), small.parsed()), (1, 1));
    small.intake.pool.reclaim();
    assert_eq!(small.intake.pool.free() + small.backend.slots.len(), 16);
}

#[test]
fn a_paused_socket_refuses_what_is_new_and_reads_what_is_old() {
    let mut bench = bench(&PLAIN);
    let sender = bench.sender("127.0.0.1");
    sender.send(&frame(1)).unwrap();
    bench.enter(State::Paused);
    send_each(&sender, 0..3, |_| frame(2));
    assert_eq!(bench.all_numbers(), [1]);
    assert!(!bench.is_ready(), "nothing keeps a paused runner awake");
    assert_eq!(bench.dropped(), 3, "the kernel counts what the filter rejects, once");
    assert_eq!((bench.dropped(), bench.count(Counter::DATAGRAMS_SOCKET_REFUSED)), (3, 3));
    bench.enter(State::Running);
    sender.send(&frame(4)).unwrap();
    assert_eq!(bench.all_numbers(), [4]);
    let refused = bench.count(Counter::DATAGRAMS_SOCKET_REFUSED);
    assert_eq!((bench.received(), bench.dropped(), refused), (2, 3, 3));
}

#[test]
fn drained_is_empty_behind_the_filter_for_a_while() {
    let mut bench = bench(&PLAIN);
    let sender = bench.sender("127.0.0.1");
    send_each(&sender, 0..100, frame);
    bench.step(false);
    bench.enter(State::Paused);
    bench.enter(State::Draining);
    sender.send(&frame(100)).unwrap();
    assert!(!bench.backend.drained());
    assert_eq!(bench.all_numbers(), (0..100).collect::<Vec<_>>());
    assert!(!bench.backend.drained(), "seen empty once");
    let until = bench.now + DRAIN_PAUSE_NS;
    assert_eq!(bench.backend.blocking(), Blocking::Until(until));
    bench.now = until;
    bench.step(true);
    assert!(bench.backend.drained());
    bench.intake.pool.reclaim();
    assert_eq!(bench.intake.pool.free(), PLAIN.slots, "no slot is kept by a drained socket");
    bench.enter(State::Running);
    assert!(!bench.backend.drained());
    sender.send(&frame(101)).unwrap();
    assert_eq!(bench.all_numbers(), [101]);
}

#[test]
fn a_blocked_intake_goes_on_where_it_stopped() {
    let mut bench = bench(&Setup { depth: 256, ..PLAIN });
    let sender = bench.sender("127.0.0.1");
    send_each(&sender, 0..10, |batch| datagram(batch * 100..batch * 100 + 100));
    assert_eq!(bench.step(false), 3, "the third does not fit whole and waits in the intake");
    assert_eq!(bench.received(), 3, "what was read and not handed on is not counted yet");
    assert_eq!((bench.step(false), bench.backend.blocking()), (0, Blocking::Forbidden));
    assert_eq!(bench.all_numbers(), (0..1000).collect::<Vec<_>>());
    assert_eq!((bench.received(), bench.backend.blocking()), (10, Blocking::Allowed));
    assert!(bench.count(Counter::MPSC_BACKPRESSURED) > 0);
}

#[test]
fn a_cycle_ends_after_a_burst_of_events() {
    let mut bench = bench(&PLAIN);
    let sender = bench.sender("127.0.0.1");
    send_each(&sender, 0..4, |batch| datagram(batch * 1500..batch * 1500 + 1500));
    assert_eq!((bench.step(true), bench.backend.blocking()), (2, Blocking::Forbidden));
    assert_eq!((bench.step(true), bench.backend.blocking()), (2, Blocking::Allowed));
    assert_eq!(bench.numbers(), (0..6000).collect::<Vec<_>>());
}

#[test]
fn a_busy_runner_asks_an_empty_socket_at_an_interval() {
    let mut bench = bench(&Setup { slots: 256, ..PLAIN });
    let interval = UdpOptions::default().poll_interval_ns;
    let sender = bench.sender("127.0.0.1");
    assert_eq!(bench.step(true), 0);
    sender.send(&frame(0)).unwrap();
    bench.now += interval - 1;
    assert_eq!(bench.step(true), 0, "too soon");
    bench.now += 1;
    assert_eq!(bench.step(true), 1);
    sender.send(&frame(1)).unwrap();
    assert_eq!((bench.step(true), bench.step(false)), (0, 1), "an idle one at once");
    send_each(&sender, 0..129, frame);
    bench.now += interval;
    assert_eq!([bench.step(true), bench.step(true), bench.step(true), bench.step(true)], [64, 64, 1, 0]);
    bench.numbers();
}

#[test]
fn without_a_slot_nothing_is_read_and_the_runner_may_sleep() {
    let mut bench = bench(&Setup { slots: 8, ..PLAIN });
    let sender = bench.sender("127.0.0.1");
    send_each(&sender, 0..20, frame);
    assert_eq!(bench.step(false), 8, "as many as there are slots");
    assert!(bench.is_ready());
    assert_eq!(bench.step(false), 0);
    assert!(!bench.is_ready(), "a full socket would keep the runner awake for nothing");
    assert_eq!(bench.backend.blocking(), Blocking::Until(bench.now + SLOT_PAUSE_NS));
    let first = bench.numbers();
    assert_eq!((first.len(), bench.step(false)), (8, 8));
    assert!(bench.is_ready());
    assert_eq!(bench.numbers(), (8..16).collect::<Vec<_>>());
    assert_eq!(bench.all_numbers(), (16..20).collect::<Vec<_>>());
}

#[test]
fn what_does_not_fit_the_buffer_is_counted_to_the_datagram() {
    let mut bench = bench(&Setup { receive_buffer_bytes: 16 << 10, ..PLAIN });
    let sender = bench.sender("127.0.0.1");
    send_each(&sender, 0..1000, frame);
    let numbers = bench.all_numbers();
    assert!(numbers.len() < 1000 && numbers == (0..numbers.len()).collect::<Vec<_>>());
    assert_eq!(numbers.len() as u64 + bench.dropped(), 1000, "though no datagram came after the last drop");
    assert_eq!(bench.count(Counter::DATAGRAMS_SOCKET_REFUSED), 0);
}

#[test]
fn a_dropped_run_counts_once() {
    let mut bench = bench(&Setup { gro: Gro::On, ..PLAIN });
    let sender = bench.sender("127.0.0.1");
    send_in_segments(&sender, frame(0).len() as u16).unwrap();
    bench.enter(State::Paused);
    sender.send(&datagram(0..10)).unwrap();
    assert_eq!(bench.dropped(), 1, "if a newer kernel says 10, the module's header can say less");
}

#[test]
fn the_kernels_drop_count_wraps() {
    let mut drops = Drops::default();
    assert_eq!([u32::MAX - 1, 3, 3].map(|now| drops.advance(now)), [u64::from(u32::MAX - 1), 5, 0]);
    assert_eq!(drops.total, (1 << 32) + 3);
}

#[test]
fn a_port_is_shared_only_by_those_who_all_say_so() {
    let shared = UdpSocketOptions { reuse_port: true, ..options(&PLAIN) };
    let first = UdpSocket::bind(&shared).unwrap();
    let port = first.local_port();
    assert_ne!(port, 0);
    assert!(first.receive_buffer_bytes() > 0);
    UdpSocket::bind(&UdpSocketOptions { port, ..shared.clone() }).unwrap();
    let error = UdpSocket::bind(&UdpSocketOptions { port, reuse_port: false, ..shared }).unwrap_err();
    assert!(error.contains(&port.to_string()) && error.contains("EADDRINUSE"), "{error}");
    let elsewhere = UdpSocketOptions { address: "192.0.2.1".parse().unwrap(), ..options(&PLAIN) };
    let error = UdpSocket::bind(&elsewhere).unwrap_err();
    assert!(error.starts_with("UDP socket on 192.0.2.1:0: bind: "), "{error}");
}
