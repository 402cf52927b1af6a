//! The data path neither allocates nor frees: not once in a million events, over each of the three backends.
//!
//! The whole mix goes through it: named and unnamed topics, windows and strict order, ids and duplicates, retries, rejections
//! and panics of none, gap tracking, and a topic table that is replaced half way.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use eventstream::config::Config;
use eventstream::engine::{Control, Engine};
use eventstream::frame::{FLAG_ACK, FrameHeader, Priority, encode};
use eventstream::memory::data_path_allocations;
use eventstream::metrics::Report;
use eventstream::worker::Outcome;
use eventstream_tests::acks::Reader;
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::local::parse;
use eventstream_tests::pipeline::FnHandler;
use eventstream_tests::random::Random;
use xtask::NO_SHEDDING;
use xtask::testbed::{Options, Testbed};

const EVENTS: u64 = 1_000_000;
const EVENTS_PER_DATAGRAM: u64 = 23;
/// Events between sender and outcome: above what keeps the engine busy, below what any queue holds.
const WINDOW: u64 = 1500;
/// Without progress for so long something is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// The count is the process's: one engine at a time. Holds what was counted before.
fn alone() -> MutexGuard<'static, u64> {
    static TURN: Mutex<u64> = Mutex::new(0);
    let mut turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    *turn = data_path_allocations().expect("the counting allocator");
    turn
}

/// Free ports; nothing is shed, however far anything has fallen behind.
fn base() -> String {
    const LISTEN: &str = "listen: {udp_address: 0.0.0.0, udp_port: 0, tcp_address: 127.0.0.1, tcp_port: 0}";
    format!("{LISTEN}\nadmin: {{enabled: false}}\ncontrol: {{{NO_SHEDDING}}}\n")
}

/// Of topics without entry; little memory, so that windows close for want of it too.
const WINDOWS: &str = "batch: {max_events: 16, max_ms: 2, max_bytes: 32768, memory_bytes: 262144, windows: 64}";

/// The interface, and what else is not the same in all of these runs.
#[derive(Clone, Default)]
struct Setup {
    interface: String,
    more: String,
}

fn config(setup: &Setup, named_topics: std::ops::Range<u32>) -> Config {
    let Setup { interface, more } = setup;
    let mut text = format!(
        "{}{more}\nxdp: {{interface: {interface}}}\ngap_tracking: {{enabled: true}}\n{WINDOWS}\ntopics:\n",
        base()
    );
    for number in named_topics {
        let class = ["realtime", "transactional", "batch"][number as usize % 3];
        let order = if number % 2 == 0 { "relaxed" } else { "strict" };
        let window = match (class, number % 5) {
            ("batch", 0..4) => format!(", window: {{max_events: {}}}", 4 + number % 5 * 8),
            _ => String::new(),
        };
        text += &format!("  - {{name: topic/{number}, class: {class}, order: {order}{window}}}\n");
    }
    parse(&text)
}

fn start(setup: &Setup) -> Engine {
    let handlers = |_, _| {
        FnHandler::new(|event, _| match event.payload().first() {
            Some(b'r') if event.attempt() == 1 => Outcome::Retry,
            Some(b'x') => Outcome::Reject("as asked"),
            _ => Outcome::Done,
        })
    };
    Engine::builder().config(config(setup, 0..100)).handlers(handlers).start().unwrap()
}

/// Makes the events: ids with one duplicate in a hundred, priorities and topics of all kinds, some to be retried.
struct Mix {
    random: Random,
    next_id: u64,
    made: u64,
    /// Over TCP: one in so many asks for an acknowledgement.
    asking_one_in: Option<usize>,
    asked: u64,
}

