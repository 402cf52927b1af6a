//! Commands on a data directory that no engine has: what is in it, whether it is whole, and out of it or into it.
//!
//! They run in a process of their own, take the directory's lock while they last, and refuse when someone else has it. Exit
//! codes: 0, all is well; 1, something is damaged or missing; 2, it could not be done.

mod dlq;
mod dlq_running;
pub(super) mod json;
mod log;
mod log_export;
mod time;

pub use dlq::DlqCommand;
pub use log::LogCommand;

use std::path::Path;

use crate::storage::directory::{DataDirectory, Owner};

/// What a command came to, when it could be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Whole,
    Damaged,
}

impl Verdict {
    const fn of(damaged: bool) -> Self {
        if damaged { Self::Damaged } else { Self::Whole }
    }
}

fn locked(directory: &Path, command: &str) -> Result<DataDirectory, String> {
    DataDirectory::lock(directory, Owner::this(format!("eventstream {command}"), "")).map_err(|error| error.to_string())
}

/// A reader that has seen enough, such as `head`, is no mistake.
fn printed(result: std::io::Result<()>) -> Result<(), String> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|error| format!("standard output: {error}")),
    }
}
