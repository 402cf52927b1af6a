//! Configuration: YAML text in, a validated [`Config`] out.
//!
//! Runs once at start, and again on the control plane's thread when a reload is asked for; never on the data path.
//! A `Config` holds only plain values whose ranges and combinations have been checked, so nothing behind it checks
//! them again.

#![forbid(unsafe_code)]

mod ingest;
mod layout;
mod operation;
mod pipeline;
mod topics;
mod words;

use std::time::Duration;

use serde::{Serialize, Serializer};

pub use ingest::{FRAME_BYTES_MAX, Limits, Listen, SOCKET_SLOT_BYTES, Tcp, Udp, Xdp, XdpQueues};
pub use layout::{AgentPattern, Layout, Runner};
pub use operation::{Admin, Control, Drain, Log, Threshold, Thresholds};
pub use pipeline::{Dedup, Dlq, GapTracking, Queues, Retry, Spill, Workers};
pub use topics::{TOPICS_MAX, Topic};
pub use words::{
    ChecksumPolicy, Class, Gro, Idle, LayoutMode, LogLevel, Priority, TopicOrder, XdpMode,
    XdpRequire,
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
    pub workers: Workers,
    pub retry: Retry,
    pub spill: Spill,
    pub dedup: Dedup,
    pub gap_tracking: GapTracking,
    pub dlq: Dlq,
    pub layout: Layout,
    pub control: Control,
    pub admin: Admin,
    pub drain: Drain,
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            xdp: Xdp::default(),
            udp: Udp::default(),
            tcp: Tcp::default(),
            limits: Limits::default(),
            queues: Queues::default(),
            dispatchers: 1,
            topics: Vec::new(),
            workers: Workers::default(),
            retry: Retry::default(),
            spill: Spill::default(),
            dedup: Dedup::default(),
            gap_tracking: GapTracking::default(),
            dlq: Dlq::default(),
            layout: Layout::default(),
            control: Control::default(),
            admin: Admin::default(),
            drain: Drain::default(),
            log: Log::default(),
        }
    }
}

fn millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// As [`millis`], `None` being the 0 that switches the thing off.
fn optional_millis<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    millis(&duration.unwrap_or_default(), serializer)
}

fn micros<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
