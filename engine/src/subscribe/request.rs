//! What clients ask about subscriptions, read strictly.

use std::time::Duration;

use serde::Deserialize;

use super::frames::Refusal;
use crate::frame::Class;
use crate::storage::{Position, TopicFilter};

/// Of the names of durable subscriptions and groups: they are names of files.
const NAME_BYTES_MAX: usize = 64;

pub const SUBSCRIBE: &[u8] = b"$esc/subscribe";
pub const UNSUBSCRIBE: &[u8] = b"$esc/unsubscribe";
pub const COUNT: &[u8] = b"$esc/count";
pub const DONE: &[u8] = b"$esc/done";

/// Where a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    Live,
    Earliest,
    /// With the last record that matches.
    Latest,
    At {
        stream: String,
        position: Position,
    },
    Time(u64),
}

/// What is done for a subscriber that does not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slow {
    #[default]
    Drop,
    Disconnect,
}

/// A position that the engine keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub name: String,
    /// Shared by any number of members.
    pub is_group: bool,
    pub by_topic: bool,
    pub max_in_flight: u32,
    pub ack_wait: Duration,
    pub max_deliveries: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    pub sub: u32,
    pub filter: TopicFilter,
    /// None were named.
    pub classes: Option<[bool; 3]>,
    pub from: From,
    /// Only what is in this stream of the log.
    pub stream: Option<String>,
    pub kept: Option<Kept>,
    pub slow: Slow,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Subscribe(Box<Subscribe>),
    Unsubscribe(u32),
    Count(u32),
    Done { sub: u32, offsets: Vec<u64> },
}

/// A request that was not understood, and which subscription it was about, if that could be read.
pub type Refused = (Option<u32>, Refusal);

/// Reads a request by its topic; `None` when the topic is none of these.
pub fn read(topic: &[u8], payload: &[u8]) -> Option<Result<Request, Refused>> {
    Some(match topic {
        SUBSCRIBE => subscribe(payload).map(|subscribe| Request::Subscribe(Box::new(subscribe))),
        UNSUBSCRIBE => named("$esc/unsubscribe", payload).map(Request::Unsubscribe),
        COUNT => named("$esc/count", payload).map(Request::Count),
        DONE => done(payload),
        _ => return None,
    })
}

fn bad(sub: Option<u32>, message: impl Into<String>) -> Refused {
    (sub, Refusal::new("bad_request", message))
}

/// Which subscription a request is about, though it cannot be read as a whole.
fn sub_of(payload: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Sub {
        sub: u32,
    }
    serde_json::from_slice::<Sub>(payload).ok().map(|Sub { sub }| sub)
}

fn named(topic: &str, payload: &[u8]) -> Result<u32, Refused> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sub {
        sub: u32,
    }
    serde_json::from_slice::<Sub>(payload)
        .map(|Sub { sub }| sub)
        .map_err(|error| bad(sub_of(payload), format!("{topic}: {error}")))
}

