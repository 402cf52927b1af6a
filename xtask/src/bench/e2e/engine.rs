//! The engine as a receiver: its configuration, how it is started, and what its report says.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::case::{Backend, Keeps};
use super::server::ask;
use crate::process::bound_to_us;
use crate::run::report::{Totals, is_balanced};
use crate::{Error, NO_SHEDDING, Result};

/// What a receiver says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Taken {
    /// Worked on, as are the events.
    pub datagrams: u64,
    pub events: u64,
    /// The time in which it found something to do.
    pub busy_seconds: f64,
    pub latency: Option<Latency>,
    /// How many records of its log were synced together, on average.
    pub together: Option<f64>,
}

/// In microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

impl Latency {
    /// Of a report's object with percentiles in nanoseconds.
    pub fn of_json(value: &Value) -> Option<Self> {
        let micros = |key: &str| Some(value[key].as_f64()? / 1e3);
        Some(Latency { p50: micros("p50")?, p99: micros("p99")? })
    }
}

/// One engine to be started.
#[derive(Clone, Debug)]
pub struct Engine<'a> {
    pub program: &'a Path,
    /// For configuration, report and control socket.
    pub folder: &'a Path,
    pub iface: &'a str,
    pub cpu: usize,
    pub backend: Backend,
    pub port: u16,
    /// Where it can be asked over HTTP while it runs.
    pub admin: Option<u16>,
    /// Never waits.
    pub spins: bool,
    /// How many of the load's topics its configuration has, all of one class: they are to differ in their number alone.
    pub topic_entries: u32,
    pub keeps: Keeps,
}

impl Engine<'_> {
    pub fn command(&self) -> Result<Command> {
        let file = self.folder.join("engine.yaml");
        fs::write(&file, self.config()).map_err(|error| Error::of_io(&file.to_string_lossy(), &error))?;
        // What an earlier measurement left must not be taken for this one's.
        let _ = fs::remove_file(self.report_file());
        let _ = fs::remove_dir_all(self.data_directory());
        let mut command = bound_to_us(self.program);
        command.args(["run", "--quiet", "--cpus", &self.cpu.to_string(), "--config"]).arg(file);
        command.arg("--report").arg(self.report_file());
        if self.backend == Backend::Xdp {
            command.args(["--iface", self.iface]);
        }
        Ok(command)
    }

    fn config(&self) -> String {
        // What would be shed under load is no event less, only less work.
        let socket = self.folder.join("control.sock");
        let mut text =
            format!("log: {{level: error}}\ncontrol: {{socket: {}, {NO_SHEDDING}}}\n", socket.to_string_lossy());
        let (udp, tcp) = if self.backend == Backend::Tcp { (0, self.port) } else { (self.port, 0) };
        text += &format!("listen: {{udp_port: {udp}, tcp_port: {tcp}}}\n");
        text += &match self.admin {
            Some(port) => format!("admin: {{enabled: true, port: {port}}}\n"),
            None => "admin: {enabled: false}\n".to_owned(),
        };
        if self.backend == Backend::Gro {
            text += "udp: {gro: on}\n";
        }
        if self.topic_entries > 0 {
            let entry = |number| format!("- {{name: load/{number:06}, class: realtime}}\n");
            text += &("topics:\n".to_owned() + &(0..self.topic_entries).map(entry).collect::<String>());
        }
        if self.keeps != Keeps::Nothing {
            text += "topics: [{name: load/000000, class: transactional}]\n";
        }
        let fsync = if self.keeps == Keeps::Synced { "always" } else { "every" };
        if matches!(self.keeps, Keeps::Log | Keeps::Synced) {
            text += &format!("storage: {{directory: {}, fsync: {fsync}}}\n", self.data_directory().display());
        }
        if self.spins {
            text += "layout: {idle: busy_spin}\n";
        }
        text
    }

    /// Removes what it has kept, and leaves the disk with nothing to do for who comes next.
    pub fn clean_up(&self) {
        if fs::remove_dir_all(self.data_directory()).is_ok() {
            rustix::fs::sync();
        }
    }

    /// Anew for each.
    fn data_directory(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn report_file(&self) -> PathBuf {
        self.folder.join("report.json")
    }

    /// How long it has been busy so far. Unlike its CPU time this leaves out what it spent looking in vain.
    pub fn busy_seconds(&self) -> Result<f64> {
        let port = self.admin.ok_or_else(|| Error::failed("an engine without a port to ask it on"))?;
        let answer = ask(port, "GET /report HTTP/1.0\r\n\r\n")?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        busy_seconds(&parsed(body)?)
    }

    /// What its report says, once it has ended.
    pub fn taken(&self) -> Result<Taken> {
        let path = self.report_file();
        let text = fs::read_to_string(&path).map_err(|error| Error::of_io(&path.to_string_lossy(), &error))?;
        taken(&text, self.backend)
    }
}

/// One whose books do not balance, or that did not receive as it was to, says nothing.
fn taken(report: &str, backend: Backend) -> Result<Taken> {
    let report = parsed(report)?;
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
    Ok(Taken {
        datagrams: totals.parsed,
        events: totals.processed + totals.duplicate,
        busy_seconds: busy_seconds(&report)?,
        latency: Latency::of_json(&report["latency_ns"]["send_to_handler"]),
        together: together(&report["counters"]),
    })
}

