//! The engine as a receiver: its configuration, how it is started, and what its report says.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::case::Backend;
use crate::process::bound_to_us;
use crate::run::report::{Totals, is_balanced};
use crate::{Error, Result};

/// Everything is worked on: what would be shed under load is no event less, only less work.
const CONFIG: &str = "\
admin: {enabled: false}
log: {level: error}
control:
  socket: SOCKET
  dropping: {queue_depth_percent: off, pool_used_percent: off, worker_latency_ms: off, loss_per_million: off}
  emergency: {queue_depth_percent: off, pool_used_percent: off, worker_latency_ms: off, loss_per_million: off}
";

/// Datagrams and events that a receiver says it has worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub datagrams: u64,
    pub events: u64,
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
}

impl Engine<'_> {
    pub fn command(&self) -> Result<Command> {
        let file = self.folder.join("engine.yaml");
        fs::write(&file, self.config()).map_err(|error| Error::of_io(&file.to_string_lossy(), &error))?;
        // What an earlier measurement left must not be taken for this one's.
        let _ = fs::remove_file(self.report_file());
        let mut command = bound_to_us(self.program);
        command.args(["run", "--quiet", "--cpus", &self.cpu.to_string(), "--config"]).arg(file);
        command.arg("--report").arg(self.report_file());
        if self.backend == Backend::Xdp {
            command.args(["--iface", self.iface]);
        }
        Ok(command)
    }

    fn config(&self) -> String {
        let mut text = CONFIG.replace("SOCKET", &self.folder.join("control.sock").to_string_lossy());
        let (udp, tcp) = if self.backend == Backend::Tcp { (0, self.port) } else { (self.port, 0) };
        text += &format!("listen: {{udp_port: {udp}, tcp_port: {tcp}}}\n");
        if self.backend == Backend::Gro {
            text += "udp: {gro: on}\n";
        }
        text
    }

    fn report_file(&self) -> PathBuf {
        self.folder.join("report.json")
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
            "queues": [{"mode": "xdp-native-copy"}, {"mode": "socket"}]}"#;
        assert_eq!(taken(report, Backend::Xdp).unwrap(), Taken { datagrams: 7, events: 8 });
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
        let engine = |backend| Engine { program, folder, iface: "e0", cpu: 1, backend, port: 5 };
        assert!(engine(Backend::Xdp).config().contains("{udp_port: 5, tcp_port: 0}"));
        assert!(engine(Backend::Tcp).config().contains("{udp_port: 0, tcp_port: 5}"));
        assert!(engine(Backend::Gro).config().contains("gro: on"));
        assert!(engine(Backend::Tcp).config().contains("socket: /f/control.sock"));
    }
}
