//! Clients of a running engine, good and bad: whatever one of them does, the others' events are all processed, and each
//! mistake is in exactly the counter that names it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventstream::frame::Priority;
use eventstream_tests::client::{connect, event, publish, read_answers};
use eventstream_tests::engine_process::{Engine, Setup, count};
use eventstream_tests::skipped;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use xtask::process::capture;

/// What anybody would write from the description of the protocol.
const PYTHON_CLIENT: &str = r#"
import socket, struct
topic = b"sensor/temp"
payload = b'{"temp": 23.5}'
connection = socket.create_connection(("127.0.0.1", 8081))
connection.sendall(
    struct.pack(">I", 3+len(topic)+len(payload)) + struct.pack("B",5) + struct.pack(">H",len(topic)) + topic + payload
)
"#;

#[test]
fn a_client_of_three_lines_is_understood() {
    let engine = Setup::default().start();
    let client = PYTHON_CLIENT.replace("8081", &engine.tcp_port().to_string()); // the default port, for this engine's
    capture(Command::new("python3").args(["-c", &client])).unwrap();
    engine.wait_until("the event", |report| count(report, "/events/processed/realtime") == 1);
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!((ended.count("/events/accepted"), ended.processed()), (1, 1));
    assert_eq!(ended.count("/events/processed/realtime"), 1);
}

/// Bytes that are wrong in exactly one way, the name of that, and what carries them.
struct Mistake {
    reason: &'static str,
    bytes: Vec<u8>,
    over_udp: bool,
    over_tcp: bool,
}

/// A frame whose fields are what they are told to be.
fn frame(length: u32, head: u8, topic_length: u16, rest: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], &[head], &topic_length.to_be_bytes(), rest].concat()
}

fn mistakes() -> Vec<Mistake> {
    let both = |reason, bytes| Mistake { reason, bytes, over_udp: true, over_tcp: true };
    let udp = |reason, bytes| Mistake { reason, bytes, over_udp: true, over_tcp: false };
    let tcp = |reason, bytes| Mistake { reason, bytes, over_udp: false, over_tcp: true };
    let whole = |head, topic: &[u8]| frame(3 + topic.len() as u32, head, topic.len() as u16, topic);
    vec![
        both("length_short", frame(2, 0, 0, b"")),
        both("length_limit", frame((1 << 20) + 1, 0, 1, b"a")),
        both("length_limit", frame(1 << 30, 0, 1, b"a")),
        both("topic_empty", frame(4, 0, 0, b"a")),
        both("topic_beyond", frame(4, 0, 2, b"a")),
        both("topic_limit", whole(0, &[b'a'; 256])),
        both("topic_utf8", whole(0, b"a\xff")),
        both("topic_nul", whole(0, b"a\0b")),
        both("topic_wildcard", whole(0, b"a/+/b")),
        both("topic_wildcard", whole(0, b"a/#")),
        both("reserved_flag", whole(0x10, b"a")),
        both("reserved_flag", whole(0x08, b"a")),
        both("missing_field", frame(4, 0x80, 1, b"a")),
        both("missing_field", frame(4, 0x40, 1, b"a")),
        both("reserved_topic", whole(0, b"$esc/unheard-of")),
        udp("reserved_topic", whole(0, b"$esc/hello")),
        udp("length_beyond", frame(5, 0, 1, b"a")),
        udp("trailing_bytes", [whole(0, b"a"), vec![0; 3]].concat()),
        udp("empty_datagram", Vec::new()),
        tcp("stream_truncated", frame(5, 0, 1, b"a")),
        tcp("stream_truncated", vec![0; 3]),
        tcp("control_payload", frame(3 + 11, 0, 10, b"$esc/hello{")),
    ]
}

/// Good events flow on a connection of their own for as long as `meanwhile` runs; returns how many.
fn while_events_flow(engine: &Engine, meanwhile: impl FnOnce()) -> u64 {
    let port = engine.tcp_port();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let good = scope.spawn(|| {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                publish(port, Priority::High, 100);
                sent += 100;
            }
            sent
        });
        // A failing `meanwhile` must end the good client, or the scope would never end.
        let result = std::panic::catch_unwind(AssertUnwindSafe(meanwhile));
        stop.store(true, Ordering::Relaxed);
        let sent = good.join().expect("the good client is not disturbed");
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sent
    })
}

