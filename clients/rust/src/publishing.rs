//! What is unacknowledged, and what has to be sent: the publishing half of the protocol, without sockets or a clock.
//!
//! Invariants: a publication is settled once, by its acknowledgement or an error; until then each new connection sends it
//! again, in the order of publishing, with the same bytes and so under the same id.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use crate::error::{Error, Failure};
use crate::receipt::Settler;
use crate::wire::{self, Decoder};

#[derive(Debug)]
struct Publication {
    id: [u8; 16],
    frame: Vec<u8>,
    settler: Settler,
    /// Of its frame in the stream of this connection.
    start: u64,
}

/// What there is of one connection only.
#[derive(Debug, Default)]
struct Connection {
    /// Ordinal of a frame to the number of its publication.
    asked: HashMap<u64, u64>,
    ordinals: u64,
    output: Vec<u8>,
    /// Bytes that were put into the output so far.
    position: u64,
    is_writing: bool,
    is_greeted: bool,
    /// Why the engine ends it, if it has said so.
    ended_by: Option<String>,
    decoder: Decoder,
}

/// Over any number of connections, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Publishing {
    /// By the number of the publication.
    waiting: BTreeMap<u64, Publication>,
    numbers: u64,
    connection: Connection,
}

impl Publishing {
    /// Published, and neither acknowledged nor failed.
    pub fn outstanding(&self) -> usize {
        self.waiting.len()
    }

    /// The engine has answered on this connection.
    pub fn is_greeted(&self) -> bool {
        self.connection.is_greeted
    }

    pub fn ended_by(&self) -> Option<&str> {
        self.connection.ended_by.as_deref()
    }

    /// Takes an event's frame over. Sent now if there is a connection, else by the next one.
    pub fn publish(&mut self, id: [u8; 16], frame: Vec<u8>, settler: Settler) {
        let mut publication = Publication { id, frame, settler, start: 0 };
        if self.connection.is_writing {
            self.connection.send(self.numbers, &mut publication);
        }
        self.waiting.insert(self.numbers, publication);
        self.numbers += 1;
    }

    /// A new connection: everything unacknowledged goes out again.
    pub fn connection_made(&mut self) -> Result<(), Error> {
        self.connection = Connection { is_writing: true, ..Connection::default() };
        wire::encode_hello(&mut self.connection.output)?;
        self.connection.position = self.connection.output.len() as u64;
        for (number, publication) in &mut self.waiting {
            self.connection.send(*number, publication);
        }
        Ok(())
    }

    pub fn connection_lost(&mut self) {
        self.connection = Connection::default();
    }

    pub fn has_output(&self) -> bool {
        !self.connection.output.is_empty()
    }

    /// Bytes to be sent, once. The buffer is used for the next ones.
    pub fn take_output(&mut self, buffer: &mut Vec<u8>) {
        buffer.clear();
        std::mem::swap(buffer, &mut self.connection.output);
    }

    /// Bytes of this connection. An error means that no connection is of use.
    pub fn receive(&mut self, data: &[u8]) -> Result<(), Error> {
        for frame in self.connection.decoder.feed(data)? {
            match frame.topic.as_str() {
                wire::ACK => self.acknowledged(&frame.payload)?,
                wire::OK => self.connection.is_greeted = true,
                wire::ERROR => self.refused(&wire::decode_json(&frame.payload)?)?,
                topic => return Err(Error::Protocol(format!("a frame of topic {topic} that nobody asked for"))),
            }
        }
        Ok(())
    }

    /// Gives up what is unacknowledged, and the connection.
    pub fn fail_all(&mut self, error: &Error) {
        for (_, publication) in std::mem::take(&mut self.waiting) {
            publication.settler.settle(Err(error.clone()));
        }
        self.connection_lost();
    }

    fn acknowledged(&mut self, payload: &[u8]) -> Result<(), Error> {
        for (ordinal, answer) in wire::decode_acks(payload)? {
            let number = self.connection.asked.get(&ordinal).copied();
            let is_its = |number: &u64| self.waiting.get(number).is_some_and(|one| one.id == answer.id);
            let Some(number) = number.filter(is_its) else {
                let message = format!("an acknowledgement of frame {ordinal}, which did not ask for it");
                return Err(Error::Protocol(message));
            };
            self.settle(ordinal, number, Ok(answer));
        }
        Ok(())
    }

    fn settle(&mut self, ordinal: u64, number: u64, outcome: Result<crate::Acknowledgement, Error>) {
        self.connection.asked.remove(&ordinal);
        if let Some(publication) = self.waiting.remove(&number) {
            publication.settler.settle(outcome);
        }
    }

    /// The engine reads no further, answers what it has taken in, and ends the connection.
    fn refused(&mut self, error: &Map<String, Value>) -> Result<(), Error> {
        let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (code, message) = (text("code"), text("message"));
        let is_fatal = error.get("fatal").and_then(Value::as_bool) == Some(true);
        if !self.connection.is_greeted || !is_fatal {
            return Err(Error::Protocol(format!("the engine does not take this client ({code}): {message}")));
        }
        self.connection.ended_by = Some(format!("the engine ends the connection ({code}): {message}"));
        self.connection.is_writing = false;
        self.connection.output.clear();
        if code != "malformed" {
            return Ok(());
        }
        let at_byte = error.get("at_byte").and_then(Value::as_u64);
        let Some((ordinal, number)) = at_byte.and_then(|at_byte| self.frame_at(at_byte)) else {
            return Err(Error::Protocol(format!("the engine refuses this client's stream: {message}")));
        };
        self.settle(ordinal, number, Err(Error::PublishRefused { code, message }));
        Ok(())
    }

    fn frame_at(&self, at_byte: u64) -> Option<(u64, u64)> {
        let is_there = |(_, number): &(u64, u64)| {
            let has = |one: &Publication| (one.start..one.start + one.frame.len() as u64).contains(&at_byte);
            self.waiting.get(number).is_some_and(has)
        };
        self.connection.asked.iter().map(|(ordinal, number)| (*ordinal, *number)).find(is_there)
    }
}

impl Connection {
    fn send(&mut self, number: u64, publication: &mut Publication) {
        publication.start = self.position;
        self.asked.insert(self.ordinals, number);
        self.ordinals += 1;
        self.position += publication.frame.len() as u64;
        self.output.extend_from_slice(&publication.frame);
    }
}

impl Failure {
    /// What a connection that ended like this is told to have ended by.
    pub fn or_ended_by(self, ended_by: Option<&str>) -> Self {
        match (self, ended_by) {
            (Self::Broken(_), Some(reason)) => Self::Broken(reason.to_owned()),
            (failure, _) => failure,
        }
    }
}
