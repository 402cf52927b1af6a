//! Lines ahead of their use.

/// Of x86-64 and nearly all of arm64.
pub const CACHE_LINE_BYTES: usize = 64;

/// Asks for the line of `place`, to be used soon. A hint: nothing depends on it.
#[inline]
pub fn prefetch<T>(place: &T) {
    prefetch_at(std::ptr::from_ref(place).cast());
}

/// The same of any address.
#[inline]
pub(super) fn prefetch_at(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(loom_model)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads and writes nothing, and ignores addresses that do not translate; SSE is part of x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom_model))))]
    let _ = address;
}
