//! Records as JSON, one to a line: for people, for other programs, and to be read back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::time;
use crate::frame::{Class, FLAG_ID, FLAG_TIME, FrameHeader, PRIORITY_MASK, Priority};
use crate::metrics::DeadLetterReason;
use crate::storage::format::{self, Kind, LetterQueue, Record, RecordView, Reference, reason_of_letter};

/// A record as it is written to a line. `head` has the frame's flags and priority as they were on the wire.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    #[serde(default)]
    pub epoch: u32,
    #[serde(default)]
    pub offset: u64,
    #[serde(default)]
    pub time_ns: u64,
    pub class: String,
    #[serde(default = "event")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Letter>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_time_ns: Option<u64>,
    pub topic: String,
    /// Base64.
    pub payload: String,
}

/// A letter in one line of a list, for people.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(in crate::admin) struct Row {
    queue: String,
    offset: u64,
    time_ns: u64,
    reason: String,
    class: String,
    payload_bytes: usize,
    topic: String,
}

impl Row {
    pub fn of(queue: LetterQueue, letter: &RecordView<'_>) -> Self {
        Self {
            queue: queue.as_str().to_owned(),
            offset: letter.offset,
            time_ns: letter.time_ns,
            reason: reason_of_letter(letter).into_owned(),
            class: letter.class.as_str().to_owned(),
            payload_bytes: letter.event().payload().len(),
            topic: letter.event().topic().to_owned(),
        }
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { queue, offset, time_ns, reason, class, payload_bytes, topic } = self;
        let (time, topic) = (time::shown(*time_ns), topic.escape_debug());
        write!(f, "{queue:<6} {offset:>10}  {time}  {reason:<18} {class:<13} {payload_bytes:>8} bytes  {topic}")
    }
}

/// A letter with all that there is of it.
pub(in crate::admin) fn whole(queue: LetterQueue, letter: &RecordView<'_>) -> serde_json::Result<serde_json::Value> {
    let mut value = serde_json::to_value(Line::of(letter))?;
    value["queue"] = queue.as_str().into();
    Ok(value)
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Letter {
    pub queue: String,
    pub epoch: u32,
    pub offset: u64,
}

fn event() -> String {
    Kind::Event.as_str().to_owned()
}

impl Line {
    pub fn of(record: &RecordView<'_>) -> Self {
        let view = record.event();
        let head = record.frame.get(crate::frame::LENGTH_BYTES).copied();
        Self {
            epoch: record.epoch,
            offset: record.offset,
            time_ns: record.time_ns,
            class: record.class.as_str().to_owned(),
            kind: record.kind.as_str().to_owned(),
            reason: (record.reason != 0).then(|| reason_of_letter(record).into_owned()),
            arrival_ns: record.arrival_ns,
            reference: record.reference.map(|Reference { queue, epoch, offset }| Letter {
                queue: queue.as_str().to_owned(),
                epoch,
                offset,
            }),
            priority: head.map(|_| view.priority().as_str().to_owned()),
            head,
            id: view.id().map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect()),
            sent_time_ns: view.sent_time_ns(),
            topic: view.topic().to_owned(),
            payload: STANDARD.encode(view.payload()),
        }
    }

    /// The frame, as it was on the wire.
    pub fn frame(&self) -> Result<Vec<u8>, String> {
        let payload = STANDARD.decode(&self.payload).map_err(|error| format!("payload: {error}"))?;
        let priority = match &self.priority {
            None => Priority::Medium,
            Some(name) => {
                let named = Priority::ALL.into_iter().find(|priority| priority.as_str() == name);
                named.ok_or_else(|| format!("priority: there is no `{name}`"))?
            }
        };
        let id = self.id.as_deref().map(parse_id).transpose()?;
        if self.topic.is_empty() || self.topic.len() > usize::from(u16::MAX) || self.topic.contains('\0') {
            return Err("topic: it has 1 to 65535 bytes, none of them NUL".to_owned());
        }
        let flags = self.head.unwrap_or_default() & !(PRIORITY_MASK | FLAG_ID | FLAG_TIME);
        let header = FrameHeader { priority, id, sent_time_ns: self.sent_time_ns, flags };
        let mut frame = Vec::new();
        crate::frame::encode(&mut frame, &header, self.topic.as_bytes(), &payload);
        // On the wire critical has several numbers.
        if let Some(head) = self.head.filter(|head| Priority::from_wire(*head) == priority) {
            let byte = &mut frame[crate::frame::LENGTH_BYTES];
            *byte = *byte & !PRIORITY_MASK | head & PRIORITY_MASK;
        }
        Ok(frame)
    }

    /// The record that it is of, with a frame made by [`frame`](Self::frame).
    pub fn record<'f>(&'f self, frame: &'f [u8], now_ns: u64) -> Result<Record<'f>, String> {
        let class = Class::ALL.into_iter().find(|class| class.as_str() == self.class);
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == self.kind);
        let kind = kind.filter(|kind| matches!(kind, Kind::Event | Kind::DeadLetter));
        let (reason, consumer) = match &self.reason {
            None => (0, None),
            Some(name) => named_reason(name).map(|(reason, group)| (reason.code(), group))?,
        };
        Ok(Record {
            time_ns: if self.time_ns == 0 { now_ns } else { self.time_ns },
            class: class.ok_or_else(|| format!("class: there is no `{}`", self.class))?,
            kind: kind.ok_or_else(|| format!("kind: `{}` cannot be imported", self.kind))?,
            reason,
            arrival_ns: self.arrival_ns,
            reference: self.reference.as_ref().map(parse_letter).transpose()?,
            consumer,
            frame,
        })
    }
}

