//! A client that subscribes: what it asks, and what it is sent.

use std::io::{BufReader, ErrorKind, Read, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use eventstream::frame::{FLAG_ID, FLAG_TIME, FrameHeader, Priority, encode};
use serde_json::Value;

use crate::client::connect;

const FLAG_DELIVERY: u8 = 0x10;
const DELIVERY_BYTES: usize = 28;
/// Of an event that is in no log.
pub const NO_OFFSET: u64 = u64::MAX;

/// An event as a subscriber gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub sub: u32,
    pub class: u8,
    pub delivery: u8,
    pub epoch: u32,
    pub offset: u64,
    pub received_ns: u64,
    pub id: Option<[u8; 16]>,
    pub topic: String,
    pub payload: Vec<u8>,
}

impl Delivered {
    /// The number that the payload begins with.
    pub fn number(&self) -> u64 {
        u64::from_be_bytes(*self.payload.first_chunk().expect("payloads begin with a number"))
    }
}

/// What comes over the connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Event(Delivered),
    /// Topic and payload of one of the protocol's own frames.
    Said(String, Value),
}

impl Heard {
    pub fn event(self) -> Delivered {
        match self {
            Self::Event(event) => event,
            Self::Said(topic, payload) => panic!("no event but {topic} {payload}"),
        }
    }
}

pub struct Subscriber {
    stream: TcpStream,
    answers: BufReader<TcpStream>,
}

impl Subscriber {
    pub fn connect(port: u16) -> Self {
        let stream = connect(port);
        let answers = BufReader::with_capacity(1 << 18, stream.try_clone().expect("a socket can be shared"));
        Self { stream, answers }
    }

    /// Sends a request without waiting for its answer.
    pub fn ask(&mut self, topic: &str, payload: &str) {
        assert!(self.try_ask(topic, payload), "the engine reads");
    }

    /// The same; false: the engine has ended the connection.
    pub fn try_ask(&mut self, topic: &str, payload: &str) -> bool {
        let mut frame = Vec::new();
        encode(&mut frame, &FrameHeader::new(Priority::Medium), topic.as_bytes(), payload.as_bytes());
        self.stream.write_all(&frame).is_ok()
    }

    /// Asks for a subscription and waits for the word that there is one.
    pub fn subscribe(&mut self, payload: &str) {
        self.ask("$esc/subscribe", payload);
        match self.hear() {
            Some(Heard::Said(topic, _)) if topic == "$esc/ok" => {}
            other => panic!("{payload}: {other:?}"),
        }
    }

    /// The code with which a subscription is refused.
    pub fn refused(&mut self, payload: &str) -> String {
        self.ask("$esc/subscribe", payload);
        match self.hear() {
            Some(Heard::Said(topic, error)) if topic == "$esc/error" => {
                error["code"].as_str().expect("a code").to_owned()
            }
            other => panic!("{payload}: {other:?}"),
        }
    }

    /// Waits for the next frame; `None`: the engine has ended the connection.
    pub fn hear(&mut self) -> Option<Heard> {
        self.try_next().expect("something comes in time")
    }

    /// The next event; anything else is a failure.
    pub fn event(&mut self) -> Delivered {
        self.hear().expect("an open connection").event()
    }

    /// Events until `count` are there.
    pub fn events(&mut self, count: usize) -> Vec<Delivered> {
        (0..count).map(|_| self.event()).collect()
    }

    /// What has come within a moment.
    pub fn heard_within(&mut self, patience: Duration) -> Vec<Heard> {
        self.stream.set_read_timeout(Some(patience)).expect("a timeout above zero");
        let mut heard = Vec::new();
        while let Ok(Some(next)) = self.try_next() {
            heard.push(next);
        }
        self.stream.set_read_timeout(Some(crate::client::PATIENCE)).expect("a timeout above zero");
        heard
    }

    fn try_next(&mut self) -> std::io::Result<Option<Heard>> {
        let mut length = [0; 4];
        let mut body = Vec::new();
        let read = self.answers.read_exact(&mut length).and_then(|()| {
            body.resize(u32::from_be_bytes(length) as usize, 0);
            self.answers.read_exact(&mut body)
        });
        match read {
            // Also within a frame: whoever is disconnected is so at once.
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => Ok(None),
            read => read.map(|()| Some(parse(&body))),
        }
    }
}

/// A frame from the engine, given as the bytes behind its length field.
pub fn parse(body: &[u8]) -> Heard {
    let (flags, topic_bytes) = (body[0], usize::from(u16::from_be_bytes([body[1], body[2]])));
    let mut rest = &body[3..];
    let mut take = |count: usize| {
        let (taken, after) = rest.split_at(count);
        rest = after;
        taken
    };
    let id = (flags & FLAG_ID != 0).then(|| take(16).try_into().expect("sixteen bytes"));
    if flags & FLAG_TIME != 0 {
        take(8);
    }
    let own = (flags & FLAG_DELIVERY != 0).then(|| take(DELIVERY_BYTES));
    let topic = String::from_utf8(take(topic_bytes).to_vec()).expect("topics are UTF-8");
    let Some(own) = own else {
        return Heard::Said(topic, serde_json::from_slice(rest).expect("what is said is JSON"));
    };
    let word = |at: usize| u32::from_be_bytes(own[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_be_bytes(own[at..at + 8].try_into().expect("eight bytes"));
    Heard::Event(Delivered {
        sub: word(0),
        class: own[4],
        delivery: own[5],
        epoch: word(8),
        offset: long(12),
        received_ns: long(20),
        id,
        topic,
        payload: rest.to_vec(),
    })
}
