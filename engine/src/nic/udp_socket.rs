//! The kernel's UDP socket: bound once, then read many datagrams a call.
//!
//! - **Thread**: bound by whoever opens the listeners, then owned by one ingest agent. **In**: free slots of a frame
//!   pool. **Out**: slots with a datagram, or a run of them (`UDP_GRO`), and who sent it ([`Messages`]).
//! - **Overload**: the receive buffer fills, and the kernel drops and counts ([`UdpSocket::drops`]).
//! - **Invariant**: the kernel writes into a slot only while `receive` has borrowed it.
//!
//! How many datagrams the kernel has dropped is read by `SO_MEMINFO`. It is the same figure as `SO_RXQ_OVFL`'s, which
//! however comes with the next datagram only: drops after the last one would never be told. What a filter rejects
//! ([`UdpSocket::refuse`]) counts there too, and with `UDP_GRO` a dropped run of datagrams counts as one (both
//! measured, and tested here).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::error::describe;
use crate::memory::{FramePool, Peer, Slot};

/// `UDP_GRO` of linux/udp.h; the libc crate does not have it for every target.
const UDP_GRO: libc::c_int = 104;
/// Words of the answer to `SO_MEMINFO` up to the drop count, which is its last.
const MEMINFO_WORDS: usize = libc::SK_MEMINFO_DROPS as usize + 1;

/// Whether the kernel may hand over several datagrams of one sender as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gro {
    /// Where the kernel can.
    Auto,
    On,
    Off,
}

/// What is wanted of a socket.
#[derive(Clone, Debug)]
pub struct UdpSocketOptions {
    /// `::` takes IPv4 as well.
    pub address: IpAddr,
    /// Zero: any free one.
    pub port: u16,
    /// Lets several sockets share the port; each of them must say so.
    pub reuse_port: bool,
    pub receive_buffer_bytes: u32,
    pub gro: Gro,
}

/// A bound socket that never blocks.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    local: SocketAddr,
    gro: bool,
    receive_buffer_bytes: usize,
    without_ipv6: Option<String>,
}

impl UdpSocket {
    /// Binds. The reason on failure is for the operator and names address and port.
    pub fn bind(options: &UdpSocketOptions) -> Result<Self, String> {
        match Self::bind_to(options.address, options) {
            Err((step, error)) if options.address == Ipv6Addr::UNSPECIFIED && lacks_ipv6(&error) => {
                let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                let socket =
                    Self::bind_to(any, options).map_err(|(step, error)| refusal(any, options, step, &error))?;
                Ok(Self { without_ipv6: Some(format!("{step}: {}", describe(&error))), ..socket })
            }
            bound => bound.map_err(|(step, error)| refusal(options.address, options, step, &error)),
        }
    }

