//! Receivers without a pipeline: what the engine is held against.
//!
//! ```text
//!   xdp       rx ring ─► walk                  AF_XDP by the same steering program and rings as the engine
//!   bare      rx ring ─► count                 how fast frames can be had at all
//!   recvmmsg  socket, 64 datagrams a call ─► walk
//!   gro       the same, the kernel joining datagrams
//!   recv-spin socket, one datagram a call ─► how long ago was it to be sent?
//!   xdp-spin  rx ring ─► the same question
//!   disk      nothing ─► a file, synced now and then
//!   disk-each nothing ─► a file, each write of some records synced
//! ```
//!
//! All that receive look again at once when nothing has come, and all but those that spin after a while wait in `poll`. How busy they
//! were is the time in which they found something.

mod ages;
mod disk;
mod socket;
mod spin;
mod walk;
mod xdp;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::Serialize;

use ages::Ages;
pub use walk::Seen;

use crate::stop;

/// How long a receiver looks in vain before it waits: what it would wait for is a batch of the generator's, and to be woken
/// for that costs the sender more than the looking costs here.
const SPIN: Duration = Duration::from_micros(100);

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
    /// The kernel's UDP socket, a datagram a call and never waiting; the time from its sent time on is recorded.
    RecvSpin,
    /// AF_XDP, never waiting; the time from its sent time on is recorded.
    XdpSpin,
    /// Receives nothing, and writes records to a file, which it syncs every five milliseconds.
    Disk,
    /// The same, some records at a time, which are synced at once; how long that takes is recorded.
    DiskEach,
}

/// Receives events, does nothing with them, and says how many they were. SIGINT or SIGTERM ends it.
#[derive(Debug, Parser)]
#[command(name = "walk", version)]
pub struct Cli {
    pub way: Way,
    /// The interface whose queue 0 is received from; for AF_XDP only.
    #[arg(long, value_name = "IF", required_if_eq_any([("way", "xdp"), ("way", "bare"), ("way", "xdp-spin")]))]
    pub iface: Option<String>,
    #[arg(long, value_name = "PORT", default_value_t = 8082)]
    pub port: u16,
    /// Where `disk` writes.
    #[arg(long, value_name = "PATH", required_if_eq_any([("way", "disk"), ("way", "disk-each")]))]
    pub file: Option<PathBuf>,
    /// Bytes of a record, of which `disk` counts those that it has written.
    #[arg(long, value_name = "N", default_value_t = 96)]
    pub record_bytes: u32,
    /// Records that `disk-each` writes together.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub records: u32,
    /// Run on this CPU only.
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
}

/// Printed as one JSON object, whose keys stay.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Report {
    /// From the first datagram to the last.
    pub seconds: f64,
    /// The part of it in which there was something to receive.
    pub busy_seconds: f64,
    /// Datagrams the kernel dropped at the socket; with `gro` runs of them.
    pub dropped: u64,
    #[serde(flatten)]
    pub seen: Seen,
    /// From the first frame's sent time until the datagram had been received, or from before a write until it was synced; where
    /// that is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ns: Option<Latency>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// Receives until a signal comes. `ready` is called once what is sent arrives.
pub fn run(cli: &Cli, ready: impl FnOnce()) -> Result<Report, String> {
    stop::on_signals().map_err(|error| format!("installing signal handlers: {error}"))?;
    crate::run::pin(cli.cpu)?;
    match (cli.way, &cli.iface) {
        (Way::Recvmmsg, _) => socket::receive(cli.port, false, ready),
        (Way::Gro, _) => socket::receive(cli.port, true, ready),
        (Way::Disk | Way::DiskEach, _) => {
            let path = cli.file.as_deref().ok_or("--file: a disk is written at some place")?;
            disk::keep(path, cli.record_bytes, (cli.way == Way::DiskEach).then_some(cli.records), ready)
        }
        (Way::RecvSpin, _) => spin::receive(cli.port, ready),
        (Way::Bare, Some(iface)) => xdp::receive(iface, cli.port, xdp::Work::Count, ready),
        (Way::XdpSpin, Some(iface)) => xdp::receive(iface, cli.port, xdp::Work::Age(Ages::new()?), ready),
        (Way::Xdp, Some(iface)) => xdp::receive(iface, cli.port, xdp::Work::Walk, ready),
        (_, None) => Err("--iface: AF_XDP needs an interface".to_owned()),
    }
}

/// Tells when to spin and when to wait, how long datagrams came, and how much of that time there were none.
#[derive(Debug, Default)]
struct Watch {
    first: Option<Instant>,
    /// When looking in vain began, and when it was last found to be in vain; `None` while something comes.
    vain: Option<(Instant, Instant)>,
    /// In vain, between the first and the last datagram.
    idle: Duration,
}

impl Watch {
    /// Something came. The clock is read only at the first: what the look itself took is no idleness, and when the last
    /// one before it ended is known.
    #[inline]
    fn found(&mut self) {
        if let Some((since, until)) = self.vain.take()
            && self.first.is_some()
        {
            self.idle += until - since;
        }
        if self.first.is_none() {
            self.first = Some(Instant::now());
        }
    }

    /// Nothing came: true when it is time to wait.
    #[inline]
    fn in_vain(&mut self) -> bool {
        let now = Instant::now();
        let (since, until) = self.vain.get_or_insert((now, now));
        *until = now;
        std::hint::spin_loop();
        now - *since >= SPIN
    }

    /// Waiting is over.
    fn waited(&mut self) {
        self.in_vain();
    }

    fn seconds(&self) -> f64 {
        let last = self.vain.map_or_else(Instant::now, |(since, _)| since);
        self.first.map_or(0.0, |first| last.saturating_duration_since(first).as_secs_f64())
    }

    fn busy_seconds(&self) -> f64 {
        self.seconds() - self.idle.as_secs_f64()
    }
}

/// Until there is something, or for a while.
fn wait_for(file: BorrowedFd<'_>) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(file, PollFlags::IN)], Some(&stop::LOOK)) {
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
    fn idle_is_what_lies_between_datagrams_and_neither_before_nor_behind_them() {
        let pause = |watch: &mut Watch| {
            watch.in_vain();
            std::thread::sleep(Duration::from_millis(20));
            watch.waited();
        };
        let mut watch = Watch::default();
        pause(&mut watch);
        watch.found();
        assert_eq!(watch.idle, Duration::ZERO, "before the first");
        pause(&mut watch);
        watch.found();
        let idle = watch.idle;
        assert!(idle >= Duration::from_millis(20));
        pause(&mut watch);
        assert_eq!(watch.idle, idle, "behind the last");
        assert!(watch.busy_seconds() >= 0.0 && watch.busy_seconds() <= watch.seconds() - 0.02);
    }

    #[test]
    fn af_xdp_needs_an_interface() {
        assert!(Cli::try_parse_from(["walk", "xdp"]).is_err());
        assert!(Cli::try_parse_from(["walk", "xdp-spin"]).is_err());
        assert!(Cli::try_parse_from(["walk", "bare", "--iface", "e0"]).is_ok());
        assert!(Cli::try_parse_from(["walk", "recvmmsg", "--port", "5"]).is_ok());
    }
}
