//! `cargo xtask run`: the whole engine on this machine, with one command.
//!
//! With `--iface` it takes that interface; without, it builds a testbed and loads it; and where neither the rights for
//! that are there, it runs on loopback with the socket backend. Load goes first, the engine after it, the network last,
//! also when a signal ends the run early.

pub mod engine;
pub mod load;
pub mod phase;
pub mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use self::engine::{Engine, Settings, port_of};
use self::load::{Running, Sent, Slot, Target};
use self::phase::{Phase, SOCKETS_ON_LINK, SOCKETS_ON_LOOPBACK, XDP};
use self::report::{PhaseResult, Totals};
use crate::process::{self, cargo, target_directory, visible, workspace_root};
use crate::setup;
use crate::signals::Stop;
use crate::testbed::{Link, LinkCounters, Options, Testbed};
use crate::{Error, Result};

/// Long enough to see the status line move in each phase.
const DEMO_SECONDS: f64 = 30.0;
/// What is on its way when the load ends is given this long to arrive.
const SETTLE: Duration = Duration::from_secs(3);
/// An overload state has a least time it lasts, which is a matter of configuration; seconds are usual.
const RECOVERY: Duration = Duration::from_secs(10);
const SETTLE_STEP: Duration = Duration::from_millis(100);
pub const UDP_PORT: u16 = 8082;
pub const TCP_PORT: u16 = 8081;

#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// Take this interface, and generate no load. Without: build a veth pair and load it.
    #[arg(long, value_name = "IF")]
    pub iface: Option<String>,
    /// The engine's configuration [default: configs/default.yaml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// End after this time. Without: after 30 s of load, or with ctrl-c when there is none.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub seconds: Option<f64>,
    /// Write what was sent and what became of it as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Generate no load: the engine is there for one's own clients.
    #[arg(long)]
    pub no_load: bool,
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds > 0.0 => Ok(seconds),
        _ => Err("a number of seconds above 0 is expected".into()),
    }
}

/// The network a run stands on.
#[derive(Debug)]
enum Ground {
    Interface(String),
    Testbed(Testbed),
    Loopback,
}

impl Ground {
    fn iface(&self) -> Option<&str> {
        match self {
            Ground::Interface(name) => Some(name),
            Ground::Testbed(testbed) => Some(&testbed.iface),
            Ground::Loopback => None,
        }
    }

    fn link(&self) -> Option<&Link> {
        match self {
            Ground::Testbed(testbed) => Some(testbed),
            Ground::Interface(_) | Ground::Loopback => None,
        }
    }
}

/// Programs the run needs, built.
#[derive(Clone, Debug)]
pub struct Binaries {
    pub eventstream: PathBuf,
    pub blast: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::Purpose::Run)?;
    let binaries = build()?;
    // Only now: until here ctrl-c may end everything at once.
    let stop = Stop::on_signals()?;
    let ground = match &arguments.iface {
        Some(iface) => Ground::Interface(iface.clone()),
        None => testbed_or_loopback(),
    };
    let work = if arguments.no_load || arguments.iface.is_some() { Work::Wait } else { Work::Demonstration };
    drive(arguments, &binaries, &ground, work, &stop)
}

/// One load at an engine of its own, for `cargo xtask blast`.
pub fn run_one_load(binaries: &Binaries, kind: phase::Kind, extra: &[String], seconds: f64) -> Result<()> {
    let stop = Stop::on_signals()?;
    let ground = testbed_or_loopback();
    let arguments = Arguments { seconds: Some(seconds), ..Arguments::default() };
    drive(&arguments, binaries, &ground, Work::One { kind, extra }, &stop)
}

/// What is done while the engine runs.
#[derive(Clone, Copy, Debug)]
enum Work<'a> {
    Demonstration,
    One { kind: phase::Kind, extra: &'a [String] },
    Wait,
}

