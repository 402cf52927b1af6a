//! One measurement: a receiver of its own, a load for some seconds, and what became of its datagrams.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::case::{Backend, Case, Contestant, Receiver};
use super::receiver::Process;
use super::{Cpus, Programs};
use crate::blast::merged;
use crate::process::{self, bound_to_us};
use crate::run::load::{self, Running, Sent, Slot, Target};
use crate::run::phase::{Load, Path as Way, Rate};
use crate::run::report::{Totals, is_balanced};
use crate::signals::Stop;
use crate::testbed::Link;
use crate::{Error, Result};

/// For what is in a ring or a socket's buffer when the generator ends.
const SETTLE: Duration = Duration::from_millis(50);

/// Everything is worked on: what would be shed under load is no event less, only less work.
const CONFIG: &str = "\
admin: {enabled: false}
log: {level: error}
control:
  socket: SOCKET
  dropping: {queue_depth_percent: off, pool_used_percent: off, worker_latency_ms: off, loss_per_million: off}
  emergency: {queue_depth_percent: off, pool_used_percent: off, worker_latency_ms: off, loss_per_million: off}
";

/// The figures of a measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// Million events a second of the generator's time.
    pub throughput: f64,
    /// Per cent of the datagrams sent; the others were dropped.
    pub delivered: f64,
    /// CPU time of the receiver in per cent of the generator's time.
    pub busy: f64,
    /// CPU nanoseconds an event.
    pub cpu: f64,
}

/// Datagrams and events that a receiver says it has worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    datagrams: u64,
    events: u64,
}

/// Where the measurements of a run are made.
#[derive(Debug)]
pub struct Place<'a> {
    pub programs: &'a Programs,
    pub link: &'a Link,
    pub cpus: Cpus,
    /// For configurations, reports and control sockets.
    pub folder: PathBuf,
    pub stop: &'a Stop,
}

impl Place<'_> {
    pub fn measure(&self, case: &Case, contestant: &Contestant, seconds: f64, producer: u64) -> Result<Round> {
        let port = free_port()?;
        let receiver = Process::start(self.receiver(contestant, port)?, self.stop)?;
        let before = receiver.cpu_seconds()?;
        let sent = self.load(case, contestant, port, seconds, producer)?;
        process::sleep(SETTLE, self.stop);
        let cpu = receiver.cpu_seconds()? - before;
        let said = receiver.end()?;
        let taken = match contestant.receiver {
            Receiver::Engine(backend) => {
                let path = self.report();
                let text = fs::read_to_string(&path).map_err(|error| Error::of_io(&path.to_string_lossy(), &error))?;
                of_engine(&text, backend)
            }
            Receiver::Walk(way) => of_walk(&said, way, case.events_per_datagram),
        };
        Round::new(&sent, taken?, cpu)
    }

    /// The command that receives on `port`.
    fn receiver(&self, contestant: &Contestant, port: u16) -> Result<Command> {
        let cpu = self.cpus.receiver.to_string();
        let backend = match contestant.receiver {
            Receiver::Walk(way) => {
                let mut command = bound_to_us(&self.programs.walk);
                command.arg(way).args(["--iface", &self.link.iface, "--cpu", &cpu, "--port", &port.to_string()]);
                return Ok(command);
            }
            Receiver::Engine(backend) => backend,
        };
        let file = self.folder.join("engine.yaml");
        let config = config(&self.folder, backend, port);
        fs::write(&file, config).map_err(|error| Error::of_io(&file.to_string_lossy(), &error))?;
        // What an earlier measurement left must not be taken for this one's.
        let _ = fs::remove_file(self.report());
        let mut command = bound_to_us(&self.programs.eventstream);
        command.args(["run", "--quiet", "--cpus", &cpu, "--config"]).arg(file).arg("--report").arg(self.report());
        if backend == Backend::Xdp {
            command.args(["--iface", &self.link.iface]);
        }
        Ok(command)
    }

    fn report(&self) -> PathBuf {
        self.folder.join("report.json")
    }

    fn load(&self, case: &Case, contestant: &Contestant, port: u16, seconds: f64, producer: u64) -> Result<Sent> {
        let target = Target { link: Some(self.link.clone()), udp_port: port, tcp_port: 0 };
        let mut command = load::command(&self.programs.blast, &target, Way::Link);
        let slot = Slot { seconds, rate: None, producer, cpu: self.cpus.generator };
        command.args(arguments(case, contestant, &target, &slot));
        let (sent, failure) = Running::start_command(command, case.load, seconds)?.finish(self.stop)?;
        if self.stop.requested() {
            return Err(Error::failed("interrupted"));
        }
        failure.map_or(Ok(sent), Err)
    }
}

