//! Where a subscription is and how it goes on: the subscribing half of the protocol, without sockets or a clock.
//!
//! How it goes on after its connection broke depends on who knows the position:
//!
//! ```text
//! live             nobody: it goes on live, and says `Reconnected`
//! logged           this module: from behind the last event received, and nothing is handed out twice
//! durable, group   the engine: what was not done comes again, except what the engine had not heard of
//! ```
//!
//! Invariant of a logged subscription: the events handed out are those of its stream from its start on, each once and in
//! order, except where a `Gap` or `Reconnected` stands between them.

use std::collections::{HashSet, VecDeque};

use serde_json::{Map, Value, json};

use crate::error::{Error, Failure};
use crate::types::{Class, Delivery, Event, Gap, Position};
use crate::wire::{self, Decoder, Frame};

/// Each subscription has a connection of its own, so that one that is not read holds up no other.
const SUB: u32 = 1;
/// The engine's default.
const MAX_IN_FLIGHT: u32 = 1024;
const NAME_BYTES_MAX: usize = 64;

/// Where a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// What ends from now on.
    Live,
    /// The first record that is kept.
    Earliest,
    /// The last kept record that matches, then what follows.
    Latest,
    /// That place, of that stream only.
    At(Position),
    /// What was logged from then on, in nanoseconds since the UNIX epoch.
    Time(u64),
}

/// What is asked for. What is not set is the engine's to choose.
#[derive(Clone, Debug)]
pub struct Subscription {
    filter: String,
    start: Start,
    classes: Vec<Class>,
    keeper: Keeper,
    resume_stream: String,
    max_in_flight: Option<u32>,
    /// Something was set that only groups have.
    is_for_group: bool,
    /// Further keys of the request.
    more: Map<String, Value>,
}

/// Who knows the position.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Keeper {
    Client,
    Durable(String),
    Group(String),
}

impl Subscription {
    /// A filter is a topic in which `+` stands for a level, and `#` at the end for all that follow.
    pub fn new(filter: &str) -> Self {
        Self {
            filter: filter.to_owned(),
            start: Start::Live,
            classes: Vec::new(),
            keeper: Keeper::Client,
            resume_stream: "default".to_owned(),
            max_in_flight: None,
            is_for_group: false,
            more: Map::new(),
        }
    }

    pub fn start(self, start: Start) -> Self {
        Self { start, ..self }
    }

    pub fn classes(self, classes: &[Class]) -> Self {
        Self { classes: classes.to_vec(), ..self }
    }

    /// The engine keeps the position under this name: 1 to 64 letters, digits, `_`, `.` and `-`.
    pub fn durable(self, name: &str) -> Self {
        Self { keeper: Keeper::Durable(name.to_owned()), ..self }
    }

    /// The same, and any number of members share the events.
    pub fn group(self, name: &str) -> Self {
        Self { keeper: Keeper::Group(name.to_owned()), ..self }
    }

    /// Of a group: events of one topic go to one member, in order.
    pub fn by_topic(self) -> Self {
        Self { is_for_group: true, ..self }.with("key", "topic".into())
    }

    /// Events that may be delivered and not done.
    pub fn max_in_flight(self, count: u32) -> Self {
        Self { max_in_flight: Some(count), ..self }.with("max_in_flight", count.into())
    }

    /// Of a group: an event is delivered again when it is not done after so long.
    pub fn ack_wait_ms(self, milliseconds: u32) -> Self {
        Self { is_for_group: true, ..self }.with("ack_wait_ms", milliseconds.into())
    }

    /// Of a group: then it goes to the dead letter queue.
    pub fn max_deliveries(self, count: u32) -> Self {
        Self { is_for_group: true, ..self }.with("max_deliveries", count.into())
    }

    /// A live subscriber that does not read is disconnected, instead of losing events.
    pub fn disconnect_when_slow(self) -> Self {
        self.with("slow", "disconnect".into())
    }

    /// Where a subscription from the earliest, the latest or a time goes on after its connection broke: the stream of
    /// `storage.streams` that its topics are in.
    pub fn resume_stream(self, stream: &str) -> Self {
        Self { resume_stream: stream.to_owned(), ..self }
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.more.insert(key.to_owned(), value);
        self
    }

    fn check(&self) -> Result<(), Error> {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let is_name = |name: &str| {
            (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_letter) && !name.starts_with('.')
        };
        let complaint = match &self.keeper {
            Keeper::Durable(name) | Keeper::Group(name) if !is_name(name) => {
                format!(
                    "{name:?} is no name: 1 to {NAME_BYTES_MAX} letters, digits, `_`, `.` and `-`, the first no dot"
                )
            }
            Keeper::Client | Keeper::Durable(_) if self.is_for_group => {
                "by_topic, ack_wait_ms and max_deliveries are for groups: name the group".into()
            }
            Keeper::Client if self.max_in_flight.is_some() => {
                "max_in_flight bounds what is delivered and not done: name a durable subscription or a group".into()
            }
            _ => return Ok(()),
        };
        Err(Error::Usage(complaint))
    }