impl Mix {
    fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), next_id: 0, made: 0, asking_one_in: None, asked: 0 }
    }

    fn event(&mut self, out: &mut Vec<u8>) {
        if !self.random.one_in(100) {
            self.next_id += 1;
        }
        let mut id = [7; 16];
        id[8..].copy_from_slice(&self.next_id.to_be_bytes());
        let asks = self.asking_one_in.is_some_and(|times| self.random.one_in(times));
        self.asked += u64::from(asks);
        let flags = if asks { FLAG_ACK } else { 0 };
        let header = FrameHeader { id: Some(id), flags, ..FrameHeader::new(*self.random.pick(&Priority::ALL)) };
        let first = match self.random.below(2000) {
            0 => b'r',
            1 => b'x',
            _ => b'.',
        };
        let topic = format!("topic/{}", self.random.below(1000));
        encode(out, &header, topic.as_bytes(), &[first; 20]);
        self.made += 1;
    }
}

/// Keeps at most a window of events between sender and outcome, and replaces the topic table once, half way.
struct Pacer {
    control: Control,
    setup: Setup,
    reloaded: bool,
}

impl Pacer {
    fn new(engine: &Engine, setup: &Setup) -> Self {
        Self { control: engine.control(), setup: setup.clone(), reloaded: false }
    }

    fn wait(&mut self, made: u64, window: u64) {
        let started = Instant::now();
        loop {
            let events = self.control.ledger().events;
            let dead: u64 = events.dead_lettered.values().sum();
            let ended = events.processed.total() + events.duplicate + dead + events.lost.values().sum::<u64>();
            if made <= ended + window {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{made} sent: {events:?}");
            std::thread::sleep(Duration::from_micros(200));
        }
        if made > EVENTS / 2 && !self.reloaded {
            self.reloaded = true;
            self.control.reload(config(&self.setup, 50..150)).unwrap();
        }
    }
}

fn check(report: &Report, sent: u64, allocations_before: u64) {
    let (ledger, events) = (&report.ledger, &report.ledger.events);
    assert!(ledger.balanced, "{:#?}", ledger.imbalances);
    assert_eq!(events.accepted, sent);
    assert!(events.lost.is_empty(), "{events:?}");
    assert!(events.duplicate > 1000 && events.dead_lettered["rejected"] > 100, "{events:?}");
    assert!(report.counters["handler_retries"] > 50, "{:?}", report.counters);
    for closed in ["windows_closed_by_count", "windows_closed_by_time", "windows_closed_by_memory"] {
        assert!(report.counters.get(closed).is_some_and(|count| *count > 10), "{closed}: {:?}", report.counters);
    }
    for pool in &report.frames.pools {
        assert_eq!((pool.free + pool.kernel, pool.in_flight), (pool.slots, 0), "{pool:?}");
    }
    assert_eq!(report.data_path_allocations.map(|count| count - allocations_before), Some(0));
}

/// Sends a million events as datagrams; returns how many it really were.
fn send_datagrams(to: SocketAddr, pacer: &mut Pacer) -> u64 {
    // Several ports, so that more than one queue has work.
    let sockets: Vec<_> = (0..8).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap()).collect();
    let (mut mix, mut bytes) = (Mix::new(1), Vec::new());
    while mix.made < EVENTS {
        for socket in &sockets {
            bytes.clear();
            (0..EVENTS_PER_DATAGRAM).for_each(|_| mix.event(&mut bytes));
            socket.send_to(&bytes, to).unwrap();
        }
        pacer.wait(mix.made, WINDOW);
    }
    pacer.wait(mix.made, 0);
    mix.made
}

#[test]
fn udp_allocates_nothing_in_a_million_events() {
    let before = alone();
    let setup = Setup { interface: "null".into(), ..Setup::default() };
    let engine = start(&setup);
    let port = engine.control().ports().udp;
    let sent = send_datagrams(([127, 0, 0, 1], port).into(), &mut Pacer::new(&engine, &setup));
    let report = engine.drain();
    check(&report, sent, *before);
    assert_eq!(report.ledger.datagrams.socket_received, sent / EVENTS_PER_DATAGRAM);
}

