//! `cargo xtask bench`: measurements that are compared with something, and shown as a table.
//!
//! For `micro` a benchmark program measures and writes rows, which is built and run here; `e2e` lets programs run against each
//! other and makes the rows itself. Rows become what is printed, the JSON file and the README's section. No number in such
//! a section is typed by hand.

pub mod e2e;
mod micro;
pub mod row;
pub mod section;
mod setting;
mod table;

use crate::Result;

#[derive(Clone, Debug, clap::Subcommand)]
pub enum Bench {
    /// The lock-free core by itself, each structure beside the best crates for its job. Takes about four minutes.
    Micro(micro::Arguments),
    /// The whole engine on a veth link, beside receivers without a pipeline and the kernel's sockets. Takes about five minutes.
    E2e(e2e::Arguments),
}

pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Micro(arguments) => micro::run(arguments),
        Bench::E2e(arguments) => e2e::run(arguments),
    }
}
