//! A flag that threads of a test watch.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};

/// Sets a flag when it is dropped, so also when its thread fails: whoever goes on until the flag is set does not go on for ever.
pub struct SetWhenDropped<F: Deref<Target = AtomicBool>>(pub F);

impl<F: Deref<Target = AtomicBool>> Drop for SetWhenDropped<F> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
