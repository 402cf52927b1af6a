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
        let _policy = numa_node.map(MemoryPolicy::prefer);
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

/// Prefers a node for what this thread maps, until dropped.
struct MemoryPolicy;

impl MemoryPolicy {
    fn prefer(node: u32) -> Self {
        if let Some(mask) = 1_u64.checked_shl(node) {
            // A machine with one node, or a container that forbids the call, keeps its policy: nothing is lost but
            // speed, and preferring instead of binding means that a full node is no failure either.
            let _ = set_policy(libc::MPOL_PREFERRED, Some(&mask));
        }
        Self
    }
}

impl Drop for MemoryPolicy {
    fn drop(&mut self) {
        let _ = set_policy(libc::MPOL_DEFAULT, None);
    }
}

fn set_policy(policy: libc::c_int, nodes: Option<&u64>) -> io::Result<()> {
    let (pointer, bits) = nodes.map_or((std::ptr::null(), 0), |mask| (std::ptr::from_ref(mask), u64::BITS + 1));
    // SAFETY: the kernel reads at most `bits - 1` bits behind the pointer, which are those of a live u64.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, policy, pointer, libc::c_ulong::from(bits)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
