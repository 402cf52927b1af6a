//! `eventstream send`: events from the command line, standard input or a file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, ValueEnum};
use eventstream_client::{Acknowledgement, Message, Priority, Publisher, Receipt, UdpPublisher};
use serde::{Deserialize, Serialize};

use super::{ADDRESS, failed};

/// Publishes events and waits for their acknowledgements. Ends with 0 when all were taken, 1 when one was dead-lettered or lost, 2 when
/// they could not be sent.
#[derive(Args)]
pub struct SendOptions {
    /// Topic of all events; left out with --json.
    topic: Option<String>,
    /// Payload of the one event; without it, it is read.
    payload: Option<String>,
    #[arg(long, value_name = "HOST:PORT", default_value = ADDRESS)]
    address: String,
    #[arg(long, value_enum, default_value_t = Level::Medium)]
    priority: Level,
    /// Read from here instead of standard input.
    #[arg(long, value_name = "PATH", conflicts_with = "payload")]
    file: Option<PathBuf>,
    /// Each line is an event.
    #[arg(long, conflicts_with = "payload")]
    lines: bool,
    /// Each line is an event as a JSON object: topic, payload or payload_base64, and if wanted priority and id (32 hex digits). Says what
    /// became of each in the same way.
    #[arg(long, conflicts_with_all = ["topic", "payload"])]
    json: bool,
    /// As UDP datagrams, of which nobody says what became of them.
    #[arg(long)]
    udp: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Level {
    Batch,
    Low,
    Medium,
    High,
    Critical,
}

impl From<Level> for Priority {
    fn from(level: Level) -> Self {
        match level {
            Level::Batch => Self::Batch,
            Level::Low => Self::Low,
            Level::Medium => Self::Medium,
            Level::High => Self::High,
            Level::Critical => Self::Critical,
        }
    }
}

struct Event {
    topic: String,
    payload: Vec<u8>,
    priority: Priority,
    id: Option<[u8; 16]>,
}

/// As a line of JSON has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    topic: String,
    payload: Option<String>,
    payload_base64: Option<String>,
    priority: Option<Level>,
    id: Option<String>,
}

impl Line {
    fn event(self, priority: Level) -> Result<Event, String> {
        let payload = match (self.payload, self.payload_base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => BASE64.decode(text).map_err(|error| format!("payload_base64: {error}"))?,
            _ => return Err("either payload or payload_base64 says what is sent".to_owned()),
        };
        let id = self.id.map(|text| id(&text)).transpose()?;
        Ok(Event { topic: self.topic, payload, priority: self.priority.unwrap_or(priority).into(), id })
    }
}

fn id(text: &str) -> Result<[u8; 16], String> {
    let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten();
    number.map(u128::to_be_bytes).ok_or_else(|| format!("id `{text}`: an id has 32 hex digits"))
}

/// What became of an event, as a line of JSON.
#[derive(Serialize)]
struct Answer<'a> {
    id: String,
    status: String,
    reason: Option<&'a str>,
    duplicate: bool,
}

/// Over which events go.
enum Way {
    Tcp { publisher: Publisher, receipts: VecDeque<Receipt> },
    Udp(UdpPublisher),
}

struct Sending<'o> {
    options: &'o SendOptions,
    way: Way,
    sent: u64,
    /// Not taken, or not known to be.
    bad: u64,
}

impl SendOptions {
    pub fn run(&self) -> Result<ExitCode, String> {
        let mut sending = Sending::new(self)?;
        match (&self.topic, &self.payload) {
            (Some(topic), Some(payload)) => sending.send(&self.event(topic, payload.as_bytes().to_vec()))?,
            (topic, _) => self.read(topic.as_deref(), |event| sending.send(&event))?,
        }
        sending.end()
    }

    fn event(&self, topic: &str, payload: Vec<u8>) -> Event {
        Event { topic: topic.to_owned(), payload, priority: self.priority.into(), id: None }
    }

