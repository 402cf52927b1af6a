//! Lock-free bounded queues: many producers to one dispatcher, one dispatcher to each worker.
//!
//! Both hold values in place: a consumer looks at what is there ([`peek`](spsc::Consumer::peek),
//! [`Taken`](spsc::Taken)), moves out what it has dealt with, and publishes its progress once a batch. A full queue is an
//! answer, never a wait.

mod cells;
mod feedback;
#[cfg(all(test, loom_model))]
mod models;
pub mod mpsc;
#[cfg(all(test, not(loom_model)))]
mod oracle;
pub mod spsc;

pub use feedback::{ClassSet, Feedback, Progress};
