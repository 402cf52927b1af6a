//! The protocol's own frames: what clients may ask, and what they are told.
//!
//! - **Thread**: the ingest agent's, off the path of events: a control frame may allocate.
//! - **In**: topic and payload of a frame whose topic starts with `$esc/`. **Out**: one answer for each.
//! - **Invariant**: each request is answered by `$esc/ok` or `$esc/error`; nothing a client sends makes an answer longer
//!   than [`ANSWER_BYTES_MAX`].

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::frame::{FrameHeader, Priority, encode};
use crate::memory::off_data_path;
use crate::metrics::MalformedReason;
use crate::subscribe::request::{self, COUNT, DONE, SUBSCRIBE, UNSUBSCRIBE};

/// What an answer takes at most. Messages are our own text, numbers, and what serde says about a JSON error, which
/// quotes at most an unknown key, cut to [`DETAIL_BYTES_MAX`].
pub(super) const ANSWER_BYTES_MAX: usize = 1024;
/// Quoted from a client in an answer; doubled at worst by escapes, six-fold only for control characters, which are
/// replaced.
const DETAIL_BYTES_MAX: usize = 200;
/// A payload above this is refused unread: no request needs it, and JSON is parsed on the data path's thread.
const PAYLOAD_BYTES_MAX: usize = 4096;
const PROTOCOL_VERSION: u32 = 1;

const HELLO: &[u8] = b"$esc/hello";
const UNSUPPORTED: [&[u8]; 2] = [b"$esc/auth", b"$esc/ack"];
/// Those of subscriptions whose payload is JSON.
const SUBSCRIPTION: [&[u8]; 3] = [SUBSCRIBE, UNSUBSCRIBE, COUNT];

/// What is said of a stream or a request that cannot be served.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) code: &'static str,
    pub(super) message: String,
    /// Absolute position in the stream.
    pub(super) at_byte: u64,
}

impl Fault {
    pub(super) fn malformed(reason: MalformedReason, at_byte: u64) -> Self {
        let text = || format!("{} ({}) at byte {at_byte} of the stream", describe(reason), reason.name());
        let message = off_data_path(text);
        Self { code: "malformed", message, at_byte }
    }

    /// Appends the `$esc/error` frame.
    pub(super) fn encode(&self, out: &mut Vec<u8>, fatal: bool) {
        #[derive(Serialize)]
        struct Payload<'a> {
            code: &'a str,
            message: &'a str,
            at_byte: u64,
            sub: Option<u32>,
            fatal: bool,
        }
        let payload = Payload { code: self.code, message: &self.message, at_byte: self.at_byte, sub: None, fatal };
        append(out, b"$esc/error", &payload);
    }
}

fn append(out: &mut Vec<u8>, topic: &[u8], payload: &impl Serialize) {
    // Plain structs of numbers and text always serialize.
    let payload = serde_json::to_vec(payload).unwrap_or_default();
    encode(out, &FrameHeader::new(Priority::Critical), topic, &payload);
}

/// The answer to `$esc/hello`, the same for all connections.
pub(super) fn hello_answer(max_frame: u32, dedup_window_ms: u64, run_id: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Payload<'a> {
        version: u32,
        max_frame: u32,
        dedup_window_ms: u64,
        features: [&'a str; 2],
        run_id: &'a str,
    }
    let payload =
        Payload { version: PROTOCOL_VERSION, max_frame, dedup_window_ms, features: ["ack", "subscribe"], run_id };
    let mut answer = Vec::new();
    append(&mut answer, b"$esc/ok", &payload);
    answer
}

/// What a control frame asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Hello,
    /// For who sends events to subscribers.
    Subscription(Result<request::Request, request::Refused>),
    /// Part of the protocol, and not served.
    Unsupported,
    /// A known topic whose payload is not what it asks for, and why.
    Bad(String),
    /// No topic of the protocol.
    Unknown,
}

pub(super) fn request(topic: &[u8], payload: &[u8]) -> Request {
    match topic {
        HELLO => hello(payload).map_or_else(Request::Bad, |()| Request::Hello),
        topic if UNSUPPORTED.contains(&topic) => Request::Unsupported,
        topic if SUBSCRIPTION.contains(&topic) && payload.len() > PAYLOAD_BYTES_MAX => {
            Request::Bad(payload_too_long(topic))
        }
        topic => request::read(topic, payload).map_or(Request::Unknown, Request::Subscription),
    }
}

