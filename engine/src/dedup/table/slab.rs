//! Arrays of atomics in zeroed memory, on huge pages where the kernel grants them: a table of ten million ids spans
//! a hundred thousand small pages, and each claim would pay for a walk of the page table beside its cache miss.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use super::{Bucket, Cell};

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// # Safety
/// All bytes zero must be a valid value, and dropping one must do nothing.
pub(super) unsafe trait Zeroable {}

// SAFETY: consists of atomics of integers, for which all bytes zero is the value 0, and which have no drop.
unsafe impl Zeroable for Bucket {}
// SAFETY: as for `Bucket`.
unsafe impl Zeroable for Cell {}

/// A boxed slice with an alignment of its own.
pub(super) struct Slab<T> {
    start: NonNull<T>,
    len: usize,
    layout: Layout,
}

// SAFETY: a slab owns its elements as a boxed slice does; nothing else points to them.
unsafe impl<T: Send> Send for Slab<T> {}
// SAFETY: shared access gives out `&[T]` alone.
unsafe impl<T: Sync> Sync for Slab<T> {}

pub(super) fn slab<T: Zeroable>(len: usize) -> Slab<T> {
    let layout = Layout::array::<T>(len).expect("limited to 2^30 cells by DedupTable::new");
    assert!(layout.size() > 0, "DedupTable::new refuses a capacity of zero");
    let huge = layout.size() >= HUGE_PAGE_BYTES;
    let layout = if huge { layout.align_to(HUGE_PAGE_BYTES).expect("a power of two") } else { layout };
    // SAFETY: the layout's size is not zero, asserted above.
    let bytes = unsafe { alloc(layout) };
    let Some(start) = NonNull::new(bytes.cast::<T>()) else { handle_alloc_error(layout) };
    if huge {
        // Before the first touch, which is what decides the size of the page. Refused, it is merely slower.
        // SAFETY: the range is the allocation just made; the advice changes how it is backed, not what it holds.
        let _ = unsafe { rustix::mm::madvise(bytes.cast(), layout.size(), rustix::mm::Advice::LinuxHugepage) };
    }
    // Zeroed here and not by the allocator: each page is touched now, and none faults in later under a claim.
    // SAFETY: the allocation has this size and is not yet shared.
    unsafe { bytes.write_bytes(0, layout.size()) };
    Slab { start, len, layout }
}

impl<T> std::ops::Deref for Slab<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is the start of an allocation of `len` elements, zeroed, and `slab` makes only types
        // for which that is valid; it lives until `drop`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Slab<T> {
    fn drop(&mut self) {
        // SAFETY: allocated by `slab` with this layout, and freed only here; the elements have no drop.
        unsafe { dealloc(self.start.as_ptr().cast::<u8>(), self.layout) };
    }
}
