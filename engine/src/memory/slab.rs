//! Arrays that are there from the start, on huge pages where the kernel grants them.
//!
//! - **Thread**: whoever builds the engine makes them. The kernel gives a page when it is first touched: without this the data
//!   path would be the first, with a fault for every page, and a machine with too little memory would say so under load only.
//! - A table of a hundred thousand topics or of ten million ids spans more small pages than the processor remembers: each look-up
//!   would pay for a walk of the page table beside its cache miss.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{Advice, madvise};
use rustix::param::page_size;

/// Of the smaller size that x86-64 and most of arm64 have.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;
/// From here on whole huge pages are taken: at most half of them is not needed.
const HUGE_FROM_BYTES: usize = 1 << 20;

/// A boxed slice with an alignment of its own.
pub struct Slab<T> {
    start: NonNull<T>,
    len: usize,
    layout: Layout,
}

// SAFETY: a slab owns its elements as a boxed slice does; nothing else points to them.
unsafe impl<T: Send> Send for Slab<T> {}
// SAFETY: shared access gives out `&[T]` alone.
unsafe impl<T: Sync> Sync for Slab<T> {}

/// Has the kernel give the pages of fresh memory now, huge ones where it likes to. Where there are too few they come when they are
/// touched, with what the kernel does then.
///
/// # Safety
/// The range must be a mapping or an allocation that nobody else knows of yet, page aligned if it is not smaller than a page.
pub(super) unsafe fn populate(start: *mut c_void, bytes: usize) {
    let page_bytes = page_size();
    if bytes >= HUGE_PAGE_BYTES {
        // SAFETY: the advice changes how the caller's memory is backed, not what it holds.
        let _ = unsafe { madvise(start, bytes, Advice::LinuxHugepage) };
    }
    if bytes < page_bytes {
        return;
    }
    // SAFETY: as above.
    let populated = unsafe { madvise(start, bytes, Advice::LinuxPopulateWrite) };
    if populated != Err(Errno::INVAL) {
        return;
    }
    // Linux before 5.14 does not know the advice.
    for position in (0..bytes).step_by(page_bytes) {
        // SAFETY: within the range.
        let page = unsafe { start.cast::<u8>().add(position) };
        // SAFETY: writable, and nothing of value is there yet.
        unsafe { page.write_volatile(0) };
    }
}

impl<T> Slab<T> {
    /// Bytes that a slab of so many elements takes.
    pub const fn bytes(len: usize) -> usize {
        let bytes = len.saturating_mul(size_of::<T>());
        if bytes < HUGE_FROM_BYTES { bytes } else { bytes.next_multiple_of(HUGE_PAGE_BYTES) }
    }

    /// An array of `len` elements.
    ///
    /// # Panics
    /// When it is larger than an address space: lengths come from validated configuration.
    pub fn from_fn(len: usize, mut make: impl FnMut(usize) -> T) -> Self {
        let bytes = Self::bytes(len);
        let align = match bytes {
            0..HUGE_FROM_BYTES if bytes < page_size() => align_of::<T>(),
            0..HUGE_FROM_BYTES => align_of::<T>().max(page_size()),
            _ => align_of::<T>().max(HUGE_PAGE_BYTES),
        };
        let layout = Layout::from_size_align(bytes, align).expect("validated lengths");
        if bytes == 0 {
            // Nothing is allocated; elements without size have no place.
            (0..len).for_each(|index| std::mem::forget(make(index)));
            return Self { start: NonNull::dangling(), len, layout };
        }
        // SAFETY: the layout's size is not zero, as just seen.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start.cast::<T>()) else { handle_alloc_error(layout) };
        // SAFETY: the allocation just made, aligned to pages if it is as large as one.
        unsafe { populate(start.as_ptr().cast(), bytes) };
        for index in 0..len {
            // SAFETY: the allocation has room for `len` elements. If `make` panics, what was made is forgotten.
            let place = unsafe { start.add(index) };
            // SAFETY: aligned for `T` by the layout, within the allocation, and nobody else knows of it yet.
            unsafe { place.write(make(index)) };
        }
        Self { start, len, layout }
    }
}

impl<T> Deref for Slab<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is the start of `len` elements, all of them written by `from_fn`; they live until `drop`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Slab<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and this is the only reference to the slab.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Slab<T> {
    fn drop(&mut self) {
        let elements: *mut [T] = &raw mut **self;
        // SAFETY: the elements are whole and nobody uses them after the slab.
        unsafe { std::ptr::drop_in_place(elements) };
        if self.layout.size() > 0 {
            // SAFETY: allocated by `from_fn` with this layout, and freed only here.
            unsafe { dealloc(self.start.as_ptr().cast::<u8>(), self.layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// In bytes, of this process.
    fn resident() -> i64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap() * page_size() as i64
    }

    #[test]
    fn memory_is_there_before_it_is_written() {
        let bytes = 64 << 20;
        let before = resident();
        let slab = Slab::from_fn(bytes, |_| std::mem::MaybeUninit::<u8>::uninit());
        let came = resident() - before;
        assert!(came >= bytes as i64 / 2, "{came}: other tests give memory back meanwhile, but not so much");
        assert_eq!(slab.len(), bytes);
    }

    #[test]
    fn elements_are_in_their_places_and_dropped_once() {
        for len in [0, 1, 1000, (2 << 20) / 8, (3 << 20) / 8 + 1] {
            let counted = Arc::new(());
            let mut slab = Slab::from_fn(len, |index| (index as u32, counted.clone()));
            assert!(slab.iter().enumerate().all(|(index, element)| element.0 == index as u32));
            slab.iter_mut().for_each(|element| element.0 += 1);
            assert_eq!(slab.last().map(|element| element.0), (len > 0).then_some(len as u32));
            assert_eq!(Arc::strong_count(&counted), len + 1);
            drop(slab);
            assert_eq!(Arc::strong_count(&counted), 1);
        }
    }

    #[test]
    fn large_ones_lie_on_whole_huge_pages() {
        assert_eq!([1000, 1 << 20, (2 << 20) + 1].map(Slab::<u8>::bytes), [1000, 2 << 20, 4 << 20]);
        let slab = Slab::from_fn(1 << 20, |_| 0_u8);
        assert!(slab.as_ptr().addr().is_multiple_of(2 << 20));
    }

    #[test]
    fn elements_without_size_are_only_counted() {
        assert_eq!(Slab::from_fn(3, |_| ()).len(), 3);
    }
}
