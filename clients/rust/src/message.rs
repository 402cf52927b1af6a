//! What is published, and the ids that name it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Error;
use crate::reconnect::random;
use crate::types::Priority;
use crate::wire::{Header, check_topic, encode};

/// An event to be published.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    topic: &'a str,
    payload: &'a [u8],
    priority: Priority,
    id: Option<[u8; 16]>,
}

impl<'a> Message<'a> {
    /// Of medium priority, with an id that its publisher makes.
    pub fn new(topic: &'a str, payload: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { topic, payload: payload.as_ref(), priority: Priority::Medium, id: None }
    }

    pub fn priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// The same for each attempt to publish the same thing: the engine takes it once.
    pub fn id(self, id: [u8; 16]) -> Self {
        Self { id: Some(id), ..self }
    }

    /// Appends its frame, with the time of now. Returns its id.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, ids: &mut EventIds, flags: u8) -> Result<[u8; 16], Error> {
        check_topic(self.topic)?;
        let id = self.id.unwrap_or_else(|| ids.next());
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let header =
            Header { priority: self.priority, id: Some(id), sent_time_ns: Some(since.as_nanos() as u64), flags };
        encode(out, &header, self.topic, self.payload)?;
        Ok(id)
    }
}

/// Ids of one producer: eight random bytes, and eight that count.
#[derive(Debug)]
pub(crate) struct EventIds {
    producer: u64,
    sequence: u64,
}

impl EventIds {
    pub fn new() -> Self {
        Self { producer: random(), sequence: 0 }
    }

    pub fn next(&mut self) -> [u8; 16] {
        let id = u128::from(self.producer) << 64 | u128::from(self.sequence);
        self.sequence += 1;
        id.to_be_bytes()
    }
}