fn together(counters: &Value) -> Option<f64> {
    let syncs = counters["log_syncs"].as_f64().filter(|syncs| *syncs > 0.0)?;
    Some(counters["log_records_appended"].as_f64()? / syncs)
}

fn parsed(report: &str) -> Result<Value> {
    serde_json::from_str(report).map_err(|error| Error::failed(format!("the engine's report: {error}")))
}

/// Of all its threads on the data path. Before anything has come it is zero.
fn busy_seconds(report: &Value) -> Result<f64> {
    let runners = report["runners"].as_array().map(Vec::as_slice).unwrap_or_default();
    let busy_ns: Option<u64> = runners.iter().map(|runner| runner["busy_ns"].as_u64()).sum();
    match busy_ns {
        Some(busy_ns) if !runners.is_empty() => Ok(busy_ns as f64 / 1e9),
        _ => Err(Error::failed("the engine's report does not say how long it was busy")),
    }
}

/// For both families, as the engine binds it. The XDP program steers it before it is bound, so it is chosen here.
pub fn free_udp_port() -> Result<u16> {
    let bound = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"));
    let address = bound.and_then(|socket| socket.local_addr()).map_err(|error| Error::of_io("a free port", &error))?;
    Ok(address.port())
}

pub fn free_tcp_port() -> Result<u16> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    Ok(bound.map_err(|error| Error::of_io("a free port", &error))?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_counts_only_with_balanced_books_and_the_right_way_in() {
        let report = r#"{"ledger": {"balanced": true, "imbalances": [], "datagrams": {"parsed": 7},
            "events": {"processed": {"realtime": 5, "batch": 2}, "duplicate": 1, "lost": {"a": 9}}},
            "queues": [{"mode": "xdp-native-copy"}, {"mode": "socket"}],
            "runners": [{"busy_ns": 1500000000}, {"busy_ns": 500000000}],
            "latency_ns": {"send_to_handler": {"p50": 2500, "p99": 11000}},
            "counters": {"log_records_appended": 5, "log_syncs": 2}}"#;
        let latency = Some(Latency { p50: 2.5, p99: 11.0 });
        let expected = Taken { datagrams: 7, events: 8, busy_seconds: 2.0, latency, together: Some(2.5) };
        assert_eq!(taken(report, Backend::Xdp).unwrap(), expected);
        let unstamped = report.replace("send_to_handler", "rx_to_handler");
        assert_eq!(taken(&unstamped, Backend::Xdp).unwrap().latency, None);
        let unlogged = report.replace(r#""log_syncs": 2"#, r#""log_syncs": 0"#);
        assert_eq!(taken(&unlogged, Backend::Xdp).unwrap().together, None);
        let before = report.replace("1500000000", "0").replace("500000000", "0");
        assert_eq!(taken(&before, Backend::Xdp).unwrap().busy_seconds, 0.0);
        assert!(taken(&report.replace("runners", "threads"), Backend::Xdp).is_err());
        let error = taken(&report.replace("busy_ns", "rounds"), Backend::Xdp).unwrap_err();
        assert!(error.to_string().contains("busy"), "{error}");
        let error = taken(&report.replace("true", "false"), Backend::Xdp).unwrap_err();
        assert!(error.to_string().contains("balance"), "{error}");
        let without = report.replace("xdp-native-copy", "socket");
        assert!(taken(&without, Backend::Xdp).is_err());
        assert!(taken(&without, Backend::Gro).is_ok());
        assert!(taken("", Backend::Gro).is_err());
    }

    #[test]
    fn an_engine_listens_where_the_load_goes() {
        let (program, folder) = (Path::new("/e"), Path::new("/f"));
        let engine = |backend| Engine {
            program,
            folder,
            iface: "e0",
            cpu: 1,
            backend,
            port: 5,
            admin: None,
            spins: false,
            topic_entries: 0,
            keeps: Keeps::Nothing,
        };
        assert!(engine(Backend::Xdp).config().contains("{udp_port: 5, tcp_port: 0}"));
        assert!(engine(Backend::Tcp).config().contains("{udp_port: 0, tcp_port: 5}"));
        assert!(engine(Backend::Gro).config().contains("gro: on"));
        assert!(engine(Backend::Tcp).config().contains("socket: /f/control.sock"));
        let plain = engine(Backend::Xdp).config();
        assert!(plain.contains("admin: {enabled: false}") && !plain.contains("busy_spin"), "{plain}");
        let other = Engine { admin: Some(7), spins: true, ..engine(Backend::Xdp) }.config();
        assert!(other.contains("admin: {enabled: true, port: 7}") && other.contains("idle: busy_spin"), "{other}");
        let known = Engine { topic_entries: 2, ..engine(Backend::Xdp) }.config();
        assert!(
            known
                .ends_with("topics:\n- {name: load/000000, class: realtime}\n- {name: load/000001, class: realtime}\n")
        );
    }
}
