//! Subscriptions of the process that the engine runs in: a socket pair takes the place of a connection, and everything else is as for
//! others.

use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;

use super::frames::{DELIVERY_BYTES, FLAG_DELIVERY, NO_OFFSET};
use super::link::{Message, SubscriptionLink};
use super::request::{From, Request, Slow, Subscribe};
use super::turn::Turn;
use crate::frame::{Class, FLAG_ID, FLAG_TIME, HEADER_BYTES, LENGTH_BYTES, Shape};
use crate::storage::{Position, TopicFilter};

/// Keys above those of connections over TCP.
const LOCAL: u64 = 1 << 32;
static NEXT: AtomicU64 = AtomicU64::new(LOCAL);
const SUB: u32 = 0;
const BUFFER_BYTES: usize = 64 << 10;

/// Which events are wanted, and from where on.
///
/// Without a log, and by default, it begins with what ends from now on.
#[derive(Clone, Debug)]
pub struct Subscription {
    filter: String,
    classes: Option<[bool; 3]>,
    from: From,
    slow: Slow,
}

impl Subscription {
    /// Events whose topics match: `+` stands for one level, `#` at the end for all that follow.
    pub fn to(filter: impl Into<String>) -> Self {
        Self { filter: filter.into(), classes: None, from: From::Live, slow: Slow::Drop }
    }

    /// Only events of these classes.
    pub fn classes(mut self, classes: impl IntoIterator<Item = Class>) -> Self {
        let mut wanted = [false; 3];
        classes.into_iter().for_each(|class| wanted[class as usize] = true);
        self.classes = Some(wanted);
        self
    }

    /// From the oldest record that the event log keeps.
    pub fn from_earliest(mut self) -> Self {
        self.from = From::Earliest;
        self
    }

    /// From a position of a stream, which is part of each logged event; `default` is the stream of topics that no other has.
    pub fn from_position(mut self, stream: impl Into<String>, position: Position) -> Self {
        self.from = From::At { stream: stream.into(), position };
        self
    }

    /// From the first record that is not older; nanoseconds since the UNIX epoch.
    pub fn from_time(mut self, time_ns: u64) -> Self {
        self.from = From::Time(time_ns);
        self
    }
}

/// An event that was subscribed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub topic: String,
    pub payload: Vec<u8>,
    pub class: Class,
    pub id: Option<[u8; 16]>,
    /// Nanoseconds since the UNIX epoch, by the sender's clock.
    pub sent_time_ns: Option<u64>,
    /// Nanoseconds since the UNIX epoch.
    pub received_ns: u64,
    /// Where it is in its stream of the log; `None`: in none.
    pub position: Option<Position>,
}

/// What comes out of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Event(Delivered),
    /// Records of a stream that are not kept any more: from `from` on, before `to`.
    Gap {
        stream: String,
        from: u64,
        to: u64,
    },
    /// So many events were dropped because they were not read in time.
    Dropped(u64),
}

