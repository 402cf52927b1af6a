//! Configuration: YAML text in, a validated [`Config`] out.
//!
//! Runs once at start, and again on the control plane's thread when a reload is asked for; never on the data path.
//! A `Config` holds only plain values whose ranges and combinations have been checked, so nothing behind it checks
//! them again.

#![forbid(unsafe_code)]

mod batch;
mod document;
mod error;
mod findings;
mod ingest;
mod layout;
mod limit;
mod operation;
mod pipeline;
mod places;
mod reader;
mod reload;
mod rules;
mod storage;
mod subscriptions;
mod topics;
mod words;

#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde::{Serialize, Serializer};

use findings::Findings;
use limit::range;
use reader::Section;

pub use batch::{Batch, Window, WindowMemory};
pub use error::{ConfigError, ConfigErrors, Position};
pub use ingest::{FRAME_BYTES_MAX, Limits, Listen, SOCKET_SLOT_BYTES, Tcp, Udp, Xdp, XdpQueues};
pub use layout::{AgentPattern, Layout, Runner};
pub use operation::{Admin, Control, Drain, Log, Threshold, Thresholds};
pub use pipeline::{Dedup, Dlq, GapTracking, Queues, Retry, Spill, Workers};
pub use places::Places;
pub use reload::{ReloadDiff, diff_reload, refused_move};
pub use storage::{Storage, Stream, StreamPolicy};
pub use subscriptions::Subscriptions;
pub use topics::{TOPICS_MAX, Topic, WINDOWS_MAX};
pub use words::{
    ChecksumPolicy, Class, FsyncPolicy, Gro, Idle, LayoutMode, LogLevel, Priority, TopicOrder, XdpMode, XdpRequire,
};

/// Everything that can be configured. `configs/default.yaml` explains every key, its unit, range and default.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    pub listen: Listen,
    pub xdp: Xdp,
    pub udp: Udp,
    pub tcp: Tcp,
    pub limits: Limits,
    pub queues: Queues,
    pub dispatchers: u32,
    pub topics: Vec<Topic>,
    pub batch: Batch,
    pub workers: Workers,
    pub retry: Retry,
    pub spill: Spill,
    pub dedup: Dedup,
    pub gap_tracking: GapTracking,
    pub dlq: Dlq,
    pub storage: Storage,
    pub subscriptions: Subscriptions,
    pub layout: Layout,
    pub control: Control,
    pub admin: Admin,
    pub drain: Drain,
    pub log: Log,
    /// Where all this comes from.
    #[serde(skip)]
    pub places: Places,
}

/// One keeps up with several NIC queues.
const DISPATCHERS: u32 = 1;

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            xdp: Xdp::default(),
            udp: Udp::default(),
            tcp: Tcp::default(),
            limits: Limits::default(),
            queues: Queues::default(),
            dispatchers: DISPATCHERS,
            topics: Vec::new(),
            batch: Batch::default(),
            workers: Workers::default(),
            retry: Retry::default(),
            spill: Spill::default(),
            dedup: Dedup::default(),
            gap_tracking: GapTracking::default(),
            dlq: Dlq::default(),
            storage: Storage::default(),
            subscriptions: Subscriptions::default(),
            layout: Layout::default(),
            control: Control::default(),
            admin: Admin::default(),
            drain: Drain::default(),
            log: Log::default(),
            places: Places::default(),
        }
    }
}

impl Config {
    /// Reads and validates a file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigErrors> {
        let path = path.as_ref();
        let file = path.display().to_string();
        let refuse = |at, message| ConfigErrors {
            file: file.clone(),
            errors: vec![ConfigError { at, key: String::new(), message }],
            omitted: 0,
        };
        let bytes = read_bounded(path).map_err(|error| refuse(None, format!("cannot be read: {error}")))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, &file),
            Err(error) => {
                let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                Err(refuse(Some(end_of(&good)), "not UTF-8 text".to_owned()))
            }
        }
    }

    /// Validates a text; `file_name` is what error messages call it.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ConfigErrors> {
        let refuse = |error| ConfigErrors { file: file_name.to_owned(), errors: vec![error], omitted: 0 };
        let document = document::parse(text).map_err(refuse)?;
        let findings = Findings::default();
        let mut config = reader::read_root(&document, &findings, Self::read);
        // A rule is checked only on values that are themselves right: a default put in for a wrong one would be blamed.
        if findings.is_clean() {
            rules::check(&config, &findings);
        }
        if !findings.is_clean() {
            return Err(findings.into_errors(file_name));
        }
        config.places = findings.into_places(file_name);
        Ok(config)
    }

    /// The window of a topic whose events are gathered.
    pub fn window_of(&self, topic: &Topic) -> Option<Window> {
        let window = topic.window.unwrap_or(self.batch.window);
        (topic.class == Class::Batch && window.is_on()).then_some(window)
    }

    /// Whether any topic has windows.
    pub fn has_windows(&self) -> bool {
        self.batch.window.is_on() || self.topics.iter().any(|topic| self.window_of(topic).is_some())
    }

    fn read(s: &mut Section<'_, '_>) -> Self {
        let limits = s.section("limits", Limits::read);
        let batch = s.section("batch", Batch::read);
        Self {
            listen: s.section("listen", Listen::read),
            xdp: s.section("xdp", Xdp::read),
            udp: s.section("udp", Udp::read),
            tcp: s.section("tcp", Tcp::read),
            queues: s.section("queues", Queues::read),
            dispatchers: s.integer("dispatchers", range(1, 8, "dispatchers"), DISPATCHERS),
            topics: topics::read(s, limits.topic_bytes, &batch),
            limits,
            batch,
            workers: s.section("workers", Workers::read),
            retry: s.section("retry", Retry::read),
            spill: s.section("spill", Spill::read),
            dedup: s.section("dedup", Dedup::read),
            gap_tracking: s.section("gap_tracking", GapTracking::read),
            dlq: s.section("dlq", Dlq::read),
            storage: s.section("storage", Storage::read),
            subscriptions: s.section("subscriptions", Subscriptions::read),
            layout: s.section("layout", Layout::read),
            control: s.section("control", Control::read),
            admin: s.section("admin", Admin::read),
            drain: s.section("drain", Drain::read),
            log: s.section("log", Log::read),
            places: Places::default(),
        }
    }
}

/// Reads a file up to just above the largest text, so that a device or a wrong file cannot fill the memory.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(document::TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The position after the last character of a text.
fn end_of(text: &str) -> Position {
    let last_line = text.rsplit('\n').next().unwrap_or_default();
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).saturating_add(1);
    Position { line: number(text.matches('\n').count()), column: number(last_line.chars().count()) }
}

fn millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// As [`millis`], `None` being the 0 that switches the thing off.
fn optional_millis<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    millis(&duration.unwrap_or_default(), serializer)
}

fn micros<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
