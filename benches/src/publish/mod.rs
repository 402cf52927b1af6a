//! The same messages over TCP to different servers, so that they can be compared.
//!
//! ```text
//!   protocol    what a message, the beginning and the end look like to each server
//!   connection  a socket that writes a batch whole, and reads the answers meanwhile
//!   fan         a publisher with subscribers, who look at each message
//!   acknowledged  asks for an acknowledgement of each message, and waits for them
//! ```
//!
//! A batch of messages is made once and sent again and again, from the kernel's own memory: what is compared is the servers, and a
//! sender that has nothing to do but to write, and not even to copy, is none of them. Over several connections it writes one batch to each in turn.
//!
//! One thread. A server that does not read stops it; one that reads nothing for [`STALLED`] fails the run.

mod acknowledged;
mod connection;
mod fan;
mod protocol;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;

pub use protocol::Protocol;

use self::connection::{Batch, Connection};
use crate::guard;
use crate::options::{EventRate, parse_rate, parse_seconds};
use crate::pace::{RATE_MAX, Rate, Schedule};
use crate::receive::Latency;
use crate::stop;

/// How long a server may leave everything unread, or unanswered at the end.
const STALLED: Duration = Duration::from_secs(10);

/// Publishes messages of one topic as fast as they are taken, or at a rate. Says READY once it is connected and SENT once
/// it has sent, and goes on each time when it is given a line, or the end of its input. SIGINT or SIGTERM ends it early.
#[derive(Debug, Parser)]
#[command(name = "publish", version)]
pub struct Cli {
    pub protocol: Protocol,
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub dst: IpAddr,
    /// Allow destinations outside loopback, 198.18.0.0/15 and fc00::/7.
    #[arg(long)]
    pub i_own_this_network: bool,
    #[arg(long, value_name = "PORT")]
    pub port: u16,
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Messages a second over all connections.
    #[arg(long, value_name = "MESSAGES_PER_S|max", default_value = "max", value_parser = parse_rate)]
    pub rate: EventRate,
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Bytes of a write, or as many less as whole messages leave.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1_024..=1_048_576))]
    pub write_bytes: u32,
    #[arg(long, value_name = "TEXT", default_value = "load/000000", value_parser = parse_topic)]
    pub topic: String,
    #[arg(long, value_name = "N", default_value_t = 44, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub payload_bytes: u16,
    /// Ask for an acknowledgement of each message, and have no more than so many outstanding; over one connection, for
    /// `eventstream`, as fast as they come.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8_192))]
    pub outstanding: Option<u32>,
    /// Subscribe over so many connections as well, and look at each message there; for `eventstream` and `nats`, over one
    /// connection, as fast as they come through.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub subscribers: Option<u32>,
    /// Of further connections that subscribe, and read nothing.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "subscribers", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub stopped: u32,
    /// Run on this CPU only.
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
}

/// Printed as one JSON object, whose keys stay.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Report {
    /// From the first write until the server had taken in everything; with a rate, until the last write.
    pub seconds: f64,
    pub sent_events: u64,
    pub rate_events_per_s: f64,
    /// Messages that were due and not sent, because sender or server could not keep up with the rate.
    pub behind_events: u64,
    pub write_bytes: usize,
    pub connections: usize,
    /// From the writing of a message to its acknowledgement; where those are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ns: Option<Latency>,
}

/// Connects, sends and takes leave. `step` is told what has been done, and comes back when it is time to go on.
pub fn run(cli: &Cli, mut step: impl FnMut(&str) -> Result<(), String>) -> Result<Report, String> {
    if !cli.i_own_this_network {
        guard::check_destination(cli.dst).map_err(|refused| refused.to_string())?;
    }
    stop::on_signals().map_err(|error| format!("installing signal handlers: {error}"))?;
    crate::run::pin(cli.cpu)?;
    let remote = SocketAddr::new(cli.dst, cli.port);
    if let Some(outstanding) = cli.outstanding {
        if cli.protocol != Protocol::Eventstream {
            return Err("--outstanding: only eventstream acknowledges messages like this".to_owned());
        }
        return acknowledged::run(cli, remote, outstanding, step);
    }
    if let Some(subscribers) = cli.subscribers {
        return fan::run(cli, remote, subscribers, step);
    }
    let (batch, messages) = batch(cli);
    let batch = Batch::new(&batch, messages).map_err(|error| format!("memory for a batch: {error}"))?;
    let rate = rate(cli.rate, messages)?;
    let connect = |index| {
        Connection::open(cli.protocol, remote).map_err(|error| format!("connection {} to {remote}: {error}", index + 1))
    };
    let mut connections = (0..cli.connections).map(connect).collect::<Result<Vec<_>, _>>()?;
    step("READY")?;
    let started = Instant::now();
    let mut schedule = Schedule::start(rate, cli.seconds, u64::MAX, false);
    send(&mut connections, &batch, &mut schedule)?;
    schedule.stop();
    let mut seconds = schedule.elapsed().as_secs_f64();
    // Who is as fast as the server is done when the server is; who has a pace is done, and its server has long been.
    if rate == Rate::Max {
        finish(&mut connections)?;
        seconds = started.elapsed().as_secs_f64();
    }
    step("SENT")?;
    if rate != Rate::Max {
        finish(&mut connections)?;
    }
    let sent_events = connections.iter().map(|connection| connection.sent).sum();
    Ok(Report {
        seconds,
        sent_events,
        rate_events_per_s: sent_events as f64 / seconds,
        behind_events: schedule.behind() * messages,
        write_bytes: batch.bytes,
        connections: connections.len(),
        latency_ns: None,
    })
}

/// As many messages as a write has room for, which is at least one, and their number.
fn batch(cli: &Cli) -> (Vec<u8>, u64) {
    let payload = vec![b'.'; usize::from(cli.payload_bytes)];
    let (mut batch, mut count) = (Vec::new(), 0);
    loop {
        let message = cli.protocol.message(count, &cli.topic, &payload);
        if batch.len() + message.len() > cli.write_bytes as usize {
            return (batch, count);
        }
        batch.extend(message);
        count += 1;
    }
}

fn rate(EventRate(events): EventRate, messages: u64) -> Result<Rate, String> {
    match events.map(|events| events / messages as f64) {
        None => Ok(Rate::Max),
        Some(writes) if writes > 0.0 && writes <= RATE_MAX => Ok(Rate::DatagramsPerS(writes)),
        Some(writes) => Err(format!("--rate: {writes} writes a second is not within 0 and {RATE_MAX:e}")),
    }
}

fn send(connections: &mut [Connection], batch: &Batch, schedule: &mut Schedule) -> Result<(), String> {
    for index in (0..connections.len()).cycle() {
        if schedule.next(1).is_none() {
            break;
        }
        connections[index].send(batch).map_err(|error| format!("connection {}: {error}", index + 1))?;
    }
    Ok(())
}

/// All are told first, so that they are waited for together.
fn finish(connections: &mut [Connection]) -> Result<(), String> {
    let of = |index: usize, result: Result<(), String>| {
        result.map_err(|error| format!("taking leave of connection {}: {error}", index + 1))
    };
    connections.iter_mut().enumerate().try_for_each(|(index, connection)| of(index, connection.say_farewell()))?;
    connections.iter_mut().enumerate().try_for_each(|(index, connection)| of(index, connection.wait_for_farewell()))
}

/// What every protocol can carry as it is.
fn parse_topic(text: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-".contains(&byte);
    if (1..=200).contains(&text.len()) && text.bytes().all(is_allowed) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 200 letters, digits, '/', '_' or '-'".to_owned())
    }
}

#[cfg(test)]
mod tests;
