//! Bytes to frames and back. The only module that knows the layout of version 1 of the protocol.
//!
//! Invariants: what [`encode`] writes, the engine's parser takes; whatever way a stream is cut into pieces, [`Decoder`] gives the
//! same frames.

use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::types::{Acknowledgement, Class, Event, Priority, Status};

pub const FLAG_ID: u8 = 0x80;
pub const FLAG_TIME: u8 = 0x40;
/// Asks for an acknowledgement.
pub const FLAG_ACK: u8 = 0x20;
const FLAG_DELIVERY: u8 = 0x10;
const FLAG_RESERVED: u8 = 0x08;
const PRIORITY_MASK: u8 = 0x07;

const LENGTH_BYTES: usize = 4;
const HEADER_BYTES: usize = 3;
/// What an engine may be configured to take at most.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// A delivered frame has 28 bytes more than the published one.
const RECEIVED_BYTES_MAX: usize = FRAME_BYTES_MAX + 1024;
const ACK_BYTES: usize = 1 + 1 + 8 + 16;
const DUPLICATE: u8 = 0x80;
const VERSION: u32 = 1;

const RESERVED_PREFIX: &str = "$esc/";
pub(crate) const OK: &str = "$esc/ok";
pub(crate) const ERROR: &str = "$esc/error";
pub(crate) const ACK: &str = "$esc/ack";
pub(crate) const GAP: &str = "$esc/gap";
pub(crate) const DROPPED: &str = "$esc/dropped";

/// What goes before topic and payload.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub priority: Priority,
    pub id: Option<[u8; 16]>,
    pub sent_time_ns: Option<u64>,
    /// Further flags, such as [`FLAG_ACK`].
    pub flags: u8,
}

/// What the engine adds to an event for a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    sub: u32,
    class: Class,
    delivery_count: u8,
    node: u16,
    epoch: u32,
    offset: Option<u64>,
    received_time_ns: u64,
}

/// One frame as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub topic: String,
    pub payload: Vec<u8>,
    pub priority: Priority,
    pub id: Option<[u8; 16]>,
    pub sent_time_ns: Option<u64>,
    pub place: Option<Place>,
}

/// Whether a topic may be published. Its length is limited further by the engine's configuration.
pub fn check_topic(topic: &str) -> Result<(), Error> {
    let complaint = if topic.is_empty() || topic.len() > usize::from(u16::MAX) {
        format!("a topic has 1 to 65535 bytes, this one {}", topic.len())
    } else if topic.contains('\0') {
        "a topic must not contain a NUL".into()
    } else if topic.starts_with(RESERVED_PREFIX) {
        format!("topics that start with {RESERVED_PREFIX} are the protocol's own: publish to another")
    } else if topic.split('/').any(|level| level == "+" || level == "#") {
        "`+` and `#` as a level stand for others in filters: publish to a topic without them".into()
    } else {
        return Ok(());
    };
    Err(Error::Usage(complaint))
}

/// Appends one frame. The topic is one that [`check_topic`] takes.
pub fn encode(out: &mut Vec<u8>, header: &Header, topic: &str, payload: &[u8]) -> Result<(), Error> {
    let optional = header.id.map_or(0, |id| id.len()) + header.sent_time_ns.map_or(0, |_| 8);
    let length = HEADER_BYTES + optional + topic.len() + payload.len();
    if length > FRAME_BYTES_MAX {
        let message = format!("a frame has at most {FRAME_BYTES_MAX} bytes, this one {length}: split the payload");
        return Err(Error::Usage(message));
    }
    let id_flag = header.id.map_or(0, |_| FLAG_ID);
    let time_flag = header.sent_time_ns.map_or(0, |_| FLAG_TIME);
    out.reserve(LENGTH_BYTES + length);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.push(header.flags | id_flag | time_flag | header.priority as u8);
    out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    out.extend(header.id.iter().flatten());
    out.extend(header.sent_time_ns.iter().flat_map(|time| time.to_be_bytes()));
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

fn encode_control(out: &mut Vec<u8>, topic: &str, payload: &[u8]) -> Result<(), Error> {
    let header = Header { priority: Priority::Critical, id: None, sent_time_ns: None, flags: 0 };
    encode(out, &header, topic, payload)
}

/// What each connection begins with.
pub(crate) fn encode_hello(out: &mut Vec<u8>) -> Result<(), Error> {
    let payload = json!({"version": VERSION, "client": "eventstream-rust"});
    encode_control(out, "$esc/hello", payload.to_string().as_bytes())
}

pub(crate) fn encode_subscribe(out: &mut Vec<u8>, payload: &Value) -> Result<(), Error> {
    encode_control(out, "$esc/subscribe", payload.to_string().as_bytes())
}

/// These records of a subscription are done.
pub(crate) fn encode_done(out: &mut Vec<u8>, sub: u32, offsets: &[u64]) -> Result<(), Error> {
    let mut payload = sub.to_be_bytes().to_vec();
    payload.extend(offsets.iter().flat_map(|offset| offset.to_be_bytes()));
    encode_control(out, "$esc/done", &payload)
}

/// Ordinal and content of each answer in an `$esc/ack` frame.
pub(crate) fn decode_acks(payload: &[u8]) -> Result<Vec<(u64, Acknowledgement)>, Error> {
    let wrong = || Error::Protocol(format!("an acknowledgement frame of {} bytes", payload.len()));
    if payload.is_empty() || !payload.len().is_multiple_of(ACK_BYTES) {
        return Err(wrong());
    }
    let decode = |ack: &[u8]| {
        let mut fields = Fields(ack);
        let [head, reason] = fields.take().ok_or_else(wrong)?;
        let ordinal = u64::from_be_bytes(fields.take().ok_or_else(wrong)?);
        let id = fields.take().ok_or_else(wrong)?;
        let status = Status::from_wire(head & !DUPLICATE);
        let status =
            status.ok_or_else(|| Error::Protocol(format!("an acknowledgement with the unknown status {head:#x}")))?;
        let is_duplicate = head & DUPLICATE != 0;
        Ok((ordinal, Acknowledgement { id, status, reason: status.reason(reason), is_duplicate }))
    };
    payload.chunks_exact(ACK_BYTES).map(decode).collect()
}

/// A control frame's payload.
pub(crate) fn decode_json(payload: &[u8]) -> Result<Map<String, Value>, Error> {
    serde_json::from_slice(payload)
        .map_err(|error| Error::Protocol(format!("a control frame without an object: {error}")))
}

/// A stream's bytes, in any pieces, to its frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    carry: Vec<u8>,
}

