//! The memory AF_XDP receives into: a UMEM as a [`Region`] that a frame pool cuts into slots.
//!
//! - **Thread**: whoever opens the NIC. **Invariant**: one slot is one UMEM frame, at the same place in both.
//!
//! Registered pages cannot be moved, so they must be on the NIC's node when they are first touched, which the mapping
//! does (MAP_POPULATE): it is made under that memory policy, and then looked at.

use std::io;
use std::num::NonZeroU32;
use std::ptr::NonNull;

use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};
use xsk_rs::{FrameDesc, Umem};

use super::error::describe;
use super::options::XdpOptions;
use crate::memory::{HUGE_PAGE_BYTES, Placement, Region, on_node};

/// A UMEM that no socket uses yet.
pub(super) struct NewUmem {
    pub umem: Umem,
    /// The descriptor of each frame, by its place. xsk-rs makes them only here, so they are kept for good.
    pub descriptors: Box<[FrameDesc]>,
    pub frame_bytes: usize,
    pub huge_pages: bool,
    /// Where the frames lie.
    pub placement: Placement,
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
        let made = on_node(numa_node, bytes, |may_be_huge| {
            let huge = if may_be_huge && bytes.is_multiple_of(HUGE_PAGE_BYTES) {
                Umem::new(config, frames, true).ok()
            } else {
                None
            };
            let huge_pages = huge.is_some();
            let (umem, descriptors) = match huge {
                Some(made) => made,
                None => Umem::new(config, frames, false).map_err(|error| format!("UMEM: {}", describe(&error)))?,
            };
            let address = address(&umem, &descriptors).ok_or("UMEM: no frames")?;
            Ok::<_, String>(((umem, descriptors.into_boxed_slice(), huge_pages), address))
        });
        let ((umem, descriptors, huge_pages), placement) = made?;
        Ok(Self { umem, descriptors, frame_bytes: options.frame_bytes as usize, huge_pages, placement })
    }

    /// The region over all frames. It keeps the UMEM alive.
    ///
    /// # Safety
    /// Called once for a UMEM: the region claims every byte of it.
    pub unsafe fn region(&self) -> io::Result<Region> {
        let address = address(&self.umem, &self.descriptors).ok_or_else(|| io::Error::other("no frames"))?;
        let base = std::ptr::with_exposed_provenance_mut::<u8>(address);
        let base = NonNull::new(base).ok_or_else(|| io::Error::other("UMEM at address zero"))?;
        let bytes = self.descriptors.len() * self.frame_bytes;
        let keeper = Box::new(self.umem.clone());
        // SAFETY: the UMEM maps exactly `frames * frame_bytes` bytes, readable and writable, until the last clone
        // of it is dropped, and xsk-rs hands out access to them only through unsafe functions, which nobody calls.
        Ok(unsafe { Region::external(base, bytes, keeper) })
    }
}

/// Where the mapping of a UMEM that nobody uses yet begins.
fn address(umem: &Umem, descriptors: &[FrameDesc]) -> Option<usize> {
    let first = descriptors.first()?;
    // SAFETY: the descriptor came with this UMEM, and before the fill ring has a frame nobody writes to any.
    let data = unsafe { umem.data(first) };
    // The only way xsk-rs shows where the mapping is: the first frame's packet lies behind its headroom. The pointer is taken
    // as an address because the slice's own provenance covers none of the mapping; mmap's does.
    Some(data.contents().as_ptr().expose_provenance() - first.addr())
}