fn arguments(case: &Case, contestant: &Contestant, target: &Target, slot: &Slot) -> Vec<String> {
    let load = Load {
        kind: case.load,
        path: Way::Link,
        queues: "0",
        rate: Rate::Max,
        events_per_datagram: case.events_per_datagram,
        duplicates: if case.ids { 0.01 } else { 0.0 },
        tick_ms: None,
    };
    let mut list = load::arguments(&load, target, slot);
    if !case.ids {
        list.retain(|argument| argument != "--ids");
    }
    merged(list, &["--topics".to_owned(), contestant.topics.to_string()])
}

fn config(folder: &Path, backend: Backend, port: u16) -> String {
    let mut text = CONFIG.replace("SOCKET", &folder.join("control.sock").to_string_lossy());
    text += &format!("listen: {{udp_port: {port}, tcp_port: 0}}\n");
    if backend == Backend::Gro {
        text += "udp: {gro: on}\n";
    }
    text
}

/// For both families, as the engine binds it. The XDP program steers it before it is bound, so it is chosen here.
fn free_port() -> Result<u16> {
    let bound = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"));
    let address = bound.and_then(|socket| socket.local_addr()).map_err(|error| Error::of_io("a free port", &error))?;
    Ok(address.port())
}

/// What an engine's report says. One whose books do not balance, or that did not receive as it was to, says nothing.
fn of_engine(report: &str, backend: Backend) -> Result<Taken> {
    let report: Value =
        serde_json::from_str(report).map_err(|error| Error::failed(format!("the engine's report: {error}")))?;
    if !is_balanced(&report) {
        return Err(Error::failed(format!("the ledger does not balance: {}", report["ledger"]["imbalances"])));
    }
    let queues = report["queues"].as_array().map(Vec::as_slice).unwrap_or_default();
    let by_xdp = queues.iter().filter(|queue| queue["mode"].as_str().is_some_and(|mode| mode.starts_with("xdp-")));
    if backend == Backend::Xdp && by_xdp.count() == 0 {
        return Err(Error::failed(format!("no queue is on AF_XDP: {}", report["queues"])));
    }
    let totals = Totals::of(&report);
    // A duplicate has been recognised, which is the work asked for. What was shed or lost was not worked on.
    Ok(Taken { datagrams: totals.parsed, events: totals.processed + totals.duplicate })
}

/// What a receiver without a pipeline says in its last line.
fn of_walk(said: &[String], way: &str, events_per_datagram: u32) -> Result<Taken> {
    let last = said.last().map(String::as_str).unwrap_or_default();
    let report: Value = serde_json::from_str(last).unwrap_or_default();
    let count = |key: &str| {
        report[key].as_u64().ok_or_else(|| Error::failed(format!("walk {way}: no `{key}` in what it said: {last:?}")))
    };
    if count("malformed")? > 0 {
        return Err(Error::failed(format!("walk {way}: {} malformed datagrams", count("malformed")?)));
    }
    let datagrams = count("datagrams")?;
    // Who does not look inside knows of no events.
    let events = if way == "bare" { datagrams * u64::from(events_per_datagram) } else { count("events")? };
    Ok(Taken { datagrams, events })
}

