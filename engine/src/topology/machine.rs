//! What the plan needs to know of the machine.

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
}