fn done(payload: &[u8]) -> Result<Request, Refused> {
    let (sub, offsets) = payload
        .split_first_chunk()
        .map(|(sub, rest)| (u32::from_be_bytes(*sub), rest))
        .ok_or_else(|| bad(None, "$esc/done: four bytes say which subscription"))?;
    let (offsets, rest) = offsets.as_chunks::<8>();
    if offsets.is_empty() || !rest.is_empty() {
        return Err(bad(Some(sub), "$esc/done: behind the subscription come offsets of eight bytes, one at least"));
    }
    Ok(Request::Done { sub, offsets: offsets.iter().map(|offset| u64::from_be_bytes(*offset)).collect() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    sub: u32,
    filter: String,
    classes: Option<Vec<ClassName>>,
    start: Option<Start>,
    stream: Option<String>,
    durable: Option<String>,
    group: Option<String>,
    key: Option<KeyName>,
    max_in_flight: Option<u32>,
    ack_wait_ms: Option<u32>,
    max_deliveries: Option<u8>,
    slow: Option<Slow>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ClassName {
    Realtime,
    Transactional,
    Batch,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum KeyName {
    Topic,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Start {
    Word(Word),
    At(At),
    Time(Time),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Live,
    Earliest,
    Latest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct At {
    epoch: u32,
    offset: u64,
    #[serde(default)]
    stream: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Time {
    time_ns: u64,
}

fn subscribe(payload: &[u8]) -> Result<Subscribe, Refused> {
    let wire: Wire =
        serde_json::from_slice(payload).map_err(|error| bad(sub_of(payload), format!("$esc/subscribe: {error}")))?;
    let sub = wire.sub;
    let refuse = |message: String| bad(Some(sub), message);
    let filter = TopicFilter::parse(&wire.filter)
        .map_err(|error| (Some(sub), Refusal::new("bad_filter", format!("filter `{}`: {error}", wire.filter))))?;
    let classes = wire.classes.as_ref().map(|named| {
        let mut classes = [false; 3];
        for class in named {
            let class = match class {
                ClassName::Realtime => Class::Realtime,
                ClassName::Transactional => Class::Transactional,
                ClassName::Batch => Class::Batch,
            };
            classes[class as usize] = true;
        }
        classes
    });
    if classes == Some([false; 3]) {
        return Err(refuse("classes: names one class at least".into()));
    }
    let from = match &wire.start {
        None | Some(Start::Word(Word::Live)) => From::Live,
        Some(Start::Word(Word::Earliest)) => From::Earliest,
        Some(Start::Word(Word::Latest)) => From::Latest,
        Some(Start::At(At { epoch, offset, stream })) => {
            let stream = stream.as_ref().or(wire.stream.as_ref());
            let stream = stream.cloned().unwrap_or_else(|| crate::storage::DEFAULT_STREAM.to_owned());
            From::At { stream, position: Position { epoch: *epoch, offset: *offset } }
        }
        Some(Start::Time(Time { time_ns })) => From::Time(*time_ns),
    };
    let kept = kept(&wire).map_err(refuse)?;
    let only = wire.stream.as_deref().or(kept.as_ref().map(|_| crate::storage::DEFAULT_STREAM));
    if let From::At { stream, .. } = &from
        && only.is_some_and(|only| only != stream)
    {
        return Err(refuse("start: its stream is another than that of the subscription".into()));
    }
    let asks_realtime = classes.is_some_and(|classes| classes[Class::Realtime as usize]);
    if asks_realtime && (kept.is_some() || from != From::Live || wire.stream.is_some()) {
        let message = "realtime events are in no log: they are live only, and nobody keeps a position among them";
        return Err((Some(sub), Refusal::new("realtime_not_logged", message)));
    }
    let (stream, slow) = (wire.stream, wire.slow.unwrap_or_default());
    Ok(Subscribe { sub, filter, classes, from, stream, kept, slow })
}

/// The position that is to be kept, if one is.
fn kept(wire: &Wire) -> Result<Option<Kept>, String> {
    let (name, is_group) = match (&wire.durable, &wire.group) {
        (Some(_), Some(_)) => return Err("durable and group: a position is kept for one or for many".into()),
        (Some(name), None) => (name, false),
        (None, Some(name)) => (name, true),
        (None, None) => {
            let alone = wire.max_in_flight.is_some() || wire.ack_wait_ms.is_some() || wire.max_deliveries.is_some();
            return match wire.key.is_some() || alone {
                true => Err("max_in_flight, ack_wait_ms, max_deliveries and key need durable or group".into()),
                false => Ok(None),
            };
        }
    };
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(is_allowed) || name.starts_with('.') {
        return Err(format!(
            "a name has 1 to {NAME_BYTES_MAX} letters, digits, `_`, `.` or `-`, the first of them no dot"
        ));
    }
    if !is_group && (wire.ack_wait_ms.is_some() || wire.max_deliveries.is_some() || wire.key.is_some()) {
        return Err("ack_wait_ms, max_deliveries and key are for groups".into());
    }
    let within = |key: &str, value: Option<u32>, default: u32, range: std::ops::RangeInclusive<u32>| match value {
        None => Ok(default),
        Some(value) if range.contains(&value) => Ok(value),
        Some(value) => Err(format!("{key}: {value} is not within {} and {}", range.start(), range.end())),
    };
    let max_deliveries = wire.max_deliveries.map(u32::from);
    Ok(Some(Kept {
        name: name.clone(),
        is_group,
        by_topic: wire.key.is_some(),
        max_in_flight: within("max_in_flight", wire.max_in_flight, 1_024, 1..=65_536)?,
        ack_wait: Duration::from_millis(within("ack_wait_ms", wire.ack_wait_ms, 30_000, 100..=86_400_000)?.into()),
        max_deliveries: within("max_deliveries", max_deliveries, 5, 1..=255)? as u8,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(payload: &str) -> Result<Request, Refused> {
        read(SUBSCRIBE, payload.as_bytes()).unwrap()
    }

    fn code(payload: &str) -> (Option<u32>, &'static str) {
        let (sub, refusal) = ask(payload).unwrap_err();
        (sub, refusal.code)
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let Ok(Request::Subscribe(subscribe)) = ask(r#"{"sub":7,"filter":"a/+"}"#) else { panic!("refused") };
        let filter = TopicFilter::parse("a/+").unwrap();
        let (from, stream, kept, slow) = (From::Live, None, None, Slow::Drop);
        let wanted = Subscribe { sub: 7, filter, classes: None, from, stream, kept, slow };
        assert_eq!(*subscribe, wanted);
        let Ok(Request::Subscribe(subscribe)) = ask(r#"{"sub":7,"filter":"a","group":"g"}"#) else { panic!("refused") };
        let kept = subscribe.kept.unwrap();
        assert_eq!((kept.max_in_flight, kept.ack_wait.as_secs(), kept.max_deliveries), (1024, 30, 5));
    }

    #[test]
    fn starts_are_words_positions_or_times() {
        let from = |start: &str| match ask(&format!(r#"{{"sub":1,"filter":"a","start":{start}}}"#)) {
            Ok(Request::Subscribe(subscribe)) => Ok(subscribe.from),
            Ok(other) => panic!("{other:?}"),
            Err((_, refusal)) => Err(refusal.code),
        };
        let position = Position { epoch: 2, offset: 3 };
        assert_eq!(from("\"earliest\""), Ok(From::Earliest));
        assert_eq!(from(r#"{"epoch":2,"offset":3}"#), Ok(From::At { stream: "default".into(), position }));
        assert_eq!(from(r#"{"epoch":2,"offset":3,"stream":"s"}"#), Ok(From::At { stream: "s".into(), position }));
        assert_eq!(from(r#"{"epoch":2,"offset":3},"stream":"s""#), Ok(From::At { stream: "s".into(), position }));
        assert_eq!(from(r#"{"time_ns":5}"#), Ok(From::Time(5)));
        for start in ["\"first\"", "5", r#"{"epoch":2}"#, r#"{"epoch":2,"offset":3,"more":1}"#, "-1"] {
            assert_eq!(from(start), Err("bad_request"), "{start}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (payload, wanted) in [
            ("{", (None, "bad_request")),
            (r#"{"sub":7,"filter":"a","more":1}"#, (Some(7), "bad_request")),
            (r#"{"sub":7,"filter":"a/#/b"}"#, (Some(7), "bad_filter")),
            (r#"{"sub":7,"filter":"a","classes":[]}"#, (Some(7), "bad_request")),
            (r#"{"sub":7,"filter":"a","classes":["realtime"],"start":"earliest"}"#, (Some(7), "realtime_not_logged")),
            (r#"{"sub":7,"filter":"a","classes":["realtime"],"durable":"d"}"#, (Some(7), "realtime_not_logged")),
            (r#"{"sub":7,"filter":"a","durable":"d","group":"g"}"#, (Some(7), "bad_request")),
            (r#"{"sub":7,"filter":"a","durable":"../d"}"#, (Some(7), "bad_request")),
            (r#"{"sub":7,"filter":"a","durable":".d"}"#, (Some(7), "bad_request")),
            (r#"{"sub":7,"filter":"a","max_in_flight":1}"#, (Some(7), "bad_request")),
            (r#"{"sub":7,"filter":"a","durable":"d","key":"topic"}"#, (Some(7), "bad_request")),
            (r#"{"sub":7,"filter":"a","durable":"d","max_in_flight":0}"#, (Some(7), "bad_request")),
            (r#"{"sub":7,"filter":"a","group":"d","ack_wait_ms":1}"#, (Some(7), "bad_request")),
            (
                r#"{"sub":7,"filter":"a","durable":"d","start":{"epoch":1,"offset":2,"stream":"s"}}"#,
                (Some(7), "bad_request"),
            ),
            (r#"{"sub":7,"filter":"a","classes":["realtime"],"stream":"s"}"#, (Some(7), "realtime_not_logged")),
        ] {
            assert_eq!(code(payload), wanted, "{payload}");
        }
    }

    #[test]
    fn offsets_that_are_done_come_as_bytes() {
        let ask = |payload: &[u8]| read(DONE, payload).unwrap();
        assert_eq!(ask(&[0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]), Ok(Request::Done { sub: 7, offsets: vec![9] }));
        for bad in [&[][..], &[0, 0, 0, 7], &[0, 0, 0, 7, 1], &[0; 13]] {
            assert!(ask(bad).is_err(), "{bad:?}");
        }
        assert!(read(b"$esc/hello", b"").is_none());
    }
}
