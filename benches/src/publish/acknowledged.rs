//! A publisher that asks for an acknowledgement of every message, and has no more than so many outstanding.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use eventstream::frame::{FLAG_ACK, FrameHeader, HEADER_BYTES, LENGTH_BYTES, Priority, encode};
use hdrhistogram::Histogram;

use super::{Cli, Report, STALLED};
use crate::receive::Latency;
use crate::stop;

/// Longer than a server may leave everything unanswered.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// Of one acknowledgement: status, reason, ordinal, id.
const ACK_BYTES: usize = 26;
const ORDINAL_AT: usize = 2;
/// Statuses of events that have ended well: durable, written, processed.
const ENDED_WELL: std::ops::RangeInclusive<u8> = 1..=3;

/// Read in one go: all that may be answered at once.
const ANSWER_BYTES: usize = 256 << 10;

/// Sends until the time is over, and waits for the rest of the answers.
pub(super) fn run(
    cli: &Cli,
    remote: SocketAddr,
    outstanding: u32,
    mut step: impl FnMut(&str) -> Result<(), String>,
) -> Result<Report, String> {
    let mut publisher = Publisher::connect(cli, remote, outstanding as usize).map_err(|error| error.to_string())?;
    step("READY")?;
    let (began, time) = (Instant::now(), Duration::from_secs_f64(cli.seconds));
    while began.elapsed() < time && !stop::is_requested() {
        publisher.fill().and_then(|()| publisher.read()).map_err(|error| error.to_string())?;
    }
    while publisher.acknowledged < publisher.sent {
        publisher.read().map_err(|error| error.to_string())?;
    }
    let seconds = began.elapsed().as_secs_f64();
    step("SENT")?;
    let at = |share| publisher.ages.value_at_quantile(share);
    let (count, max) = (publisher.ages.len(), publisher.ages.max());
    Ok(Report {
        seconds,
        sent_events: publisher.sent,
        rate_events_per_s: publisher.sent as f64 / seconds,
        behind_events: 0,
        write_bytes: publisher.message.len(),
        connections: 1,
        latency_ns: Some(Latency { count, p50: at(0.5), p99: at(0.99), p999: at(0.999), max }),
    })
}

struct Publisher {
    stream: TcpStream,
    answers: BufReader<TcpStream>,
    message: Vec<u8>,
    batch: Vec<u8>,
    sent: u64,
    acknowledged: u64,
    /// When each outstanding message was sent, by its ordinal in turns.
    sent_at: Vec<Instant>,
    ages: Histogram<u64>,
}

impl Publisher {
    fn connect(cli: &Cli, remote: SocketAddr, outstanding: usize) -> std::io::Result<Self> {
        let stream = TcpStream::connect(remote)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STALLED))?;
        let mut message = Vec::new();
        let header = FrameHeader { flags: FLAG_ACK, ..FrameHeader::new(Priority::Medium) };
        encode(&mut message, &header, cli.topic.as_bytes(), &vec![b'.'; usize::from(cli.payload_bytes)]);
        Ok(Self {
            answers: BufReader::with_capacity(ANSWER_BYTES, stream.try_clone()?),
            stream,
            batch: Vec::with_capacity(outstanding * message.len()),
            message,
            sent: 0,
            acknowledged: 0,
            sent_at: vec![Instant::now(); outstanding],
            ages: Histogram::new_with_max(LATENCY_MAX_NS, 3).map_err(std::io::Error::other)?,
        })
    }

    /// Sends as many as may be outstanding.
    fn fill(&mut self) -> std::io::Result<()> {
        let limit = self.sent_at.len() as u64;
        let now = Instant::now();
        self.batch.clear();
        while self.sent - self.acknowledged < limit {
            self.sent_at[(self.sent % limit) as usize] = now;
            self.batch.extend_from_slice(&self.message);
            self.sent += 1;
        }
        self.stream.write_all(&self.batch)
    }

    /// Reads one frame of answers.
    fn read(&mut self) -> std::io::Result<()> {
        let mut length = [0; LENGTH_BYTES];
        self.answers.read_exact(&mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.answers.read_exact(&mut body)?;
        let refused = || std::io::Error::other(format!("no acknowledgements: {:?}", String::from_utf8_lossy(&body)));
        let (head, rest) = body.split_at_checked(HEADER_BYTES).ok_or_else(refused)?;
        let topic_length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let (topic, acks) = rest.split_at_checked(topic_length).ok_or_else(refused)?;
        let (acks, []) = acks.as_chunks::<ACK_BYTES>() else { return Err(refused()) };
        if topic != b"$esc/ack" || acks.iter().any(|ack| !ENDED_WELL.contains(&ack[0])) {
            return Err(refused());
        }
        let now = Instant::now();
        for ack in acks {
            let ordinal = u64::from_be_bytes(std::array::from_fn(|index| ack[ORDINAL_AT + index]));
            let sent_at = self.sent_at[(ordinal % self.sent_at.len() as u64) as usize];
            self.ages.saturating_record(now.saturating_duration_since(sent_at).as_nanos() as u64);
            self.acknowledged += 1;
        }
        Ok(())
    }
}
