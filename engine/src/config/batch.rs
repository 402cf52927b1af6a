//! Windows of the batch class.

use std::time::Duration;

use serde::Serialize;

use super::limit::{Limit, power_of_two, range};
use super::millis;
use super::reader::Section;

/// Window memory that each of the events it has places for takes on average: as many places are set aside.
const EVENT_BYTES: u64 = 128;

/// When a window closes: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Window {
    /// With one, events are handled one by one, and there is no window.
    pub max_events: u32,
    /// Of the events' frames.
    pub max_bytes: u32,
    /// From its first event on.
    #[serde(rename = "max_ms", serialize_with = "millis")]
    pub max_time: Duration,
}

impl Default for Window {
    fn default() -> Self {
        Self { max_events: 1, max_bytes: 1 << 20, max_time: Duration::from_millis(100) }
    }
}

impl Window {
    /// Reads what is there of the limits, `default` being the rest.
    pub(super) fn read(s: &mut Section<'_, '_>, default: Self) -> Self {
        Self {
            max_events: s.integer("max_events", range(1, 65_536, "events"), default.max_events),
            max_bytes: s.integer("max_bytes", range(1024, 1 << 30, "bytes"), default.max_bytes),
            max_time: s.millis("max_ms", range(1, 3_600_000, "ms"), default.max_time),
        }
    }

    /// Whether events are gathered at all.
    pub const fn is_on(&self) -> bool {
        self.max_events > 1
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Batch {
    /// Of topics that have no own.
    #[serde(flatten)]
    pub window: Window,
    #[serde(flatten)]
    pub memory: WindowMemory,
}

/// Where windows are gathered, in each batch worker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WindowMemory {
    #[serde(rename = "memory_bytes")]
    pub bytes: u64,
    /// Open or waiting for a retry at one time.
    pub windows: u32,
}

impl Default for WindowMemory {
    fn default() -> Self {
        Self { bytes: 8 << 20, windows: 1024 }
    }
}

impl WindowMemory {
    /// Events that there are places for.
    pub const fn events(&self) -> u64 {
        self.bytes / EVENT_BYTES
    }
}

impl Batch {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        const MEMORY: Limit = range(256 << 10, 4 << 30, "bytes");
        let d = Self::default();
        let window = Window::read(s, d.window);
        let memory = WindowMemory {
            bytes: s.integer("memory_bytes", MEMORY, d.memory.bytes),
            windows: s.integer("windows", power_of_two(16, 65_536, "windows"), d.memory.windows),
        };
        let batch = Self { window, memory };
        batch.check(s, &window);
        batch
    }

    /// Reads a topic's own window.
    pub(super) fn read_topic(&self, s: &mut Section<'_, '_>) -> Window {
        let window = Window::read(s, self.window);
        self.check(s, &window);
        window
    }

    /// A window that cannot be filled would always be closed for want of memory.
    fn check(&self, s: &Section<'_, '_>, window: &Window) {
        let Self { memory, .. } = self;
        if window.is_on() && u64::from(window.max_bytes) > memory.bytes / 2 {
            s.error(
                "max_bytes",
                format!("{} bytes are more than half of the window memory ({} bytes)", window.max_bytes, memory.bytes),
            );
        }
        if window.is_on() && u64::from(window.max_events) > memory.events() / 2 {
            s.error(
                "max_events",
                format!(
                    "{} events are more than half of what a window memory of {} bytes has places for ({}, one for \
                     {EVENT_BYTES} bytes)",
                    window.max_events,
                    memory.bytes,
                    memory.events()
                ),
            );
        }
    }
}