    /// The step that failed is named beside its error.
    fn bind_to(address: IpAddr, options: &UdpSocketOptions) -> Result<Self, (&'static str, io::Error)> {
        let at = |step| move |error: Errno| (step, io::Error::from(error));
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd =
            rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP)).map_err(at("socket"))?;
        if address.is_ipv6() {
            // Whatever net.ipv6.bindv6only says.
            sockopt::set_ipv6_v6only(&fd, false).map_err(at("IPV6_V6ONLY"))?;
        }
        if options.reuse_port {
            sockopt::set_socket_reuseport(&fd, true).map_err(at("SO_REUSEPORT"))?;
        }
        // The first ignores net.core.rmem_max and needs CAP_NET_ADMIN, the second is capped by it without saying so.
        let wanted = options.receive_buffer_bytes as usize;
        sockopt::set_socket_recv_buffer_size_force(&fd, wanted)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&fd, wanted))
            .map_err(at("SO_RCVBUF"))?;
        let turn_on = || set_int(fd.as_fd(), libc::SOL_UDP, UDP_GRO, 1);
        let gro = match options.gro {
            Gro::Auto => turn_on().is_ok(),
            Gro::On => turn_on().map(|()| true).map_err(|error| ("UDP_GRO", error))?,
            Gro::Off => false,
        };
        rustix::net::bind(&fd, &SocketAddr::new(address, options.port)).map_err(at("bind"))?;
        let local = rustix::net::getsockname(&fd).and_then(SocketAddr::try_from).map_err(at("getsockname"))?;
        let receive_buffer_bytes = sockopt::socket_recv_buffer_size(&fd).map_err(at("SO_RCVBUF"))?;
        Ok(Self { fd, local, gro, receive_buffer_bytes, without_ipv6: None })
    }

    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    pub fn local_port(&self) -> u16 {
        self.local.port()
    }

    /// Whether runs of datagrams come as one message.
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// What the kernel granted, its own overhead included: twice what was asked for, where it may be had.
    pub fn receive_buffer_bytes(&self) -> usize {
        self.receive_buffer_bytes
    }

    /// Why only IPv4 is served though `::` was asked for.
    pub fn without_ipv6(&self) -> Option<&str> {
        self.without_ipv6.as_deref()
    }

    /// Datagrams the kernel has dropped at this socket: no room in its buffer, a bad checksum, or refused. Wraps.
    pub fn drops(&self) -> io::Result<u32> {
        let mut words = [0_u32; MEMINFO_WORDS];
        let mut bytes = size_of_val(&words) as libc::socklen_t;
        // SAFETY: the kernel writes at most `bytes`, the size of `words`, and the descriptor is ours.
        let answer = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                words.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        done(answer)?;
        Ok(words[MEMINFO_WORDS - 1])
    }

    /// Makes the kernel reject every datagram from now on, or none. Those already in the receive buffer stay there.
    pub fn refuse(&self, everything: bool) -> io::Result<()> {
        if !everything {
            return set_int(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0);
        }
        // "Keep no byte": for a socket filter that means drop.
        let mut program = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        set_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether an error of binding to `::` means that the host has no IPv6.
fn lacks_ipv6(error: &io::Error) -> bool {
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].map(Errno::raw_os_error).map(Some).contains(&error.raw_os_error())
}

fn refusal(address: IpAddr, options: &UdpSocketOptions, step: &str, error: &io::Error) -> String {
    format!("UDP socket on {}: {step}: {}", SocketAddr::new(address, options.port), describe(error))
}

fn set_int(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    set_option(fd, level, name, &value)
}

fn set_option<T>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `bytes`, the size of what `value` borrows; a filter's pointer inside it is to an array
    // that its only maker, `refuse`, keeps alive over this call.
    done(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), bytes) })
}

/// Makes the kernel cut each message of a sending socket into datagrams of this size: how a test gets a run of them
/// onto loopback.
#[cfg(test)]
pub(crate) fn send_in_segments(socket: impl AsFd, bytes: u16) -> io::Result<()> {
    set_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, i32::from(bytes))
}

fn done(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Room for one `UDP_GRO` control message; what else the kernel might send is cut off.
const CONTROL_BYTES: usize = 64;
const CONTROL_HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

/// A sender's address as the kernel writes it: `sockaddr_in` or `sockaddr_in6`.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Name([u8; size_of::<libc::sockaddr_in6>()]);

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// One received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// As it was sent; above the slot's size when the message was truncated.
    pub bytes: usize,
    /// Of each datagram but perhaps the last, when the message is a run of them; otherwise zero.
    pub segment_bytes: usize,
    pub truncated: bool,
    pub peer: Peer,
}

impl Message {
    /// How many datagrams it is.
    #[inline]
    pub fn datagrams(&self) -> usize {
        if self.segment_bytes == 0 { 1 } else { self.bytes.div_ceil(self.segment_bytes).max(1) }
    }
}

/// Room for what one `recvmmsg` tells besides the datagrams' bytes.
pub struct Messages {
    headers: Box<[libc::mmsghdr]>,
    places: Box<[libc::iovec]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    received: usize,
}

