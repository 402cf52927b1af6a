//! How the engine is watched and steered: control plane, admin server, draining, logging.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::millis;
use super::words::LogLevel;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Control {
    /// The operator's socket. `None`: `/run/eventstream/control.sock`, or `$XDG_RUNTIME_DIR/eventstream/control.sock`
    /// for a user who cannot write there.
    pub socket: Option<PathBuf>,
    /// How often the inputs are compared with the thresholds.
    #[serde(rename = "evaluate_ms", serialize_with = "millis")]
    pub evaluate: Duration,
    /// How long a state lasts at least before a milder one may follow.
    #[serde(rename = "dwell_ms", serialize_with = "millis")]
    pub dwell: Duration,
    pub dropping: Thresholds,
    pub emergency: Thresholds,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            socket: None,
            evaluate: Duration::from_millis(100),
            dwell: Duration::from_millis(1000),
            dropping: Thresholds {
                queue_depth_percent: Some(Threshold {
                    enter: 75,
                    leave: 50,
                }),
                pool_used_percent: Some(Threshold {
                    enter: 90,
                    leave: 75,
                }),
                worker_latency_ms: Some(Threshold {
                    enter: 100,
                    leave: 50,
                }),
                loss_per_million: Some(Threshold {
                    enter: 100_000,
                    leave: 10_000,
                }),
            },
            emergency: Thresholds {
                queue_depth_percent: Some(Threshold {
                    enter: 95,
                    leave: 80,
                }),
                pool_used_percent: Some(Threshold {
                    enter: 98,
                    leave: 90,
                }),
                worker_latency_ms: Some(Threshold {
                    enter: 2000,
                    leave: 1000,
                }),
                loss_per_million: Some(Threshold {
                    enter: 500_000,
                    leave: 200_000,
                }),
            },
        }
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

/// `leave` is always below `enter`: without the distance the state would flap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Threshold {
    pub enter: u32,
    pub leave: u32,
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
        Self {
            enabled: true,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8080,
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
        Self {
            timeout: Duration::from_millis(5000),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Log {
    pub level: LogLevel,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
        }
    }
}
