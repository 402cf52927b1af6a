//! What the tests in this folder share: a pipeline stepped by hand, and the engine and its load as real processes.
//!
//! ```text
//! acks            what a client asks for and is told
//! binaries        the programs under test, built as the tests are
//! engine_process  the engine as a child: started, asked, steered, ended
//! blast           the load generator as a child
//! client          an ordinary client's bytes
//! consumer        a client that subscribes and says what is done
//! publisher       a client that sends again what was not acknowledged
//! data_folder     what an engine keeps on disk, how that fails, and what is left of it
//! flag            what threads of a test watch
//! local           configurations of engines in a test's own process
//! pipeline        agents stepped by hand on one thread
//! random          seeded choices
//! veth            a link of one's own, one test at a time
//! ```
#![forbid(unsafe_code)]

pub mod acks;
pub mod binaries;
pub mod blast;
pub mod client;
pub mod consumer;
pub mod data_folder;
pub mod engine_process;
pub mod flag;
pub mod handler;
pub mod local;
pub mod pipeline;
pub mod publisher;
pub mod random;
pub mod subscriber;
pub mod veth;

use std::io::{self, Write as _};

/// Written past the test harness, which keeps what a passing test prints to itself.
pub fn skipped(test: &str, reason: &str) {
    writeln!(io::stdout(), "SKIPPED: {test}: {reason}").expect("stdout");
}
