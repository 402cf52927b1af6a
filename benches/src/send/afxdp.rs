//! AF_XDP transmission: packets stamped in a UMEM and handed to the driver's queue past the kernel's stack.
//!
//! One thread; per queue a socket with a UMEM of its own and a producer number of its own. Every frame of a UMEM holds
//! the template from the start, so that sending is stamping, a descriptor and a wake-up. In copy mode, which is all that
//! veth has, the wake-up is what sends, on this thread, and the completion says that the receiver's side let go of the
//! copy, not that it was delivered.
//!
//! Overload: a packet refused by the link is the link's drop. Frames that do not come back stop the sender, for at most
//! [`STALLED`].

use std::error::Error;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::socket::SocketCreateError;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::{flow_outcome, with_causes};
use crate::link::Link;
use crate::mix::{Layout, Stamped, Stamper, Tally};
use crate::pace::Schedule;
use crate::packet::Headers;
use crate::report::{FlowOutcome, Outcome};
use crate::stop;

/// Small is fast: all frames of a queue stay in the second-level cache's reach, and rings of 512 to 2048 were the
/// fastest measured on veth.
const FRAME_COUNT: u32 = 1_024;
const FRAME_BYTES: u32 = 2_048;
const LARGE_FRAME_BYTES: u32 = 4_096;
/// The kernel copies into socket buffers of this socket: the default of 208 KiB would hold fewer than a hundred.
const SEND_BUFFER_BYTES: usize = 8 << 20;
/// How long frames may stay away before the link is taken for dead.
const STALLED: Duration = Duration::from_secs(2);
/// How long a queue may still belong to its last user.
const RELEASE: Duration = Duration::from_secs(2);

struct Queue {
    number: u32,
    share: u32,
    umem: Umem,
    tx: TxQueue,
    completion: CompQueue,
    /// The device is only released when these are dropped too.
    _rx: RxQueue,
    _fill: FillQueue,
    /// By frame number: a consumed completion has lost its length, and so is no descriptor to send again.
    frames: Vec<FrameDesc>,
    free: Vec<u32>,
    frame_bytes: usize,
    stamper: Stamper,
    tally: Tally,
    completed: u64,
    pending: Vec<(FrameDesc, Stamped)>,
    to_send: Vec<FrameDesc>,
    consumed: Vec<FrameDesc>,
}

/// Sends over `queues` (number and share), at most `batch` datagrams a wake-up.
pub fn afxdp(
    link: &Link,
    queues: &[(u32, u32)],
    batch: usize,
    headers: &Headers,
    layout: &Layout,
    schedule: impl FnOnce() -> Schedule,
) -> Result<(Outcome, Schedule), String> {
    let mut opened = Vec::with_capacity(queues.len());
    for (flow, (number, share)) in queues.iter().enumerate() {
        let stamper = Stamper::new(layout, flow as u64);
        let queue = Queue::open(link, *number, *share, headers, layout, stamper);
        opened.push(queue.map_err(|error| format!("AF_XDP on {} queue {number}: {error}", link.name()))?);
    }
    let mut schedule = schedule();
    let mut failure = run(&mut opened, batch, headers, &mut schedule).err();
    schedule.stop();
    for queue in &mut opened {
        failure = failure.or(queue.settle().err());
    }
    let flows = opened.into_iter().map(Queue::outcome).collect();
    Ok((Outcome { flows, failure }, schedule))
}

fn run(queues: &mut [Queue], batch: usize, headers: &Headers, schedule: &mut Schedule) -> Result<(), String> {
    loop {
        let index = next_queue(queues);
        let queue = &mut queues[index];
        if !queue.wait_for_frames(batch)? {
            return Ok(());
        }
        let Some(due) = schedule.next(batch) else { return Ok(()) };
        queue.stamp(due.count, headers, |index| due.time_ns(index));
        queue.send()?;
    }
}

/// The queue that is furthest behind its share.
fn next_queue(queues: &[Queue]) -> usize {
    let progress = |queue: &Queue| queue.tally.datagrams as f64 / f64::from(queue.share);
    let furthest = queues.iter().enumerate().min_by(|(_, one), (_, other)| progress(one).total_cmp(&progress(other)));
    furthest.map_or(0, |(index, _)| index)
}

