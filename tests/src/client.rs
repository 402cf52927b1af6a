//! An ordinary client's bytes.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use eventstream::frame::{FrameHeader, Priority, encode};
use serde_json::Value;

/// Longer than anything takes on a machine that works; only a test that fails waits for so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).expect("the engine listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
    stream
}

/// One event's frame.
pub fn event(priority: Priority, topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes, &FrameHeader::new(priority), topic.as_bytes(), payload);
    bytes
}

/// `count` events of a priority on one connection, written whole. Returns when the engine has read them all: it ends the
/// connection after the last byte, and bytes it has not read are not its own to account for.
pub fn publish(port: u16, priority: Priority, count: u64) {
    let mut stream = connect(port);
    let mut bytes = Vec::new();
    for number in 0..count {
        bytes.extend(event(priority, "good/client", &number.to_be_bytes()));
        if bytes.len() > 1 << 16 {
            stream.write_all(&bytes).expect("the engine reads");
            bytes.clear();
        }
    }
    stream.write_all(&bytes).expect("the engine reads");
    stream.shutdown(Shutdown::Write).expect("an open connection");
    let answers = stream.read_to_end(&mut bytes).expect("the engine ends the connection in order");
    assert_eq!(answers, 0, "well-formed events are not answered");
}

/// All frames until the engine ends the connection: topic and JSON payload of each.
pub fn read_answers(stream: &mut TcpStream) -> Vec<(String, Value)> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the engine ends the connection in order");
    let mut answers = Vec::new();
    let mut rest = &bytes[..];
    while let Some((length, body)) = rest.split_first_chunk::<4>() {
        let (frame, after) = body.split_at(u32::from_be_bytes(*length) as usize);
        let topic_bytes = usize::from(u16::from_be_bytes([frame[1], frame[2]]));
        let (topic, payload) = frame[3..].split_at(topic_bytes);
        let payload = serde_json::from_slice(payload).expect("answers are JSON");
        answers.push((String::from_utf8(topic.to_vec()).expect("topics are UTF-8"), payload));
        rest = after;
    }
    assert!(rest.is_empty(), "an answer is cut off: {rest:?}");
    answers
}