    fn is_kept_by_engine(&self) -> bool {
        self.keeper != Keeper::Client
    }

    /// By positions that are kept here.
    fn is_logged(&self) -> bool {
        self.start != Start::Live && !self.is_kept_by_engine()
    }

    fn stream(&self) -> &str {
        if let Start::At(position) = &self.start { &position.stream } else { &self.resume_stream }
    }

    fn payload(&self, start: &Start) -> Value {
        let mut payload = self.more.clone();
        payload.insert("sub".into(), SUB.into());
        payload.insert("filter".into(), self.filter.clone().into());
        let start = match start {
            Start::Live => "live".into(),
            Start::Earliest => "earliest".into(),
            Start::Latest => "latest".into(),
            Start::At(at) => json!({"epoch": at.epoch, "offset": at.offset, "stream": at.stream}),
            Start::Time(time_ns) => json!({"time_ns": time_ns}),
        };
        payload.insert("start".into(), start);
        if !self.classes.is_empty() {
            let names: Vec<&str> = self.classes.iter().map(|class| class.as_str()).collect();
            payload.insert("classes".into(), names.into());
        }
        match &self.keeper {
            Keeper::Client => None,
            Keeper::Durable(name) => payload.insert("durable".into(), name.clone().into()),
            Keeper::Group(name) => payload.insert("group".into(), name.clone().into()),
        };
        payload.into()
    }
}

/// What there is of one connection only.
#[derive(Debug, Default)]
struct Connection {
    decoder: Decoder,
    output: Vec<u8>,
    is_greeted: bool,
    is_granted: bool,
    is_truncated: bool,
    /// It began where another one had ended.
    is_resumed: bool,
}

/// A record: a topic is in one stream.
type Name = (u32, u64, String);

/// Over any number of connections, one after the other.
#[derive(Debug)]
pub(crate) struct Subscribing {
    request: Subscription,
    deliveries: VecDeque<Delivery>,
    /// Where a logged subscription goes on: epoch and offset.
    resume: Option<(u32, u64)>,
    /// Its offsets are not those of one stream.
    is_mixed: bool,
    /// Done, and possibly unheard of by the engine; in order, too.
    done: HashSet<Name>,
    done_order: VecDeque<Name>,
    was_granted: bool,
    connection: Connection,
}

impl Subscribing {
    pub fn new(request: Subscription) -> Result<Self, Error> {
        request.check()?;
        Ok(Self {
            request,
            deliveries: VecDeque::new(),
            resume: None,
            is_mixed: false,
            done: HashSet::new(),
            done_order: VecDeque::new(),
            was_granted: false,
            connection: Connection::default(),
        })
    }

    /// The engine delivers on this connection.
    pub fn is_granted(&self) -> bool {
        self.connection.is_granted
    }

    /// A new connection.
    pub fn connection_made(&mut self) -> Result<(), Error> {
        if self.is_mixed {
            return Err(Error::CannotResume);
        }
        self.connection = Connection::default();
        wire::encode_hello(&mut self.connection.output)?;
        self.subscribe()
    }

    fn subscribe(&mut self) -> Result<(), Error> {
        let at = |(epoch, offset)| Start::At(Position { stream: self.request.stream().to_owned(), epoch, offset });
        let start = self.resume.map_or_else(|| self.request.start.clone(), at);
        wire::encode_subscribe(&mut self.connection.output, &self.request.payload(&start))
    }

    /// What the engine delivers again is not handed out from here.
    pub fn connection_lost(&mut self) {
        if self.request.is_kept_by_engine() {
            self.deliveries.clear();
        }
        self.connection = Connection::default();
    }

