//! Receivers without a pipeline: what the engine is held against.
//!
//! ```text
//!   xdp       rx ring ─► walk                  AF_XDP by the same steering program and rings as the engine
//!   bare      rx ring ─► count                 how fast frames can be had at all
//!   recvmmsg  socket, 64 datagrams a call ─► walk
//!   gro       the same, the kernel joining datagrams
//! ```
//!
//! All of them look again at once when nothing has come, and after a while wait in `poll`: at the ceiling they spin, and
//! where the load is less, their CPU time says so.

mod socket;
mod walk;
mod xdp;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

pub use walk::Seen;

use crate::stop;

/// How long a receiver looks in vain before it waits: what it would wait for is a batch of the generator's, and to be woken
/// for that costs the sender more than the looking costs here.
const SPIN: Duration = Duration::from_micros(100);
/// A wait is cut short to see whether a signal came between the look at its flag and the wait.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// AF_XDP, each datagram walked.
    Xdp,
    /// AF_XDP, packets counted and nothing else.
    Bare,
    /// The kernel's UDP socket.
    Recvmmsg,
    /// The kernel's UDP socket with UDP_GRO.
    Gro,
}

/// Receives events, does nothing with them, and says how many they were. SIGINT or SIGTERM ends it.
#[derive(Debug, Parser)]
#[command(name = "walk", version)]
pub struct Cli {
    pub way: Way,
    /// The interface whose queue 0 is received from; for AF_XDP only.
    #[arg(long, value_name = "IF", required_if_eq_any([("way", "xdp"), ("way", "bare")]))]
    pub iface: Option<String>,
    #[arg(long, value_name = "PORT", default_value_t = 8082)]
    pub port: u16,
    /// Run on this CPU only.
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
}

/// Printed as one JSON object, whose keys stay.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Report {
    /// From the first datagram to the last.
    pub seconds: f64,
    /// Datagrams the kernel dropped at the socket; with `gro` runs of them.
    pub dropped: u64,
    #[serde(flatten)]
    pub seen: Seen,
}

/// Receives until a signal comes. `ready` is called once what is sent arrives.
pub fn run(cli: &Cli, ready: impl FnOnce()) -> Result<Report, String> {
    stop::on_signals().map_err(|error| format!("installing signal handlers: {error}"))?;
    crate::run::pin(cli.cpu)?;
    match (cli.way, &cli.iface) {
        (Way::Recvmmsg, _) => socket::receive(cli.port, false, ready),
        (Way::Gro, _) => socket::receive(cli.port, true, ready),
        (way, Some(iface)) => xdp::receive(iface, cli.port, way == Way::Bare, ready),
        (_, None) => Err("--iface: AF_XDP needs an interface".to_owned()),
    }
}

/// Tells when to spin and when to wait, and how long datagrams came.
#[derive(Debug, Default)]
struct Watch {
    first: Option<Instant>,
    /// When looking in vain began; `None` while something comes.
    idle_since: Option<Instant>,
}

impl Watch {
    /// Something came. The clock is read only where a run of datagrams begins or ends.
    #[inline]
    fn found(&mut self) {
        if self.first.is_none() {
            self.first = Some(Instant::now());
        }
        self.idle_since = None;
    }

    /// Nothing came: true when it is time to wait.
    #[inline]
    fn in_vain(&mut self) -> bool {
        let now = Instant::now();
        let since = *self.idle_since.get_or_insert(now);
        std::hint::spin_loop();
        now - since >= SPIN
    }

    fn seconds(&self) -> f64 {
        let last = self.idle_since.unwrap_or_else(Instant::now);
        self.first.map_or(0.0, |first| last.saturating_duration_since(first).as_secs_f64())
    }
}

/// Until there is something, or for a while.
fn wait_for(file: BorrowedFd<'_>) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(file, PollFlags::IN)], Some(&WAIT)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_waits_only_after_looking_in_vain_for_a_while() {
        let mut watch = Watch::default();
        assert_eq!(watch.seconds(), 0.0);
        let mut looks = 1;
        while !watch.in_vain() {
            looks += 1;
        }
        assert!(looks > 1, "not at the first");
        watch.found();
        assert!(!watch.in_vain(), "and begins anew");
        assert!(watch.seconds() >= 0.0);
    }

    #[test]
    fn af_xdp_needs_an_interface() {
        assert!(Cli::try_parse_from(["walk", "xdp"]).is_err());
        assert!(Cli::try_parse_from(["walk", "bare", "--iface", "e0"]).is_ok());
        assert!(Cli::try_parse_from(["walk", "recvmmsg", "--port", "5"]).is_ok());
    }
}
