//! Proof that the data path neither allocates nor frees: an allocator that counts what happens inside duty cycles.

use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Allocations and frees on the data path so far; `None` in a build without the counting allocator.
pub fn data_path_allocations() -> Option<u64> {
    cfg!(feature = "counting-allocator").then(|| COUNT.load(Ordering::Relaxed))
}

#[cfg(feature = "counting-allocator")]
mod counting {
    use super::{COUNT, Ordering};
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static WATCHED: Cell<bool> = const { Cell::new(false) };
    }

    struct Counting;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    fn count() {
        // A thread being torn down has no flag any more, and no data path either.
        if WATCHED.try_with(Cell::get).unwrap_or(false) {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
    }

    // SAFETY: every request goes to the system allocator unchanged; counting touches no allocator state and does not
    // allocate itself (a const-initialised thread local without destructor).
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count();
            // SAFETY: the caller keeps `GlobalAlloc::alloc`'s contract.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            count();
            // SAFETY: the caller keeps `GlobalAlloc::dealloc`'s contract; `pointer` came from `System`.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    pub fn watch(on: bool) -> bool {
        WATCHED.replace(on)
    }
}

/// Runs `step` as part of the data path: what it allocates is counted.
#[inline(always)]
pub fn on_data_path<R>(step: impl FnOnce() -> R) -> R {
    #[cfg(feature = "counting-allocator")]
    {
        let before = counting::watch(true);
        let result = step();
        counting::watch(before);
        result
    }
    #[cfg(not(feature = "counting-allocator"))]
    step()
}

/// Runs `step` outside it: accepting a connection, answering a control frame, a panicking handler.
#[inline(always)]
pub fn off_data_path<R>(step: impl FnOnce() -> R) -> R {
    #[cfg(feature = "counting-allocator")]
    {
        let before = counting::watch(false);
        let result = step();
        counting::watch(before);
        result
    }
    #[cfg(not(feature = "counting-allocator"))]
    step()
}
