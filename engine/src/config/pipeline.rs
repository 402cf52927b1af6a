//! What happens to an event inside: queues, workers, retries, spilling, deduplication, gap tracking, dead letters.

use std::time::Duration;

use serde::Serialize;

use super::millis;
use super::words::Class;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Queues {
    /// Cells of each dispatcher's MPSC queue.
    pub mpsc_depth: u32,
    /// Cells of each SPSC ring from a dispatcher to a worker.
    pub spsc_depth: u32,
}

impl Default for Queues {
    fn default() -> Self {
        // Depths from 2 Ki to 64 Ki made no difference in speed at low occupancy; these are deeper than the default
        // pools have events in ordinary load, so the class shares of the pools are what limits, not the rings.
        Self {
            mpsc_depth: 65_536,
            spsc_depth: 16_384,
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
        Self {
            realtime: 1,
            transactional: 1,
            batch: 1,
            stall: Duration::from_millis(1000),
        }
    }
}

impl Workers {
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

/// Where a class's events are copied to once it pins its share of a frame pool. Each class has one of its own.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spill {
    pub bytes_per_class: u64,
    pub events_per_class: u32,
}

impl Default for Spill {
    fn default() -> Self {
        Self {
            bytes_per_class: 4 << 20,
            events_per_class: 4096,
        }
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
        Self {
            window: Duration::from_millis(60_000),
            capacity: 1 << 20,
            classes: vec![Class::Transactional],
        }
    }
}

/// Missing, late and repeated sequences of producers whose ids are a number and a sequence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GapTracking {
    pub enabled: bool,
    pub producers: u32,
}

impl Default for GapTracking {
    fn default() -> Self {
        Self {
            enabled: false,
            producers: 4096,
        }
    }
}

/// The dead letter queue. Failed and shed events have separate bounds, so that a flood of shed ones evicts no failed one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dlq {
    pub failed_memory_bytes: u64,
    pub shed_memory_bytes: u64,
    /// Shed events are kept at this rate at most; beyond it they are counted as lost.
    pub shed_bytes_per_s: u64,
}

impl Default for Dlq {
    fn default() -> Self {
        Self {
            failed_memory_bytes: 8 << 20,
            shed_memory_bytes: 8 << 20,
            shed_bytes_per_s: 64 << 20,
        }
    }
}