    /// Reads events where it is told to.
    fn read(&self, topic: Option<&str>, mut send: impl FnMut(Event) -> Result<(), String>) -> Result<(), String> {
        let name = self.file.as_deref().map_or("standard input".into(), Path::to_string_lossy);
        let fail = |error: io::Error| format!("{name}: {error}");
        let mut input: Box<dyn BufRead> = match &self.file {
            Some(path) => Box::new(BufReader::new(File::open(path).map_err(fail)?)),
            None => Box::new(io::stdin().lock()),
        };
        let missing = || "a topic is needed, or --json with one in each line".to_owned();
        if !self.lines && !self.json {
            let mut payload = Vec::new();
            input.read_to_end(&mut payload).map_err(fail)?;
            return send(self.event(topic.ok_or_else(missing)?, payload));
        }
        let (mut line, mut number) = (Vec::new(), 0u64);
        while input.read_until(b'\n', &mut line).map_err(fail)? > 0 {
            number += 1;
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let event = if self.json {
                let parsed = serde_json::from_slice::<Line>(text).map_err(|error| error.to_string());
                parsed
                    .and_then(|parsed| parsed.event(self.priority))
                    .map_err(|error| format!("{name}:{number}: {error}"))?
            } else {
                self.event(topic.ok_or_else(missing)?, text.to_vec())
            };
            send(event)?;
            line.clear();
        }
        Ok(())
    }
}

impl<'o> Sending<'o> {
    fn new(options: &'o SendOptions) -> Result<Self, String> {
        let address = options.address.as_str();
        let way = if options.udp {
            Way::Udp(UdpPublisher::new(address).map_err(|error| failed(address, &error))?)
        } else {
            let publisher = Publisher::new(address).map_err(|error| failed(address, &error))?;
            Way::Tcp { publisher, receipts: VecDeque::new() }
        };
        Ok(Self { options, way, sent: 0, bad: 0 })
    }

    fn send(&mut self, event: &Event) -> Result<(), String> {
        let address = self.options.address.as_str();
        let message = Message::new(&event.topic, &event.payload).priority(event.priority);
        let message = event.id.map_or(message, |id| message.id(id));
        self.sent += 1;
        match &mut self.way {
            Way::Udp(publisher) => publisher.publish(message).map_err(|error| failed(address, &error))?,
            Way::Tcp { publisher, receipts } => {
                receipts.push_back(publisher.publish(message).map_err(|error| failed(address, &error))?);
                // What has been answered is told at once, and takes no memory.
                while let Some(outcome) = receipts.front().and_then(|first| first.wait_for(std::time::Duration::ZERO)) {
                    receipts.pop_front();
                    self.bad += say(self.options.json, outcome.as_ref().map_err(|error| failed(address, error)))?;
                }
            }
        }
        Ok(())
    }

    /// Waits for the rest.
    fn end(mut self) -> Result<ExitCode, String> {
        let address = self.options.address.as_str();
        match self.way {
            Way::Udp(publisher) => publisher.flush().map_err(|error| failed(address, &error))?,
            Way::Tcp { receipts, publisher } => {
                for receipt in receipts {
                    self.bad +=
                        say(self.options.json, receipt.wait().as_ref().map_err(|error| failed(address, error)))?;
                }
                drop(publisher);
            }
        }
        if self.bad > 0 {
            eprintln!("eventstream: {} of {} events were not taken as they should be", self.bad, self.sent);
        }
        Ok(if self.bad > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
    }
}

/// Says what became of an event: all in JSON, in words only what is not well. Returns how many bad ones that were.
fn say(json: bool, outcome: Result<&Acknowledgement, String>) -> Result<u64, String> {
    let told = outcome?;
    let id: String = told.id.iter().map(|byte| format!("{byte:02x}")).collect();
    let status = snake(&format!("{:?}", told.status));
    let reason = told.reason.as_deref();
    if json {
        let line = serde_json::to_string(&Answer { id, status, reason, duplicate: told.is_duplicate });
        writeln!(io::stdout(), "{}", line.unwrap_or_default()).map_err(|error| error.to_string())?;
    } else if !told.is_ok() {
        eprintln!("eventstream: event {id}: {status}{}", reason.map_or(String::new(), |reason| format!(", {reason}")));
    }
    Ok(u64::from(!told.is_ok()))
}

/// `DeadLettered` as `dead_lettered`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(character.to_ascii_lowercase());
    }
    out
}
