//! The workers: three classes, one loop shape.
//!
//! ```text
//!   ring ─► peek a burst ─► claim ids (transactional, batch if asked) ─► handler ─► outcome ─► release frames, then ring
//!                                                       └─► window (batch, if asked) ─► handler ─► outcomes
//! ```

mod acks;
mod agent;
mod backlog;
mod burst;
mod deadlines;
mod handler;
mod key_index;
mod pace;
mod retry;
mod waits;
mod window_view;
mod windows;

pub use agent::{Worker, WorkerSpec};
pub use handler::{CountingHandler, EventView, Handler, HandlerFactory, Outcome};
pub use retry::{RetryPolicy, RetryQueue};
pub use window_view::{WindowEvent, WindowView};
pub use windows::{Windows, WindowsSpec};
