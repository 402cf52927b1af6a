//! What is kept on disk: the event log's directory, its streams, and when each becomes durable and is deleted.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::document::{Value, shown};
use super::limit::{Limit, range};
use super::reader::{Item, Section};
use super::words::FsyncPolicy;
use super::{millis, optional_millis};
use crate::storage::DEFAULT_STREAM;
use crate::storage::topics::TopicFilter;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Storage {
    /// `None`: nothing is kept on disk.
    #[serde(serialize_with = "path")]
    pub directory: Option<PathBuf>,
    pub segment_bytes: u64,
    /// For each stream: memory for records that are not durable yet.
    pub buffer_bytes: u64,
    /// Of the stream for the rest, and of those that say nothing else.
    #[serde(flatten)]
    pub policy: StreamPolicy,
    pub streams: Vec<Stream>,
}

/// When records become durable, and when they go.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamPolicy {
    pub fsync: FsyncPolicy,
    #[serde(rename = "fsync_every_ms", serialize_with = "millis")]
    pub fsync_every: Duration,
    pub retention_bytes: u64,
    /// `None`: only by bytes.
    #[serde(rename = "retention_age_ms", serialize_with = "optional_millis")]
    pub retention_age: Option<Duration>,
}

/// A stream of its own for some topics.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stream {
    pub name: Box<str>,
    pub topics: Vec<TopicFilter>,
    #[serde(flatten)]
    pub policy: StreamPolicy,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            directory: None,
            segment_bytes: 128 << 20,
            buffer_bytes: 32 << 20,
            policy: StreamPolicy {
                fsync: FsyncPolicy::Every,
                fsync_every: Duration::from_millis(5),
                retention_bytes: 10 << 30,
                retention_age: Some(Duration::from_secs(7 * 24 * 3600)),
            },
            streams: Vec::new(),
        }
    }
}

const STREAMS_MAX: usize = 64;
const FILTERS_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 64;

impl Storage {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        let policy = StreamPolicy::read(s, &d.policy);
        Self {
            directory: s.optional_text("directory", "an absolute path", directory),
            // Positions in it are aligned, and what is set aside for it is a whole number of pages.
            segment_bytes: s.integer("segment_bytes", range(1 << 20, 4 << 30, "bytes"), d.segment_bytes),
            buffer_bytes: s.integer("buffer_bytes", range(1 << 20, 4 << 30, "bytes"), d.buffer_bytes),
            streams: read_streams(s, &policy),
            policy,
        }
    }
}

impl StreamPolicy {
    fn read(s: &mut Section<'_, '_>, d: &Self) -> Self {
        const BYTES: Limit = range(2 << 20, 1 << 50, "bytes");
        const AGE: Limit = range(0, 10 * 365 * 86_400_000, "ms, 0: never");
        let age = s.millis("retention_age_ms", AGE, d.retention_age.unwrap_or_default());
        Self {
            fsync: s.word("fsync", d.fsync),
            fsync_every: s.millis("fsync_every_ms", range(1, 60_000, "ms"), d.fsync_every),
            retention_bytes: s.integer("retention_bytes", BYTES, d.retention_bytes),
            retention_age: Some(age).filter(|age| !age.is_zero()),
        }
    }
}

fn read_streams(s: &mut Section<'_, '_>, policy: &StreamPolicy) -> Vec<Stream> {
    let mut names: Vec<Box<str>> = Vec::new();
    let streams = s.list("streams", STREAMS_MAX, "streams", |item| {
        let stream = item.placed_section(|s| read_stream(s, policy))??;
        if names.contains(&stream.name) {
            item.error(format!("there is a stream {} already", stream.name));
        }
        names.push(stream.name.clone());
        Some(stream)
    });
    streams.unwrap_or_default()
}

fn read_stream(s: &mut Section<'_, '_>, policy: &StreamPolicy) -> Option<Stream> {
    let name = s.value(
        "name",
        None,
        || "text".to_owned(),
        |value| match value {
            Value::Text(name) => check_name(name).map(|()| Some(Box::from(name.as_ref()))),
            other => Err(format!("expected the name of a stream, found {other} (quote it if text is meant)")),
        },
    );
    if !s.has("name") {
        s.error("name", "is missing: a stream needs a name");
    }
    let topics = s.list("topics", FILTERS_MAX, "topic filters", read_filter);
    if topics.as_ref().is_none_or(Vec::is_empty) && s.list_len("topics").unwrap_or_default() == 0 {
        s.error("topics", "is missing: a stream needs the topics that it takes");
    }
    let policy = StreamPolicy::read(s, policy);
    Some(Stream { name: name?, topics: topics?, policy })
}

fn read_filter(item: &Item<'_, '_>) -> Option<TopicFilter> {
    let text = item.text()?;
    TopicFilter::parse(text).map_err(|why| item.error(format!("filter `{}`: {why}", shown(text)))).ok()
}

/// It is the name of a folder.
fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if name == DEFAULT_STREAM {
        Err(format!("{DEFAULT_STREAM} is the stream of the topics that no other takes"))
    } else if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain) {
        Ok(())
    } else {
        Err(format!("name `{}` is not 1 to {NAME_BYTES_MAX} of a-z, 0-9, - and _", shown(name)))
    }
}

fn directory(path: &str) -> Result<PathBuf, String> {
    if path.starts_with('/') && !path.contains('\0') && path.len() > 1 {
        Ok(PathBuf::from(path))
    } else {
        Err(format!("value `{}` is not the absolute path of a directory", shown(path)))
    }
}

fn path<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}
