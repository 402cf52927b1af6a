//! Others' servers: how they are started, and what they say they have taken in.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::case::Server;
use crate::process::{bound_to_us, capture, find_program};
use crate::{Error, Result};

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

impl Server {
    fn program_name(self) -> &'static str {
        match self {
            Server::Nats => "nats-server",
            Server::Redis => "redis-server",
        }
    }

    /// By the load program's name for it.
    pub fn protocol(self) -> &'static str {
        match self {
            Server::Nats => "nats",
            Server::Redis => "redis",
        }
    }

    /// `None` where it is not installed.
    pub fn program(self) -> Option<PathBuf> {
        find_program(self.program_name())
    }

    /// Name and version, or that it is absent.
    pub fn described(self) -> String {
        let name = self.program_name();
        match self.program() {
            None => format!("{name} absent"),
            Some(program) => {
                let said = capture(Command::new(program).arg("--version")).unwrap_or_default();
                format!("{name} {}", version(&said))
            }
        }
    }

    /// With nothing kept on disk; on one CPU, if one is given. `monitor` is a second port, for who asks over HTTP.
    pub fn command(self, cpu: Option<usize>, port: u16, monitor: u16, folder: &Path) -> Result<Command> {
        let missing = |name: &str| Error::failed(format!("{name} is not installed"));
        let program = self.program().ok_or_else(|| missing(self.program_name()))?;
        let mut command = match cpu {
            Some(cpu) => {
                let mut command = bound_to_us(find_program("taskset").ok_or_else(|| missing("taskset"))?);
                command.args(["-c", &cpu.to_string()]).arg(program);
                command
            }
            None => bound_to_us(program),
        };
        command.current_dir(folder).stderr(Stdio::null());
        let port = port.to_string();
        match self {
            Server::Nats => command.args(["-a", "127.0.0.1", "-p", &port, "-m", &monitor.to_string()]),
            Server::Redis => command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"]),
        };
        Ok(command)
    }

    /// Messages it has taken in, by its own count.
    pub fn messages(self, port: u16, monitor: u16) -> Result<u64> {
        let (said, count) = match self {
            Server::Nats => {
                let said = ask(monitor, "GET /varz HTTP/1.0\r\n\r\n")?;
                let count = in_msgs(&said);
                (said, count)
            }
            Server::Redis => {
                let said = ask(port, "INFO commandstats\r\nQUIT\r\n")?;
                let count = publish_calls(&said);
                (said, count)
            }
        };
        count.ok_or_else(|| {
            let start: String = said.chars().take(200).collect();
            Error::failed(format!("{} does not say what it has taken in: {start:?}", self.program_name()))
        })
    }
}

/// Everything that is answered until the server closes.
pub fn ask(port: u16, question: &str) -> Result<String> {
    let exchange = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(question.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    exchange().map_err(|error: std::io::Error| Error::of_io(&format!("asking the server on port {port}"), &error))
}

fn in_msgs(answer: &str) -> Option<u64> {
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str::<Value>(body).ok()?["in_msgs"].as_u64()
}

/// A server that has never been told to publish does not have the line.
fn publish_calls(answer: &str) -> Option<u64> {
    let (_, rest) = answer.split_once("cmdstat_publish:calls=")?;
    rest.split(',').next()?.parse().ok()
}

/// `nats-server: v2.9.10`, `Redis server v=7.0.15 sha=00000000:0 …`.
fn version(said: &str) -> &str {
    let of_word = |word: &'_ str| word.starts_with('v') && word.contains(|character: char| character.is_ascii_digit());
    let word = said.split_whitespace().find(|word| of_word(word));
    word.map_or("of unknown version", |word| word.trim_start_matches("v=").trim_start_matches('v'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_is_understood() {
        assert_eq!(in_msgs("HTTP/1.0 200 OK\r\nA: b\r\n\r\n{\"in_msgs\": 7, \"out_msgs\": 0}"), Some(7));
        assert_eq!(in_msgs("HTTP/1.0 404 Not Found\r\n\r\n"), None);
        assert_eq!(publish_calls("$9\r\n# Commandstats\r\ncmdstat_publish:calls=12,usec=3\r\n+OK\r\n"), Some(12));
        assert_eq!(publish_calls("+OK\r\n"), None);
        assert_eq!(version("nats-server: v2.9.10\n"), "2.9.10");
        assert_eq!(version("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64"), "7.0.15");
        assert_eq!(version(""), "of unknown version");
    }
}