/// How often each reason is expected.
fn expected(mistakes: &[&Mistake]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for mistake in mistakes {
        *counts.entry(mistake.reason.to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn each_mistake_in_a_datagram_is_counted_by_its_name() {
    let engine = Setup::default().start();
    let mistakes = mistakes();
    let sent: Vec<_> = mistakes.iter().filter(|mistake| mistake.over_udp).collect();
    let good = while_events_flow(&engine, || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for mistake in &sent {
            socket.send_to(&mistake.bytes, ("127.0.0.1", engine.udp_port())).unwrap();
        }
        let datagrams = sent.len() as u64;
        engine.wait_until("all datagrams", |report| count(report, "/datagrams/socket_received") == datagrams);
    });
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.report["ledger"]["datagrams"]["malformed"], json!(expected(&sent)));
    assert_eq!((ended.count("/datagrams/parsed"), ended.count("/datagrams/socket_dropped")), (0, 0));
    assert_eq!((ended.count("/events/accepted"), ended.processed()), (good, good));
}

#[test]
fn each_mistake_in_a_stream_is_counted_told_and_ends_that_stream() {
    let engine = Setup::default().start();
    let mistakes = mistakes();
    let sent: Vec<_> = mistakes.iter().filter(|mistake| mistake.over_tcp).collect();
    let good = while_events_flow(&engine, || {
        for mistake in &sent {
            let mut stream = connect(engine.tcp_port());
            // One good event before it: it counts, whatever comes after.
            stream.write_all(&event(Priority::High, "good/before", b"")).unwrap();
            stream.write_all(&mistake.bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let answers = read_answers(&mut stream);
            assert_eq!(answers.len(), 1, "{}: {answers:?}", mistake.reason);
            let (topic, payload) = &answers[0];
            assert_eq!((topic.as_str(), &payload["fatal"]), ("$esc/error", &json!(true)), "{}", mistake.reason);
            let message = payload["message"].as_str().unwrap();
            assert!(message.contains(mistake.reason) || mistake.reason == "control_payload", "{message}");
            assert!(payload["at_byte"].as_u64().unwrap() >= 18, "behind the good one: {payload}");
        }
    });
    let ended = engine.drain();
    ended.assert_balanced();
    let good = good + sent.len() as u64;
    assert_eq!(ended.report["ledger"]["tcp_frames"]["malformed"], json!(expected(&sent)));
    assert_eq!((ended.count("/tcp_frames/accepted"), ended.processed()), (good, good));
}

/// What a frame says it is costs nothing: neither memory nor anybody's time.
#[test]
fn a_gibibyte_announced_is_refused_before_it_is_sent() {
    let engine = Setup::default().start();
    publish(engine.tcp_port(), Priority::High, 1_000);
    let before = engine.resident_bytes();
    const CLIENTS: u64 = 200;
    let good = while_events_flow(&engine, || {
        for _ in 0..CLIENTS {
            let mut stream = connect(engine.tcp_port());
            stream.write_all(&frame(1 << 30, 0, 1, b"a")).unwrap(); // and no end: the engine does not wait for it
            let answers = read_answers(&mut stream);
            assert!(answers[0].1["message"].as_str().unwrap().contains("length_limit"), "{answers:?}");
        }
    });
    assert_grew_at_most(&engine, before, 32 * MIB);
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.count("/tcp_frames/malformed/length_limit"), CLIENTS);
    assert_eq!(ended.processed(), good + 1_000);
}

const MIB: u64 = 1 << 20;

fn assert_grew_at_most(engine: &Engine, before: u64, limit: u64) {
    let grown = engine.resident_bytes().saturating_sub(before);
    assert!(grown <= limit, "grew by {grown} bytes from {before}");
}

/// Lets this process have that many more files; false where the system does not.
fn allow_files(count: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let wanted = count + 500; // tests beside this one have some too
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        return false;
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).is_ok()
}

