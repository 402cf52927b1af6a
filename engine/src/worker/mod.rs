//! The workers: three classes, one loop shape.
//!
//! ```text
//!   ring ─► peek a burst ─► claim ids (transactional, batch if asked) ─► handler ─► outcome ─► release frames, then ring
//! ```

mod agent;
mod backlog;
mod burst;
mod deadlines;
mod handler;
mod key_index;
mod retry;
mod waits;

pub use agent::{Worker, WorkerSpec};
pub use handler::{CountingHandler, EventView, Handler, HandlerFactory, Outcome};
pub use retry::{RetryPolicy, RetryQueue};
