//! Two ends of a veth pair, each in a network namespace of its own: the engine's is this thread's, the sender's that of
//! a second thread. Nothing has a name outside, and all of it ends with the two threads, however the test ends.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

type Job = Box<dyn FnOnce() + Send>;

pub const ENGINE: &str = "engine";
pub const SENDER: &str = "sender";
const ENGINE_MAC: &str = "02:00:00:00:00:01";

pub struct Link {
    jobs: Sender<Job>,
}

impl Link {
    /// Runs `work` on the thread in the sender's namespace and waits for it.
    pub fn at_sender<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        self.jobs
            .send(Box::new(move || done.send(work()).expect("the test waits")))
            .expect("the sender's thread lives");
        result.recv().expect("the sender's work ends")
    }
}

/// Runs `body` between the two ends. `Err` says why there can be none.
pub fn with_link(queues: u32, body: impl FnOnce(Link) + Send) -> Result<(), String> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            enter_new_namespace()?;
            let (jobs, work): (Sender<Job>, Receiver<Job>) = channel();
            let (ready, sender_thread) = channel();
            scope.spawn(move || {
                let entered = enter_new_namespace().map(|()| rustix::thread::gettid().as_raw_nonzero().get());
                let _ = ready.send(entered);
                work.iter().for_each(|job| job());
            });
            let sender_thread = sender_thread.recv().map_err(|error| error.to_string())??;
            let link = Link { jobs };
            connect(&link, queues, sender_thread)?;
            body(link);
            Ok(())
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn enter_new_namespace() -> Result<(), String> {
    // SAFETY: a new network namespace leaves this thread's descriptors and memory as they are.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .map_err(|error| format!("no network namespace: {error}"))
}

fn connect(link: &Link, queues: u32, sender_thread: i32) -> Result<(), String> {
    let ends = format!("numrxqueues {queues} numtxqueues {queues}");
    ip(&format!("link add {ENGINE} {ends} type veth peer name {SENDER} {ends} netns {sender_thread}"))?;
    // Fixed and known to each other, and without addresses the kernel would make by itself some seconds later: nothing
    // but the test's own packets and addresses.
    ip(&format!("link set {ENGINE} address {ENGINE_MAC} addrgenmode none mtu 3000 up"))?;
    ip(&format!("addr add 198.18.0.1/24 dev {ENGINE}"))?;
    ip(&format!("addr add fd00::1/64 dev {ENGINE} nodad"))?;
    link.at_sender(|| {
        ip(&format!("link set {SENDER} addrgenmode none mtu 3000 up"))?;
        ip(&format!("addr add 198.18.0.2/24 dev {SENDER}"))?;
        ip(&format!("addr add fd00::2/64 dev {SENDER} nodad"))?;
        ip(&format!("neigh add 198.18.0.1 lladdr {ENGINE_MAC} dev {SENDER}"))?;
        ip(&format!("neigh add fd00::1 lladdr {ENGINE_MAC} dev {SENDER}"))
    })
}

/// Sends whole Ethernet frames out of an interface, whatever is in them.
pub struct RawSender {
    socket: OwnedFd,
    to: libc::sockaddr_ll,
}

impl RawSender {
    pub fn new(interface: &str) -> io::Result<Self> {
        let family = AddressFamily::PACKET;
        let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        let index = rustix::net::netdevice::name_to_index(&socket, interface)?;
        let to = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        Ok(Self { socket, to })
    }

    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        // SAFETY: both pointers come with the length of what they point to, and both outlive the call.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                std::ptr::from_ref(&self.to).cast(),
                size_of_val(&self.to) as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) -> Result<(), String> {
    let output =
        Command::new("ip").args(arguments.split_whitespace()).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