impl Decoder {
    /// The frames that these bytes complete.
    pub fn feed(&mut self, data: &[u8]) -> Result<Vec<Frame>, Error> {
        self.carry.extend_from_slice(data);
        let mut frames = Vec::new();
        let mut position = 0;
        while let Some((length, rest)) = self.carry[position..].split_first_chunk::<LENGTH_BYTES>() {
            let length = u32::from_be_bytes(*length) as usize;
            if length <= HEADER_BYTES || length > RECEIVED_BYTES_MAX {
                return Err(Error::Protocol(format!("a frame of {length} bytes")));
            }
            let Some(body) = rest.get(..length) else { break };
            let frame = parse(body).ok_or_else(|| Error::Protocol("a frame that cannot be read".into()))?;
            frames.push(frame);
            position += LENGTH_BYTES + length;
        }
        self.carry.drain(..position);
        Ok(frames)
    }
}

/// What is left to be read of a frame.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

fn parse(body: &[u8]) -> Option<Frame> {
    let mut fields = Fields(body);
    let [head, high, low] = fields.take()?;
    if head & FLAG_RESERVED != 0 {
        return None;
    }
    let id = if head & FLAG_ID != 0 { Some(fields.take()?) } else { None };
    let sent_time_ns = if head & FLAG_TIME != 0 { Some(u64::from_be_bytes(fields.take()?)) } else { None };
    let place = if head & FLAG_DELIVERY != 0 { Some(place(&mut fields)?) } else { None };
    let topic = fields.bytes(u16::from_be_bytes([high, low]).into()).filter(|topic| !topic.is_empty())?;
    let topic = std::str::from_utf8(topic).ok()?.to_owned();
    let priority = Priority::from_wire(head & PRIORITY_MASK);
    Some(Frame { topic, payload: fields.0.to_vec(), priority, id, sent_time_ns, place })
}

fn place(fields: &mut Fields<'_>) -> Option<Place> {
    let sub = u32::from_be_bytes(fields.take()?);
    let [class, delivery_count] = fields.take()?;
    let class = *Class::ALL.get(usize::from(class))?;
    let node = u16::from_be_bytes(fields.take()?);
    let epoch = u32::from_be_bytes(fields.take()?);
    let offset = Some(u64::from_be_bytes(fields.take()?)).filter(|offset| *offset != u64::MAX);
    let received_time_ns = u64::from_be_bytes(fields.take()?);
    Some(Place { sub, class, delivery_count, node, epoch, offset, received_time_ns })
}

impl Frame {
    /// A delivered frame, as it is handed out.
    pub fn into_event(self, place: Place) -> Event {
        Event {
            topic: self.topic,
            payload: self.payload,
            id: self.id,
            sent_time_ns: self.sent_time_ns,
            priority: self.priority,
            class: place.class,
            delivery_count: place.delivery_count,
            node: place.node,
            epoch: place.epoch,
            offset: place.offset,
            received_time_ns: place.received_time_ns,
            sub: place.sub,
        }
    }
}
