//! The memory AF_XDP receives into: a UMEM as a [`Region`] that a frame pool cuts into slots.
//!
//! - **Thread**: whoever opens the NIC. **Invariant**: one slot is one UMEM frame, at the same place in both.
//!
//! Registered pages cannot be moved, so they must be on the NIC's node when they are first touched, which the mapping
//! does (MAP_POPULATE). Their place is therefore the memory policy of the creating thread, set and taken back here.

use std::io;
use std::num::NonZeroU32;
use std::ptr::NonNull;

use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};
use xsk_rs::{FrameDesc, Umem};

use super::error::describe;
use super::options::XdpOptions;
use crate::memory::Region;

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A UMEM that no socket uses yet.
pub(super) struct NewUmem {
    pub umem: Umem,
    /// The descriptor of each frame, by its place. xsk-rs makes them only here, so they are kept for good.
    pub descriptors: Box<[FrameDesc]>,
    pub frame_bytes: usize,
    pub huge_pages: bool,
}

impl NewUmem {
    /// Maps and pre-faults the frames on `numa_node`. The reason on failure is for the operator.
    pub fn create(options: &XdpOptions, numa_node: Option<u32>) -> Result<Self, String> {
        let invalid = |error: &dyn std::fmt::Display| format!("UMEM: {error}");
        let frame_size = FrameSize::new(options.frame_bytes).map_err(|error| invalid(&error))?;
        let fill = QueueSize::new(options.fill_ring).map_err(|error| invalid(&error))?;
        // Nothing is ever sent; the kernel wants a completion ring all the same.
        let completion = QueueSize::new(2).map_err(|error| invalid(&error))?;
        let config = UmemConfig::builder()
            .frame_size(frame_size)
            .fill_queue_size(fill)
            .comp_queue_size(completion)
            .build()
            .map_err(|error| invalid(&error))?;
        let frames = NonZeroU32::new(options.frames).ok_or("UMEM: no frames")?;
        let bytes = options.frames as usize * options.frame_bytes as usize;
        let _policy = numa_node.and_then(MemoryPolicy::prefer);
        let huge = if bytes.is_multiple_of(HUGE_PAGE_BYTES) { Umem::new(config, frames, true).ok() } else { None };
        let huge_pages = huge.is_some();
        let (umem, descriptors) = match huge {
            Some(made) => made,
            None => Umem::new(config, frames, false).map_err(|error| format!("UMEM: {}", describe(&error)))?,
        };
        let descriptors = descriptors.into_boxed_slice();
        Ok(Self { umem, descriptors, frame_bytes: options.frame_bytes as usize, huge_pages })
    }

    /// The region over all frames. It keeps the UMEM alive.
    ///
    /// # Safety
    /// Called once for a UMEM: the region claims every byte of it.
    pub unsafe fn region(&self) -> io::Result<Region> {
        let first = self.descriptors.first().ok_or_else(|| io::Error::other("no frames"))?;
        // SAFETY: the descriptor came with this UMEM, and before the fill ring has a frame nobody writes to any.
        let data = unsafe { self.umem.data(first) };
        // The only way xsk-rs shows where the mapping is: the first frame's packet lies behind its headroom. The
        // pointer is taken as an address because the slice's own provenance covers none of the mapping; mmap's does.
        let address = data.contents().as_ptr().expose_provenance() - first.addr();
        let base = std::ptr::with_exposed_provenance_mut::<u8>(address);
        let base = NonNull::new(base).ok_or_else(|| io::Error::other("UMEM at address zero"))?;
        let bytes = self.descriptors.len() * self.frame_bytes;
        let keeper = Box::new(self.umem.clone());
        // SAFETY: the UMEM maps exactly `frames * frame_bytes` bytes, readable and writable, until the last clone
        // of it is dropped, and xsk-rs hands out access to them only through unsafe functions, which nobody calls.
        Ok(unsafe { Region::external(base, bytes, keeper) })
    }
}

/// The node a page of the region lies on, or none if the kernel does not say.
pub(super) fn node_of(address: usize) -> Option<u32> {
    // The flags of get_mempolicy (linux/mempolicy.h): the node, not the policy, and of an address.
    const MPOL_F_NODE: libc::c_ulong = 1;
    const MPOL_F_ADDR: libc::c_ulong = 2;
    let mut node: libc::c_int = 0;
    let (no_mask, flags) = (std::ptr::null_mut::<u64>(), MPOL_F_NODE | MPOL_F_ADDR);
    // SAFETY: the kernel writes one integer to `node`; the address is looked up, not accessed.
    let result = unsafe { libc::syscall(libc::SYS_get_mempolicy, &raw mut node, no_mask, 0_usize, address, flags) };
    if result == 0 { u32::try_from(node).ok() } else { None }
}

/// Nodes a mask has room for: what the kernel is built for at most.
const NODE_BITS: usize = 1024;

/// A thread's memory policy; dropping it makes it the thread's again.
struct MemoryPolicy {
    mode: libc::c_int,
    nodes: [u64; NODE_BITS / 64],
}

impl MemoryPolicy {
    /// Prefers a node for what this thread maps, until the result is dropped. A machine without nodes, or a container
    /// that forbids the call, keeps its policy: only speed is lost. Preferring instead of binding means that a full
    /// node is no failure either.
    fn prefer(node: u32) -> Option<Self> {
        let before = Self::current()?;
        let mut wanted = Self { mode: libc::MPOL_PREFERRED, nodes: [0; _] };
        *wanted.nodes.get_mut(node as usize / 64)? |= 1 << (node % 64);
        let result = wanted.set();
        std::mem::forget(wanted); // it was never the thread's own
        result.ok().map(|()| before)
    }

    fn current() -> Option<Self> {
        let (mut mode, mut nodes) = (0, [0_u64; NODE_BITS / 64]);
        let (none, flags) = (0_usize, 0_usize);
        // SAFETY: the kernel writes one integer to `mode` and `NODE_BITS` bits to `nodes`.
        let result = unsafe {
            libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, nodes.as_mut_ptr(), NODE_BITS, none, flags)
        };
        (result == 0).then_some(Self { mode, nodes })
    }

    fn set(&self) -> io::Result<()> {
        // SAFETY: the kernel reads `NODE_BITS` bits from `nodes`.
        let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, self.mode, self.nodes.as_ptr(), NODE_BITS) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for MemoryPolicy {
    fn drop(&mut self) {
        let _ = self.set();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threads_memory_policy_comes_back() {
        let Some(before) = MemoryPolicy::current() else { return };
        let preferred = MemoryPolicy::prefer(0);
        if preferred.is_some() {
            let now = MemoryPolicy::current().unwrap();
            assert_eq!((now.mode, now.nodes[0]), (libc::MPOL_PREFERRED, 1));
            std::mem::forget(now);
        }
        drop(preferred);
        let after = MemoryPolicy::current().unwrap();
        assert_eq!((after.mode, after.nodes), (before.mode, before.nodes));
    }

    #[test]
    fn a_touched_page_has_a_node() {
        let page = vec![1_u8; 4096];
        assert!(node_of(page.as_ptr().addr()).is_none_or(|node| node < NODE_BITS as u32));
    }
}
