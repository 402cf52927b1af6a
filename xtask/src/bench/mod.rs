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

use std::path::PathBuf;

use crate::Result;

#[derive(Clone, Debug, clap::Subcommand)]
pub enum Bench {
    /// The lock-free core by itself, each structure beside the best crates for its job. Takes about four minutes.
    Micro(Arguments),
    /// The whole engine on a veth link, beside receivers without a pipeline and the kernel's sockets. Takes about five minutes.
    E2e(Arguments),
}

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Write the rows as JSON: an array of {case, metric, unit, ours, baseline, baseline_value, ratio} and quartiles.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Less and shorter, for a first look.
    #[arg(long)]
    quick: bool,
    /// Only the cases whose names contain this, such as spsc or topics.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Replace the tables in the README, and the charts.
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    readme: bool,
}

pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Micro(arguments) => micro::run(arguments),
        Bench::E2e(arguments) => e2e::run(arguments),
    }
}
