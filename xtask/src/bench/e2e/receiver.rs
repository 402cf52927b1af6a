//! A receiver as a child process: started, waited for until it listens, asked what CPU time it took, ended.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver as Lines, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::process::{shown, terminate};
use crate::signals::Stop;
use crate::{Error, Result};

const READY: &str = "READY";
/// Loading a program takes well under a second; a verifier on a busy machine takes longer.
const READY_WITHIN: Duration = Duration::from_secs(30);
const ENDED_WITHIN: Duration = Duration::from_secs(30);
/// The kernel's unit of CPU time towards user space, `USER_HZ`: 100 on every architecture that has AF_XDP drivers.
const TICKS_PER_S: f64 = 100.0;

#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: Lines<String>,
}

impl Process {
    /// Starts it and waits until it says that it listens.
    pub fn start(mut command: Command, stop: &Stop) -> Result<Self> {
        let name = shown(&command);
        let mut child =
            command.stdout(Stdio::piped()).spawn().map_err(|error| Error::of_io(&format!("`{name}`"), &error))?;
        let stdout = child.stdout.take().ok_or_else(|| Error::failed(format!("`{name}` has no output")))?;
        let (say, lines) = mpsc::channel();
        // Ends with the pipe, which ends with the child.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
                // Nobody may listen any more; a full pipe would stop the child all the same.
                let _ = say.send(line);
            }
        });
        let process = Process { name, child, lines };
        process.wait_until_ready(stop)?;
        Ok(process)
    }

    fn wait_until_ready(&self, stop: &Stop) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) if line.starts_with(READY) => return Ok(()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::failed(format!("`{}` ended before it was ready", self.name)));
                }
            }
            if stop.requested() {
                return Err(Error::failed("interrupted"));
            }
            if Instant::now() > deadline {
                return Err(Error::failed(format!("`{}` was not ready in time", self.name)));
            }
        }
    }

    /// CPU time of all its threads so far, in seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).map_err(|error| Error::of_io(&path, &error))?;
        cpu_seconds(&text).ok_or_else(|| Error::failed(format!("{path}: not understood")))
    }

    /// Asks it to end, and returns what it said after it was ready.
    pub fn end(mut self) -> Result<Vec<String>> {
        let status = terminate(&mut self.child, ENDED_WITHIN)?;
        let lines = self.lines.iter().collect();
        if status.success() { Ok(lines) } else { Err(Error::failed(format!("`{}` ended with {status}", self.name))) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Asked first: what is attached to an interface should be taken off by who attached it.
            let _ = terminate(&mut self.child, ENDED_WITHIN);
        }
    }
}

/// User and system time of `/proc/PID/stat`: its 14th and 15th fields, counted from behind the name, in which anything may
/// stand.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / TICKS_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::bound_to_us;

    fn script(text: &str) -> Command {
        let mut command = bound_to_us("sh");
        command.args(["-c", text]);
        command
    }

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 1 2 3 4 150 25 7 8 20 0 1 0 5 6";
        assert_eq!(cpu_seconds(stat), Some(1.75));
        assert_eq!(cpu_seconds("42 (a) S 1"), None);
        assert_eq!(cpu_seconds(""), None);
    }

    #[test]
    fn a_receiver_is_waited_for_asked_and_ended() {
        let text = "echo early; trap 'echo last; exit 0' TERM; echo READY now; while :; do sleep 0.02; done";
        let process = Process::start(script(text), &Stop::default()).unwrap();
        assert!(process.cpu_seconds().unwrap() >= 0.0);
        assert_eq!(process.end().unwrap(), ["last"]);
    }

    #[test]
    fn a_receiver_that_cannot_start_or_fails_is_an_error() {
        let error = Process::start(script("exit 4"), &Stop::default()).unwrap_err();
        assert!(error.to_string().contains("before it was ready"), "{error}");
        let text = "trap 'exit 3' TERM; echo READY; while :; do sleep 0.02; done";
        let error = Process::start(script(text), &Stop::default()).unwrap().end().unwrap_err();
        assert!(error.to_string().contains('3'), "{error}");
    }
}
