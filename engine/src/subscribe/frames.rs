//! What a subscriber is sent: events with the 28 bytes that say where they come from, and notices.

use serde::Serialize;

use crate::frame::{Class, FLAG_ACK, FrameHeader, HEADER_BYTES, LENGTH_BYTES, Priority, Shape, encode};

/// Announces the delivery's own bytes; only towards subscribers.
pub const FLAG_DELIVERY: u8 = 0x10;
/// u32 sub, u8 class, u8 delivery count, u16 node, u32 epoch, u64 offset, u64 receive time.
pub const DELIVERY_BYTES: usize = 28;
/// Of an event that is in no log.
pub const NO_OFFSET: u64 = u64::MAX;

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub class: Class,
    pub epoch: u32,
    pub offset: u64,
    /// Nanoseconds since the UNIX epoch.
    pub received_ns: u64,
}

/// The longest that stands before topic and payload.
const FRONT_BYTES: usize = LENGTH_BYTES + HEADER_BYTES + 24 + DELIVERY_BYTES;

/// Appends an event, given as the bytes behind its length field, for the `delivery`-th time.
pub fn event(out: &mut Vec<u8>, sub: u32, delivery: u8, origin: &Origin, body: &[u8]) {
    let Some((header, _)) = body.split_first_chunk::<HEADER_BYTES>() else { return };
    let Some((before, behind)) = body.split_at_checked(Shape::from_header(*header).topic_start()) else { return };
    let length = body.len() + DELIVERY_BYTES;
    let mut own = [0; DELIVERY_BYTES];
    own[..4].copy_from_slice(&sub.to_be_bytes());
    own[4] = origin.class as u8;
    own[5] = delivery;
    // 6 and 7: the node, of which there is one.
    own[8..12].copy_from_slice(&origin.epoch.to_be_bytes());
    own[12..20].copy_from_slice(&origin.offset.to_be_bytes());
    own[20..].copy_from_slice(&origin.received_ns.to_be_bytes());
    // In one piece: most events are short.
    let mut front = [0; FRONT_BYTES];
    front[..LENGTH_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
    let own_at = LENGTH_BYTES + before.len();
    front[LENGTH_BYTES..own_at].copy_from_slice(before);
    front[LENGTH_BYTES] = (header[0] & !FLAG_ACK) | FLAG_DELIVERY;
    front[own_at..own_at + DELIVERY_BYTES].copy_from_slice(&own);
    out.reserve(LENGTH_BYTES + length);
    out.extend_from_slice(&front[..own_at + DELIVERY_BYTES]);
    out.extend_from_slice(behind);
}

/// An event as [`event`] has made it, whole.
#[derive(Clone, Copy, Debug)]
pub struct Made<'a> {
    pub bytes: &'a [u8],
    /// Where it says for which subscription it is.
    sub_at: usize,
}

impl<'a> Made<'a> {
    /// The first of those that stand one behind the other.
    #[inline]
    pub fn first(bytes: &'a [u8]) -> Option<Self> {
        let (length, body) = bytes.split_first_chunk()?;
        let header = body.first_chunk::<HEADER_BYTES>()?;
        let bytes = bytes.get(..LENGTH_BYTES + u32::from_be_bytes(*length) as usize)?;
        Some(Self { bytes, sub_at: LENGTH_BYTES + Shape::from_header(*header).topic_start() })
    }

    #[inline]
    pub fn topic(&self) -> &'a [u8] {
        let at = self.sub_at + DELIVERY_BYTES;
        let length = u16::from_be_bytes([self.bytes[LENGTH_BYTES + 1], self.bytes[LENGTH_BYTES + 2]]);
        self.bytes.get(at..at + usize::from(length)).unwrap_or_default()
    }

    /// Appends it for another subscription.
    #[inline]
    pub fn copy_for(&self, sub: u32, out: &mut Vec<u8>) {
        let at = out.len() + self.sub_at;
        out.extend_from_slice(self.bytes);
        if let Some(place) = out.get_mut(at..at + 4) {
            place.copy_from_slice(&sub.to_be_bytes());
        }
    }
}

