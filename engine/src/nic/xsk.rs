//! One AF_XDP socket with its rings, over xsk-rs.
//!
//! - **Thread**: made by whoever opens the NIC, then owned by one ingest agent.
//! - **Overload**: without a frame in the fill ring, or room in the rx ring, the kernel drops and counts.
//! - **Invariant**: a frame's address goes into the fill ring only while the pool says the kernel has it.
//!
//! The device's queue is free again only when all four ring ends are dropped; they are fields of one value.

use std::error::Error as _;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use xsk_rs::FrameDesc;
use xsk_rs::config::{BindFlags, Interface as XskInterface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::socket::{RxQueue, Socket, SocketCreateError, TxQueue};
use xsk_rs::umem::{CompQueue, FillQueue};

use super::error::describe;
use super::queue::BURST;
use super::rings::{Descriptor, Rings, XskStatistics};
use super::umem::NewUmem;

/// The rings of a bound socket.
pub struct XskRings {
    fill: FillQueue,
    rx: RxQueue,
    /// Each frame's descriptor, by its place.
    frames: Box<[FrameDesc]>,
    filling: [FrameDesc; BURST],
    received: [FrameDesc; BURST],
    received_count: usize,
    _tx: TxQueue,
    _completion: CompQueue,
}

/// The kernel gives a closed socket's queue free in a work item of its own, some time after the close or the death of the
/// process: an engine that is started again at once may find its own queues taken.
const BUSY_LIMIT: Duration = Duration::from_millis(500);
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// How a socket is bound to its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    Zerocopy,
    Copy,
}

impl XskRings {
    /// Binds a new socket. The reason on failure is for the operator.
    pub(super) fn bind(
        umem: NewUmem,
        interface: &str,
        queue: u32,
        rx_ring: u32,
        binding: Binding,
    ) -> Result<Self, String> {
        let mode = match binding {
            Binding::Zerocopy => BindFlags::XDP_ZEROCOPY,
            Binding::Copy => BindFlags::XDP_COPY,
        };
        let invalid = |error: &dyn std::fmt::Display| format!("AF_XDP socket: {error}");
        let config = SocketConfig::builder()
            .rx_queue_size(QueueSize::new(rx_ring).map_err(|error| invalid(&error))?)
            // xsk-rs always makes a tx ring; nothing is ever sent, so it is as good as none.
            .tx_queue_size(QueueSize::new(2).map_err(|error| invalid(&error))?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(mode | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let name: XskInterface = interface.parse().map_err(|error| invalid(&error))?;
        let start = Instant::now();
        let (tx, rx, rings) = loop {
            // SAFETY: asks that no socket of ours be bound to the queue with this UMEM: the UMEM is new, is consumed here,
            // and a refused socket is none.
            match unsafe { Socket::new(config, &umem.umem, &name, queue) } {
                Ok(made) => break made,
                Err(error) if is_busy(&error) && start.elapsed() < BUSY_LIMIT => std::thread::sleep(BUSY_PAUSE),
                Err(error) => return Err(describe(&error)),
            }
        };
        let (fill, completion) = rings.ok_or("AF_XDP socket: no fill ring for a new UMEM")?;
        Ok(Self {
            fill,
            rx,
            frames: umem.descriptors,
            filling: [FrameDesc::default(); BURST],
            received: [FrameDesc::default(); BURST],
            received_count: 0,
            _tx: tx,
            _completion: completion,
        })
    }
}

fn is_busy(error: &SocketCreateError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    source.and_then(io::Error::raw_os_error) == Some(libc::EBUSY)
}

impl AsRawFd for XskRings {
    fn as_raw_fd(&self) -> i32 {
        self.rx.fd().as_raw_fd()
    }
}

impl Rings for XskRings {
    #[inline]
    fn fill_room(&mut self, wanted: u32) -> u32 {
        self.fill.nb_free(wanted)
    }

    #[inline]
    unsafe fn fill(&mut self, slots: &[u32]) -> bool {
        let Some(filling) = self.filling.get_mut(..slots.len()) else { return false };
        for (to, slot) in filling.iter_mut().zip(slots) {
            *to = self.frames[*slot as usize];
        }
        // SAFETY: the frames are of this UMEM (its own table), and by our caller's promise the kernel alone has them.
        let produced = unsafe { self.fill.produce(filling) };
        produced == slots.len() // all or none
    }

    #[inline]
    fn needs_wakeup(&self) -> bool {
        self.fill.needs_wakeup()
    }

    fn wake(&mut self) -> io::Result<()> {
        self.fill.wakeup(self.rx.fd_mut(), 0)
    }

    #[inline]
    fn receive(&mut self, limit: usize) -> usize {
        let limit = limit.min(BURST);
        // SAFETY: descriptors are written to our own array; no frame is touched.
        self.received_count = unsafe { self.rx.consume(&mut self.received[..limit]) };
        self.received_count
    }

    #[inline]
    fn descriptor(&self, index: usize) -> Descriptor {
        let received = &self.received[..self.received_count][index];
        Descriptor {
            address: received.addr() as u64,
            length: received.lengths().data() as u64,
            continues: received.has_more_frames(),
        }
    }

    fn statistics(&self) -> io::Result<XskStatistics> {
        let found = self.rx.fd().xdp_statistics()?;
        Ok(XskStatistics {
            rx_dropped: found.rx_dropped(),
            rx_invalid: found.rx_invalid_descs(),
            rx_ring_full: found.rx_ring_full(),
            fill_ring_empty: found.rx_fill_ring_empty_descs(),
        })
    }

    fn file(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the socket is open as long as its rings, and the borrow is of the rings.
        Some(unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) })
    }
}
