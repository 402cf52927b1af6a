//! The kernel's UDP socket, 64 datagrams a call.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use eventstream::memory::{FramePool, PoolSpec, Region, Slot};
use eventstream::nic::{Gro, Messages, UdpSocket, UdpSocketOptions};

use super::{Report, Seen, Watch, wait_for};
use crate::stop;

const BATCH: usize = 64;
/// Room for a datagram of an ordinary MTU, and for a run of them. The less is touched, the more stays in the cache.
const DATAGRAM_BYTES: usize = 2048;
const RUN_BYTES: usize = 65_536;
/// The engine's default.
const RECEIVE_BUFFER_BYTES: u32 = 8 << 20;

pub fn receive(port: u16, gro: bool, ready: impl FnOnce()) -> Result<Report, String> {
    let socket = bind(port, if gro { Gro::On } else { Gro::Off })?;
    let slot_bytes = if gro { RUN_BYTES } else { DATAGRAM_BYTES };
    let region = Region::map(BATCH * slot_bytes).map_err(|error| format!("memory for datagrams: {error}"))?;
    let mut pool = FramePool::new(0, region, &PoolSpec { slot_bytes, reliable: false });
    let mut slots: Vec<Slot> = std::iter::from_fn(|| pool.acquire()).collect();
    ready();
    let report = serve(&socket, &pool, &mut slots).map_err(|error| format!("--port {port}: {error}"));
    slots.into_iter().for_each(|slot| pool.give_back(slot));
    report
}

/// As the engine binds its own.
pub(super) fn bind(port: u16, gro: Gro) -> Result<UdpSocket, String> {
    let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let receive_buffer_bytes = RECEIVE_BUFFER_BYTES;
    UdpSocket::bind(&UdpSocketOptions { address, port, reuse_port: false, receive_buffer_bytes, gro })
}

fn serve(socket: &UdpSocket, pool: &FramePool, slots: &mut [Slot]) -> io::Result<Report> {
    let (mut seen, mut watch) = (Seen::default(), Watch::default());
    let mut messages = Messages::new(slots.len());
    while !stop::is_requested() {
        let count = match messages.receive(socket, pool, slots) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        if count > 0 {
            watch.found();
        } else if watch.in_vain() {
            wait_for(socket.as_fd())?;
            watch.waited();
        }
        for (index, slot) in slots[..count].iter().enumerate() {
            let message = messages.message(index);
            let bytes = pool.bytes(slot);
            let bytes = &bytes[..message.bytes.min(bytes.len())];
            match message.segment_bytes {
                0 => seen.datagram(bytes),
                segment => bytes.chunks(segment).for_each(|datagram| seen.datagram(datagram)),
            }
        }
    }
    let (seconds, busy_seconds) = (watch.seconds(), watch.busy_seconds());
    Ok(Report { seconds, busy_seconds, dropped: u64::from(socket.drops()?), seen, latency_ns: None })
}
