//! How people and scripts see and steer a running engine: a control socket, HTTP, a status line, a closing table; and
//! what they can do with its data directory while none runs.
//!
//! Everything here runs on the main thread, on one small tokio runtime; nothing here touches the data path but by
//! reading published counters and storing the state.

mod control_socket;
mod display;
mod http;
mod letter_lines;
pub mod offline;
mod signals;
mod subscriptions;

pub use control_socket::{
    ControlSocket, Listing, Replay, Request, Which, ask, existing_private_folder, private_folder,
};
pub use display::{StatusLine, ledger_table, time_table};
pub use http::{prometheus, serve as serve_http};
pub use signals::{Signal, Signals};
pub use subscriptions::SubscriptionsCommand;
