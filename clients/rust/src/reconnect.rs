//! Connections: how they are made, when to try again, and when no more.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use crate::error::Failure;

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// An engine whose machine is gone ends no connection: ask after so long a silence, so often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// Small frames go at once, and a connection ends when its other side is gone.
pub(crate) fn connect(address: &str) -> Result<TcpStream, Failure> {
    let told = |error: &dyn std::fmt::Display| Failure::Broken(format!("{address}: {error}"));
    let mut last = None;
    for candidate in address.to_socket_addrs().map_err(|error| told(&error))? {
        match TcpStream::connect_timeout(&candidate, CONNECT_PATIENCE) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                keep_alive(&stream).map_err(|error| told(&error))?;
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| told(&"the name has no address"), |error| told(&error)))
}

fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)
}

/// Eight random bytes. The standard library seeds its hash maps by the system's.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// The tries since there was a connection.
///
/// The delay doubles up to a limit, and half of it is drawn: clients of one engine do not come back in step.
#[derive(Debug)]
pub(crate) struct Attempts {
    give_up_after: Option<Duration>,
    delay: Duration,
    since: Option<Instant>,
}

impl Attempts {
    pub fn new(give_up_after: Option<Duration>) -> Self {
        Self { give_up_after, delay: Duration::ZERO, since: None }
    }

    /// A connection is wanted. Counts from the first time on.
    pub fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// The engine has answered, or nobody needs it.
    pub fn succeeded(&mut self) {
        (self.delay, self.since) = (Duration::ZERO, None);
    }

    /// After a failure: how long to wait before the next try; none: it has been tried for long enough.
    pub fn next_delay(&mut self, now: Instant, random: u64) -> Option<Duration> {
        let since = *self.since.get_or_insert(now);
        self.delay = (self.delay * 2).clamp(FIRST_DELAY, LONGEST_DELAY);
        let drawn = 0.5 + (random >> 11) as f64 / (1_u64 << 54) as f64;
        let delay = self.delay.mul_f64(drawn);
        let Some(limit) = self.give_up_after else { return Some(delay) };
        let left = (since + limit).saturating_duration_since(now);
        (!left.is_zero()).then(|| delay.min(left))
    }
}
