//! The atomics of this folder: `std`'s, or loom's when its models are built (`--cfg loom`).
#![forbid(unsafe_code)]

#[cfg(loom_model)]
pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom_model))]
pub(super) use std::sync::atomic::{AtomicU64, Ordering};