// SAFETY: the pointers inside are to this value's own boxes, or to slots borrowed by a `receive` that is over; each
// `receive` sets those it uses anew, and nothing else follows them. None is tied to a thread.
unsafe impl Send for Messages {}

impl Messages {
    pub fn new(batch: usize) -> Self {
        let place = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: a C structure of integers and pointers, for which all zeroes are values.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self {
            headers: vec![header; batch].into(),
            places: vec![place; batch].into(),
            names: vec![Name([0; _]); batch].into(),
            controls: vec![Control([0; _]); batch].into(),
            received: 0,
        }
    }

    /// The most messages of one call.
    pub fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// Receives into the first of `slots`, as many as there are messages, and returns how many. Never waits;
    /// [`io::ErrorKind::WouldBlock`] when there is none.
    #[inline]
    pub fn receive(&mut self, socket: &UdpSocket, pool: &FramePool, slots: &mut [Slot]) -> io::Result<usize> {
        self.received = 0;
        let count = slots.len().min(self.capacity());
        for (index, slot) in slots[..count].iter_mut().enumerate() {
            let bytes = pool.bytes_mut(slot);
            self.places[index] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = self.names[index].0.as_mut_ptr().cast();
            header.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_iov = &raw mut self.places[index];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_BYTES;
            header.msg_flags = 0;
        }
        // MSG_TRUNC: tell a message's real length, from which the number of datagrams in a truncated run follows.
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        let headers = self.headers.as_mut_ptr();
        // SAFETY: the first `count` headers were set above to places in our boxes and in slots, all borrowed for
        // writing until this returns.
        let answer = unsafe {
            libc::recvmmsg(socket.fd.as_raw_fd(), headers, count as libc::c_uint, flags as _, std::ptr::null_mut())
        };
        done(answer)?;
        self.received = (answer as usize).min(count);
        Ok(self.received)
    }

    /// A message of the last call.
    ///
    /// # Panics
    /// When there were not so many.
    #[inline]
    pub fn message(&self, index: usize) -> Message {
        assert!(index < self.received, "message {index} of {}", self.received);
        let header = &self.headers[index];
        let told = header.msg_hdr.msg_controllen.min(CONTROL_BYTES);
        Message {
            bytes: header.msg_len as usize,
            segment_bytes: segment_bytes(&self.controls[index].0[..told]).unwrap_or(0),
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            peer: peer(&self.names[index].0).unwrap_or(Peer::NONE),
        }
    }
}

/// The length of a run's datagrams, from the control messages: each is a length that includes its header, a level, a
/// type, and the content.
#[inline]
fn segment_bytes(mut control: &[u8]) -> Option<usize> {
    loop {
        let length = usize::from_ne_bytes(*control.first_chunk()?);
        let content = control.get(CONTROL_HEADER_BYTES..length)?;
        let kind = (i32_at(control, size_of::<usize>())?, i32_at(control, size_of::<usize>() + 4)?);
        if kind == (libc::SOL_UDP, UDP_GRO) {
            return i32_at(content, 0).and_then(|bytes| usize::try_from(bytes).ok());
        }
        control = control.get(length.next_multiple_of(align_of::<libc::cmsghdr>())..)?;
    }
}

#[inline]
fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..)?.first_chunk().map(|value| i32::from_ne_bytes(*value))
}

/// Family in host order, port in network order, then the address: for IPv6 behind the flow label.
#[inline]
fn peer(name: &[u8]) -> Option<Peer> {
    let (family, rest) = name.split_first_chunk()?;
    let (port, rest) = rest.split_first_chunk()?;
    let address = match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET6 => *rest.get(4..)?.first_chunk()?,
        libc::AF_INET => Ipv4Addr::from(*rest.first_chunk::<4>()?).to_ipv6_mapped().octets(),
        _ => return None,
    };
    Some(Peer { address, port: u16::from_be_bytes(*port) })
}
