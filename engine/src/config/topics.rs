//! The topic table's entries as configured.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::batch::{Batch, Window};
use super::document::{Value, shown};
use super::limit::range;
use super::reader::{Section, integer, word};
use super::words::{Class, Priority, TopicOrder, Word};

/// Different windows that there may be, that of `batch` among them: a topic is told to its worker with the number of its own.
pub const WINDOWS_MAX: usize = 31;

/// The most entries the table takes.
pub const TOPICS_MAX: usize = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Topic {
    pub name: Box<str>,
    /// As named by the entry, or by the priority it has instead.
    pub class: Class,
    /// `None`: as `dedup.classes` says for the class.
    pub dedup: Option<bool>,
    pub order: TopicOrder,
    /// `None`: as `batch` says.
    pub window: Option<Window>,
}

/// Reads the list; names longer than `topic_bytes` could never match a topic that passes the limit.
pub(super) fn read(s: &mut Section<'_, '_>, topic_bytes: u16, batch: &Batch) -> Vec<Topic> {
    let mut lines: HashMap<Box<str>, u32> = HashMap::new();
    let mut windows = HashSet::from([batch.window]);
    let topics = s.list("topics", TOPICS_MAX, "topics", |item| {
        let topic = item.section(|s| read_topic(s, topic_bytes, batch))??;
        if let Some(first) = lines.insert(topic.name.clone(), item.at.line) {
            item.error(format!("topic `{}` is already in the list, line {first}", shown(&topic.name)));
        }
        if topic.window.is_some_and(|window| window.is_on() && windows.insert(window)) && windows.len() > WINDOWS_MAX {
            let count = WINDOWS_MAX - 1;
            item.error(format!(
                "this is one window too many: there may be {count} different ones besides that of `batch`"
            ));
        }
        Some(topic)
    });
    topics.unwrap_or_default()
}

fn read_topic(s: &mut Section<'_, '_>, topic_bytes: u16, batch: &Batch) -> Option<Topic> {
    let name = s.value(
        "name",
        None,
        || "text".to_owned(),
        |value| match value {
            Value::Text(name) => check_name(name, topic_bytes).map(|()| Some(Box::from(name.as_ref()))),
            other => Err(format!("expected the name of a topic, found {other} (quote it if text is meant)")),
        },
    );
    if !s.has("name") {
        s.error("name", "is missing: an entry needs the name of its topic");
    }
    let class = s.value("class", None, Class::allowed, |value| word(value).map(Some));
    let priority = s.value("priority", None, Priority::allowed, |value| priority(value).map(Some));
    match (s.has("class"), s.has("priority")) {
        (false, false) => s.error("class", "is missing: an entry needs a class, or a priority to take it from"),
        (true, true) => s.error("priority", "an entry has a class or a priority, not both: the class decides"),
        _ => {}
    }
    let dedup = s.optional_boolean("dedup");
    let order = s.word("order", TopicOrder::Relaxed);
    let has_window = s.has("window");
    let window = Some(s.section("window", |s| batch.read_topic(s))).filter(|_| has_window);
    let class = class.or(priority.map(Priority::class))?;
    if window.is_some() && class != Class::Batch {
        s.error("window", format!("windows are for batch topics, and this one is {class}"));
    }
    Some(Topic { name: name?, class, dedup, order, window })
}

/// By word, or by its number on the wire.
fn priority(value: &Value<'_>) -> Result<Priority, String> {
    match value {
        Value::Integer(number) => {
            let wire = integer(&Value::Integer(*number), range(0, 4, "or the priority's name"))?;
            Ok(Priority::from_wire(u8::try_from(wire).unwrap_or(u8::MAX)))
        }
        other => word(other),
    }
}

/// What the parser refuses in a published topic is no entry either.
fn check_name(name: &str, topic_bytes: u16) -> Result<(), String> {
    let shown = shown(name);
    if !(1..=usize::from(topic_bytes)).contains(&name.len()) {
        Err(format!("topic `{shown}` has {} bytes, outside 1..={topic_bytes} (limits.topic_bytes)", name.len()))
    } else if name.contains('\0') {
        Err(format!("topic `{shown}` contains a NUL"))
    } else if name.split('/').any(|level| level == "+" || level == "#") {
        Err(format!("topic `{shown}` has a wildcard as a level: entries name single topics"))
    } else if name.starts_with("$esc/") {
        Err(format!("topic `{shown}` starts with `$esc/`, which is the protocol's own"))
    } else {
        Ok(())
    }
}