impl Round {
    fn new(sent: &Sent, taken: Taken, cpu_seconds: f64) -> Result<Self> {
        if taken.datagrams == 0 || taken.events == 0 || sent.seconds <= 0.0 || cpu_seconds <= 0.0 {
            return Err(Error::failed(format!(
                "nothing to measure: {} datagrams sent in {:.3} s, {} taken in, {} events, {cpu_seconds:.2} s of CPU time",
                sent.datagrams, sent.seconds, taken.datagrams, taken.events
            )));
        }
        if taken.datagrams > sent.datagrams {
            return Err(Error::failed(format!("{} datagrams of {} sent", taken.datagrams, sent.datagrams)));
        }
        Ok(Round {
            throughput: taken.events as f64 / sent.seconds / 1e6,
            delivered: 100.0 * taken.datagrams as f64 / sent.datagrams as f64,
            busy: 100.0 * cpu_seconds / sent.seconds,
            cpu: 1e9 * cpu_seconds / taken.events as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::case::CASES;
    use super::*;

    #[test]
    fn figures_follow_from_what_was_sent_and_taken() {
        let sent = Sent { datagrams: 4_000, seconds: 2.0, ..Sent::default() };
        let taken = Taken { datagrams: 1_000, events: 4_000_000 };
        let round = Round::new(&sent, taken, 1.0).unwrap();
        assert_eq!(round, Round { throughput: 2.0, delivered: 25.0, busy: 50.0, cpu: 250.0 });
        assert!(Round::new(&sent, Taken { datagrams: 0, events: 0 }, 1.0).is_err());
        assert!(Round::new(&sent, taken, 0.0).is_err());
        assert!(Round::new(&sent, Taken { datagrams: 4_001, ..taken }, 1.0).is_err(), "more than was sent");
    }

    #[test]
    fn an_engine_counts_only_with_balanced_books_and_the_right_way_in() {
        let report = r#"{"ledger": {"balanced": true, "imbalances": [], "datagrams": {"parsed": 7},
            "events": {"processed": {"realtime": 5, "batch": 2}, "duplicate": 1, "lost": {"a": 9}}},
            "queues": [{"mode": "xdp-native-copy"}, {"mode": "socket"}]}"#;
        assert_eq!(of_engine(report, Backend::Xdp).unwrap(), Taken { datagrams: 7, events: 8 });
        let error = of_engine(&report.replace("true", "false"), Backend::Xdp).unwrap_err();
        assert!(error.to_string().contains("balance"), "{error}");
        let without = report.replace("xdp-native-copy", "socket");
        assert!(of_engine(&without, Backend::Xdp).is_err());
        assert!(of_engine(&without, Backend::Gro).is_ok());
        assert!(of_engine("", Backend::Gro).is_err());
    }

    #[test]
    fn a_receivers_last_line_is_what_it_received() {
        let line = r#"{"seconds":1.5,"dropped":3,"datagrams":10,"events":230,"malformed":0,"hash":5}"#.to_owned();
        let said = ["warming up".to_owned(), line.clone()];
        assert_eq!(of_walk(&said, "xdp", 23).unwrap(), Taken { datagrams: 10, events: 230 });
        let bare = [line.replace("230", "0")];
        assert_eq!(of_walk(&bare, "bare", 23).unwrap(), Taken { datagrams: 10, events: 230 });
        let malformed = [line.replace(r#""malformed":0"#, r#""malformed":2"#)];
        assert!(of_walk(&malformed, "xdp", 23).unwrap_err().to_string().contains("2 malformed"));
        let error = of_walk(&[], "gro", 23).unwrap_err();
        assert!(error.to_string().contains("gro"), "{error}");
    }

    #[test]
    fn a_load_has_ids_and_topics_as_the_case_says() {
        let target = Target { link: None, udp_port: 5, tcp_port: 0 };
        let slot = Slot { seconds: 1.0, rate: None, producer: 7, cpu: 0 };
        let text = |case: &Case, at: usize| arguments(case, &case.contestants[at], &target, &slot).join(" ");
        let plain = text(&CASES[0], 0);
        assert!(!plain.contains("--ids") && plain.contains("--duplicates 0"), "{plain}");
        assert!(plain.contains("--events-per-datagram 23") && plain.ends_with("--topics 1000"), "{plain}");
        let ids = text(&CASES[1], 0);
        assert!(ids.contains("--ids") && ids.contains("--duplicates 0.01"), "{ids}");
        assert!(text(&CASES[3], 1).ends_with("--topics 1"));
        assert!(text(&CASES[4], 0).starts_with("gso "));
    }
}