pub fn build() -> Result<Binaries> {
    println!("Building the engine and the load generator.");
    let mut command = cargo();
    command.args(["build", "--release", "--package", "eventstream", "--bin", "eventstream"]);
    command.args(["--package", "eventstream-benches", "--bin", "blast"]);
    visible(&mut command)?;
    let folder = target_directory()?.join("release");
    Ok(Binaries { eventstream: folder.join("eventstream"), blast: folder.join("blast") })
}

fn testbed_or_loopback() -> Ground {
    match Testbed::create(&Options::demo()) {
        Ok(testbed) => {
            println!(
                "Built {} ({}) for the engine and {} ({}) in namespace {} for the senders.",
                testbed.iface, testbed.engine_ip, testbed.peer, testbed.peer_ip, testbed.namespace
            );
            Ground::Testbed(testbed)
        }
        Err(Error::NotPermitted(reason)) => {
            println!(
                "Running on loopback with the socket backend: with the rights to create network devices and load BPF \
                 programs (root), UDP would bypass the kernel's stack by AF_XDP on a veth pair ({reason})."
            );
            Ground::Loopback
        }
        Err(error) => {
            println!("Running on loopback with the socket backend: no veth pair can be built here ({error}).");
            Ground::Loopback
        }
    }
}

fn drive(arguments: &Arguments, binaries: &Binaries, ground: &Ground, work: Work, stop: &Stop) -> Result<()> {
    let report_file = arguments.report.clone().unwrap_or(target_directory()?.join("xtask-run.report.json"));
    let report_file = std::path::absolute(&report_file).unwrap_or(report_file);
    let config = arguments.config.clone().unwrap_or_else(|| workspace_root().join("configs/default.yaml"));
    let cpus = allowed_cpus();
    // With a configuration that is wrong it is the engine that says so, below.
    let load_cpu = left_cpu(&binaries.eventstream, &config).ok().filter(|cpu| cpus.contains(cpu)).unwrap_or(cpus[0]);
    let others: Vec<usize> = cpus.into_iter().filter(|cpu| *cpu != load_cpu).collect();
    let loaded = !matches!(work, Work::Wait);
    let mut engine = Engine::start(Settings {
        binary: binaries.eventstream.clone(),
        config,
        config_is_default: arguments.config.is_none(),
        iface: ground.iface().map(str::to_owned),
        // The load's core is its own, so that what is measured is the engine and not the scheduler.
        cpus: (loaded && !others.is_empty()).then(|| listed(&others)),
        report: report_file.clone(),
    })?;
    let (done, phases) = match engine.wait_until_ready(stop)? {
        Some(ready) => {
            let target = Target {
                link: ground.link().cloned(),
                udp_port: port_of(&ready, "udp").unwrap_or(UDP_PORT),
                tcp_port: port_of(&ready, "tcp").unwrap_or(TCP_PORT),
            };
            let blast = &binaries.blast;
            let (phases, failures) = (Vec::new(), Vec::new());
            let session = Session { blast, target, engine: &mut engine, stop, cpu: load_cpu, phases, failures };
            session.through(work, arguments.seconds)
        }
        None => (Ok(()), Vec::new()),
    };
    // The engine ends properly and says what it knows, whatever became of the load.
    let status = engine.stop()?;
    let text = fs::read_to_string(&report_file)
        .map_err(|error| Error::failed(format!("the engine ({status}) has left no report: {error}")))?;
    let engine_report: Value =
        serde_json::from_str(&text).map_err(|error| Error::failed(format!("the engine's report: {error}")))?;
    let load = loaded.then(|| phases.iter().fold(Sent::default(), |mut sum, phase| (sum += phase.sent, sum).1));
    let merged = report::merge(engine_report, load.as_ref(), &phases);
    let pretty = serde_json::to_string_pretty(&merged).unwrap_or_default();
    fs::write(&report_file, pretty + "\n").map_err(|error| Error::of_io(&report_file.display().to_string(), &error))?;
    print!("{}", report::table(&phases));
    if arguments.report.is_some() {
        println!("Report: {}", report_file.display());
    }
    done?;
    conclude(status.success(), report::is_balanced(&merged), &status.to_string())
}

