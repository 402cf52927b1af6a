//! rtnetlink: the few requests the control plane makes, and a reader for what the kernel answers.
//!
//! - **Thread**: control. **In**: requests. **Out**: messages and attributes as borrowed slices.
//! - **Overload**: the kernel drops notifications that do not fit the socket's buffer and says so (ENOBUFS);
//!   [`super::NetWatch`] then asks for everything again.
//! - **Invariant**: every length is checked against what was received before anything is read; a reader stops at the
//!   first length that does not fit.
//!
//! Integers are in host order, lengths include their header, everything starts at a multiple of four.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

const ALIGNMENT: usize = 4;
const MESSAGE_HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// The kernel's bits in an attribute's type: nested, and network byte order.
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;
/// Larger than any part of a dump (the kernel allocates at most 32 KiB) and any single link without statistics.
pub(super) const BUFFER_BYTES: usize = 64 << 10;
/// The kernel answers before `send` returns; this only keeps a surprise from hanging the start.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// One message as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub kind: u16,
    pub body: &'a [u8],
}

/// The messages in a received datagram, up to the first whose length does not fit.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let body = bytes.get(MESSAGE_HEADER_BYTES..length)?;
        let kind = u16_at(bytes, 4)?;
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(Message { kind, body })
    })
}

/// Type and content of the attributes in `bytes`, up to the first whose length does not fit.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let content = bytes.get(ATTRIBUTE_HEADER_BYTES..length)?;
        let kind = u16_at(bytes, 2)? & ATTRIBUTE_TYPE_MASK;
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, content))
    })
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|value| u16::from_ne_bytes(*value))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|value| u32::from_ne_bytes(*value))
}

/// A request under construction.
pub(super) struct Request(Vec<u8>);

impl Request {
    pub fn new(kind: u16, flags: i32) -> Self {
        let mut bytes = vec![0; MESSAGE_HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        Self(bytes)
    }

    /// `struct ifinfomsg` of an interface, or of none.
    pub fn link(mut self, index: u32) -> Self {
        let mut header = [0_u8; 16];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        self.0.extend_from_slice(&header);
        self
    }

    /// `struct ifaddrmsg` that matches every address.
    pub fn all_addresses(mut self) -> Self {
        self.0.extend_from_slice(&[0; 8]);
        self
    }

    pub fn attribute(mut self, kind: u16, content: &[u8]) -> Self {
        let length = (ATTRIBUTE_HEADER_BYTES + content.len()) as u16; // only ever names and integers
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        self
    }

    /// An attribute that holds the attributes `inside` adds.
    pub fn nested(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self = inside(self.attribute(kind | libc::NLA_F_NESTED as u16, &[]));
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// Opens a netlink socket that is told about `groups`.
pub(super) fn open(groups: i32, flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    // Protocol zero is NETLINK_ROUTE.
    let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&fd, &netlink::SocketAddrNetlink::new(0, groups as u32))?;
    Ok(fd)
}

/// Sends one request and hands over each message of the answer. A kernel error becomes an [`io::Error`].
pub(super) fn ask(request: Request, mut each: impl FnMut(Message<'_>)) -> io::Result<()> {
    const SEQUENCE: u32 = 1; // one request a socket
    let fd = open(0, SocketFlags::empty())?;
    sockopt::set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    let request = request.finish(SEQUENCE);
    rustix::net::send(&fd, &request, SendFlags::empty())?;
    let is_dump = u16_at(&request, 6).is_some_and(|flags| flags & libc::NLM_F_DUMP as u16 == libc::NLM_F_DUMP as u16);
    let wants_ack = u16_at(&request, 6).is_some_and(|flags| flags & libc::NLM_F_ACK as u16 != 0);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (received, _) = rustix::net::recv(&fd, &mut buffer[..], RecvFlags::empty())?;
        for message in messages(&buffer[..received]) {
            match i32::from(message.kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => {
                    let code = u32_at(message.body, 0).map_or(-libc::EBADMSG, |code| code as i32);
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => each(message),
            }
        }
        if !is_dump && !wants_ack {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let request = Request::new(7, libc::NLM_F_ACK)
            .link(3)
            .attribute(1, b"abcde")
            .nested(43, |r| r.attribute(1, &(-1_i32).to_ne_bytes()).attribute(3, &4_u32.to_ne_bytes()));
        let bytes = request.finish(9);
        let found: Vec<_> = messages(&bytes).collect();
        assert_eq!((found.len(), found[0].kind), (1, 7));
        assert_eq!(u32_at(found[0].body, 4), Some(3));
        let outer: Vec<_> = attributes(&found[0].body[16..]).collect();
        assert_eq!(outer[0], (1, &b"abcde"[..]));
        assert_eq!(outer[1].0, 43);
        let inner: Vec<_> = attributes(outer[1].1).map(|(kind, content)| (kind, u32_at(content, 0))).collect();
        assert_eq!(inner, [(1, Some(u32::MAX)), (3, Some(4))]);
    }

    #[test]
    fn a_cut_answer_reads_as_less() {
        let one = Request::new(7, 0).link(3).attribute(1, b"abcde").finish(1);
        let both = [one.as_slice(), &one].concat();
        for length in 0..both.len() {
            let expected = length / one.len();
            assert_eq!(messages(&both[..length]).count(), expected, "cut at {length}");
        }
        let bytes = &one[MESSAGE_HEADER_BYTES + 16..];
        // The padding behind the last attribute is not part of it.
        for length in 0..bytes.len() {
            assert_eq!(attributes(&bytes[..length]).count(), usize::from(length >= 9), "cut at {length}");
        }
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        for length in [0_u32, 1, 15, 17, u32::MAX] {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.resize(16, 0);
            assert_eq!(messages(&bytes).count(), 0, "length {length}");
        }
        for length in [0_u16, 3, 9, u16::MAX] {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.resize(8, 0);
            assert_eq!(attributes(&bytes).count(), 0, "length {length}");
        }
    }
}
