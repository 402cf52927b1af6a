//! AF_XDP on queue 0 of an interface, through the engine's own kernel boundary.
//!
//! The rings, the steering program and the prefetching are the engine's, so that what differs is the pipeline.

use eventstream::memory::FramePool;
use eventstream::nic::{NicSetup, Received, Require, XdpOptions, XskQueue, XskReady, XskRings, open};
use eventstream::runtime::clock::unix_now;
use eventstream_steer::Datagram;

use super::ages::Ages;
use super::{Report, Seen, Watch, wait_for};
use crate::stop;

/// As far as the engine looks ahead.
const PREFETCH_AHEAD: usize = 4;

/// What is done with a packet.
#[derive(Debug)]
pub enum Work {
    Count,
    Walk,
    /// Walked, and its age recorded; and when there is none, one is looked for at once.
    Age(Ages),
}

pub fn receive(iface: &str, port: u16, mut work: Work, ready: impl FnOnce()) -> Result<Report, String> {
    let options = XdpOptions { queues: Some(vec![0]), require: Require::Native, ..XdpOptions::new(iface, port) };
    let NicSetup { program, mut queues, .. } = open(&options).map_err(|error| error.to_string())?;
    let XskReady { mut rings, mut pool, .. } = queues.pop().ok_or("the queue was not opened")?;
    ready();
    let report = serve(&mut rings, &mut pool, &mut work).map_err(|error| format!("--iface {iface}: {error}"));
    // Detached before the socket goes: nothing is steered into nothing.
    drop(program);
    report
}

fn serve(queue: &mut XskQueue<XskRings>, pool: &mut FramePool, work: &mut Work) -> std::io::Result<Report> {
    let (mut seen, mut watch) = (Seen::default(), Watch::default());
    let mut batch = XskQueue::<XskRings>::batch();
    while !stop::is_requested() {
        if queue.fill(pool) > 0 {
            queue.wake_if_asked();
        }
        queue.receive(pool, &mut batch);
        if batch.is_empty() {
            queue.wake_if_asked();
            if watch.in_vain()
                && !matches!(work, Work::Age(_))
                && let Some(file) = queue.file()
            {
                wait_for(file)?;
                watch.waited();
            }
            continue;
        }
        // Before anything is done with them: what is recorded is when they were there.
        let now = if let Work::Age(_) = work { unix_now() } else { 0 };
        watch.found();
        while let Some(received) = batch.pop_front() {
            if let Work::Count = work {
                seen.datagrams += 1;
            } else {
                if let Some(ahead) = batch.get(PREFETCH_AHEAD - 1) {
                    pool.prefetch_range(&ahead.slot, ahead.offset, ahead.length);
                }
                match payload(pool, &received) {
                    Some(payload) => {
                        seen.datagram(payload);
                        if let Work::Age(ages) = work {
                            ages.record(payload, now);
                        }
                    }
                    None => seen.unreadable(),
                }
            }
            pool.give_back(received.slot);
        }
    }
    let statistics = queue.statistics()?;
    let dropped = statistics.rx_dropped + statistics.rx_ring_full;
    let latency_ns = if let Work::Age(ages) = work { Some(ages.latency()) } else { None };
    Ok(Report { seconds: watch.seconds(), busy_seconds: watch.busy_seconds(), dropped, seen, latency_ns })
}

#[inline]
fn payload<'a>(pool: &'a FramePool, received: &'a Received) -> Option<&'a [u8]> {
    let packet = pool.bytes(&received.slot).get(received.offset..)?.get(..received.length)?;
    let found = Datagram::locate(packet).ok()?;
    packet.get(found.payload_at..)?.get(..found.payload_bytes)
}