fn conclude(ended_well: bool, balanced: bool, status: &str) -> Result<()> {
    match (ended_well, balanced) {
        (true, true) => Ok(()),
        (true, false) => Err(Error::failed("the ledger does not balance")),
        (false, _) => Err(Error::failed(format!("the engine ended with {status}, balanced: {balanced}"))),
    }
}

/// A ready engine and the load that is put on it.
struct Session<'a> {
    blast: &'a Path,
    target: Target,
    engine: &'a mut Engine,
    stop: &'a Stop,
    cpu: usize,
    phases: Vec<PhaseResult>,
    /// What loads failed with. The others go on: what they show is worth having, and in the end it is a failure.
    failures: Vec<String>,
}

impl Session<'_> {
    fn through(mut self, work: Work, seconds: Option<f64>) -> (Result<()>, Vec<PhaseResult>) {
        let done = match work {
            Work::Wait => self.wait(seconds),
            Work::Demonstration => self.demonstrate(seconds.unwrap_or(DEMO_SECONDS)),
            Work::One { kind, extra } => self.one(kind, extra, seconds.unwrap_or(DEMO_SECONDS)),
        };
        let failures = self.failures;
        let done =
            done.and_then(|()| if failures.is_empty() { Ok(()) } else { Err(Error::failed(failures.join("; "))) });
        (done, self.phases)
    }

    fn wait(&mut self, seconds: Option<f64>) -> Result<()> {
        if seconds.is_none() {
            println!("Ctrl-C ends it.");
        }
        let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
        while !self.stop.requested() && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            self.check_engine()?;
            process::sleep(SETTLE_STEP, self.stop);
        }
        Ok(())
    }

    fn demonstrate(&mut self, seconds: f64) -> Result<()> {
        let status = self.engine.status()?;
        let phases = match (&self.target.link, all_queues_on_xdp(&status)) {
            (Some(_), true) => XDP,
            (Some(_), false) => SOCKETS_ON_LINK,
            (None, _) => SOCKETS_ON_LOOPBACK,
        };
        let mut measured = 0.0;
        for phase in phases {
            if self.stop.requested() {
                break;
            }
            self.recovered()?;
            println!("── {} ──", phase.name);
            let first = self.phase(phase, seconds * phase.share, measured)?;
            if phase.measures {
                measured = first.events_per_s;
            }
        }
        Ok(())
    }

    /// Runs a phase's loads side by side and keeps what they and the engine counted. Returns the first one's count.
    fn phase(&mut self, phase: &Phase, seconds: f64, measured: f64) -> Result<Sent> {
        let mut commands = Vec::new();
        for (index, load) in phase.loads.iter().enumerate() {
            let producer = producer(self.phases.len(), index);
            let slot = Slot { seconds, rate: Slot::rate_of(load, measured), producer, cpu: self.cpu };
            commands.push((load, slot));
        }
        self.measured(phase.name, |session| {
            let start =
                |(load, slot): &(&phase::Load, Slot)| Running::start(session.blast, load, &session.target, slot);
            commands.iter().map(start).collect()
        })
    }

    /// A load with arguments of the caller's own.
    fn one(&mut self, kind: phase::Kind, extra: &[String], seconds: f64) -> Result<()> {
        crate::blast::check_reach(kind, &self.target)?;
        let load = crate::blast::load_of(kind);
        let slot = Slot { seconds, rate: None, producer: producer(0, 0), cpu: self.cpu };
        let arguments = crate::blast::merged(load::arguments(&load, &self.target, &slot), extra);
        self.measured(kind.name(), |session| {
            let mut command = load::command(session.blast, &session.target, load.path);
            command.args(&arguments);
            Ok(vec![Running::start_command(command, kind, seconds)?])
        })?;
        Ok(())
    }

    fn measured(&mut self, name: &str, start: impl FnOnce(&Self) -> Result<Vec<Running>>) -> Result<Sent> {
        let before = Totals::of(&self.engine.status()?);
        let link_before = self.link_counters()?;
        let mut running = start(self)?;
        while !self.stop.requested() && !running.iter_mut().all(Running::has_ended) {
            self.check_engine()?;
            if running.iter_mut().any(|load| load.is_overdue()) {
                break;
            }
            process::sleep(SETTLE_STEP, self.stop);
        }
        let mut sum = Sent::default();
        let mut first = Sent::default();
        for (index, load) in running.into_iter().enumerate() {
            let (sent, failure) = load.finish(self.stop).unwrap_or_else(|error| (Sent::default(), Some(error)));
            sum += sent;
            if index == 0 {
                first = sent;
            }
            self.failures.extend(failure.map(|error| format!("{name}: {error}")));
        }
        let engine = self.settled()?.since(&before);
        // The link's counters know more than each sender: theirs overlap where loads run side by side.
        if let (Some(before), Some(after)) = (link_before, self.link_counters()?) {
            sum.link_dropped = after.dropped_since(&before, engine.redirects_failed());
        }
        self.phases.push(PhaseResult { name: name.into(), sent: sum, engine });
        Ok(first)
    }

    /// Waits until the engine no longer sheds: what a phase loses should be its own doing.
    fn recovered(&self) -> Result<()> {
        let deadline = Instant::now() + RECOVERY;
        while ["dropping", "emergency"].map(Some).contains(&self.engine.status()?["state"].as_str()) {
            if Instant::now() > deadline {
                println!("The engine still sheds from the last phase.");
                break;
            }
            process::sleep(SETTLE_STEP, self.stop);
        }
        Ok(())
    }

    /// Waits until the engine's books stand still with nothing in flight.
    fn settled(&self) -> Result<Totals> {
        let deadline = Instant::now() + SETTLE;
        let mut last = Totals::of(&self.engine.status()?);
        loop {
            process::sleep(SETTLE_STEP, &Stop::default());
            let now = Totals::of(&self.engine.status()?);
            let still = Totals { bits: 0.0, ..now } == Totals { bits: 0.0, ..last };
            if (still && now.in_flight == 0) || Instant::now() > deadline {
                return Ok(now);
            }
            last = now;
        }
    }

    fn link_counters(&self) -> Result<Option<LinkCounters>> {
        self.target.link.as_ref().map(Link::counters).transpose()
    }

    fn check_engine(&mut self) -> Result<()> {
        match self.engine.exited()? {
            Some(status) => Err(Error::failed(format!("the engine ended by itself: {status}"))),
            None => Ok(()),
        }
    }
}

