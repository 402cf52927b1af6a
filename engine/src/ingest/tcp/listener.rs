//! The listening socket: binding it, and accepting a bounded number of connections a duty cycle.
//!
//! - **Thread**: the ingest agent's. **In**: connections the kernel completed. **Out**: non-blocking sockets.
//! - **Overload**: out of descriptors or memory, it pauses: the backlog keeps what came, and nothing spins. It is
//!   watched edge-triggered, so a backlog that is left alone (pause, drain) does not keep the runner awake.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::runtime::clock::Nanos;

/// What the kernel keeps for us between two duty cycles; it caps this at `net.core.somaxconn` (4096 by default).
const BACKLOG: i32 = 4096;
/// How long accepting rests after the process or the host ran out of something.
const EXHAUSTED_PAUSE_NS: Nanos = 100_000_000;

pub(super) struct Listener {
    socket: OwnedFd,
    port: u16,
    /// The backlog may hold something: set by epoll, cleared by finding it empty.
    ready: bool,
    not_before: Nanos,
}

impl Listener {
    pub(super) fn bind(address: IpAddr, port: u16, reuse_port: bool) -> Result<Self, String> {
        Self::try_bind(address, port, reuse_port)
            .map_err(|error| format!("cannot listen on TCP {}: {error}", SocketAddr::new(address, port)))
    }

    fn try_bind(address: IpAddr, port: u16, reuse_port: bool) -> Result<Self, Errno> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        // Or a restart within a minute would find the port taken by connections in TIME_WAIT.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if reuse_port {
            sockopt::set_socket_reuseport(&socket, true)?;
        }
        if address.is_ipv6() {
            // One socket for both families, whatever net.ipv6.bindv6only says.
            sockopt::set_ipv6_v6only(&socket, false)?;
        }
        rustix::net::bind(&socket, &SocketAddr::new(address, port))?;
        rustix::net::listen(&socket, BACKLOG)?;
        let port = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?.port();
        Ok(Self { socket, port, ready: false, not_before: 0 })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn set_ready(&mut self) {
        self.ready = true;
    }

    /// When accepting goes on if the backlog may hold something.
    pub(super) fn due(&self) -> Option<Nanos> {
        self.ready.then_some(self.not_before)
    }

    /// The next connection, if there is one and nothing is short.
    pub(super) fn accept(&mut self, now: Nanos) -> Option<OwnedFd> {
        while self.ready && now >= self.not_before {
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => return Some(socket),
                Err(Errno::AGAIN) => self.ready = false,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    self.not_before = now + EXHAUSTED_PAUSE_NS;
                }
                // Errors of the one connection that was next (accept(2) names them); it is gone.
                Err(Errno::CONNABORTED | Errno::INTR | Errno::PROTO | Errno::PERM) => {}
                // Linux passes pending network errors of the new socket on: neither fatal nor worth a spin.
                Err(_) => self.not_before = now + EXHAUSTED_PAUSE_NS,
            }
        }
        None
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
