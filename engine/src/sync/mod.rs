//! What the lock-free parts are made of: the standard library's atomics and cells, or those of a tool that checks them.
//!
//! The package in `tests/verification` builds those parts with one of these, and nobody else does:
//!
//! - `--cfg loom_model`: loom's, which go through every interleaving, and every value a weak ordering lets a load see.
//! - `--cfg shuttle_model`: shuttle's, which try random schedules of what is too large for loom.
//! - `--cfg mutate_orderings`, on top of loom: one ordering, chosen at run time, is weakened (see `mutation.rs`).
//!
//! Without them everything here is the standard library's own type under its own name: nothing is left of it in the
//! machine code.

#[cfg(mutate_orderings)]
mod mutation;

#[cfg(not(any(loom_model, shuttle_model)))]
pub(crate) use std::sync::{Arc, atomic};

#[cfg(loom_model)]
pub(crate) use loom::sync::{Arc, atomic};

#[cfg(shuttle_model)]
pub(crate) use shuttle::sync::{Arc, atomic};

#[cfg(not(mutate_orderings))]
pub(crate) use atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, fence};

#[cfg(mutate_orderings)]
pub(crate) use mutation::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, fence};

pub(crate) use std::sync::atomic::Ordering;

/// A cell whose accesses loom can check. The closure form is loom's; otherwise it compiles to the bare pointer.
#[cfg(loom_model)]
pub(crate) use loom::cell::UnsafeCell;

#[cfg(not(loom_model))]
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom_model))]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
