//! Pausing, resuming and draining, and what the runner is told meanwhile.

use super::*;
use crate::runtime::agent::Blocking;

#[test]
fn a_pause_reads_and_accepts_nothing_and_keeps_nobody_awake() {
    let mut bench = Setup::default().start();
    let mut client = bench.connect();
    client.write_all(&numbered(0..3)).unwrap();
    bench.until_taken(3);
    bench.set(State::Paused);
    client.write_all(&numbered(3..6)).unwrap();
    let mut late = bench.connect();
    late.write_all(&numbered(6..9)).unwrap();
    bench.settle();
    assert_eq!((bench.taken.len(), bench.count(Counter::TCP_CONNECTIONS_OPENED)), (3, 1));
    assert_eq!(bench.backend.blocking(), Blocking::Allowed);
    assert!(!is_readable(&bench), "the runner would spin");
    bench.set(State::Running);
    bench.until_taken(9);
    bench.check();
}

#[test]
fn an_idle_backend_lets_its_runner_sleep() {
    let mut bench = Setup::default().start();
    let mut client = bench.connect();
    client.write_all(&[numbered(0..3), vec![0, 0]].concat()).unwrap();
    bench.until_taken(3);
    bench.settle();
    assert_eq!((bench.backend.blocking(), is_readable(&bench)), (Blocking::Allowed, false));
    client.write_all(&[0]).unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    while !is_readable(&bench) {
        assert!(Instant::now() < end, "new bytes do not wake the runner");
    }
}

fn is_readable(bench: &Bench) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let descriptors = bench.backend.descriptors();
    let mut asked = [PollFd::from_borrowed_fd(descriptors[0], PollFlags::IN)];
    poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
}

#[test]
fn a_drain_takes_what_is_there_and_ends() {
    let mut bench = Setup::default().start();
    let mut client = bench.connect();
    client.write_all(&numbered(0..1)).unwrap();
    bench.until_taken(1);
    client.write_all(&[numbered(1..1500), vec![0, 0]].concat()).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    bench.set(State::Draining);
    bench.until("the end of the drain", |bench| bench.backend.drained());
    assert_eq!(bench.payloads(), names(0..1500));
    assert_eq!(bench.malformed(MalformedReason::StreamTruncated), 1, "the two bytes");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, bench.backend.local_port())).is_err());
    bench.check();
}

#[test]
fn a_drain_ends_although_a_sender_goes_on_and_credit_is_short() {
    let mut setup = Setup::default();
    setup.options.credits.limit = 50;
    let mut bench = setup.start();
    let mut client = bench.connect();
    let sender = std::thread::spawn(move || {
        let batch = numbered(0..1000);
        while client.write_all(&batch).is_ok() {}
    });
    bench.until_taken(5000);
    bench.set(State::Draining);
    bench.until("the end of the drain", |bench| bench.backend.drained());
    sender.join().unwrap();
    assert!(bench.malformed(MalformedReason::StreamTruncated) <= 1);
    bench.check();
}

#[test]
fn a_drain_waits_for_credit_but_not_for_deaf_clients() {
    let mut setup = Setup::default();
    setup.options.credits.limit = 1;
    let mut bench = setup.start();
    bench.releases = false;
    let (mut client, mut deaf) = (bench.connect(), bench.connect());
    client.write_all(&numbered(0..3)).unwrap();
    bench.until_taken(1);
    deaf.write_all(&frame("$esc/hello", br#"{"version":1}"#).repeat(500)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    bench.set(State::Draining);
    bench.settle();
    assert!(!bench.backend.drained(), "two frames have no credit yet");
    bench.releases = true;
    bench.release();
    bench.until("the end of the drain", |bench| bench.backend.drained());
    assert_eq!(bench.payloads(), names(0..3));
    bench.check();
}

#[test]
fn two_backends_share_a_port_when_asked_and_say_so_when_not() {
    let mut setup = Setup::default();
    setup.options.agents = 2;
    let first = setup.start();
    let mut setup = Setup::default();
    (setup.options.agents, setup.options.agent) = (2, 1);
    setup.options.port = first.backend.local_port();
    let second = setup.start();
    let mut options = Setup::default().options;
    options.port = second.backend.local_port();
    let large =
        FramePool::new(0, Region::map(LARGE_BYTES).unwrap(), &PoolSpec { slot_bytes: LARGE_BYTES, reliable: true });
    let acks = AckInlet { links: Vec::new(), wanted: AcksWanted::default(), depth: 0 };
    let error = TcpBackend::bind(options, large, Box::new(class_of), acks).err().unwrap();
    assert!(error.contains(&format!("127.0.0.1:{}", second.backend.local_port())), "{error}");
}

#[test]
fn numbers_are_never_zero_nor_shared() {
    let mut bench = Setup::default().start();
    let mut seen = std::collections::BTreeSet::new();
    for number in 1..=20 {
        let mut client = bench.connect();
        client.write_all(&numbered(0..1)).unwrap();
        bench.until_taken(number);
        assert!(seen.insert(bench.taken[number - 1].connection));
    }
    assert!(!seen.contains(&0));
    bench.until_closed(20);
    bench.check();
}
