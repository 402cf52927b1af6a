//! Keeping what is no data thread off the data threads' CPUs.

/// Confines the calling thread, and those it makes from now on, to `cpus`; says why it could not be.
pub fn confine(cpus: &[u32]) -> Result<(), String> {
    let mut set = rustix::thread::CpuSet::new();
    // A set leaves out what it has no room for.
    let room = rustix::thread::CpuSet::MAX_CPU;
    cpus.iter().filter(|cpu| (**cpu as usize) < room).for_each(|cpu| set.set(*cpu as usize));
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|error| format!("cannot be confined to cpus {cpus:?}: {error}"))
}
