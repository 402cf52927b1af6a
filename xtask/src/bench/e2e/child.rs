//! A program that takes part in a measurement, as a child process: started, waited for, asked what CPU time it took, ended.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver as Lines, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::process::{shown, terminate, wait};
use crate::signals::Stop;
use crate::{Error, Result};

const READY: &str = "READY";
/// Loading a program takes well under a second; a verifier on a busy machine takes longer.
const READY_WITHIN: Duration = Duration::from_secs(30);
const ENDED_WITHIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: Lines<String>,
    stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts it and waits until it says that it is ready.
    pub fn start(command: Command, stop: &Stop) -> Result<Self> {
        let process = Self::spawn(command)?;
        process.wait_for(READY, READY_WITHIN, stop)?;
        Ok(process)
    }

    /// Starts a server that says nothing of the kind, and waits until it can be connected to.
    pub fn start_server(command: Command, port: u16, stop: &Stop) -> Result<Self> {
        let mut process = Self::spawn(command)?;
        let deadline = Instant::now() + READY_WITHIN;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = wait(&mut process.child, Instant::now() + LOOK, Some(stop))? {
                return Err(Error::failed(format!("`{}`: {status} before it could be connected to", process.name)));
            }
            process.check(deadline, stop)?;
        }
        Ok(process)
    }

    fn spawn(mut command: Command) -> Result<Self> {
        let name = shown(&command);
        let mut child =
            command.stdout(Stdio::piped()).spawn().map_err(|error| Error::of_io(&format!("`{name}`"), &error))?;
        let stdout = child.stdout.take().ok_or_else(|| Error::failed(format!("`{name}` has no output")))?;
        let stdin = child.stdin.take();
        let (say, lines) = mpsc::channel();
        // Ends with the pipe, which ends with the child.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
                // Nobody may listen any more; a full pipe would stop the child all the same.
                let _ = say.send(line);
            }
        });
        Ok(Process { name, child, lines, stdin })
    }

    /// Waits until it says a line that begins with `word`.
    pub fn wait_for(&self, word: &str, within: Duration, stop: &Stop) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            match self.lines.recv_timeout(LOOK) {
                Ok(line) if line.starts_with(word) => return Ok(()),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::failed(format!("`{}` ended before it said {word}", self.name)));
                }
            }
            self.check(deadline, stop)?;
        }
    }

    fn check(&self, deadline: Instant, stop: &Stop) -> Result<()> {
        if stop.requested() {
            return Err(Error::failed("interrupted"));
        }
        if Instant::now() > deadline {
            return Err(Error::failed(format!("`{}` was not ready in time", self.name)));
        }
        Ok(())
    }

    /// Gives it a line of input, for which it has been waiting.
    pub fn go_on(&mut self) -> Result<()> {
        let Some(stdin) = &mut self.stdin else {
            return Err(Error::failed(format!("`{}` has no input", self.name)));
        };
        stdin.write_all(b"\n").map_err(|error| Error::of_io(&format!("`{}`", self.name), &error))
    }

    /// CPU time of its threads so far, in seconds. By the scheduler, whose figures are finer than the 10 ms of
    /// `/proc/PID/stat`; threads that have ended are not in it.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let path = format!("/proc/{}/task", self.child.id());
        let threads = fs::read_dir(&path).map_err(|error| Error::of_io(&path, &error))?;
        let mut sum = 0;
        for thread in threads.flatten() {
            // One that has ended since it was listed is none any more.
            let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
            sum += cpu_ns(&text).ok_or_else(|| Error::failed(format!("{path}/*/schedstat: not understood")))?;
        }
        Ok(sum as f64 / 1e9)
    }

    /// Asks it to end, and returns what it said and nobody has heard yet.
    pub fn end(mut self) -> Result<Vec<String>> {
        let status = terminate(&mut self.child, ENDED_WITHIN)?;
        self.said(status)
    }

    /// The same, of one that ends by itself.
    pub fn ended(mut self, stop: &Stop) -> Result<Vec<String>> {
        match wait(&mut self.child, Instant::now() + ENDED_WITHIN, Some(stop))? {
            Some(status) => self.said(status),
            None => Err(Error::failed(format!("`{}` did not end", self.name))),
        }
    }

    fn said(&self, status: std::process::ExitStatus) -> Result<Vec<String>> {
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

/// The first of `schedstat`'s numbers: nanoseconds spent on a CPU.
fn cpu_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
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
    fn cpu_time_is_the_first_number() {
        assert_eq!(cpu_ns("1750 25 7\n"), Some(1_750));
        assert_eq!(cpu_ns(""), None);
        assert_eq!(cpu_ns("a 1 2"), None);
    }

    #[test]
    fn a_receiver_is_waited_for_asked_and_ended() {
        let text = "echo early; trap 'echo last; exit 0' TERM; echo READY now; while :; do sleep 0.02; done";
        let process = Process::start(script(text), &Stop::default()).unwrap();
        assert!(process.cpu_seconds().unwrap() > 0.0);
        assert_eq!(process.end().unwrap(), ["last"]);
    }

    #[test]
    fn one_that_waits_goes_on_when_it_is_told_and_ends_by_itself() {
        let mut command = script("echo READY; read line; echo first; echo SENT; read line; echo second");
        command.stdin(Stdio::piped());
        let (stop, within) = (Stop::default(), Duration::from_secs(10));
        let mut process = Process::start(command, &stop).unwrap();
        process.go_on().unwrap();
        process.wait_for("SENT", within, &stop).unwrap();
        process.go_on().unwrap();
        assert_eq!(process.ended(&stop).unwrap(), ["second"]);
        assert!(Process::start(script("echo READY; exit"), &stop).unwrap().go_on().is_err(), "it has no input");
    }

    #[test]
    fn a_server_is_waited_for_until_it_can_be_connected_to() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        Process::start_server(script("exec sleep 30"), port, &Stop::default()).unwrap();
        drop(listener);
        let error = Process::start_server(script("exit 7"), port, &Stop::default()).unwrap_err();
        assert!(error.to_string().contains('7'), "{error}");
    }

    #[test]
    fn a_receiver_that_cannot_start_or_fails_is_an_error() {
        let error = Process::start(script("exit 4"), &Stop::default()).unwrap_err();
        assert!(error.to_string().contains("before it said READY"), "{error}");
        let text = "trap 'exit 3' TERM; echo READY; while :; do sleep 0.02; done";
        let error = Process::start(script(text), &Stop::default()).unwrap().end().unwrap_err();
        assert!(error.to_string().contains('3'), "{error}");
    }
}
