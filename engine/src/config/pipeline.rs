//! What happens to an event inside: queues, workers, retries, spilling, deduplication, gap tracking, dead letters.

use std::time::Duration;

use serde::Serialize;

use super::limit::{Limit, power_of_two, range};
use super::millis;
use super::reader::{Section, word};
use super::words::Class;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Queues {
    /// Cells of each ingest agent's lane in its dispatcher's MPSC queue.
    pub mpsc_depth: u32,
    /// Cells of each SPSC ring from a dispatcher to a worker.
    pub spsc_depth: u32,
}

impl Default for Queues {
    fn default() -> Self {
        // Depths from 2 Ki to 64 Ki made no difference in speed at low occupancy on one machine, and up to 8 % on another with
        // smaller caches. Deeper than the pools have frames, so that a class's share of the pool is what limits it, not a ring.
        Self { mpsc_depth: 65_536, spsc_depth: 16_384 }
    }
}

impl Queues {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        Self {
            // Ingest claims up to 256 cells at once: two claims must fit, or producers wait for each other.
            mpsc_depth: s.integer("mpsc_depth", power_of_two(512, 1 << 22, "events"), d.mpsc_depth),
            spsc_depth: s.integer("spsc_depth", power_of_two(64, 1 << 20, "events"), d.spsc_depth),
        }
    }
}

/// How many workers each class has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workers {
    pub realtime: u32,
    pub transactional: u32,
    pub batch: u32,
    /// A worker whose handler has not returned for so long is reported as stalled.
    #[serde(rename = "stall_ms", serialize_with = "millis")]
    pub stall: Duration,
}

impl Default for Workers {
    fn default() -> Self {
        Self { realtime: 1, transactional: 1, batch: 1, stall: Duration::from_millis(1000) }
    }
}

impl Workers {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        const COUNT: Limit = range(1, 16, "workers");
        let d = Self::default();
        Self {
            realtime: s.integer("realtime", COUNT, d.realtime),
            transactional: s.integer("transactional", COUNT, d.transactional),
            batch: s.integer("batch", COUNT, d.batch),
            stall: s.millis("stall_ms", range(10, 600_000, "ms"), d.stall),
        }
    }

    pub const fn count(&self, class: Class) -> u32 {
        match class {
            Class::Realtime => self.realtime,
            Class::Transactional => self.transactional,
            Class::Batch => self.batch,
        }
    }
}

/// Retries of the transactional workers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retry {
    /// Runs of the handler in all, the first one included.
    pub max_attempts: u32,
    /// The pause before the second attempt; it doubles from there.
    #[serde(rename = "backoff_initial_ms", serialize_with = "millis")]
    pub backoff_initial: Duration,
    #[serde(rename = "backoff_max_ms", serialize_with = "millis")]
    pub backoff_max: Duration,
    /// Events of a worker that wait for their next attempt.
    pub queue_depth: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            backoff_initial: Duration::from_millis(10),
            backoff_max: Duration::from_millis(1000),
            queue_depth: 1024,
        }
    }
}

impl Retry {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        Self {
            max_attempts: s.integer("max_attempts", range(1, 100, "attempts"), d.max_attempts),
            backoff_initial: s.millis("backoff_initial_ms", range(1, 60_000, "ms"), d.backoff_initial),
            backoff_max: s.millis("backoff_max_ms", range(1, 3_600_000, "ms"), d.backoff_max),
            queue_depth: s.integer("queue_depth", power_of_two(16, 65_536, "events"), d.queue_depth),
        }
    }
}

/// Where a class's events are copied to once it pins its share of a frame pool. Each class has one of its own.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spill {
    pub bytes_per_class: u64,
}

impl Default for Spill {
    fn default() -> Self {
        Self { bytes_per_class: 4 << 20 }
    }
}

impl Spill {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        Self { bytes_per_class: s.integer("bytes_per_class", range(64 << 10, 4 << 30, "bytes"), d.bytes_per_class) }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dedup {
    /// How long an id is remembered, unless the table fills first.
    #[serde(rename = "window_ms", serialize_with = "millis")]
    pub window: Duration,
    /// Ids the table holds.
    pub capacity: u32,
    /// Classes whose events are deduplicated; a topic may say otherwise for itself.
    pub classes: Vec<Class>,
}

impl Default for Dedup {
    fn default() -> Self {
        Self { window: Duration::from_millis(60_000), capacity: 1 << 20, classes: vec![Class::Transactional] }
    }
}

impl Dedup {
    /// Whether events of topics without entry are deduplicated.
    pub fn by_class(&self) -> [bool; 3] {
        Class::ALL.map(|class| self.classes.contains(&class))
    }

    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        Self {
            window: s.millis("window_ms", range(1, 86_400_000, "ms"), d.window),
            capacity: s.integer("capacity", power_of_two(1024, 1 << 28, "ids"), d.capacity),
            classes: read_classes(s).unwrap_or(d.classes),
        }
    }
}

fn read_classes(s: &mut Section<'_, '_>) -> Option<Vec<Class>> {
    let mut classes = Vec::new();
    s.list("classes", 3, "classes", |item| {
        match word(item.value) {
            Err(message) => item.error(message),
            Ok(class) if classes.contains(&class) => item.error(format!("{class} is listed twice")),
            Ok(class) => classes.push(class),
        }
        Some(())
    })?;
    Some(classes)
}

/// Missing, late and repeated sequences of producers whose ids are a number and a sequence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GapTracking {
    pub enabled: bool,
    pub producers: u32,
}

impl Default for GapTracking {
    fn default() -> Self {
        Self { enabled: false, producers: 4096 }
    }
}

impl GapTracking {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        Self {
            enabled: s.boolean("enabled", d.enabled),
            producers: s.integer("producers", power_of_two(64, 1 << 20, "producers"), d.producers),
        }
    }
}

/// The dead letter queue. Failed and shed events have separate bounds, so that a flood of shed ones evicts no failed one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dlq {
    pub failed_memory_bytes: u64,
    pub shed_memory_bytes: u64,
    /// With a data directory they are kept there instead.
    pub failed_disk_bytes: u64,
    pub shed_disk_bytes: u64,
    /// Shed events are kept at this rate at most; beyond it they are counted as lost.
    pub shed_bytes_per_s: u64,
}

impl Default for Dlq {
    fn default() -> Self {
        Self {
            failed_memory_bytes: 8 << 20,
            shed_memory_bytes: 8 << 20,
            failed_disk_bytes: 1 << 30,
            shed_disk_bytes: 1 << 30,
            shed_bytes_per_s: 64 << 20,
        }
    }
}

impl Dlq {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        const MEMORY: Limit = range(64 << 10, 64 << 30, "bytes");
        const DISK: Limit = range(1 << 20, 1 << 50, "bytes");
        let d = Self::default();
        Self {
            failed_memory_bytes: s.integer("failed_memory_bytes", MEMORY, d.failed_memory_bytes),
            shed_memory_bytes: s.integer("shed_memory_bytes", MEMORY, d.shed_memory_bytes),
            failed_disk_bytes: s.integer("failed_disk_bytes", DISK, d.failed_disk_bytes),
            shed_disk_bytes: s.integer("shed_disk_bytes", DISK, d.shed_disk_bytes),
            shed_bytes_per_s: s.integer("shed_bytes_per_s", range(0, 64 << 30, "bytes/s"), d.shed_bytes_per_s),
        }
    }
}