#[test]
fn tcp_allocates_nothing_in_a_million_events() {
    let report = over_tcp("");
    assert!(!report.counters.contains_key("log_records_appended"), "{:?}", report.counters);
}

/// Only the log writer's thread does, which is not on the way of an event.
#[test]
fn nor_does_it_with_an_event_log() {
    let folder = DataFolder::new();
    // Small, so that segments are begun and closed, and their indexes written.
    let report = over_tcp(&folder.storage("segment_bytes: 4194304, fsync_every_ms: 1"));
    let counter = |name: &str| report.counters.get(name).copied().unwrap_or(0);
    let processed = &report.ledger.events.processed;
    assert_eq!(counter("log_records_appended"), processed.transactional + processed.batch);
    assert!(counter("log_segments_begun") > 5 && counter("log_failures") == 0, "{:?}", report.counters);
}

fn over_tcp(more: &str) -> Report {
    let before = alone();
    let setup = Setup { interface: "null".into(), more: more.into() };
    let engine = start(&setup);
    let port = engine.control().ports().tcp.unwrap();
    let mut connections: Vec<_> = (0..4).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let told: Vec<_> = connections
        .iter()
        .map(|connection| {
            let mut reader = Reader::new(connection);
            std::thread::spawn(move || reader.read_to_end())
        })
        .collect();
    let (mut pacer, mut mix) = (Pacer::new(&engine, &setup), Mix { asking_one_in: Some(5), ..Mix::new(2) });
    let mut random = Random::new(3);
    // Connections that come and go, ask, or send nonsense may allocate, but not on the data path.
    let mut others = 0;
    while mix.made < EVENTS {
        if random.one_in(50) {
            let mut hello = Vec::new();
            encode(&mut hello, &FrameHeader::new(Priority::Low), b"$esc/hello", br#"{"version":1}"#);
            hello.extend_from_slice(&[0, 0, 0, 1]);
            TcpStream::connect(("127.0.0.1", port)).unwrap().write_all(&hello).unwrap();
            others += 1;
        }
        for connection in &mut connections {
            let mut bytes = Vec::new();
            (0..100).for_each(|_| mix.event(&mut bytes));
            if random.one_in(200) {
                // Larger than an ordinary slot.
                encode(&mut bytes, &FrameHeader::new(Priority::Medium), b"large", &vec![b'.'; 100_000]);
                mix.made += 1;
            }
            // In pieces that end anywhere, so that reads do too.
            for piece in bytes.chunks(1 + random.below(bytes.len())) {
                connection.write_all(piece).unwrap();
            }
        }
        pacer.wait(mix.made, WINDOW);
    }
    pacer.wait(mix.made, 0);
    let report = engine.drain();
    check(&report, mix.made, *before);
    let frames = &report.ledger.tcp_frames;
    assert_eq!((frames.accepted, frames.control), (mix.made, others));
    let told: usize = told.into_iter().map(|told| told.join().unwrap().acks.len()).sum();
    assert!(told > 100_000, "{told}");
    assert_eq!((report.ledger.acks.asked, report.ledger.acks.sent, told as u64), (mix.asked, mix.asked, mix.asked));
    assert_eq!(frames.malformed["length_short"], others);
    assert!(report.counters["reassembly_copied_bytes"] > 0, "{:?}", report.counters);
    report
}

/// Connections that have shown large frames have much read of them for one credit. Then come small ones, of which next to
/// none may be taken in: nearly all that was read waits.
#[test]
fn many_connections_that_wait_for_credit_with_much_read_allocate_nothing() {
    const CONNECTIONS: u64 = 64;
    const LARGE: u64 = 12;
    const SMALL: u64 = 3000;
    const SLOW: &str = "
queues: {spsc_depth: 64}
workers: {stall_ms: 60000}
layout:
  mode: explicit
  runners: [{name: rest, cpu: null, agents: ['*']}, {name: realtime, cpu: null, agents: [realtime-0]}]
";
    let frames = |count: u64, payload: usize| {
        let mut bytes = Vec::new();
        (0..count).for_each(|_| encode(&mut bytes, &FrameHeader::new(Priority::High), b"t", &vec![b'.'; payload]));
        bytes
    };
    let before = alone();
    // How many events may be handled: all, at first.
    let permitted = Arc::new(AtomicU64::new(u64::MAX));
    let handlers = |_, _| {
        let (permitted, mut handled) = (permitted.clone(), 0);
        FnHandler::new(move |_, _| {
            while handled >= permitted.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_micros(50));
            }
            handled += 1;
            Outcome::Done
        })
    };
    let engine = Engine::builder().config(parse(&(base() + SLOW))).handlers(handlers).start().unwrap();
    let control = engine.control();
    let port = control.ports().tcp.unwrap();
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < PATIENCE, "{what}: {:?}", control.ledger().events);
            std::thread::sleep(Duration::from_micros(200));
        }
    };
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    // What they leave of a slot is too little to read into: the next read has a whole one.
    let large = frames(LARGE, 62_000);
    connections.iter_mut().for_each(|connection| connection.write_all(&large).unwrap());
    let taught = CONNECTIONS * LARGE;
    wait("the large ones", &|| control.ledger().events.processed.realtime == taught);

    permitted.store(taught, Ordering::Relaxed);
    let small = frames(SMALL, 12);
    let received = || control.report().counters["bytes_received"];
    let received_before = received();
    std::thread::scope(|scope| {
        for connection in &mut connections {
            let small = &small;
            scope.spawn(move || connection.write_all(small).unwrap());
        }
        wait("much is read", &|| {
            permitted.fetch_add(1, Ordering::Relaxed);
            received() - received_before >= CONNECTIONS * 32_000
        });
        let published = (control.ledger().events.accepted - taught) * (small.len() as u64 / SMALL);
        let waiting = received() - received_before - published;
        assert!(waiting > CONNECTIONS * 28_000, "{waiting} bytes wait");
        permitted.store(u64::MAX, Ordering::Relaxed);
    });
    let sent = taught + CONNECTIONS * SMALL;
    wait("all of it", &|| control.ledger().events.processed.realtime == sent);
    let report = engine.drain();
    assert!(report.ledger.balanced, "{:#?}", report.ledger.imbalances);
    assert_eq!(report.ledger.events.processed.realtime, sent);
    assert_eq!(report.data_path_allocations.map(|count| count - *before), Some(0));
}

