//! Lines ahead of their use.

/// Asks for the line of `place`, to be used soon. A hint: nothing depends on it.
#[inline]
pub fn prefetch<T>(place: &T) {
    #[cfg(all(target_arch = "x86_64", not(loom_model)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let pointer = std::ptr::from_ref(place).cast::<i8>();
        // SAFETY: a prefetch reads and writes nothing and cannot fault; SSE is part of x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(pointer) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom_model))))]
    let _ = place;
}
