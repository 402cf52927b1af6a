//! An engine that says what a test tells it to, with the bytes of the protocol's description and not the client's.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

/// Only a test that fails waits for so long.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const NOT_LOGGED: u64 = u64::MAX;

pub fn frame(head: u8, optional: &[u8], topic: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = (3 + optional.len() + topic.len() + payload.len()) as u32;
    let topic_length = (topic.len() as u16).to_be_bytes();
    [&length.to_be_bytes()[..], &[head], &topic_length, optional, topic, payload].concat()
}

pub fn control(topic: &str, payload: &Value) -> Vec<u8> {
    frame(4, b"", topic.as_bytes(), payload.to_string().as_bytes())
}

pub fn greeting() -> Vec<u8> {
    control("$esc/ok", &json!({"version": 1, "features": ["ack", "subscribe"]}))
}

pub fn grant() -> Vec<u8> {
    control("$esc/ok", &json!({"sub": 1}))
}

pub fn refusal(code: &str) -> Vec<u8> {
    control("$esc/error", &json!({"code": code, "message": "why", "sub": 1, "fatal": false}))
}

/// Of (status, reason, ordinal, id) each.
pub fn ack(answers: &[(u8, u8, u64, [u8; 16])]) -> Vec<u8> {
    let one = |(status, reason, ordinal, id): &(u8, u8, u64, [u8; 16])| {
        [&[*status, *reason][..], &ordinal.to_be_bytes(), id].concat()
    };
    frame(4, b"", b"$esc/ack", &answers.iter().flat_map(one).collect::<Vec<u8>>())
}

/// An event of the transactional class with an id and a time.
#[derive(Clone, Copy)]
pub struct Delivered {
    pub offset: u64,
    pub epoch: u32,
    pub topic: &'static [u8],
}

impl Delivered {
    pub fn bytes(self) -> Vec<u8> {
        let place = [
            &1_u32.to_be_bytes()[..],
            &[1, 2],
            &0_u16.to_be_bytes(),
            &self.epoch.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &77_u64.to_be_bytes(),
        ]
        .concat();
        frame(0xd0 | 2, &[&[b'i'; 16][..], &55_u64.to_be_bytes(), &place].concat(), self.topic, b"payload")
    }
}

pub fn delivered(offset: u64) -> Vec<u8> {
    Delivered { offset, epoch: 1, topic: b"a/b" }.bytes()
}

pub fn all_delivered(offsets: impl IntoIterator<Item = u64>) -> Vec<u8> {
    offsets.into_iter().flat_map(delivered).collect()
}

/// One accepted connection.
pub struct Peer(TcpStream);

impl Peer {
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Topic and payload of the next frame; none when the client has ended the connection.
    pub fn read(&mut self) -> Option<(String, Vec<u8>)> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut body).ok()?;
        let optional = usize::from(body[0] >> 7) * 16 + usize::from(body[0] >> 6 & 1) * 8;
        let topic_length = usize::from(u16::from_be_bytes([body[1], body[2]]));
        let (topic, payload) = body[3 + optional..].split_at(topic_length);
        Some((String::from_utf8(topic.to_vec()).unwrap(), payload.to_vec()))
    }

    /// Greets, and returns what subscription is asked for.
    pub fn asked(&mut self) -> Value {
        let (topic, hello) = self.read().unwrap();
        let hello: Value = serde_json::from_slice(&hello).unwrap();
        assert_eq!((topic.as_str(), &hello["version"]), ("$esc/hello", &json!(1)));
        self.send(&greeting());
        let (topic, request) = self.read().unwrap();
        assert_eq!(topic, "$esc/subscribe");
        serde_json::from_slice(&request).unwrap()
    }

    pub fn grant(&mut self) -> Value {
        let request = self.asked();
        self.send(&grant());
        request
    }

    pub fn done(&mut self) -> Vec<u64> {
        let (topic, payload) = self.read().unwrap();
        assert_eq!((topic.as_str(), &payload[..4]), ("$esc/done", &[0, 0, 0, 1][..]));
        payload[4..].chunks(8).map(|offset| u64::from_be_bytes(offset.try_into().unwrap())).collect()
    }

    pub fn wait_for_end(&mut self) {
        while self.read().is_some() {}
    }
}

pub type Script = Box<dyn FnOnce(&mut Peer) + Send>;

/// Runs one script for each connection, in order; each ends its connection. Then it accepts no more.
pub struct FakeEngine {
    pub address: String,
    thread: JoinHandle<()>,
}

impl FakeEngine {
    pub fn start(scripts: Vec<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = std::thread::spawn(move || {
            for script in scripts {
                let (stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                script(&mut Peer(stream));
            }
        });
        Self { address, thread }
    }

    /// After all scripts.
    pub fn end(self) {
        if let Err(failure) = self.thread.join() {
            std::panic::resume_unwind(failure);
        }
    }
}