/// What is known of a request before its payload is there: that it will be refused, if it will.
pub(super) fn request_begun(topic: &[u8], payload_bytes: usize) -> Option<Request> {
    match topic {
        topic if topic == HELLO || SUBSCRIPTION.contains(&topic) => {
            (payload_bytes > PAYLOAD_BYTES_MAX).then(|| Request::Bad(payload_too_long(topic)))
        }
        topic if topic == DONE || UNSUPPORTED.contains(&topic) => None,
        _ => Some(Request::Unknown),
    }
}

fn payload_too_long(topic: &[u8]) -> String {
    format!("the payload of {} is above {PAYLOAD_BYTES_MAX} bytes", String::from_utf8_lossy(topic))
}

fn hello(payload: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Hello<'a> {
        version: u32,
        #[serde(default, borrow, rename = "client")]
        _client: Option<Cow<'a, str>>,
    }
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(payload_too_long(HELLO));
    }
    let hello: Hello<'_> =
        serde_json::from_slice(payload).map_err(|error| format!("$esc/hello: {}", harmless(&error.to_string())))?;
    if hello.version != PROTOCOL_VERSION {
        return Err(format!("protocol version {} is not spoken here, only {PROTOCOL_VERSION}", hello.version));
    }
    Ok(())
}

/// Foreign text as it may be quoted.
fn harmless(text: &str) -> String {
    let mut kept = String::new();
    for character in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if kept.len() + character.len_utf8() > DETAIL_BYTES_MAX {
            kept.push_str("...");
            break;
        }
        kept.push(character);
    }
    kept
}

fn describe(reason: MalformedReason) -> &'static str {
    match reason {
        MalformedReason::LengthShort => "the length field counts fewer bytes than a header has",
        MalformedReason::LengthLimit => "the length field is above the frame limit",
        MalformedReason::TopicEmpty => "the topic has no bytes",
        MalformedReason::TopicBeyond => "the topic reaches past the end of its frame",
        MalformedReason::TopicLimit => "the topic is longer than the limit",
        MalformedReason::TopicUtf8 => "the topic is not UTF-8",
        MalformedReason::TopicNul => "the topic contains a NUL",
        MalformedReason::TopicWildcard => "a published topic has `+` or `#` as a level",
        MalformedReason::ReservedFlag => "a reserved flag is set",
        MalformedReason::MissingField => "a flag announces a field for which the frame has no room",
        MalformedReason::ReservedTopic => "no such topic of the protocol",
        MalformedReason::StreamTruncated => "the stream ended inside a frame",
        MalformedReason::ControlPayload => "the payload is not what its topic asks for",
        // Not of streams.
        MalformedReason::LengthBeyond
        | MalformedReason::TrailingBytes
        | MalformedReason::EmptyDatagram
        | MalformedReason::PacketHeaders => "the frame is malformed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_is_read_strictly() {
        let ask = |payload: &[u8]| request(b"$esc/hello", payload);
        assert_eq!(ask(br#"{"version":1,"client":"a\nb"}"#), Request::Hello);
        assert_eq!(ask(br#"{"version":1}"#), Request::Hello);
        for bad in [&b""[..], b"{", b"[]", br#"{"version":1,"more":2}"#, br#"{"client":"c"}"#, br#"{"version":2}"#] {
            assert!(matches!(ask(bad), Request::Bad(_)), "{}", String::from_utf8_lossy(bad));
        }
        assert!(matches!(ask(&[b' '; PAYLOAD_BYTES_MAX + 1]), Request::Bad(_)));
        assert_eq!(request(b"$esc/auth", b""), Request::Unsupported);
        assert_eq!(request(b"$esc/hello2", b""), Request::Unknown);
    }

    #[test]
    fn no_answer_is_longer_than_the_bound() {
        let key = "\\u0001\\\"".repeat(400);
        let Request::Bad(message) = request(b"$esc/hello", format!("{{\"{key}\":1}}").as_bytes()) else {
            panic!("accepted an unknown key")
        };
        let mut out = Vec::new();
        Fault { code: "bad_request", message, at_byte: u64::MAX }.encode(&mut out, true);
        assert!(out.len() <= ANSWER_BYTES_MAX, "{} bytes", out.len());
        for reason in MalformedReason::ALL {
            out.clear();
            Fault::malformed(*reason, u64::MAX).encode(&mut out, true);
            assert!(out.len() <= ANSWER_BYTES_MAX);
        }
    }
}
