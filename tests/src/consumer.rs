//! A client that subscribes, reads what it is sent, and says what is done.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use eventstream::frame::{FrameHeader, Priority, encode};
use serde_json::{Value, json};

use crate::client::PATIENCE;
use crate::subscriber::{self, Heard};

/// An event as it is delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub sub: u32,
    /// How many times it has been, with this one.
    pub delivery: u8,
    pub epoch: u32,
    pub offset: u64,
    /// 0 where it has none.
    pub id: u64,
    pub topic: String,
    pub payload: Vec<u8>,
}

/// A frame from the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    Event(Delivered),
    /// With its topic.
    Control(String, Value),
}

/// A connection with subscriptions.
pub struct Consumer {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    /// Came while an answer was waited for.
    early: VecDeque<Received>,
}

impl Consumer {
    pub fn connect(port: u16) -> Self {
        Self::try_connect(port).expect("the engine listens")
    }

    /// The same of an engine that may be killed.
    pub fn try_connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let reader = BufReader::new(stream.try_clone()?);
        Ok(Self { stream, reader, early: VecDeque::new() })
    }

    /// The same with one subscription.
    pub fn subscribed(port: u16, subscription: impl std::borrow::Borrow<Value>) -> Self {
        let (mut this, subscription) = (Self::connect(port), subscription.borrow());
        this.ask("$esc/subscribe", subscription).unwrap_or_else(|error| panic!("{subscription}: {error}"));
        this
    }

    /// Puts a request, and waits for its answer. Events that come before it are kept for [`received`](Self::received).
    pub fn ask(&mut self, topic: &str, payload: &Value) -> Result<Value, Value> {
        self.try_ask(topic, payload).expect("the engine answers")
    }

    /// The same of an engine that may be killed.
    pub fn try_ask(&mut self, topic: &str, payload: &Value) -> io::Result<Result<Value, Value>> {
        self.send(topic, payload.to_string().as_bytes())?;
        loop {
            match self.read()? {
                Received::Control(topic, answer) if topic == "$esc/ok" => return Ok(Ok(answer)),
                Received::Control(topic, answer) if topic == "$esc/error" => return Ok(Err(answer)),
                other => self.early.push_back(other),
            }
        }
    }

    /// What a request is refused with.
    pub fn refusal(&mut self, topic: &str, payload: &Value) -> String {
        let refused = self.ask(topic, payload).expect_err("it is refused");
        refused["code"].as_str().expect("a code").to_owned()
    }

    pub fn unsubscribe(&mut self, sub: u32) {
        self.ask("$esc/unsubscribe", &json!({ "sub": sub })).expect("a subscription");
    }

    fn send(&mut self, topic: &str, payload: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        encode(&mut bytes, &FrameHeader::new(Priority::Critical), topic.as_bytes(), payload);
        self.stream.write_all(&bytes)
    }

    pub fn done(&mut self, sub: u32, offsets: &[u64]) -> io::Result<()> {
        let mut payload = sub.to_be_bytes().to_vec();
        offsets.iter().for_each(|offset| payload.extend(offset.to_be_bytes()));
        self.send("$esc/done", &payload)
    }

    pub fn received(&mut self) -> io::Result<Received> {
        self.early.pop_front().map_or_else(|| self.read(), Ok)
    }

    /// The next event. What else comes is passed over.
    pub fn event(&mut self) -> io::Result<Delivered> {
        loop {
            if let Received::Event(event) = self.received()? {
                return Ok(event);
            }
        }
    }

    /// How many events, each of which is done at once.
    pub fn take(&mut self, sub: u32, count: usize) -> Vec<Delivered> {
        (0..count)
            .map(|_| {
                let event = self.event().expect("an event");
                self.done(sub, &[event.offset]).expect("the engine reads");
                event
            })
            .collect()
    }

    /// Whether nothing comes for so long.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a timeout above zero");
        let silent = self.early.is_empty() && self.reader.buffer().is_empty() && self.stream.peek(&mut [0]).is_err();
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        silent
    }

    fn read(&mut self) -> io::Result<Received> {
        let mut length = [0; 4];
        self.reader.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.reader.read_exact(&mut frame)?;
        Ok(subscriber::parse(&frame).into())
    }
}

impl From<Heard> for Received {
    fn from(heard: Heard) -> Self {
        match heard {
            Heard::Said(topic, payload) => Self::Control(topic, payload),
            Heard::Event(event) => {
                let id = event.id.map_or(0, |id| u128::from_be_bytes(id) as u64);
                let subscriber::Delivered { sub, delivery, epoch, offset, topic, payload, .. } = event;
                Self::Event(Delivered { sub, delivery, epoch, offset, id, topic, payload })
            }
        }
    }
}