fn control(out: &mut Vec<u8>, topic: &[u8], payload: &impl Serialize) {
    // Plain structs of numbers and text always serialize.
    let payload = serde_json::to_vec(payload).unwrap_or_default();
    encode(out, &FrameHeader::new(Priority::Critical), topic, &payload);
}

/// A request about this subscription was done.
pub fn ok(out: &mut Vec<u8>, sub: u32) {
    #[derive(Serialize)]
    struct Ok {
        sub: u32,
    }
    control(out, b"$esc/ok", &Ok { sub });
}

/// What a subscription has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    pub sub: u32,
    pub delivered: u64,
    pub dropped: u64,
    pub waiting: u64,
}

pub fn count(out: &mut Vec<u8>, count: &Count) {
    control(out, b"$esc/ok", count);
}

/// A request that was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: &'static str,
    pub message: String,
    pub first_valid: Option<crate::storage::Position>,
}

impl Refusal {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), first_valid: None }
    }
}

pub fn error(out: &mut Vec<u8>, sub: Option<u32>, refusal: &Refusal, at_byte: u64, fatal: bool) {
    #[derive(Serialize)]
    struct Error<'a> {
        code: &'a str,
        message: &'a str,
        at_byte: u64,
        sub: Option<u32>,
        fatal: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        first_valid: Option<crate::storage::Position>,
    }
    let Refusal { code, message, first_valid } = refusal;
    control(out, b"$esc/error", &Error { code, message, at_byte, sub, fatal, first_valid: *first_valid });
}

/// Records that are not kept any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GapNotice<'a> {
    pub sub: u32,
    pub stream: &'a str,
    pub epoch: u32,
    pub from: u64,
    pub to: u64,
    pub count: u64,
}

pub fn gap(out: &mut Vec<u8>, gap: &GapNotice<'_>) {
    control(out, b"$esc/gap", gap);
}

/// Events that a subscriber missed because it did not read.
pub fn dropped(out: &mut Vec<u8>, sub: u32, count: u64) {
    #[derive(Serialize)]
    struct Dropped {
        sub: u32,
        count: u64,
    }
    control(out, b"$esc/dropped", &Dropped { sub, count });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_everything_and_says_where_it_comes_from() {
        let mut frame = Vec::new();
        let header = FrameHeader {
            id: Some([7; 16]),
            sent_time_ns: Some(9),
            flags: FLAG_ACK,
            ..FrameHeader::new(Priority::High)
        };
        encode(&mut frame, &header, b"a/b", b"payload");
        let origin = Origin { class: Class::Batch, epoch: 3, offset: 4, received_ns: 5 };
        let mut out = Vec::new();
        event(&mut out, 0x0102_0304, 2, &origin, &frame[4..]);
        let wanted: Vec<u8> = [
            &(frame.len() as u32 - 4 + 28).to_be_bytes()[..],
            &[0xd3, 0, 3],
            &[7; 16],
            &9u64.to_be_bytes(),
            &[1, 2, 3, 4, 2, 2, 0, 0],
            &3u32.to_be_bytes(),
            &4u64.to_be_bytes(),
            &5u64.to_be_bytes(),
            b"a/bpayload",
        ]
        .concat();
        assert_eq!(out, wanted);
        let made = Made::first(&out).unwrap();
        assert_eq!((made.topic(), made.bytes), (&b"a/b"[..], &wanted[..]));
        let mut other = b"before".to_vec();
        made.copy_for(9, &mut other);
        assert_eq!(other[..6 + 4 + 3 + 24], [b"before", &wanted[..4 + 3 + 24]].concat());
        assert_eq!(other[37..41], [0, 0, 0, 9]);
        assert_eq!(other[41..], wanted[35..]);
        assert!(Made::first(&out[..out.len() - 1]).is_none());
        // What is no frame is no event.
        event(&mut out, 1, 1, &origin, &[0xc0, 0, 1]);
        assert_eq!(out, wanted);
    }
}
