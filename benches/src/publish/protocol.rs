//! What each server is told, and what it answers.

use clap::ValueEnum;
use eventstream::frame::{FrameHeader, Priority, encode};

/// Every priority there is, in turn: events of all classes.
const PRIORITIES: [Priority; 5] =
    [Priority::Batch, Priority::Low, Priority::Medium, Priority::High, Priority::Critical];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// Frames without flags. The engine closes when it has read all of a connection that sends no more.
    Eventstream,
    /// PUB without acknowledgements; PING at the end, which is answered after everything before it.
    Nats,
    /// PUBLISH, pipelined. Each is answered with a number.
    Redis,
}

impl Protocol {
    /// The message with this number.
    pub fn message(self, number: u64, topic: &str, payload: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        let [topic_bytes, payload_bytes] = [topic.len(), payload.len()];
        let mut text = |before: String, after: &[u8]| {
            message.extend(before.into_bytes());
            message.extend(payload);
            message.extend(after);
        };
        match self {
            Self::Eventstream => {
                let priority = PRIORITIES[number as usize % PRIORITIES.len()];
                encode(&mut message, &FrameHeader::new(priority), topic.as_bytes(), payload);
            }
            Self::Nats => text(format!("PUB {topic} {payload_bytes}\r\n"), b"\r\n"),
            Self::Redis => {
                text(format!("*3\r\n$7\r\nPUBLISH\r\n${topic_bytes}\r\n{topic}\r\n${payload_bytes}\r\n"), b"\r\n")
            }
        }
        message
    }

    pub(super) fn greeting(self) -> &'static [u8] {
        match self {
            Self::Nats => b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n",
            Self::Eventstream | Self::Redis => b"",
        }
    }

    /// What is written last; `None`: that nothing follows is said by closing.
    pub(super) fn farewell(self) -> Option<&'static [u8]> {
        match self {
            Self::Eventstream => None,
            Self::Nats => Some(b"PING\r\n"),
            Self::Redis => Some(b""),
        }
    }

    /// How many answers there are once so many messages and the farewell have been taken in.
    pub(super) fn answers(self, sent: u64) -> u64 {
        match self {
            Self::Eventstream => 0,
            Self::Nats => 1,
            Self::Redis => sent,
        }
    }

    /// Whether so much is answered that it has to be read all the time.
    pub(super) fn is_talkative(self) -> bool {
        self == Self::Redis
    }

    /// Whether a line is an answer that counts; `Err` if it is a complaint. The engine says something only to complain.
    pub(super) fn judge(self, line: &[u8]) -> Result<bool, String> {
        let is_fine = match self {
            Self::Eventstream => return Err(printable(line)),
            Self::Nats => line.starts_with(b"PONG"),
            Self::Redis => line.starts_with(b":"),
        };
        if line.starts_with(b"-") { Err(printable(line)) } else { Ok(is_fine) }
    }
}

fn printable(bytes: &[u8]) -> String {
    let text: String =
        String::from_utf8_lossy(bytes).chars().filter(|character| matches!(character, ' '..='~')).collect();
    format!("the server says {text:?}")
}

/// The server's answers, cut into lines.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub count: u64,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
}

impl Answers {
    pub fn take(&mut self, protocol: Protocol, mut bytes: &[u8]) -> Result<(), String> {
        if protocol == Protocol::Eventstream && !bytes.is_empty() {
            return protocol.judge(bytes).map(drop);
        }
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, after) = bytes.split_at(end + 1);
            bytes = after;
            let counts = if self.rest.is_empty() {
                protocol.judge(line)?
            } else {
                self.rest.extend(line);
                let counts = protocol.judge(&self.rest)?;
                self.rest.clear();
                counts
            };
            self.count += u64::from(counts);
        }
        self.rest.extend(bytes);
        Ok(())
    }
}