/// The events of a subscription, as they come: an iterator that waits, and ends when the engine does. Dropping it ends the
/// subscription.
pub struct Events {
    socket: BufReader<UnixStream>,
    link: SubscriptionLink,
    connection: u64,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

/// Subscribes. Fails with what the engine refuses, in words.
pub(crate) fn subscribe(link: &SubscriptionLink, wanted: Subscription) -> Result<Events, String> {
    let Subscription { filter, classes, from, slow } = wanted;
    let filter = TopicFilter::parse(&filter).map_err(|error| format!("filter `{filter}`: {error}"))?;
    let (ours, theirs) = UnixStream::pair().map_err(|error| format!("a socket pair: {error}"))?;
    let connection = NEXT.fetch_add(1, Ordering::Relaxed);
    let asked = Subscribe { sub: SUB, filter, classes, from, stream: None, kept: None, slow };
    link.send_surely(Message::Opened { connection, socket: theirs.into(), turn: Turn::default() });
    let asked = Ok(Request::Subscribe(Box::new(asked)));
    link.send_surely(Message::Asked { connection, at_byte: 0, asked });
    let mut events = Events { socket: BufReader::with_capacity(BUFFER_BYTES, ours), link: link.clone(), connection };
    match events.frame() {
        Ok(Some(Frame::Control(topic, _))) if topic == b"$esc/ok" => Ok(events),
        Ok(Some(Frame::Control(_, payload))) => {
            let refused = serde_json::from_slice::<Refused>(&payload).map(|refused| refused.message);
            Err(refused.unwrap_or_else(|_| String::from_utf8_lossy(&payload).into_owned()))
        }
        Ok(_) => Err("the engine has ended".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Deserialize)]
struct Refused {
    message: String,
}

#[derive(Deserialize)]
struct Missed {
    stream: String,
    from: u64,
    to: u64,
}

#[derive(Deserialize)]
struct Lost {
    count: u64,
}

enum Frame {
    Event(Delivered),
    Control(Vec<u8>, Vec<u8>),
}

impl Events {
    /// The next frame; `None`: the engine has ended the subscription.
    fn frame(&mut self) -> io::Result<Option<Frame>> {
        let mut length = [0; LENGTH_BYTES];
        let mut body = Vec::new();
        let read = self.socket.read_exact(&mut length).and_then(|()| {
            body.resize(u32::from_be_bytes(length) as usize, 0);
            self.socket.read_exact(&mut body)
        });
        match read {
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => Ok(None),
            read => read.map(|()| parse(&body)),
        }
    }

    fn item(&mut self) -> io::Result<Option<Item>> {
        loop {
            return Ok(Some(match self.frame()? {
                None => return Ok(None),
                Some(Frame::Event(event)) => Item::Event(event),
                Some(Frame::Control(topic, payload)) => match &*topic {
                    b"$esc/gap" => {
                        let Missed { stream, from, to } = serde_json::from_slice(&payload)?;
                        Item::Gap { stream, from, to }
                    }
                    b"$esc/dropped" => Item::Dropped(serde_json::from_slice::<Lost>(&payload)?.count),
                    _ => continue,
                },
            }));
        }
    }
}

impl Iterator for Events {
    type Item = io::Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        self.item().transpose()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.link.send_surely(Message::Closed { connection: self.connection, stays: false });
    }
}

/// Takes a frame apart, given as the bytes behind its length field. It is the engine's own.
fn parse(body: &[u8]) -> Option<Frame> {
    let header = body.first_chunk::<HEADER_BYTES>()?;
    let shape = Shape::from_header(*header);
    let mut rest = body.get(shape.topic_start()..)?;
    let own = if header[0] & FLAG_DELIVERY != 0 { Some(rest.split_first_chunk::<DELIVERY_BYTES>()?) } else { None };
    if let Some((_, after)) = own {
        rest = after;
    }
    let topic_bytes = usize::from(u16::from_be_bytes([header[1], header[2]]));
    let (topic, payload) = rest.split_at_checked(topic_bytes)?;
    let Some((own, _)) = own else { return Some(Frame::Control(topic.to_vec(), payload.to_vec())) };
    let (epoch, offset) = (u32::from_be_bytes(*own[8..].first_chunk()?), u64::from_be_bytes(*own[12..].first_chunk()?));
    let id = (header[0] & FLAG_ID != 0).then(|| body.get(HEADER_BYTES..)?.first_chunk().copied()).flatten();
    let sent_time = (header[0] & FLAG_TIME != 0).then(|| body.get(..shape.topic_start())?.last_chunk().copied());
    Some(Frame::Event(Delivered {
        topic: String::from_utf8_lossy(topic).into_owned(),
        payload: payload.to_vec(),
        class: *Class::ALL.get(usize::from(own[4]))?,
        id,
        sent_time_ns: sent_time.flatten().map(u64::from_be_bytes),
        received_ns: u64::from_be_bytes(*own[20..].first_chunk()?),
        position: (offset != NO_OFFSET).then_some(Position { epoch, offset }),
    }))
}
