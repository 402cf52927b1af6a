//! The engine as a child process: started, waited for until it listens, asked for its ledger, ended.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{self, capture};
use crate::signals::Stop;
use crate::{Error, Result};

const READY: &str = "READY";
/// Registering memory and loading programs takes well under a second; a verifier on a busy machine takes longer.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// A drain is bounded by the engine's own configuration, which is shorter.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Settings {
    pub binary: PathBuf,
    pub config: PathBuf,
    /// Off: the engine uses the project's default configuration, and so does whoever asks it for its status.
    pub config_is_default: bool,
    pub iface: Option<String>,
    pub cpus: Option<String>,
    pub report: PathBuf,
}

#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    child: Child,
    ready: Receiver<String>,
    printer: Option<JoinHandle<()>>,
}

impl Engine {
    pub fn start(settings: Settings) -> Result<Self> {
        let mut command = process::bound_to_us(&settings.binary);
        command.arg("run").arg("--config").arg(&settings.config).arg("--report").arg(&settings.report);
        if let Some(iface) = &settings.iface {
            command.args(["--iface", iface]);
        }
        if let Some(cpus) = &settings.cpus {
            command.args(["--cpus", cpus]);
        }
        let _ = std::fs::remove_file(&settings.report);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Error::of_io(&settings.binary.display().to_string(), &error))?;
        let stdout = child.stdout.take().ok_or_else(|| Error::failed("the engine has no output"))?;
        let (say_ready, ready) = mpsc::channel();
        let printer = thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                // A closed terminal must not end this thread: the engine would block on a full pipe.
                let _ = std::io::stdout().write_all(&line);
                if line.starts_with(READY.as_bytes()) {
                    let _ = say_ready.send(String::from_utf8_lossy(&line).trim().to_owned());
                }
                line.clear();
            }
        });
        Ok(Engine { settings, child, ready, printer: Some(printer) })
    }

    /// Until everything listens. Returns the line that says so; `None` when a stop was asked for before.
    pub fn wait_until_ready(&mut self, stop: &Stop) -> Result<Option<String>> {
        let deadline = Instant::now() + READY_WITHIN;
        while !stop.requested() {
            match self.ready.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => return Ok(Some(line)),
                // Disconnected means that the output is closed, which an engine that ends does first.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if let Some(status) = self.exited()? {
                return Err(Error::failed(format!("the engine ended before it was ready: {status}")));
            }
            if Instant::now() > deadline {
                return Err(Error::failed(format!("the engine was not ready after {} s", READY_WITHIN.as_secs())));
            }
        }
        Ok(None)
    }

    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|error| Error::of_io("wait for the engine", &error))
    }

    /// The live ledger, with the keys of the report.
    pub fn status(&self) -> Result<Value> {
        let mut command = std::process::Command::new(&self.settings.binary);
        command.args(["status", "--json"]);
        if !self.settings.config_is_default {
            command.arg("--config").arg(&self.settings.config);
        }
        let text = capture(&mut command)?;
        serde_json::from_str(&text).map_err(|error| Error::failed(format!("the engine's status: {error}")))
    }

    /// Asks the engine to drain, and waits for its end and its last words.
    pub fn stop(mut self) -> Result<ExitStatus> {
        let status = process::terminate(&mut self.child, DRAINED_WITHIN)?;
        if let Some(printer) = self.printer.take() {
            let _ = printer.join();
        }
        Ok(status)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = process::terminate(&mut self.child, DRAINED_WITHIN);
        }
    }
}

/// Looks for `key=HOST:PORT` in the line that says the engine is ready.
pub fn port_of(ready: &str, key: &str) -> Option<u16> {
    let value = ready.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
    value.rsplit(':').next()?.trim_end_matches([',', ';']).parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    /// Written by another process: a test beside this one that forks while the file is open for writing here would make
    /// its execution fail as "text file busy".
    pub fn write_script(file: &Path, script: &str) {
        let write = "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"";
        let written = Command::new("sh").args(["-c", write, "sh"]).arg(file).arg(script).status().unwrap();
        assert!(written.success());
    }

    fn fake(name: &str, script: &str) -> Settings {
        let folder = std::env::temp_dir().join(format!("esc-engine-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let binary = folder.join("eventstream");
        write_script(&binary, script);
        let report = folder.join("report.json");
        let config = folder.join("config.yaml");
        Settings { binary, config, config_is_default: true, iface: None, cpus: None, report }
    }

    #[test]
    fn an_engine_is_waited_for_asked_and_drained() {
        let settings = fake(
            "whole",
            r#"if [ "$1" = status ]; then echo '{"seconds": 2}'; exit 0; fi
               trap 'echo "{}" > "$5"; exit 0' TERM
               echo "READY tcp=127.0.0.1:9001 udp=[::]:9002"
               while :; do sleep 0.02; done"#,
        );
        let report = settings.report.clone();
        let mut engine = Engine::start(settings).unwrap();
        let ready = engine.wait_until_ready(&Stop::default()).unwrap().unwrap();
        assert_eq!(
            (port_of(&ready, "tcp"), port_of(&ready, "udp"), port_of(&ready, "x")),
            (Some(9001), Some(9002), None)
        );
        assert_eq!(engine.status().unwrap()["seconds"], 2);
        assert!(engine.exited().unwrap().is_none());
        assert!(engine.stop().unwrap().success());
        assert_eq!(fs::read_to_string(report).unwrap(), "{}\n");
    }

    #[test]
    fn an_engine_that_cannot_start_is_an_error_at_once() {
        let mut engine = Engine::start(fake("broken", "exit 4")).unwrap();
        let error = engine.wait_until_ready(&Stop::default()).unwrap_err();
        assert!(error.to_string().contains('4'), "{error}");
    }
}
