//! An XDP program on an interface: put there, and taken away for certain.
//!
//! - **Thread**: control. **Invariant**: once an [`Attachment`] is dropped, its program runs no more.
//!
//! A link whose last descriptor is closed detaches itself, so nothing of ours outlives the process, whatever ends it.
//! But the last descriptor may be one that a child just forked by another thread has until it executes; closing ours
//! would then detach at some later time, after sockets that must outlive the program. So the link is told to detach
//! first, which aya cannot do: that is why the two calls of bpf(2) stand here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::interface::Hook;
use super::netlink::{self, Request};

// linux/bpf.h
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_XDP: u32 = 37;

// linux/if_link.h; the first three are nested in IFLA_XDP.
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_EXPECTED_FD: u16 = 8;
const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1;
const XDP_FLAGS_REPLACE: u32 = 1 << 4;

/// The arguments of both commands: the program, interface, type and flags of a new link, or a link to detach and zeroes.
/// The kernel takes what is missing behind them as zero.
#[repr(C)]
struct LinkArguments {
    descriptor: u32,
    interface_index: u32,
    attach_type: u32,
    flags: u32,
}

/// A program that is attached until this is dropped.
pub(super) struct Attachment {
    interface_index: u32,
    hook: Hook,
    program: OwnedFd,
    /// None on kernels that know XDP links no (before 5.9): there it is attached over netlink, and stays if we are killed.
    link: Option<OwnedFd>,
}

impl Attachment {
    /// Attaches a program where there is none.
    pub fn new(program: BorrowedFd<'_>, interface_index: u32, hook: Hook) -> io::Result<Self> {
        let arguments = LinkArguments {
            descriptor: program.as_raw_fd() as u32,
            interface_index,
            attach_type: BPF_XDP,
            flags: mode_flag(hook),
        };
        let link = match bpf(BPF_LINK_CREATE, &arguments) {
            Ok(descriptor) => {
                // SAFETY: the kernel has just made the descriptor, for us alone, and closes it on exec.
                Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let request = Request::new(libc::RTM_SETLINK, libc::NLM_F_ACK).link(interface_index);
                let flags = mode_flag(hook) | XDP_FLAGS_UPDATE_IF_NOEXIST;
                netlink::ask(
                    request.nested(libc::IFLA_XDP, |xdp| {
                        xdp.attribute(IFLA_XDP_FD, &program.as_raw_fd().to_ne_bytes())
                            .attribute(IFLA_XDP_FLAGS, &flags.to_ne_bytes())
                    }),
                    |_| {},
                )?;
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { interface_index, hook, program: program.try_clone_to_owned()?, link })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // Both fail only if the interface, and with it the attachment, is gone already.
        let _ = match &self.link {
            Some(link) => {
                let descriptor = link.as_raw_fd() as u32;
                let arguments = LinkArguments { descriptor, interface_index: 0, attach_type: 0, flags: 0 };
                bpf(BPF_LINK_DETACH, &arguments).map(|_| ())
            }
            None => detach_over_netlink(self.interface_index, self.hook, self.program.as_fd()),
        };
    }
}

/// Takes away a program that is attached without a link, and only that: another may have taken its place meanwhile. With
/// a link the kernel answers EBUSY.
pub(super) fn detach_over_netlink(index: u32, hook: Hook, expected: BorrowedFd<'_>) -> io::Result<()> {
    let flags = mode_flag(hook) | XDP_FLAGS_REPLACE;
    let request = Request::new(libc::RTM_SETLINK, libc::NLM_F_ACK).link(index).nested(libc::IFLA_XDP, |xdp| {
        xdp.attribute(IFLA_XDP_FD, &(-1_i32).to_ne_bytes())
            .attribute(IFLA_XDP_FLAGS, &flags.to_ne_bytes())
            .attribute(IFLA_XDP_EXPECTED_FD, &expected.as_raw_fd().to_ne_bytes())
    });
    netlink::ask(request, |_| {})
}

const fn mode_flag(hook: Hook) -> u32 {
    match hook {
        Hook::Generic => 1 << 1,
        Hook::Native => 1 << 2,
        Hook::Hardware => 1 << 3,
    }
}

fn bpf(command: libc::c_int, arguments: &LinkArguments) -> io::Result<i32> {
    let (pointer, bytes) = (std::ptr::from_ref(arguments), size_of::<LinkArguments>());
    // SAFETY: the kernel reads `bytes` bytes from a live structure; the two commands write nothing back.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
