//! Typed reading of a document's sections: takes the keys it is asked for, gathers everything that is wrong.
//!
//! A value that is wrong is reported and replaced by its default, so that one reading finds every mistake.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::document::{Entry, Node, Value, shown};
use super::error::Position;
use super::findings::Findings;
use super::limit::Limit;
use super::words::Word;

/// The way to a key, put into text only when it is needed.
#[derive(Clone, Copy)]
enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(&shown(key)),
            Self::Key(parent, key) => write!(f, "{parent}.{}", shown(key)),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A value in a list, with its place.
pub(super) struct Item<'p, 'a> {
    pub at: Position,
    pub value: &'p Value<'a>,
    path: Path<'p>,
    findings: &'p Findings,
}

impl Item<'_, '_> {
    pub fn error(&self, message: impl Into<String>) {
        self.findings.error(self.at, self.path.to_string(), message);
    }

    /// Takes the item as a group of keys.
    pub fn section<T>(&self, read: impl FnOnce(&mut Section<'_, '_>) -> T) -> Option<T> {
        self.group(true, read)
    }

    /// The same for lists that are never long: remembers where each item and its keys stand.
    pub fn placed_section<T>(&self, read: impl FnOnce(&mut Section<'_, '_>) -> T) -> Option<T> {
        self.place();
        self.group(false, read)
    }

    fn group<T>(&self, is_listed: bool, read: impl FnOnce(&mut Section<'_, '_>) -> T) -> Option<T> {
        let Value::Map(entries) = self.value else {
            self.error(format!("expected a group of keys, found {}", self.value));
            return None;
        };
        let mut section = Section::new(self.path, self.at, entries, self.findings);
        section.is_listed = is_listed;
        let read = read(&mut section);
        section.finish();
        Some(read)
    }

    pub fn integer<T: TryFrom<u64>>(&self, limit: Limit) -> Option<T> {
        let number = integer(self.value, limit)
            .and_then(|number| T::try_from(number).map_err(|_| format!("value {number} is outside {limit}")));
        number.map_err(|message| self.error(message)).ok()
    }

    /// Takes the item as text and remembers where it stands.
    pub fn text(&self) -> Option<&str> {
        let Value::Text(text) = self.value else {
            self.error(format!("expected text, found {} (quote it if text is meant)", self.value));
            return None;
        };
        self.place();
        Some(text)
    }

    /// Remembers where the item stands.
    pub fn place(&self) {
        self.findings.place(self.path.to_string(), self.at);
    }
}

/// One group of keys that is being read.
pub(super) struct Section<'p, 'a> {
    path: Path<'p>,
    /// Where the group begins.
    pub at: Position,
    entries: &'p [Entry<'a>],
    known: Vec<&'static str>,
    is_listed: bool,
    findings: &'p Findings,
}

/// Reads the whole document.
pub(super) fn read_root<T>(node: &Node<'_>, findings: &Findings, read: impl FnOnce(&mut Section<'_, '_>) -> T) -> T {
    let entries: &[Entry<'_>] = match &node.value {
        Value::Map(entries) => entries,
        Value::Null => &[],
        other => {
            findings.error(node.at, "", format!("expected a group of keys, found {other}"));
            &[]
        }
    };
    let mut section = Section::new(Path::Root, node.at, entries, findings);
    let read = read(&mut section);
    section.finish();
    read
}

