//! `cargo xtask bench`: measurements that are compared with something, and shown as a table.
//!
//! A benchmark program measures and writes rows; here it is built and run, and its rows become what is printed, the
//! JSON file and the README's section. No number in that section is typed by hand.

mod micro;
mod row;
pub mod section;
mod setting;
mod table;

use crate::Result;

#[derive(Clone, Debug, clap::Subcommand)]
pub enum Bench {
    /// The lock-free core by itself, each structure beside the best crates for its job. Takes about four minutes.
    Micro(micro::Arguments),
}

pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Micro(arguments) => micro::run(arguments),
    }
}
