//! NAPI threads: the kernel polls an interface in threads of their own instead of softirqs, and those can be pinned.
//!
//! - **Thread**: control, once the program is attached: a driver that makes its NAPI contexts only then, as veth does,
//!   ignores the switch before that without a word.
//! - **Invariant**: the interface's switch is what it was when this is dropped, which has to be before the program is
//!   detached.

use std::fs;
use std::path::PathBuf;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::Interface;

/// A pinned thread of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NapiThread {
    pub name: String,
    pub cpu: u32,
}

/// The NAPI threads of an interface.
#[derive(Debug)]
pub struct NapiThreads {
    switch: PathBuf,
    before: String,
    pub pinned: Vec<NapiThread>,
}

impl NapiThreads {
    /// Makes the kernel poll the interface in threads, and pins them to `cpus` in the order of the queues.
    pub fn pin(interface: &Interface, cpus: &[u32]) -> Result<Self, String> {
        let folder = PathBuf::from("/sys/class/net").join(&interface.name);
        let index = fs::read_to_string(folder.join("ifindex")).unwrap_or_default();
        if index.trim().parse() != Ok(interface.index) {
            return Err(format!("sysfs shows another network namespace than that of {}", interface.name));
        }
        let switch = folder.join("threaded");
        let say = |error| format!("{}: {error}", switch.display());
        let before = fs::read_to_string(&switch).map_err(say)?.trim().to_owned();
        fs::write(&switch, "1").map_err(say)?;
        // From here on a failure puts the switch back.
        let mut threads = Self { switch, before, pinned: Vec::new() };
        let found = threads_of(&interface.name);
        if found.is_empty() {
            return Err(format!("the kernel has made no NAPI threads for {}", interface.name));
        }
        for ((_, name, pid), cpu) in found.into_iter().zip(cpus.iter().cycle()) {
            pin(pid, *cpu).map_err(|error| format!("{name} cannot be pinned to cpu {cpu}: {error}"))?;
            threads.pinned.push(NapiThread { name, cpu: *cpu });
        }
        Ok(threads)
    }
}

impl Drop for NapiThreads {
    fn drop(&mut self) {
        // An interface that has gone needs no switch.
        let _ = fs::write(&self.switch, &self.before);
    }
}

/// Number, name and process of each, by number: the kernel numbers NAPI contexts in the order of the queues.
fn threads_of(interface: &str) -> Vec<(u32, String, Pid)> {
    let thread = |entry: fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?.trim().to_owned();
        Some((number_in(&name, interface)?, name, pid))
    };
    let mut found: Vec<_> = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(thread).collect();
    found.sort_unstable_by_key(|(number, ..)| *number);
    found
}

/// `napi/eth0-8193` is one of eth0's.
fn number_in(name: &str, interface: &str) -> Option<u32> {
    name.strip_prefix("napi/")?.strip_prefix(interface)?.strip_prefix('-')?.parse().ok()
}

fn pin(pid: Pid, cpu: u32) -> Result<(), String> {
    let mut wanted = CpuSet::new();
    if cpu as usize >= CpuSet::MAX_CPU {
        return Err("there is no such CPU".to_owned());
    }
    wanted.set(cpu as usize);
    sched_setaffinity(Some(pid), &wanted).map_err(|error| error.to_string())?;
    let got = sched_getaffinity(Some(pid)).map_err(|error| error.to_string())?;
    if got == wanted { Ok(()) } else { Err("the kernel has taken another".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_told_by_their_names() {
        assert_eq!(number_in("napi/eth0-8193", "eth0"), Some(8193));
        for (name, interface) in
            [("napi/eth01-8193", "eth0"), ("napi/eth0-8193", "eth"), ("napi/eth0-", "eth0"), ("eth0-1", "eth0")]
        {
            assert_eq!(number_in(name, interface), None, "{name} {interface}");
        }
    }

    #[test]
    fn an_interface_that_sysfs_does_not_show_is_named() {
        let mut loopback = Interface::named("lo").unwrap();
        loopback.index += 1000;
        let error = NapiThreads::pin(&loopback, &[0]).unwrap_err();
        assert_eq!(error, "sysfs shows another network namespace than that of lo");
    }
}
