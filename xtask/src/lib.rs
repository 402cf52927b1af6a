//! Everything one does to this project: set up, run, load, test.
//!
//! The binary is what `cargo xtask` calls; the library is there for the tests, which build their networks with
//! [`testbed`] as the demonstration does. Nothing here is on the data path, and nothing here needs a C library: this
//! crate has to build on a machine on which nothing has been installed yet, because it is what installs.
//!
//! ```text
//! cli ─► setup      what the machine lacks, and installing it
//!     ├► run        build, testbed, engine, load in phases, report
//!     │    ├ testbed   veth pair, namespace of the senders, addresses, counters of the link
//!     │    ├ engine    the engine as a child process
//!     │    ├ load      the load generator as child processes
//!     │    ├ phase     what runs when, as a table
//!     │    └ report    what was sent against what the engine says became of it
//!     ├► blast      one load at an engine
//!     ├► bench      the benchmark programs, the engine beside other receivers, and their figures as tables
//!     ├► ebpf       the compiled XDP programs, rebuilt and compared
//!     └► ci         every check, as a list of named steps
//!          ├ tidy          rules about the source that no compiler knows
//!          ├ verification  the lock-free parts under loom, shuttle, sanitizers, and with weakened orderings
//!          └ outcome       how many tests passed, failed, were skipped and why
//! ```
#![forbid(unsafe_code)]

pub mod bench;
pub mod blast;
pub mod ci;
pub mod cli;
pub mod ebpf;
pub mod error;
pub mod outcome;
pub mod process;
pub mod run;
pub mod setup;
pub mod signals;
pub mod testbed;
pub mod tidy;
pub mod verification;

pub use error::{Error, Result};

/// Of the section `control` of an engine's configuration: no threshold is ever reached, so that everything is worked on, however
/// busy the machine is.
pub const NO_SHEDDING: &str = "dropping: {queue_depth_percent: off, pool_used_percent: off, worker_latency_ms: off, \
    loss_per_million: off}, emergency: {queue_depth_percent: off, pool_used_percent: off, worker_latency_ms: off, \
    loss_per_million: off}";
