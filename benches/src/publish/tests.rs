use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use eventstream::frame::{Limits, Parser as FrameParser, Priority, Transport};

use super::protocol::Answers;
use super::*;

fn cli(arguments: &str) -> Cli {
    Cli::try_parse_from(std::iter::once("publish").chain(arguments.split_ascii_whitespace())).unwrap()
}

#[test]
fn a_batch_is_as_many_whole_messages_as_fit() {
    for (protocol, message_bytes) in [("eventstream", 62), ("nats", 66), ("redis", 86)] {
        let (batch, messages) = batch(&cli(&format!("{protocol} --port 1")));
        assert_eq!(batch.len() as u64, messages * message_bytes, "{protocol}");
        assert!(65_536 - batch.len() < message_bytes as usize, "{protocol}");
    }
    let longest = format!("redis --port 1 --write-bytes 1024 --payload-bytes 512 --topic {}", "t".repeat(200));
    assert_eq!(batch(&cli(&longest)).1, 1, "the smallest write has room for the longest message");
}

#[test]
fn the_engine_reads_what_it_is_sent() {
    let (batch, messages) = batch(&cli("eventstream --port 1 --write-bytes 1024"));
    let parser =
        FrameParser::new(Limits { frame_bytes: 1 << 20, topic_bytes: 255 }, Transport::Udp, Priority::Critical, 1);
    let mut frames = Vec::new();
    parser.datagram(&batch, &mut frames).unwrap();
    assert_eq!(frames.len() as u64, messages);
}

#[test]
fn other_servers_are_spoken_to_in_their_own_words() {
    let text = |protocol: Protocol| String::from_utf8(protocol.message(3, "a/b", b"xy")).unwrap();
    assert_eq!(text(Protocol::Nats), "PUB a/b 2\r\nxy\r\n");
    assert_eq!(text(Protocol::Redis), "*3\r\n$7\r\nPUBLISH\r\n$3\r\na/b\r\n$2\r\nxy\r\n");
}

#[test]
fn answers_are_counted_however_they_are_cut() {
    let said = b"INFO {\"a\":1}\r\nPING\r\nPONG\r\n:0\r\n:12\r\n";
    for piece in 1..said.len() {
        let [nats, redis] = [(Protocol::Nats, 1), (Protocol::Redis, 2)].map(|(protocol, count)| {
            let mut answers = Answers::default();
            said.chunks(piece).for_each(|bytes| answers.take(protocol, bytes).unwrap());
            (answers.count, count)
        });
        assert_eq!((nats.0, redis.0), (nats.1, redis.1), "{piece}");
    }
    let mut answers = Answers::default();
    answers.take(Protocol::Nats, b"-ERR 'Unk").unwrap();
    let error = answers.take(Protocol::Nats, b"nown'\r\n").unwrap_err();
    assert!(error.contains("-ERR 'Unknown'"), "{error}");
    assert!(Answers::default().take(Protocol::Eventstream, b"anything").is_err());
}

#[test]
fn what_cannot_be_a_topic_or_a_destination_is_refused() {
    for topic in ["a.b", "a b", "a\r\n", "*", ""] {
        assert!(parse_topic(topic).is_err(), "{topic:?}");
    }
    let error = run(&cli("nats --port 1 --dst 192.0.2.1"), |_| Ok(())).unwrap_err();
    assert!(error.contains("--dst 192.0.2.1"), "{error}");
}

/// Reads everything, then says `last` if there is something to say, and closes. Returns how much it has read.
fn server(last: &'static [u8], until: &'static [u8]) -> (u16, thread::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut bytes, mut total, mut tail) = (vec![0; 1 << 20], 0, Vec::new());
        loop {
            let count = stream.read(&mut bytes).unwrap();
            total += count;
            tail.extend_from_slice(&bytes[..count]);
            if count == 0 || (!until.is_empty() && tail.ends_with(until)) {
                stream.write_all(last).unwrap();
                return total;
            }
            tail.drain(..tail.len().saturating_sub(until.len()));
        }
    };
    (port, thread::spawn(serve))
}

#[test]
fn everything_that_is_reported_has_arrived_and_the_end_is_waited_for() {
    let (port, server) = server(b"PONG\r\n", b"PING\r\n");
    let mut steps = Vec::new();
    let report = run(&cli(&format!("nats --port {port} --seconds 0.05")), |step| {
        steps.push(step.to_owned());
        Ok(())
    });
    let report = report.unwrap();
    let around = Protocol::Nats.greeting().len() + b"PING\r\n".len();
    assert_eq!(server.join().unwrap(), report.sent_events as usize * 66 + around);
    assert_eq!(steps, ["READY", "SENT"]);
    assert!(report.sent_events > 0 && report.seconds >= 0.05, "{report:?}");
}

#[test]
fn a_paced_run_sends_what_the_rate_says() {
    let (port, server) = server(b"", b"");
    let arguments = format!("eventstream --port {port} --seconds 0.1 --write-bytes 1024 --rate 16000");
    let report = run(&cli(&arguments), |_| Ok(())).unwrap();
    assert_eq!((report.sent_events, report.behind_events), (1_600, 0), "100 writes of 16");
    assert_eq!(server.join().unwrap(), 1_600 * 62);
}