impl Queue {
    fn open(
        link: &Link,
        number: u32,
        share: u32,
        headers: &Headers,
        layout: &Layout,
        stamper: Stamper,
    ) -> Result<Self, String> {
        let packet = [headers.bytes(), &layout.template()].concat();
        let size = |size| QueueSize::new(size).map_err(|error| with_causes(&error));
        let (umem, mut frames) = create_umem(packet.len(), size(FRAME_COUNT)?)?;
        for frame in &mut frames {
            // SAFETY: the frame is one of this UMEM's, and no socket exists yet that the kernel could reach it by.
            let mut data = unsafe { umem.data_mut(frame) };
            std::io::Write::write_all(&mut data.cursor(), &packet).map_err(|error| error.to_string())?;
        }
        let config = SocketConfig::builder()
            .tx_queue_size(size(FRAME_COUNT)?)
            .rx_queue_size(size(64)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let interface: Interface = link.name().parse().map_err(|error| format!("{error}"))?;
        let (tx, rx, rings) = bind(config, &umem, &interface, number)?;
        let (fill, completion) = rings.ok_or("the kernel gave no completion ring")?;
        enlarge_send_buffer(&tx)?;
        let frame_bytes = umem_frame_bytes(packet.len())? as usize;
        Ok(Self {
            number,
            share,
            umem,
            tx,
            completion,
            _rx: rx,
            _fill: fill,
            free: (0..FRAME_COUNT).rev().collect(),
            frames,
            frame_bytes,
            stamper,
            tally: Tally::default(),
            completed: 0,
            pending: Vec::with_capacity(FRAME_COUNT as usize),
            to_send: Vec::with_capacity(FRAME_COUNT as usize),
            consumed: vec![FrameDesc::default(); FRAME_COUNT as usize],
        })
    }

    /// Waits until `count` frames are free; `false` when a signal came first.
    fn wait_for_frames(&mut self, count: usize) -> Result<bool, String> {
        self.reclaim();
        if self.free.len() >= count {
            return Ok(true);
        }
        let waiting_since = Instant::now();
        while self.free.len() < count {
            if stop::is_requested() {
                return Ok(false);
            }
            if waiting_since.elapsed() > STALLED {
                return Err(format!("queue {}: the kernel gives no frames back; is the link up?", self.number));
            }
            self.wake()?;
            self.reclaim();
        }
        Ok(true)
    }

    /// Stamps `count` free frames. There are as many: [`Queue::wait_for_frames`].
    fn stamp(&mut self, count: usize, headers: &Headers, time_ns: impl Fn(usize) -> u64) {
        let payload_at = headers.bytes().len();
        self.pending.clear();
        self.to_send.clear();
        for index in 0..count {
            let Some(number) = self.free.pop() else { break };
            let frame = &mut self.frames[number as usize];
            // SAFETY: `frame` is of this UMEM and was in `free`: never sent, or back by the completion ring.
            let mut data = unsafe { self.umem.data_mut(frame) };
            let packet = data.contents_mut();
            let stamped = self.stamper.stamp(&mut packet[payload_at..], time_ns(index));
            headers.finish(packet);
            self.pending.push((*frame, stamped));
            self.to_send.push(*frame);
        }
    }

    /// Hands the stamped frames over. There is room: the ring has a place for every frame there is.
    fn send(&mut self) -> Result<(), String> {
        // SAFETY: the frames are of this UMEM, and left `free` when they were stamped, so nobody touches them until
        // the completion ring has given them back.
        let taken = unsafe { self.tx.produce(&self.to_send) };
        for (_, stamped) in &self.pending[..taken] {
            self.tally.count(stamped);
        }
        if taken < self.to_send.len() {
            return Err(format!("queue {}: the transmit ring is full with frames to spare", self.number));
        }
        self.wake()
    }

    /// In copy mode this is what sends. `ENOBUFS`, `EAGAIN` and `EBUSY` are no errors here: what was not taken stays in
    /// the ring for the next call.
    fn wake(&mut self) -> Result<(), String> {
        if self.tx.needs_wakeup() {
            self.tx.wakeup().map_err(|error| format!("queue {}: waking the kernel: {error}", self.number))?;
        }
        Ok(())
    }

    fn reclaim(&mut self) {
        // SAFETY: the completion ring and the frames are of the same UMEM.
        let count = unsafe { self.completion.consume(&mut self.consumed) };
        self.completed += count as u64;
        for frame in &self.consumed[..count] {
            self.free.push((frame.addr() / self.frame_bytes) as u32);
        }
    }

    /// Waits until the kernel has sent and given back everything: what stays in the ring was not sent.
    fn settle(&mut self) -> Result<(), String> {
        let started = Instant::now();
        while self.completed < self.tally.datagrams {
            if started.elapsed() > STALLED {
                let missing = self.tally.datagrams - self.completed;
                return Err(format!("queue {}: {missing} datagrams counted as sent were never completed", self.number));
            }
            self.wake()?;
            self.reclaim();
        }
        Ok(())
    }

    fn outcome(self) -> FlowOutcome {
        flow_outcome(format!("queue {}", self.number), &self.stamper, self.tally, Some(self.completed))
    }
}

/// Frame size for packets of this size, of which 256 bytes are the kernel's.
fn umem_frame_bytes(packet_bytes: usize) -> Result<u32, String> {
    [FRAME_BYTES, LARGE_FRAME_BYTES]
        .into_iter()
        .find(|bytes| packet_bytes + 256 <= *bytes as usize)
        .ok_or_else(|| format!("packets of {packet_bytes} bytes do not fit a frame of {LARGE_FRAME_BYTES}"))
}

fn create_umem(packet_bytes: usize, ring: QueueSize) -> Result<(Umem, Vec<FrameDesc>), String> {
    let frame_size = FrameSize::new(umem_frame_bytes(packet_bytes)?).map_err(|error| with_causes(&error))?;
    let config = UmemConfig::builder()
        .frame_size(frame_size)
        .comp_queue_size(ring)
        .build()
        .map_err(|error| with_causes(&error))?;
    let count = NonZeroU32::new(FRAME_COUNT).ok_or("no frames")?;
    Umem::new(config, count, false).map_err(|error| with_causes(&error))
}

type Bound = (TxQueue, RxQueue, Option<(FillQueue, CompQueue)>);

/// Binds, and waits a moment for a queue that is taken: the kernel gives one back only some time after its last user,
/// such as the run before this one, has closed it.
fn bind(config: SocketConfig, umem: &Umem, interface: &Interface, number: u32) -> Result<Bound, String> {
    let started = Instant::now();
    loop {
        // SAFETY: the UMEM is the caller's alone and no socket of it is bound: an attempt that failed has left none.
        let result = unsafe { Socket::new(config, umem, interface, number) };
        match result {
            Ok(bound) => return Ok(bound),
            Err(error) if is_busy(&error) && started.elapsed() < RELEASE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(with_causes(&error)),
        }
    }
}

fn is_busy(error: &SocketCreateError) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.and_then(std::io::Error::raw_os_error) == Some(libc::EBUSY)
}

fn enlarge_send_buffer(tx: &TxQueue) -> Result<(), String> {
    // SAFETY: the descriptor belongs to the socket that `tx` keeps open, which outlives this function.
    let descriptor = unsafe { BorrowedFd::borrow_raw(tx.fd().as_raw_fd()) };
    rustix::net::sockopt::set_socket_send_buffer_size_force(descriptor, SEND_BUFFER_BYTES)
        .map_err(|error| format!("SO_SNDBUFFORCE: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_small_as_the_packet_allows() {
        assert_eq!(umem_frame_bytes(1_514), Ok(2_048));
        assert_eq!(umem_frame_bytes(1_792), Ok(2_048));
        assert_eq!(umem_frame_bytes(1_793), Ok(4_096));
        assert!(umem_frame_bytes(3_841).is_err());
    }
}
