//! One mapping of anonymous memory, on huge pages where there are any: reserved ones (hugetlb), or those that the kernel puts
//! together itself.

use std::any::Any;
use std::io;
use std::ptr::NonNull;

use super::node::{Placement, on_node};
use super::prefetch::prefetch_at;
use super::slab::{HUGE_PAGE_BYTES, populate};

/// What a region got from the kernel; printed at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    HugePages,
    Pages,
    /// Mapped by somebody else, such as the UMEM of an AF_XDP socket.
    External,
}

/// Memory that stays where it is until the region is dropped.
///
/// The region hands out raw positions only; who may touch which bytes when is the business of the
/// [`FramePool`](super::FramePool) on top of it.
pub struct Region {
    base: NonNull<u8>,
    bytes: usize,
    backing: Backing,
    /// Keeps an external mapping alive.
    _keeper: Option<Box<dyn Any + Send + Sync>>,
}

// SAFETY: a region is an address range. It grants no access by itself: all reads and writes go through slot and
// event tokens, which give each byte one writer and only readers after publication.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps and pre-faults `bytes` of zeroed memory. Tries reserved huge pages first.
    pub fn map(bytes: usize) -> io::Result<Self> {
        Self::map_with(bytes, true)
    }

    /// The same on a NUMA node, as far as it has room; tells where the memory really lies.
    pub fn map_on(node: Option<u32>, bytes: usize) -> io::Result<(Self, Placement)> {
        on_node(node, bytes, |may_be_huge| {
            let region = Self::map_with(bytes, may_be_huge)?;
            let address = region.address();
            Ok((region, address))
        })
    }

    pub(super) fn map_with(bytes: usize, may_be_huge: bool) -> io::Result<Self> {
        if may_be_huge
            && bytes >= HUGE_PAGE_BYTES
            && bytes.is_multiple_of(HUGE_PAGE_BYTES)
            && let Ok(region) = Self::map_flags(bytes, libc::MAP_HUGETLB, Backing::HugePages)
        {
            return Ok(region);
        }
        Self::map_flags(bytes, 0, Backing::Pages)
    }

    fn map_flags(bytes: usize, flags: libc::c_int, backing: Backing) -> io::Result<Self> {
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping just made, for which mmap gives whole pages.
        unsafe { populate(base, bytes) };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Self { base, bytes, backing, _keeper: None })
    }

    /// Takes an existing mapping.
    ///
    /// # Safety
    /// `base..base + bytes` must be mapped readable and writable for as long as `keeper` lives, and nobody but
    /// the kernel (through the AF_XDP rings) and the pool built on this region may touch it.
    pub unsafe fn external(base: NonNull<u8>, bytes: usize, keeper: Box<dyn Any + Send + Sync>) -> Self {
        Self { base, bytes, backing: Backing::External, _keeper: Some(keeper) }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Where it begins; no two living regions begin at the same address.
    #[inline]
    pub fn address(&self) -> usize {
        self.base.as_ptr().addr()
    }

    /// # Safety
    /// `position..position + length` must lie in the region, and nobody may write to it while the slice lives.
    #[inline]
    pub(super) unsafe fn slice(&self, position: usize, length: usize) -> &[u8] {
        // SAFETY: the caller keeps the position inside the mapping.
        let start = unsafe { self.base.as_ptr().add(position) };
        // SAFETY: the caller keeps writers away; every byte of a mapping is initialised.
        unsafe { std::slice::from_raw_parts(start, length) }
    }

    /// # Safety
    /// As for [`slice`](Self::slice), and nobody else may read the range either.
    #[inline]
    #[allow(clippy::mut_from_ref)] // exclusive by the caller's token, not by the region's borrow
    pub(super) unsafe fn slice_mut(&self, position: usize, length: usize) -> &mut [u8] {
        // SAFETY: the caller keeps the position inside the mapping.
        let start = unsafe { self.base.as_ptr().add(position) };
        // SAFETY: the caller has the range for itself.
        unsafe { std::slice::from_raw_parts_mut(start, length) }
    }

    /// Hints the cache that `position` will be read soon. Any position is allowed: a prefetch never faults.
    #[inline]
    pub(super) fn prefetch(&self, position: usize) {
        prefetch_at(self.base.as_ptr().wrapping_add(position));
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.backing != Backing::External {
            // SAFETY: mapped by `map_flags` with this length, and no slice outlives the region.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
        }
    }
}
