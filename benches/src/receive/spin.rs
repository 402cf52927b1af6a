//! The least that can be done on the kernel's UDP socket to hear of a datagram soon: ask for one all the time.

use std::io;
use std::mem::MaybeUninit;

use eventstream::nic::{Gro, UdpSocket};
use eventstream::runtime::clock::unix_now;
use hdrhistogram::Histogram;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::walk::sent_time;
use super::{Latency, Report, Seen, Watch, socket};
use crate::stop;

const DATAGRAM_BYTES: usize = 2048;
/// A minute: longer than a measurement.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// Significant digits of a recorded time.
const DIGITS: u8 = 3;

pub fn receive(port: u16, ready: impl FnOnce()) -> Result<Report, String> {
    let socket = socket::bind(port, Gro::Off)?;
    let mut latency = Histogram::new_with_max(LATENCY_MAX_NS, DIGITS).map_err(|error| error.to_string())?;
    ready();
    serve(&socket, &mut latency).map_err(|error| format!("--port {port}: {error}"))
}

fn serve(socket: &UdpSocket, latency: &mut Histogram<u64>) -> io::Result<Report> {
    let (mut seen, mut watch) = (Seen::default(), Watch::default());
    let mut buffer = [MaybeUninit::<u8>::uninit(); DATAGRAM_BYTES];
    while !stop::is_requested() {
        let bytes = match recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok(((bytes, _), _)) => bytes,
            Err(Errno::AGAIN | Errno::INTR) => {
                watch.in_vain();
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        // Before anything is done with it: what is recorded is when it was there.
        let now = unix_now();
        watch.found();
        seen.datagram(bytes);
        // A sender's clock that is ahead says nothing.
        if let Some(waited) = sent_time(bytes).and_then(|sent| now.checked_sub(sent)) {
            latency.saturating_record(waited);
        }
    }
    Ok(Report {
        seconds: watch.seconds(),
        busy_seconds: watch.busy_seconds(),
        dropped: u64::from(socket.drops()?),
        seen,
        latency_ns: Some(of(latency)),
    })
}

fn of(latency: &Histogram<u64>) -> Latency {
    let at = |share| latency.value_at_quantile(share);
    Latency { count: latency.len(), p50: at(0.5), p99: at(0.99), p999: at(0.999), max: latency.max() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut latency = Histogram::new_with_max(LATENCY_MAX_NS, DIGITS).unwrap();
        (1..=1_000).for_each(|value| latency.saturating_record(value * 1_000));
        let latency = of(&latency);
        assert_eq!(latency.count, 1_000);
        for (found, expected) in [(latency.p50, 500_000), (latency.p99, 990_000), (latency.max, 1_000_000)] {
            assert!(found.abs_diff(expected) <= expected / 500, "{latency:?}");
        }
    }
}
