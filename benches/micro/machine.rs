//! Which thread runs where, and whether there is memory enough.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::OnceLock;

/// CPUs this process may use. Asked for once, before anything is pinned.
fn cpus() -> &'static [usize] {
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    CPUS.get_or_init(|| {
        let allowed = sched_getaffinity(None).expect("affinity of this process");
        (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect()
    })
}

/// Pins the calling thread, which is the consumer of a queue, or the only one of its case.
pub fn pin_consumer() {
    pin(cpus()[1 % cpus().len()]);
}

/// Pins the calling thread, which is the `index`-th producer: on CPUs other than the consumer's while there are such,
/// beyond that on all in turn.
pub fn pin_producer(index: usize) {
    let cpus = cpus();
    let others = cpus.iter().take(1).chain(cpus.iter().skip(2)).chain(cpus.iter().skip(1).take(1));
    if let Some(cpu) = others.cycle().nth(index) {
        pin(*cpu);
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).expect("a CPU that was allowed a moment ago");
}

/// Whether the machine can give `bytes`.
pub fn has_memory(bytes: u64) -> Result<(), String> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    match available.map(|kib| kib * 1024) {
        Some(available) if available < bytes => Err(format!(
            "{} MiB of memory are available, the tables of ids need {} MiB; with --quick they are smaller",
            available >> 20,
            bytes >> 20
        )),
        _ => Ok(()),
    }
}

/// Bytes the heap has given out, its own overhead included.
pub fn heap_bytes() -> u64 {
    // SAFETY: reads the allocator's own books; glibc takes its locks for it.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}
