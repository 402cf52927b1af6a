//! What runs the stages: agents with a duty cycle, runners with a pinned thread, and the clock they share.

pub mod agent;
pub mod clock;
mod idle;
pub mod invoker;
mod runner;
pub mod waker;

pub use idle::IdleStrategy;
pub use runner::{RunnerHandle, RunnerLoad, RunnerSpec, Shutdown};
