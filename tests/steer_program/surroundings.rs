//! What a test needs around the program: a network namespace with a veth pair, and AF_XDP sockets to steer into.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Command;

pub const UMEM_FRAME_BYTES: usize = 4_096;
const RING_ENTRIES: libc::c_int = 64;

/// An AF_XDP socket that is bound to nothing: to stand in a socket map it needs a UMEM and an rx ring, no device.
pub struct XskSocket {
    fd: OwnedFd,
    _umem: Vec<u8>,
}

impl XskSocket {
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes three integers.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let umem = vec![0_u8; 2 * UMEM_FRAME_BYTES];
        let registration = libc::xdp_umem_reg {
            addr: (umem.as_ptr() as u64).next_multiple_of(UMEM_FRAME_BYTES as u64),
            len: UMEM_FRAME_BYTES as u64,
            chunk_size: UMEM_FRAME_BYTES as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        set_option(&fd, libc::XDP_UMEM_REG, &registration)?;
        set_option(&fd, libc::XDP_UMEM_FILL_RING, &RING_ENTRIES)?;
        set_option(&fd, libc::XDP_RX_RING, &RING_ENTRIES)?;
        Ok(Self { fd, _umem: umem })
    }
}

impl AsRawFd for XskSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn set_option<T>(fd: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of a live `T`, which is plain integers.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends of the veth pair, by interface index.
#[derive(Clone, Copy)]
pub struct Pair {
    pub receiver: u32,
    pub sender: u32,
}

/// Runs `body` on a thread in a network namespace of its own that holds a veth pair with `queues` queues. Thread and
/// pair end together. `Err` says why there can be no namespace.
pub fn with_veth_pair<T: Send>(queues: u32, body: impl FnOnce(Pair) -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: a new network namespace leaves this thread's descriptors and memory as they are.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .map_err(|error| format!("no network namespace: {error}"))?;
            let queues = queues.to_string();
            ip(&[
                "link",
                "add",
                "receiver",
                "numrxqueues",
                &queues,
                "numtxqueues",
                &queues,
                "type",
                "veth",
                "peer",
                "name",
                "sender",
                "numrxqueues",
                &queues,
                "numtxqueues",
                &queues,
            ])?;
            ip(&["link", "set", "receiver", "address", "02:00:00:00:00:01", "up"])?;
            ip(&["link", "set", "sender", "address", "02:00:00:00:00:02", "up"])?;
            Ok(body(Pair { receiver: index_of(c"receiver")?, sender: index_of(c"sender")? }))
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
    }
}

fn index_of(name: &std::ffi::CStr) -> Result<u32, String> {
    // SAFETY: the name ends in NUL and lives through the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(format!("{name:?}: {}", io::Error::last_os_error())),
        index => Ok(index),
    }
}
