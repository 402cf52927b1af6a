//! How the engine is watched and steered: control plane, admin server, draining, logging.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::document::shown;
use super::limit::{Limit, range};
use super::millis;
use super::reader::Section;
use super::words::LogLevel;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Control {
    /// The operator's socket. `None`: `/run/eventstream/control.sock`, or `$XDG_RUNTIME_DIR/eventstream/control.sock`
    /// for a user who cannot write there, or the same under a private folder for one without a session.
    pub socket: Option<PathBuf>,
    /// How often the inputs are compared with the thresholds.
    #[serde(rename = "evaluate_ms", serialize_with = "millis")]
    pub evaluate: Duration,
    /// How long a state lasts at least before a milder one may follow.
    #[serde(rename = "dwell_ms", serialize_with = "millis")]
    pub dwell: Duration,
    /// A state is left only if what it sheds would have kept the busiest data thread busy for no more than this share of its
    /// time, together with all the rest. Zero: that is not looked at.
    pub readmit_percent: u32,
    pub dropping: Thresholds,
    pub emergency: Thresholds,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            socket: None,
            evaluate: Duration::from_millis(100),
            dwell: Duration::from_millis(1000),
            readmit_percent: 80,
            dropping: Thresholds {
                queue_depth_percent: Some(Threshold { enter: 75, leave: 50 }),
                pool_used_percent: Some(Threshold { enter: 90, leave: 75 }),
                worker_latency_ms: Some(Threshold { enter: 100, leave: 50 }),
                loss_per_million: Some(Threshold { enter: 100_000, leave: 10_000 }),
            },
            emergency: Thresholds {
                queue_depth_percent: Some(Threshold { enter: 95, leave: 80 }),
                pool_used_percent: Some(Threshold { enter: 98, leave: 90 }),
                worker_latency_ms: Some(Threshold { enter: 2000, leave: 1000 }),
                loss_per_million: Some(Threshold { enter: 500_000, leave: 200_000 }),
            },
        }
    }
}

/// `sun_path` holds 108 bytes, the closing NUL included.
const SOCKET_PATH_BYTES_MAX: usize = 107;

impl Control {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        Self {
            socket: s.optional_text("socket", "an absolute path", socket_path),
            evaluate: s.millis("evaluate_ms", range(10, 10_000, "ms"), d.evaluate),
            dwell: s.millis("dwell_ms", range(0, 600_000, "ms"), d.dwell),
            readmit_percent: s.integer(
                "readmit_percent",
                range(0, 100, "percent, 0: not looked at"),
                d.readmit_percent,
            ),
            dropping: s.section("dropping", |s| Thresholds::read(s, d.dropping)),
            emergency: s.section("emergency", |s| Thresholds::read(s, d.emergency)),
        }
    }

    /// Where the operator's socket may be, the preferred place first: the system's runtime directory, then the user's. The
    /// user's are not asked for before they are needed.
    pub fn socket_paths(&self, of_the_user: impl IntoIterator<Item = PathBuf>) -> impl Iterator<Item = PathBuf> {
        let named = self.socket.clone();
        let folders = std::iter::once(PathBuf::from("/run")).chain(of_the_user);
        // Whoever names it wants it there and nowhere else.
        let usual = named.is_none().then(|| folders.map(|folder| folder.join("eventstream/control.sock")));
        named.into_iter().chain(usual.into_iter().flatten())
    }
}

fn socket_path(path: &str) -> Result<PathBuf, String> {
    if path.len() > SOCKET_PATH_BYTES_MAX {
        Err(format!("{} bytes are more than the {SOCKET_PATH_BYTES_MAX} a socket's path may have", path.len()))
    } else if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        Err(format!("value `{}` is not the absolute path of a file", shown(path)))
    } else {
        Ok(PathBuf::from(path))
    }
}

/// What makes the engine enter a state, and what lets it leave. One input at its `enter` is enough; all must be at or
/// below their `leave`. `None`: the input is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Thresholds {
    #[serde(serialize_with = "or_off")]
    pub queue_depth_percent: Option<Threshold>,
    #[serde(serialize_with = "or_off")]
    pub pool_used_percent: Option<Threshold>,
    #[serde(serialize_with = "or_off")]
    pub worker_latency_ms: Option<Threshold>,
    #[serde(serialize_with = "or_off")]
    pub loss_per_million: Option<Threshold>,
}

impl Thresholds {
    fn read(s: &mut Section<'_, '_>, d: Self) -> Self {
        const PERCENT: Limit = range(0, 100, "percent");
        const LATENCY: Limit = range(0, 3_600_000, "ms");
        const PER_MILLION: Limit = range(0, 1_000_000, "per million");
        Self {
            queue_depth_percent: Threshold::read(s, "queue_depth_percent", PERCENT, d.queue_depth_percent),
            pool_used_percent: Threshold::read(s, "pool_used_percent", PERCENT, d.pool_used_percent),
            worker_latency_ms: Threshold::read(s, "worker_latency_ms", LATENCY, d.worker_latency_ms),
            loss_per_million: Threshold::read(s, "loss_per_million", PER_MILLION, d.loss_per_million),
        }
    }

    /// Each input by its key, for rules and messages that go over all of them.
    pub fn by_input(&self) -> [(&'static str, Option<Threshold>); 4] {
        [
            ("queue_depth_percent", self.queue_depth_percent),
            ("pool_used_percent", self.pool_used_percent),
            ("worker_latency_ms", self.worker_latency_ms),
            ("loss_per_million", self.loss_per_million),
        ]
    }
}

/// `leave` is always below `enter`: without the distance the state would flap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Threshold {
    pub enter: u32,
    pub leave: u32,
}

impl Threshold {
    fn read(s: &mut Section<'_, '_>, key: &'static str, limit: Limit, default: Option<Self>) -> Option<Self> {
        s.section_or_off(key, |s| {
            let d = default.unwrap_or(Self { enter: 0, leave: 0 });
            let read = Self { enter: s.integer("enter", limit, d.enter), leave: s.integer("leave", limit, d.leave) };
            if read.leave >= read.enter && (s.has("enter") || s.has("leave")) {
                let Self { enter, leave } = read;
                let blamed = if s.has("leave") { "leave" } else { "enter" };
                s.error(blamed, format!("leave ({leave}) must be below enter ({enter}), or the state would flap"));
            }
            read
        })
    }
}

fn or_off<S: Serializer>(threshold: &Option<Threshold>, serializer: S) -> Result<S::Ok, S::Error> {
    match threshold {
        Some(threshold) => threshold.serialize(serializer),
        None => serializer.serialize_str("off"),
    }
}

/// The HTTP server for metrics, health and the live ledger.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Admin {
    pub enabled: bool,
    pub address: IpAddr,
    pub port: u16,
}

impl Default for Admin {
    fn default() -> Self {
        Self { enabled: true, address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 8080 }
    }
}

impl Admin {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        Self {
            enabled: s.boolean("enabled", d.enabled),
            address: s.address("address", d.address),
            port: s.integer("port", range(0, 65_535, "port, 0: any free one"), d.port),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drain {
    /// What is still in flight after so long is given up and reported as such.
    #[serde(rename = "timeout_ms", serialize_with = "millis")]
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout: Duration::from_millis(5000) }
    }
}

impl Drain {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        Self { timeout: s.millis("timeout_ms", range(100, 600_000, "ms"), Self::default().timeout) }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Log {
    pub level: LogLevel,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info }
    }
}

impl Log {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        Self { level: s.word("level", Self::default().level) }
    }
}
