//! UDP sockets: with segmentation offload, and as an ordinary client does with sendmmsg.
//!
//! A batch is stamped into one buffer of templates, back to back, and handed over in one system call. A full socket
//! buffer blocks; a refusal by ICMP, reported on the next call and meaning an earlier datagram, is stepped over.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use super::{during, flow_outcome};
use crate::mix::{Layout, Stamped, Stamper, Tally};
use crate::pace::Schedule;
use crate::report::Outcome;
use crate::stop;

/// What one system call carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// One buffer that the kernel cuts into datagrams.
    Segmented,
    /// A message for each datagram.
    Messages,
}

/// The kernel's limits for one segmented send: segments, and the bytes of the datagram that never was.
const SEGMENTS_MAX: usize = 64;
const SEGMENTED_BYTES_MAX: usize = 65_507 - 40;

/// How a socket is to be set up.
#[derive(Clone, Copy, Debug)]
pub struct UdpFlow {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Most datagrams a system call.
    pub batch: usize,
}

/// Sends with UDP_SEGMENT.
pub fn gso(flow: UdpFlow, layout: &Layout, schedule: impl FnOnce() -> Schedule) -> Result<(Outcome, Schedule), String> {
    let fitting = (SEGMENTED_BYTES_MAX / layout.datagram_bytes()).clamp(1, SEGMENTS_MAX);
    let flow = UdpFlow { batch: flow.batch.min(fitting), ..flow };
    let socket = connect(&flow)?;
    set_segment_bytes(&socket, layout.datagram_bytes())
        .map_err(during(format!("UDP_SEGMENT of {} bytes", layout.datagram_bytes())))?;
    Ok(run(&socket, Mode::Segmented, flow, layout, schedule()))
}

/// Sends with sendmmsg.
pub fn udp(flow: UdpFlow, layout: &Layout, schedule: impl FnOnce() -> Schedule) -> Result<(Outcome, Schedule), String> {
    let socket = connect(&flow)?;
    Ok(run(&socket, Mode::Messages, flow, layout, schedule()))
}

fn connect(flow: &UdpFlow) -> Result<UdpSocket, String> {
    let socket = UdpSocket::bind(flow.local).map_err(during(format!("sending from {}", flow.local)))?;
    socket.connect(flow.remote).map_err(during(format!("sending to {}", flow.remote)))?;
    Ok(socket)
}

fn run(socket: &UdpSocket, mode: Mode, flow: UdpFlow, layout: &Layout, mut schedule: Schedule) -> (Outcome, Schedule) {
    let datagram_bytes = layout.datagram_bytes();
    let mut stamper = Stamper::new(layout, 0);
    let mut buffer = layout.template().repeat(flow.batch);
    let mut messages = Messages::new(flow.batch);
    let mut pending = vec![Stamped::default(); flow.batch];
    let mut tally = Tally::default();
    let mut failure = None;
    'run: while let Some(batch) = schedule.next(flow.batch) {
        for (index, datagram) in buffer.chunks_exact_mut(datagram_bytes).take(batch.count).enumerate() {
            pending[index] = stamper.stamp(datagram, batch.time_ns(index));
        }
        let mut sent = 0;
        while sent < batch.count {
            let rest = &buffer[sent * datagram_bytes..batch.count * datagram_bytes];
            let result = match mode {
                Mode::Segmented => socket.send(rest).map(|bytes| bytes / datagram_bytes),
                Mode::Messages => messages.send(socket, rest, datagram_bytes),
            };
            match result {
                Ok(count) => {
                    pending[sent..sent + count].iter().for_each(|stamped| tally.count(stamped));
                    sent += count;
                }
                Err(error) if is_passing(&error) => {
                    if stop::is_requested() || schedule.remaining().is_zero() {
                        break 'run;
                    }
                }
                Err(error) => {
                    failure = Some(format!("sending {datagram_bytes} bytes to {}: {error}", flow.remote));
                    break 'run;
                }
            }
        }
    }
    schedule.stop();
    let flow = flow_outcome("socket 0".to_owned(), &stamper, tally, None);
    (Outcome { flows: vec![flow], failure }, schedule)
}

/// Errors after which the same datagrams can be sent again: nothing was taken.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::ConnectionRefused)
        || error.raw_os_error() == Some(libc::ENOBUFS)
}

fn set_segment_bytes(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: the option is an int, the pointer is to one, and its size is what is passed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The vectors of sendmmsg. They hold addresses only during [`Messages::send`], which sets them anew each time.
struct Messages {
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Messages {
    fn new(most: usize) -> Self {
        let part = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: all zeros is a valid `mmsghdr`: null pointers and numbers.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self { parts: vec![part; most], headers: vec![header; most] }
    }

    /// Sends `bytes` cut into datagrams; returns how many the kernel took.
    fn send(&mut self, socket: &UdpSocket, bytes: &[u8], datagram_bytes: usize) -> io::Result<usize> {
        let mut count = 0;
        let vectors = self.parts.iter_mut().zip(&mut self.headers);
        for ((part, header), datagram) in vectors.zip(bytes.chunks_exact(datagram_bytes)) {
            *part = libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
            header.msg_hdr.msg_iov = &raw mut *part;
            header.msg_hdr.msg_iovlen = 1;
            count += 1;
        }
        // SAFETY: `count` headers were just set, each to a part that lies in `self` and points into `bytes`; both are
        // borrowed until this returns, and sending only reads what they point to.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}
