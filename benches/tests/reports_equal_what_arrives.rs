//! What a run reports as sent is what arrives, for every kind that works on loopback.

use std::collections::HashSet;
use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use clap::Parser as _;
use eventstream::frame::{FrameView, LENGTH_BYTES, Limits, ParsedFrame, Parser, Priority, StreamStep, Transport};
use eventstream_benches::options::Cli;
use eventstream_benches::report::Report;
use eventstream_benches::run::run;
use rustix::net::sockopt;

/// For a thousand datagrams with what the kernel has beside each; it doubles what is asked for.
const ROOM_BYTES: usize = 4 << 20;

#[derive(Debug, Default)]
struct Arrived {
    datagrams: u64,
    malformed_datagrams: u64,
    events: u64,
    duplicates: u64,
    priorities: [u64; 5],
    ids: HashSet<[u8; 16]>,
}

impl Arrived {
    fn event(&mut self, bytes: &[u8], frame: &ParsedFrame) {
        let bytes = &bytes[frame.offset as usize..][..frame.length as usize];
        let view = FrameView::new(bytes, frame.shape);
        self.events += 1;
        self.priorities[view.priority() as usize] += 1;
        let is_new = self.ids.insert(view.id().expect("sent with ids"));
        self.duplicates += u64::from(!is_new);
    }

    fn assert_is(&self, report: &Report) {
        assert_eq!(report.failure, None);
        assert_eq!(self.events, report.sent_events);
        assert_eq!(self.duplicates, report.sent_duplicates);
        assert_eq!(self.priorities, report.sent_by_priority);
        assert!(self.duplicates > 0, "the mix has duplicates");
    }
}

fn parser(transport: Transport) -> Parser {
    Parser::new(Limits { frame_bytes: 1 << 20, topic_bytes: 255 }, transport, Priority::Critical, 1)
}

fn blast(arguments: String) -> Report {
    let arguments = format!("blast {arguments} --ids --quiet");
    run(&Cli::try_parse_from(arguments.split_ascii_whitespace()).unwrap()).unwrap()
}

fn receive_datagrams(kind: &str, address: &str) {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    // There is room for all, as far as we may ask for it: the receiver may not run for longer than a default buffer lasts.
    sockopt::set_socket_recv_buffer_size_force(&socket, ROOM_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, ROOM_BYTES))
        .unwrap();
    // The end is silence.
    let arguments = format!("{kind} --dst {address} --port {port} --count 1000 --datagram-rate 5k --malformed 0.05");
    let sender = std::thread::spawn(move || blast(arguments));
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let (parser, mut arrived) = (parser(Transport::Udp), Arrived::default());
    let (mut bytes, mut frames) = (vec![0; 65_536], Vec::new());
    while arrived.datagrams < 1_000 {
        let Ok(length) = socket.recv(&mut bytes) else { break };
        arrived.datagrams += 1;
        match parser.datagram(&bytes[..length], &mut frames) {
            Ok(()) => frames.iter().for_each(|frame| arrived.event(&bytes, frame)),
            Err(_) => arrived.malformed_datagrams += 1,
        }
    }
    let report = sender.join().unwrap();
    arrived.assert_is(&report);
    assert_eq!((arrived.datagrams, report.sent_datagrams), (1_000, 1_000));
    assert_eq!(arrived.malformed_datagrams, report.sent_malformed_datagrams);
    assert_eq!(report.events_in_malformed, report.sent_malformed_datagrams * 23);
    assert!((0.19..0.5).contains(&report.seconds), "1000 at 5000 a second: {}", report.seconds);
}

#[test]
fn sendmmsg() {
    receive_datagrams("udp", "127.0.0.1");
}

#[test]
fn segmentation_offload() {
    receive_datagrams("gso", "127.0.0.1");
}

#[test]
fn ipv6() {
    receive_datagrams("udp", "::1");
}

#[test]
fn tcp_with_a_slow_reader() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let sender = std::thread::spawn(move || blast(format!("tcp --dst 127.0.0.1 --port {port} --seconds 0.3")));
    let (mut stream, _) = listener.accept().unwrap();
    let (parser, mut arrived) = (parser(Transport::Tcp), Arrived::default());
    let (mut bytes, mut received) = (vec![0; 1 << 20], 0);
    // Buffers fill up, the sender has to wait.
    std::thread::sleep(Duration::from_millis(100));
    loop {
        let length = stream.read(&mut bytes[received..]).unwrap();
        received += length;
        let mut start = 0;
        while let StreamStep::Frame(frame) = parser.stream(&bytes[start..received]).unwrap() {
            arrived.event(&bytes[start..], &frame);
            start += LENGTH_BYTES + frame.length as usize;
        }
        bytes.copy_within(start..received, 0);
        received -= start;
        if length == 0 {
            break;
        }
    }
    assert_eq!(received, 0, "the stream ends with a whole frame");
    drop(stream);
    arrived.assert_is(&sender.join().unwrap());
}

#[test]
fn a_peer_that_hangs_up_is_reported_with_what_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let sender = std::thread::spawn(move || blast(format!("tcp --dst 127.0.0.1 --port {port} --seconds 5")));
    let (stream, _) = listener.accept().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    drop(stream);
    let report = sender.join().unwrap();
    assert!(report.failure.unwrap().contains("connection closed"));
    assert!(report.sent_events > 0 && report.seconds < 4.0);
}