    /// Bytes to be sent, once.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.connection.output)
    }

    pub fn next_delivery(&mut self) -> Option<Delivery> {
        self.deliveries.pop_front()
    }

    /// These will not be delivered again.
    pub fn done(&mut self, events: &[&Event]) -> Result<(), Error> {
        if !self.request.is_kept_by_engine() {
            return Err(Error::Usage("only durable and group subscriptions have events done: name one".into()));
        }
        let offsets: Option<Vec<u64>> = events.iter().map(|event| event.offset).collect();
        let offsets = offsets.ok_or_else(|| Error::Usage("an event that is not logged cannot be done".into()))?;
        for (event, offset) in events.iter().zip(&offsets) {
            let name = (event.epoch, *offset, event.topic.clone());
            if self.done.insert(name.clone()) {
                self.done_order.push_back(name);
            }
        }
        // The engine has no more than this under way, so no older one can be unheard of.
        let kept = self.request.max_in_flight.unwrap_or(MAX_IN_FLIGHT) as usize;
        let surplus = self.done_order.len().saturating_sub(kept);
        for name in self.done_order.drain(..surplus) {
            self.done.remove(&name);
        }
        if self.connection.is_granted && !offsets.is_empty() {
            wire::encode_done(&mut self.connection.output, SUB, &offsets)?;
        }
        Ok(())
    }

    /// Bytes of this connection.
    pub fn receive(&mut self, data: &[u8]) -> Result<(), Failure> {
        for mut frame in self.connection.decoder.feed(data)? {
            match (frame.place.take(), frame.topic.as_str()) {
                (Some(place), _) => self.delivered(frame.into_event(place))?,
                (None, wire::OK) => self.answered()?,
                (None, wire::ERROR) => self.refused(&wire::decode_json(&frame.payload)?)?,
                (None, _) => self.noticed(&frame)?,
            }
        }
        Ok(())
    }

    fn delivered(&mut self, event: Event) -> Result<(), Error> {
        if let Some(offset) = event.offset {
            if self.request.is_kept_by_engine() && self.done.contains(&(event.epoch, offset, event.topic.clone())) {
                return wire::encode_done(&mut self.connection.output, SUB, &[offset]);
            }
            if self.request.is_logged() {
                if self.resume.is_some_and(|(_, next)| offset < next) {
                    if self.connection.is_resumed {
                        return Ok(());
                    }
                    self.is_mixed = true;
                }
                self.resume = Some((event.epoch, offset + 1));
            }
        }
        self.deliveries.push_back(Delivery::Event(event));
        Ok(())
    }

    fn answered(&mut self) -> Result<(), Error> {
        if !self.connection.is_greeted {
            self.connection.is_greeted = true;
            return Ok(());
        }
        if self.connection.is_granted {
            return Err(Error::Protocol("an answer that nobody asked for".into()));
        }
        let is_live = !self.request.is_logged() && !self.request.is_kept_by_engine();
        let is_truncated = self.connection.is_truncated;
        if self.was_granted && (is_live || is_truncated) {
            self.deliveries.push_back(Delivery::Reconnected { is_truncated });
        }
        self.connection.is_resumed = self.resume.is_some();
        self.connection.is_granted = true;
        self.was_granted = true;
        Ok(())
    }

    fn refused(&mut self, error: &Map<String, Value>) -> Result<(), Failure> {
        let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (code, message) = (text("code"), text("message"));
        if !self.connection.is_greeted {
            return Err(Error::Protocol(format!("the engine does not take this client ({code}): {message}")).into());
        }
        if self.connection.is_granted {
            let told = format!("the engine ends the connection ({code}): {message}");
            let is_fatal = error.get("fatal").and_then(Value::as_bool) == Some(true);
            return Err(if is_fatal { Failure::Broken(told) } else { Error::Protocol(told).into() });
        }
        let first_valid = first_valid(error);
        if code == "truncated" && self.resume.is_some() && first_valid.is_some() {
            self.connection.is_truncated = true;
            self.resume = first_valid;
            return Ok(self.subscribe()?);
        }
        if code == "durable_in_use" && self.was_granted {
            // The connection that broke: the engine has not noticed yet.
            return Err(Failure::Broken(format!("the engine still has the last connection: {message}")));
        }
        Err(Error::SubscriptionRefused { code, message, first_valid }.into())
    }

    fn noticed(&mut self, frame: &Frame) -> Result<(), Error> {
        let payload = wire::decode_json(&frame.payload)?;
        let number = |key: &str| {
            let number = payload.get(key).and_then(Value::as_u64);
            number.ok_or_else(|| Error::Protocol(format!("a frame of topic {} without {key:?}", frame.topic)))
        };
        match frame.topic.as_str() {
            wire::GAP => {
                let stream = payload.get("stream").and_then(Value::as_str).unwrap_or_default().to_owned();
                let epoch =
                    u32::try_from(number("epoch")?).map_err(|_| Error::Protocol("an epoch above 2^32".into()))?;
                let (start, end) = (number("from")?, number("to")?);
                if self.request.is_logged() {
                    self.is_mixed |= stream != self.request.stream();
                    self.resume = Some((epoch, end));
                }
                self.deliveries.push_back(Delivery::Gap(Gap { stream, epoch, start, end, count: number("count")? }));
                Ok(())
            }
            wire::DROPPED => {
                self.deliveries.push_back(Delivery::Dropped(number("count")?));
                Ok(())
            }
            topic => Err(Error::Protocol(format!("a frame of topic {topic} that nobody asked for"))),
        }
    }
}

fn first_valid(error: &Map<String, Value>) -> Option<(u32, u64)> {
    let place = error.get("first_valid")?;
    let epoch = place.get("epoch")?.as_u64()?;
    Some((u32::try_from(epoch).ok()?, place.get("offset")?.as_u64()?))
}
