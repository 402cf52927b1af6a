//! What `--report` writes and the live view serves: keys that stay.

use serde::Serialize;

use super::{Latencies, Ledger};

/// What a queue got, and why not more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueReport {
    pub iface: String,
    pub queue: u32,
    /// `xdp-native-zerocopy`, `xdp-native-copy`, `xdp-generic-copy` or `socket`.
    pub mode: String,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Rates {
    pub datagrams_per_s: f64,
    pub events_per_s: f64,
    pub bits_per_s: f64,
}

/// Levels of one pool, or of all together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FrameLevels {
    pub slots: u64,
    pub free: u64,
    pub kernel: u64,
    pub in_flight: u64,
    pub copied_out: u64,
    pub pools: Vec<PoolLevels>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PoolLevels {
    pub owner: String,
    pub slots: u64,
    pub free: u64,
    pub kernel: u64,
    pub in_flight: u64,
}

/// What the deduplication table remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DedupLevels {
    pub window_ns: u64,
    /// How far back ids were remembered when one was last forgotten: less than `window_ns` once the table is full.
    pub effective_window_ns: u64,
    /// Ids there is room for, and cells in use.
    pub capacity: u64,
    pub occupied: u64,
    /// Ids forgotten before their window was over.
    pub evicted_early: u64,
    /// Events admitted without being remembered: every cell at hand belonged to one still under way.
    pub unremembered: u64,
}

/// Where the memory of a frame pool was to lie, and where it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryReport {
    pub owner: String,
    pub bytes: u64,
    pub huge_pages: bool,
    /// The NUMA node that was asked for.
    pub node: Option<u32>,
    /// `bound`, `preferred`, or why neither; empty when no node was asked for.
    pub policy: String,
    /// Pages on each node; empty where the kernel does not say.
    pub pages: std::collections::BTreeMap<u32, u64>,
}

/// Which thread ran what, as it came out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RunnerReport {
    pub name: String,
    pub cpu: Option<u32>,
    pub idle: String,
    pub agents: Vec<String>,
    /// Time since the thread's start, and how much of it went into rounds that found work.
    pub elapsed_ns: u64,
    pub busy_ns: u64,
    pub busy_share: f64,
    /// Busy time by all events that the engine has accepted: what an event costs on this runner.
    pub busy_ns_per_event: f64,
    /// Why it could not be pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A thread in which the kernel polls the interface, and its CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NapiReport {
    pub name: String,
    pub cpu: u32,
}

/// The report.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub run_id: String,
    pub seconds: f64,
    pub state: String,
    /// Changes of it since the start.
    pub state_transitions: u64,
    pub queues: Vec<QueueReport>,
    pub runners: Vec<RunnerReport>,
    /// Those that were pinned.
    pub napi_threads: Vec<NapiReport>,
    pub memory: Vec<MemoryReport>,
    pub rates: Rates,
    pub ledger: Ledger,
    pub latency_ns: Latencies,
    /// Summed over the runners: what an event costs from rx to the end of its handler.
    pub busy_ns_per_event: f64,
    pub frames: FrameLevels,
    /// Absent where no class and no topic asks for deduplication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedup: Option<DedupLevels>,
    /// Links to workers that have ended nothing for `workers.stall_ms` though they had something.
    pub stalled_links: u64,
    /// What else was counted: wake-ups, retries, connections.
    pub counters: std::collections::BTreeMap<String, u64>,
    /// Events on their way, by link.
    pub depths: std::collections::BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_path_allocations: Option<u64>,
}