/// Whether the load may count on XDP: one queue on a socket is enough to make in-kernel load vanish there.
fn all_queues_on_xdp(report: &Value) -> bool {
    let queues = report["queues"].as_array().map(Vec::as_slice).unwrap_or_default();
    let by_xdp = |queue: &Value| queue["mode"].as_str().is_some_and(|mode| mode.starts_with("xdp-"));
    !queues.is_empty() && queues.iter().filter(|queue| !queue["iface"].is_null()).all(by_xdp)
}

/// Different for every load of every run: an engine that remembers ids from its log would take equal ones for duplicates.
pub(crate) fn producer(phase: usize, load: usize) -> u64 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    // A load numbers its queues and connections upwards from its own: sixteen of them have room.
    (seconds << 16) | ((phase as u64) << 8) | ((load as u64 + 1) << 4)
}

/// The processor that the engine would leave to others with this configuration.
pub fn left_cpu(eventstream: &Path, config: &Path) -> Result<usize> {
    let said =
        process::capture(process::bound_to_us(eventstream).args(["topology", "--json", "--config"]).arg(config))?;
    let described: Value = serde_json::from_str(&said).unwrap_or_default();
    let left = described["plan"]["log_cpu"].as_u64();
    left.map(|cpu| cpu as usize).ok_or_else(|| Error::failed("the engine does not say which CPU it leaves"))
}

/// The processors this process may use.
pub fn allowed_cpus() -> Vec<usize> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let cpus = parsed_list(list);
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// `0-2,5` as the kernel writes lists of processors.
fn parsed_list(text: &str) -> Vec<usize> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

fn listed(cpus: &[usize]) -> String {
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