impl<'p, 'a> Section<'p, 'a> {
    fn new(path: Path<'p>, at: Position, entries: &'p [Entry<'a>], findings: &'p Findings) -> Self {
        Self { path, at, entries, known: Vec::with_capacity(16), is_listed: false, findings }
    }

    fn finish(self) {
        for entry in self.entries {
            if !self.known.contains(&entry.key.as_ref()) {
                let path = Path::Key(&self.path, &entry.key).to_string();
                let known = self.known.join(", ");
                self.findings.error(entry.at, path, format!("unknown key; known here: {known}"));
            }
        }
    }

    /// Finds a key and declares it known; `allowed` says what it may be.
    fn take(&mut self, key: &'static str, allowed: impl FnOnce() -> String) -> Option<&'p Node<'a>> {
        self.known.push(key);
        #[cfg(test)]
        {
            let path = Path::Key(&self.path, key).to_string();
            self.findings.key(path, allowed());
        }
        #[cfg(not(test))]
        let _ = allowed;
        let mut found = self.entries.iter().filter(|entry| entry.key == key);
        let first = found.next()?;
        for repeated in found {
            self.error_at(repeated.at, key, format!("repeats the key of line {}", first.at.line));
        }
        if !self.is_listed {
            let path = Path::Key(&self.path, key).to_string();
            self.findings.place(path, first.node.at);
        }
        Some(&first.node)
    }

    /// How many items a key's list has; `None` if its value is no list.
    pub fn list_len(&self, key: &str) -> Option<usize> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        match &entry.node.value {
            Value::List(items) => Some(items.len()),
            _ => None,
        }
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Reports a value of this section, or the section itself when it has no such key.
    pub fn error(&self, key: &str, message: impl Into<String>) {
        let at = self.entries.iter().find(|entry| entry.key == key).map_or(self.at, |entry| entry.node.at);
        self.error_at(at, key, message);
    }

    fn error_at(&self, at: Position, key: &str, message: impl Into<String>) {
        self.findings.error(at, Path::Key(&self.path, key).to_string(), message);
    }

    /// Reads a key by `parse`; what that refuses is reported, and `default` taken instead.
    pub fn value<T>(
        &mut self,
        key: &'static str,
        default: T,
        allowed: impl FnOnce() -> String,
        parse: impl FnOnce(&Value<'a>) -> Result<T, String>,
    ) -> T {
        let Some(node) = self.take(key, allowed) else {
            return default;
        };
        match parse(&node.value) {
            Ok(value) => value,
            Err(message) => {
                self.error_at(node.at, key, message);
                default
            }
        }
    }

    pub fn integer<T: TryFrom<u64>>(&mut self, key: &'static str, limit: Limit, default: T) -> T {
        self.value(
            key,
            default,
            || limit.to_string(),
            |value| {
                let number = integer(value, limit)?;
                T::try_from(number).map_err(|_| format!("value {number} is outside {limit}"))
            },
        )
    }

    pub fn millis(&mut self, key: &'static str, limit: Limit, default: Duration) -> Duration {
        self.value(key, default, || limit.to_string(), |value| integer(value, limit).map(Duration::from_millis))
    }

    pub fn micros(&mut self, key: &'static str, limit: Limit, default: Duration) -> Duration {
        self.value(key, default, || limit.to_string(), |value| integer(value, limit).map(Duration::from_micros))
    }

    pub fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        self.optional_boolean(key).unwrap_or(default)
    }

    pub fn optional_boolean(&mut self, key: &'static str) -> Option<bool> {
        self.value(
            key,
            None,
            || "true | false".to_owned(),
            |value| match value {
                Value::Boolean(value) => Ok(Some(*value)),
                other => Err(format!("expected true | false, found {other}")),
            },
        )
    }

    pub fn word<W: Word>(&mut self, key: &'static str, default: W) -> W {
        self.value(key, default, W::allowed, word)
    }

    pub fn address(&mut self, key: &'static str, default: IpAddr) -> IpAddr {
        self.value(
            key,
            default,
            || "IPv4 or IPv6 address".to_owned(),
            |value| match value {
                Value::Text(text) => ip_address(text),
                other => Err(format!("expected an IPv4 or IPv6 address, found {other}")),
            },
        )
    }

    /// Text that may also be `null`, checked by `parse`.
    pub fn optional_text<T>(
        &mut self,
        key: &'static str,
        what: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.value(
            key,
            None,
            || format!("null or {what}"),
            |value| match value {
                Value::Null => Ok(None),
                Value::Text(text) => parse(text).map(Some),
                other => Err(format!("expected null or {what}, found {other} (quote it if text is meant)")),
            },
        )
    }

    /// A group of keys; one that is missing or empty has all its defaults.
    pub fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_, '_>) -> T) -> T {
        let node = self.take(key, String::new);
        let (at, entries): (_, &[Entry<'_>]) = match node.map(|node| (node.at, &node.value)) {
            Some((at, Value::Map(entries))) => (at, entries),
            Some((at, Value::Null)) => (at, &[]),
            None => (self.at, &[]),
            Some((at, other)) => {
                self.error_at(at, key, format!("expected a group of keys, found {other}"));
                (at, &[])
            }
        };
        let path = Path::Key(&self.path, key);
        let mut section = Section::new(path, at, entries, self.findings);
        section.is_listed = self.is_listed;
        let read = read(&mut section);
        section.finish();
        read
    }

    /// A group of keys that may also be the word `off`.
    pub fn section_or_off<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_, '_>) -> T) -> Option<T> {
        let off = |entry: &Entry<'_>| matches!(&entry.node.value, Value::Text(text) if text == "off");
        if self.entries.iter().any(|entry| entry.key == key && off(entry)) {
            self.take(key, String::new);
            return None;
        }
        Some(self.section(key, read))
    }

    /// A list whose items `read` takes one by one; `None` when the key is not there.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        count_max: usize,
        what: &'static str,
        mut read: impl FnMut(&Item<'_, '_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let node = self.take(key, || format!("up to {count_max} {what}"))?;
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            other => {
                self.error_at(node.at, key, format!("expected a list of {what}, found {other}"));
                return None;
            }
        };
        if items.len() > count_max {
            let message = format!("{} {what} are more than the {count_max} allowed", items.len());
            self.error_at(node.at, key, message);
            return None;
        }
        let list = Path::Key(&self.path, key);
        let read_one = |(index, item): (usize, &Node<'a>)| {
            let path = Path::Index(&list, index);
            read(&Item { at: item.at, value: &item.value, path, findings: self.findings })
        };
        Some(items.iter().enumerate().filter_map(read_one).collect())
    }
}

pub(super) fn integer(value: &Value<'_>, limit: Limit) -> Result<u64, String> {
    match value {
        Value::Integer(value) => limit.check(*value),
        Value::Number(value) if value.fract() != 0.0 => Err(format!("value {value} is not a whole number, {limit}")),
        Value::Number(value) => Err(format!("value {value} is outside {limit}")),
        other => Err(format!("expected a whole number, {limit}, found {other}")),
    }
}

pub(super) fn word<W: Word>(value: &Value<'_>) -> Result<W, String> {
    let word = match value {
        Value::Text(text) => W::from_word(text),
        _ => None,
    };
    word.ok_or_else(|| format!("value {value} is not one of {}", W::allowed()))
}

pub(super) fn ip_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("value `{}` is not an IPv4 or IPv6 address", shown(text)))
}
