//! Of the engine's `runtime`, what the lock-free parts use, and parking.

#[path = "../../../engine/src/runtime/clock.rs"]
pub mod clock;
#[cfg(all(test, loom_model))]
#[path = "../../../engine/src/runtime/models.rs"]
mod models;
#[path = "../../../engine/src/runtime/waker.rs"]
pub mod waker;
