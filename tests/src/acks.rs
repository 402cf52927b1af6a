//! A client that asks for acknowledgements, and reads them.

use std::io::{self, BufReader, ErrorKind, Read as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use eventstream::frame::{FLAG_ACK, FrameHeader, Priority, encode};
use serde_json::Value;

/// Status, reason, ordinal and id.
const ACK_BYTES: usize = 26;

/// A frame that asks for an acknowledgement.
pub fn asking(priority: Priority, id: Option<u64>, topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = FrameHeader { id: id.map(wire_id), flags: FLAG_ACK, ..FrameHeader::new(priority) };
    encode(&mut bytes, &header, topic.as_bytes(), payload);
    bytes
}

pub fn wire_id(id: u64) -> [u8; 16] {
    u128::from(id).to_be_bytes()
}

/// One acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ack {
    pub ordinal: u64,
    pub status: u8,
    pub reason: u8,
    pub id: [u8; 16],
}

/// All that a client was told.
#[derive(Debug, Default)]
pub struct Told {
    pub acks: Vec<Ack>,
    /// How many frames they came in.
    pub frames: usize,
    /// Payloads of other frames.
    pub others: Vec<Value>,
}

impl Told {
    pub fn ordinals(&self) -> Vec<u64> {
        let mut ordinals: Vec<u64> = self.acks.iter().map(|ack| ack.ordinal).collect();
        ordinals.sort_unstable();
        ordinals
    }

    /// Numbers from zero on, each once.
    pub fn assert_each_once(&self, count: u64) {
        let ordinals = self.ordinals();
        let wrong = ordinals.iter().zip(0..).find(|(ordinal, expected)| *ordinal != expected);
        assert_eq!((ordinals.len() as u64, wrong), (count, None));
    }
}

/// Reads frame after frame.
pub struct Reader {
    stream: BufReader<TcpStream>,
    count: Arc<AtomicU64>,
}

impl Reader {
    pub fn new(stream: &TcpStream) -> Self {
        Self { stream: BufReader::new(stream.try_clone().expect("a descriptor")), count: Arc::default() }
    }

    /// How many acknowledgements were read, for whoever writes.
    pub fn count(&self) -> Arc<AtomicU64> {
        self.count.clone()
    }

    /// Until `count` acknowledgements are there.
    pub fn read(&mut self, count: usize) -> Told {
        let mut told = Told::default();
        while told.acks.len() < count {
            assert!(self.next(&mut told), "the engine ends the connection: {told:?}");
        }
        assert_eq!(told.acks.len(), count, "{told:?}");
        told
    }

    /// Until the engine ends the connection.
    pub fn read_to_end(&mut self) -> Told {
        let mut told = Told::default();
        while self.next(&mut told) {}
        told
    }

    fn next(&mut self, told: &mut Told) -> bool {
        self.try_next(told).unwrap_or_else(|error| panic!("{error}: {told:?}"))
    }

    /// One frame; false when the engine has ended the connection. An engine that is killed ends it anywhere: an error.
    pub fn try_next(&mut self, told: &mut Told) -> io::Result<bool> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut body)?;
        let topic_bytes = usize::from(u16::from_be_bytes([body[1], body[2]]));
        let (topic, payload) = body[3..].split_at(topic_bytes);
        if topic != b"$esc/ack" {
            told.others.push(serde_json::from_slice(payload).expect("answers are JSON"));
            return Ok(true);
        }
        told.frames += 1;
        self.count.fetch_add((payload.len() / ACK_BYTES) as u64, Ordering::Relaxed);
        let acks = payload.chunks_exact(ACK_BYTES);
        assert!(acks.remainder().is_empty() && !payload.is_empty());
        told.acks.extend(acks.map(|ack| Ack {
            status: ack[0],
            reason: ack[1],
            ordinal: u64::from_be_bytes(ack[2..10].try_into().expect("eight bytes")),
            id: ack[10..].try_into().expect("sixteen bytes"),
        }));
        Ok(true)
    }
}