#[test]
fn ten_thousand_idle_connections_disturb_nobody() {
    const TEST: &str = "ten_thousand_idle_connections_disturb_nobody";
    const IDLE: u64 = 10_000;
    if !allow_files(IDLE) {
        return skipped(TEST, "the limit of open files is below 10,500");
    }
    let engine = Setup::default().start();
    publish(engine.tcp_port(), Priority::High, 1_000);
    let before = engine.resident_bytes();
    // Half of them never say anything, half have begun a frame.
    let idle: Vec<TcpStream> = (0..IDLE)
        .map(|number| {
            let mut stream = connect(engine.tcp_port());
            stream.write_all(if number % 2 == 0 { &[] } else { &[0, 0] }).unwrap();
            stream
        })
        .collect();
    let opened = |report: &Value| report["counters"]["tcp_connections_opened"].as_u64() > Some(IDLE);
    engine.wait_until("all connections", opened);
    let good = while_events_flow(&engine, || {
        publish(engine.tcp_port(), Priority::High, 100_000);
        assert_grew_at_most(&engine, before, 64 * MIB);
    });
    let ended = engine.drain();
    ended.assert_balanced();
    drop(idle);
    assert_eq!(ended.processed(), good + 101_000);
    let cut = json!({"stream_truncated": IDLE / 2});
    assert_eq!(ended.report["ledger"]["tcp_frames"]["malformed"], cut);
}

#[test]
fn a_client_that_never_reads_is_not_read_either() {
    let engine = Setup::default().start();
    publish(engine.tcp_port(), Priority::High, 1_000);
    let before = engine.resident_bytes();
    let hello = event(Priority::High, "$esc/hello", br#"{"version": 1}"#);
    let mut deaf = connect(engine.tcp_port());
    deaf.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let asked = hello.repeat(1_000);
    // Each request asks for an answer. Nobody reads those, so some time both directions are full.
    let mut written = 0;
    let good = while_events_flow(&engine, || {
        while written < 256 * MIB {
            match deaf.write(&asked[(written % hello.len() as u64) as usize..]) {
                Ok(count) => written += count as u64,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                    break;
                }
            }
        }
        assert!(written < 256 * MIB, "the engine goes on reading");
        publish(engine.tcp_port(), Priority::High, 100_000);
        assert_grew_at_most(&engine, before, 32 * MIB);
    });
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.processed(), good + 101_000);
    let control = ended.count("/tcp_frames/control");
    assert!(control > 0 && control <= written.div_ceil(hello.len() as u64), "{control}");
    assert_eq!(ended.count("/tcp_frames/accepted"), ended.processed());
}

/// One event on each topic of a range.
fn publish_topics(engine: &Engine, topics: std::ops::Range<u32>, name: impl Fn(u32) -> u32) {
    let mut stream = connect(engine.tcp_port());
    for chunk in topics.collect::<Vec<_>>().chunks(1_000) {
        let of = |topic: &u32| event(Priority::ALL[*topic as usize % 5], &format!("topic/{:07}", name(*topic)), b"x");
        stream.write_all(&chunk.iter().flat_map(of).collect::<Vec<_>>()).unwrap();
    }
}

#[test]
fn a_million_distinct_topics_take_no_memory() {
    const TOPICS: u32 = 1_000_000;
    let engine = Setup::default().start();
    let processed = |report: &Value| count(report, "/events/accepted") - count(report, "/events/in_flight");
    // As many events of one topic first: frame pools are touched as they are used.
    publish_topics(&engine, 0..TOPICS, |_| 0);
    engine.wait_until("the first million", |report| processed(report) == u64::from(TOPICS));
    let before = engine.resident_bytes();
    publish_topics(&engine, 0..TOPICS, |topic| topic);
    engine.wait_until("the second million", |report| processed(report) == 2 * u64::from(TOPICS));
    assert_grew_at_most(&engine, before, 16 * MIB);
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.processed(), 2 * u64::from(TOPICS));
}