/// A reason, and the group if it is `consumer:GROUP`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedReason {
    pub reason: DeadLetterReason,
    pub consumer: Option<String>,
}

impl std::fmt::Display for NamedReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason.name())?;
        self.consumer.as_ref().map_or(Ok(()), |group| write!(f, ":{group}"))
    }
}

pub(super) fn parse_reason(name: &str) -> Result<NamedReason, String> {
    named_reason(name).map(|(reason, group)| NamedReason { reason, consumer: group.map(str::to_owned) })
}

fn named_reason(name: &str) -> Result<(DeadLetterReason, Option<&str>), String> {
    format::parse_reason(name).ok_or_else(|| {
        let names: Vec<&str> = DeadLetterReason::ALL.iter().map(|reason| reason.name()).collect();
        format!("reason `{name}` is not one of {}, or consumer:GROUP", names.join(", "))
    })
}

fn parse_letter(letter: &Letter) -> Result<Reference, String> {
    let queue = LetterQueue::ALL.into_iter().find(|queue| queue.as_str() == letter.queue);
    let queue = queue.ok_or_else(|| format!("reference: there is no queue `{}`", letter.queue))?;
    Ok(Reference { queue, epoch: letter.epoch, offset: letter.offset })
}

fn parse_id(text: &str) -> Result<[u8; 16], String> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32 && text.is_ascii());
    number.map(u128::to_be_bytes).ok_or_else(|| format!("id: `{text}` is not 32 hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_line_gives_the_frame_back_byte_by_byte(
            (head, topic, payload) in (any::<u8>(), "[a-zä/]{1,20}", prop::collection::vec(any::<u8>(), 0..60)),
            (id, sent) in (any::<[u8; 16]>(), any::<u64>()),
        ) {
            let header = FrameHeader {
                priority: Priority::from_wire(head),
                id: (head & FLAG_ID != 0).then_some(id),
                sent_time_ns: (head & FLAG_TIME != 0).then_some(sent),
                flags: head & 0x20,
            };
            let mut frame = Vec::new();
            crate::frame::encode(&mut frame, &header, topic.as_bytes(), &payload);
            frame[4] = frame[4] & !PRIORITY_MASK | head & PRIORITY_MASK;
            let view = RecordView {
                offset: 5, epoch: 6, time_ns: 7, class: Class::Batch, kind: Kind::DeadLetter, reason: 8, arrival_ns: Some(3), consumer: Some("g.1"),
                reference: Some(Reference { queue: LetterQueue::Shed, epoch: 1, offset: 9 }), frame: &frame,
            };
            let text = serde_json::to_string(&Line::of(&view)).unwrap();
            let line: Line = serde_json::from_str(&text).unwrap();
            let made = line.frame().unwrap();
            prop_assert_eq!(&made, &frame);
            let record = line.record(&made, 0).unwrap();
            let Record { time_ns, class, kind, reason, arrival_ns, reference, consumer, .. } = record;
            prop_assert_eq!((time_ns, class, kind, reason), (7, Class::Batch, Kind::DeadLetter, 8));
            prop_assert_eq!(consumer, Some("g.1"));
            prop_assert_eq!((arrival_ns, reference), (view.arrival_ns, view.reference));
        }
    }

    #[test]
    fn lines_that_say_little_are_enough_and_wrong_ones_are_refused() {
        let read = |text: &str| {
            let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
            let frame = line.frame()?;
            line.record(&frame, 42).map(|record| (record.time_ns, record.frame.len()))
        };
        assert_eq!(read(r#"{"class": "batch", "topic": "a", "payload": "AAA="}"#), Ok((42, 4 + 3 + 1 + 2)));
        for (wrong, why) in [
            (r#"{"class": "fast", "topic": "a", "payload": ""}"#, "class: there is no"),
            (r#"{"class": "batch", "topic": "", "payload": ""}"#, "topic: "),
            (r#"{"class": "batch", "topic": "a", "payload": "%"}"#, "payload: "),
            (r#"{"class": "batch", "topic": "a", "payload": "", "id": "12"}"#, "id: "),
            (r#"{"class": "batch", "topic": "a", "payload": "", "kind": "purged"}"#, "kind: "),
            (r#"{"class": "batch", "topic": "a", "payload": "", "colour": 1}"#, "unknown field"),
        ] {
            let refused = read(wrong).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
