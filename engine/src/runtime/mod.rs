//! What runs the stages: agents with a duty cycle, runners with a pinned thread, and the clock they share.

pub mod agent;
pub mod clock;
pub mod waker;
