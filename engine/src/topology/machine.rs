//! What the plan needs to know of the machine.

use std::fs;

/// Facts about the host, read once at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// CPUs this process may run on, ascending.
    pub cpus: Vec<u32>,
}

impl Machine {
    pub fn discover() -> Self {
        let cpus = rustix::thread::sched_getaffinity(None).map_or_else(
            |_| vec![0],
            |set| (0..rustix::thread::CpuSet::MAX_CPU as u32).filter(|cpu| set.is_set(*cpu as usize)).collect(),
        );
        Self { cpus }
    }

    /// Number of receive queues of an interface, from sysfs; `None` if there is no such interface.
    pub fn rx_queues(interface: &str) -> Option<u32> {
        let entries = fs::read_dir(format!("/sys/class/net/{interface}/queues")).ok()?;
        let is_rx = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("rx-");
        Some(entries.filter_map(Result::ok).filter(is_rx).count() as u32)
    }
}
