//! What the program does as a client of an engine, here or elsewhere.

pub mod send;
pub mod tail;

use std::io::{self, ErrorKind};

use eventstream_client::Error;

/// The default port on this machine.
pub const ADDRESS: &str = "127.0.0.1:8081";

/// An error, and what it was about.
pub fn failed(address: &str, error: &Error) -> String {
    format!("{address}: {error}")
}

/// True when whoever reads what is printed has gone: no failure, but the end.
pub fn has_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}