#[test]
fn xdp_allocates_nothing_in_a_million_events() {
    const TEST: &str = "xdp_allocates_nothing_in_a_million_events";
    // Past the harness, which keeps what a passing test prints to itself.
    let skipped = |reason: &str| writeln!(io::stdout(), "SKIPPED: {TEST}: {reason}").expect("stdout");
    let before = alone();
    let testbed = match Testbed::create(&Options { ipv6: false, ..Options::test() }) {
        Ok(testbed) => testbed,
        Err(error) => return skipped(&error.to_string()),
    };
    let link = testbed.link().clone();
    let setup = Setup { interface: link.iface.clone(), ..Setup::default() };
    let engine = start(&setup);
    let control = engine.control();
    if let Some(queue) = control.queue_modes().iter().find(|queue| queue.mode == "socket") {
        return skipped(&queue.reason);
    }
    let to = (link.engine_ip, control.ports().udp).into();
    let mut pacer = Pacer::new(&engine, &setup);
    let sent = testbed.in_namespace(|| send_datagrams(to, &mut pacer)).unwrap();
    let report = engine.drain();
    check(&report, sent, *before);
    assert_eq!(report.ledger.datagrams.consumed, sent / EVENTS_PER_DATAGRAM, "all of it over AF_XDP");
}
