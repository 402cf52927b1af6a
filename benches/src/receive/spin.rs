//! The least that can be done on the kernel's UDP socket to hear of a datagram soon: ask for one all the time.

use std::io;
use std::mem::MaybeUninit;

use eventstream::nic::{Gro, UdpSocket};
use eventstream::runtime::clock::unix_now;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::ages::Ages;
use super::{Report, Seen, Watch, socket};
use crate::stop;

const DATAGRAM_BYTES: usize = 2048;

pub fn receive(port: u16, ready: impl FnOnce()) -> Result<Report, String> {
    let socket = socket::bind(port, Gro::Off)?;
    let mut ages = Ages::new()?;
    ready();
    serve(&socket, &mut ages).map_err(|error| format!("--port {port}: {error}"))
}

fn serve(socket: &UdpSocket, ages: &mut Ages) -> io::Result<Report> {
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
        ages.record(bytes, now);
    }
    Ok(Report {
        seconds: watch.seconds(),
        busy_seconds: watch.busy_seconds(),
        dropped: u64::from(socket.drops()?),
        seen,
        latency_ns: Some(ages.latency()),
    })
}
