//! A publisher and its subscribers in one thread: every message is to reach each of them once and in order.
//!
//! The publisher stays no more than so many bytes ahead of the slowest subscriber, so that no server has to drop anything: what is
//! compared is what passes through, and not what buffers hold.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use eventstream::frame::{FrameHeader, HEADER_BYTES, LENGTH_BYTES, Priority, encode};
use rustix::event::{PollFd, PollFlags, poll};

use super::{Cli, Protocol, Report, STALLED};
use crate::stop;

const READ_BYTES: usize = 256 << 10;
/// Writes that may be on their way to the slowest subscriber.
const AHEAD: u64 = 8;
/// Of a delivery, beside the frame as it was published.
const DELIVERY_BYTES: usize = 28;
const SUBSCRIPTION: &str = "1";

/// Publishes until the time is over, and waits for the rest.
pub(super) fn run(
    cli: &Cli,
    remote: SocketAddr,
    subscribers: u32,
    mut step: impl FnMut(&str) -> Result<(), String>,
) -> Result<Report, String> {
    let wire = Wire::of(cli)?;
    let mut readers = (0..subscribers).map(|_| Reader::subscribe(&wire, remote)).collect::<Result<Vec<_>, _>>()?;
    let stopped = (0..cli.stopped).map(|_| Reader::subscribe(&wire, remote)).collect::<Result<Vec<_>, _>>()?;
    let mut writer = Writer::connect(cli, &wire, remote)?;
    step("READY")?;
    let (began, time) = (Instant::now(), Duration::from_secs_f64(cli.seconds));
    let mut heard_at = Instant::now();
    loop {
        let slowest = readers.iter().map(|reader| reader.received).min().unwrap_or(writer.sent);
        let is_over = began.elapsed() >= time || stop::is_requested();
        if is_over && writer.left.is_empty() && slowest == writer.sent {
            break;
        }
        if !is_over && writer.left.is_empty() && writer.sent - slowest <= (AHEAD - 1) * writer.messages {
            writer.fill();
        }
        let mut moved = writer.write()?;
        for reader in &mut readers {
            moved |= reader.read(&wire)?;
        }
        if moved {
            heard_at = Instant::now();
        } else if heard_at.elapsed() > STALLED {
            return Err(format!("nothing moved for {} s: {slowest} of {} arrived", STALLED.as_secs(), writer.sent));
        } else {
            wait(&writer, &readers)?;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(stopped);
    step("SENT")?;
    Ok(Report {
        seconds,
        sent_events: writer.sent,
        rate_events_per_s: writer.sent as f64 / seconds,
        behind_events: 0,
        write_bytes: writer.batch.len(),
        connections: readers.len() + 1,
        latency_ns: None,
    })
}

/// Sleeps until something can be read, or written where something is left.
fn wait(writer: &Writer, readers: &[Reader]) -> Result<(), String> {
    let mut files: Vec<PollFd<'_>> =
        readers.iter().map(|reader| PollFd::from_borrowed_fd(reader.stream.as_fd(), PollFlags::IN)).collect();
    let wanted = if writer.left.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
    files.push(PollFd::from_borrowed_fd(writer.stream.as_fd(), wanted));
    match poll(&mut files, Some(&stop::LOOK)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(std::io::Error::from(error).to_string()),
    }
}

/// How messages look on their way in and out.
struct Wire {
    protocol: Protocol,
    topic: String,
    payload_bytes: usize,
    /// What goes before the payload of a message that is delivered, as far as it is always the same.
    delivered_before: usize,
    /// Of a message that is delivered, with everything.
    delivered_bytes: usize,
}

impl Wire {
    fn of(cli: &Cli) -> Result<Self, String> {
        let payload_bytes = usize::from(cli.payload_bytes);
        if payload_bytes < 8 {
            return Err("--payload-bytes: with subscribers each payload has a number of eight bytes".to_owned());
        }
        let topic = cli.topic.clone();
        let (delivered_before, behind) = match cli.protocol {
            Protocol::Eventstream => (LENGTH_BYTES + HEADER_BYTES + DELIVERY_BYTES + topic.len(), 0),
            Protocol::Nats => (format!("MSG {topic} {SUBSCRIPTION} {payload_bytes}\r\n").len(), 2),
            Protocol::Redis => return Err("--subscribers: for eventstream and nats".to_owned()),
        };
        let delivered_bytes = delivered_before + payload_bytes + behind;
        Ok(Self { protocol: cli.protocol, topic, payload_bytes, delivered_before, delivered_bytes })
    }

    /// A message and where its number is.
    fn message(&self) -> (Vec<u8>, usize) {
        let payload = vec![b'.'; self.payload_bytes];
        match self.protocol {
            Protocol::Nats => {
                let message = self.protocol.message(0, &self.topic, &payload);
                let at = message.len() - 2 - self.payload_bytes;
                (message, at)
            }
            _ => {
                let mut message = Vec::new();
                encode(&mut message, &FrameHeader::new(Priority::High), self.topic.as_bytes(), &payload);
                let at = message.len() - self.payload_bytes;
                (message, at)
            }
        }
    }

    fn subscription(&self) -> Vec<u8> {
        match self.protocol {
            Protocol::Nats => {
                let greeting = String::from_utf8_lossy(self.protocol.greeting()).into_owned();
                format!("{greeting}SUB {} {SUBSCRIPTION}\r\nPING\r\n", self.topic).into_bytes()
            }
            _ => {
                let mut request = Vec::new();
                let asked = format!(r#"{{"sub":{SUBSCRIPTION},"filter":"{}"}}"#, self.topic);
                encode(&mut request, &FrameHeader::new(Priority::High), b"$esc/subscribe", asked.as_bytes());
                request
            }
        }
    }

    /// How many bytes say that there is a subscription, once all of them have come.
    fn answer(&self, bytes: &[u8]) -> Result<Option<usize>, String> {
        match self.protocol {
            Protocol::Nats => {
                let end = bytes.windows(6).position(|part| part == b"PONG\r\n");
                Ok(end.map(|at| at + 6))
            }
            _ => {
                let Some((length, body)) = bytes.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
                let length = u32::from_be_bytes(*length) as usize;
                let Some(body) = body.get(..length) else { return Ok(None) };
                if body[HEADER_BYTES..].starts_with(b"$esc/ok") {
                    return Ok(Some(LENGTH_BYTES + length));
                }
                Err(format!("no subscription: {:?}", String::from_utf8_lossy(body)))
            }
        }
    }
}

fn open(remote: SocketAddr) -> Result<TcpStream, String> {
    let open = || {
        let stream = TcpStream::connect(remote)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STALLED))?;
        std::io::Result::Ok(stream)
    };
    open().map_err(|error| format!("connecting to {remote}: {error}"))
}

struct Writer {
    stream: TcpStream,
    batch: Vec<u8>,
    messages: u64,
    message_bytes: usize,
    number_at: usize,
    sent: u64,
    /// Of the batch, what is still to be written.
    left: std::ops::Range<usize>,
}

impl Writer {
    fn connect(cli: &Cli, wire: &Wire, remote: SocketAddr) -> Result<Self, String> {
        let mut stream = open(remote)?;
        stream.write_all(wire.protocol.greeting()).map_err(|error| error.to_string())?;
        stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        let (message, number_at) = wire.message();
        let messages = (cli.write_bytes as usize / message.len()).max(1);
        let batch = message.repeat(messages);
        let (messages, message_bytes) = (messages as u64, message.len());
        Ok(Self { stream, batch, messages, message_bytes, number_at, sent: 0, left: 0..0 })
    }

    /// Numbers the next messages.
    fn fill(&mut self) {
        for message in self.batch.chunks_exact_mut(self.message_bytes) {
            message[self.number_at..self.number_at + 8].copy_from_slice(&self.sent.to_be_bytes());
            self.sent += 1;
        }
        self.left = 0..self.batch.len();
    }

    /// Writes what is taken. Returns whether something was.
    fn write(&mut self) -> Result<bool, String> {
        if self.left.is_empty() {
            return Ok(false);
        }
        match self.stream.write(&self.batch[self.left.clone()]) {
            Ok(count) => {
                self.left.start += count;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(format!("publishing: {error}")),
        }
    }
}

struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    received: u64,
}

impl Reader {
    fn subscribe(wire: &Wire, remote: SocketAddr) -> Result<Self, String> {
        let mut stream = open(remote)?;
        stream.write_all(&wire.subscription()).map_err(|error| error.to_string())?;
        let mut this = Self { stream, buffer: vec![0; READ_BYTES], filled: 0, received: 0 };
        loop {
            if let Some(end) = wire.answer(&this.buffer[..this.filled])? {
                this.buffer.copy_within(end..this.filled, 0);
                this.filled -= end;
                break;
            }
            let count = this.stream.read(&mut this.buffer[this.filled..]).map_err(|error| error.to_string())?;
            if count == 0 {
                return Err("the server has closed before there was a subscription".to_owned());
            }
            this.filled += count;
        }
        this.stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        Ok(this)
    }

    /// Takes what has come and looks at each number. Returns whether something has.
    fn read(&mut self, wire: &Wire) -> Result<bool, String> {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => return Err(format!("the server has closed a subscriber after {} messages", self.received)),
            Ok(count) => self.filled += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(false),
            Err(error) => return Err(format!("a subscriber: {error}")),
        }
        let mut at = 0;
        loop {
            let rest = &self.buffer[at..self.filled];
            if wire.protocol == Protocol::Nats && rest.starts_with(b"PING\r\n") {
                at += 6;
                self.stream.write_all(b"PONG\r\n").map_err(|error| error.to_string())?;
                continue;
            }
            let Some(message) = rest.get(..wire.delivered_bytes) else { break };
            let number = message[wire.delivered_before..].first_chunk().map(|number| u64::from_be_bytes(*number));
            if number != Some(self.received) {
                let start = String::from_utf8_lossy(&message[..message.len().min(60)]).into_owned();
                return Err(format!("message {number:?} where {} was to come: {start:?}", self.received));
            }
            self.received += 1;
            at += wire.delivered_bytes;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(true)
    }
}
