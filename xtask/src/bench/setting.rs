//! Where and when something was measured.

use std::fmt;
use std::fs;

use crate::process::{capture, tool, workspace_root};

#[derive(Clone, Debug)]
pub struct Setting {
    date: String,
    commit: String,
    cpu: String,
    cpus: usize,
    kernel: String,
    load: String,
    /// Others' programs that took part, with their versions.
    others: Vec<String>,
}

impl Setting {
    pub fn of_machine() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            date: capture(tool("date").args(["-u", "+%Y-%m-%d"])).unwrap_or_default().trim().to_owned(),
            commit: commit(),
            cpu: model.map_or("unknown CPU", |(_, name)| name.trim()).to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg").split_whitespace().next().unwrap_or("unknown").to_owned(),
            others: Vec::new(),
        }
    }

    /// With others' programs.
    pub fn beside(self, others: Vec<String>) -> Self {
        Self { others, ..self }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, commit, cpu, cpus, kernel, load, others } = self;
        write!(out, "{date}, commit {commit}, {cpu}, {cpus} CPUs, Linux {kernel}, load {load} before the run")?;
        others.iter().try_for_each(|other| write!(out, ", {other}"))
    }
}

/// The README is left out: its table is what the numbers are for.
fn commit() -> String {
    let git = |arguments: &[&str]| capture(tool("git").current_dir(workspace_root()).args(arguments));
    let Ok(head) = git(&["rev-parse", "--short=10", "HEAD"]) else { return "unknown".into() };
    let changed = git(&["status", "--porcelain", "--", ".", ":!README.md"]).is_ok_and(|text| !text.trim().is_empty());
    format!("{}{}", head.trim(), if changed { " with changes" } else { "" })
}
