//! `cargo xtask bench micro`.

use std::fs;

use super::setting::Setting;
use super::{Arguments, row, section, table};
use crate::process::{cargo, target_directory, visible};
use crate::{Error, Result, setup};

/// The contract with `benches/micro`: where it writes its rows, that it is to hurry, and what it is to leave out.
const RESULTS: &str = "EVENTSTREAM_BENCH_RESULTS";
const QUICK: &str = "EVENTSTREAM_BENCH_QUICK";
const ONLY: &str = "EVENTSTREAM_BENCH_ONLY";

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::Purpose::Run)?;
    let results = target_directory()?.join("bench-micro.json");
    // What an earlier run left must not be taken for this one's.
    let _ = fs::remove_file(&results);
    let bench = ["bench", "--package", "eventstream-benches", "--bench", "micro"];
    visible(cargo().args(bench).arg("--no-run"))?;
    // Taken before the run, whose own load it would otherwise show.
    let setting = Setting::of_machine();
    let mut command = cargo();
    command.args(bench).args(["--", "--quiet", "--noplot"]).env(RESULTS, &results);
    if arguments.quick {
        command.env(QUICK, "1");
    }
    if let Some(only) = &arguments.only {
        command.env(ONLY, only);
    }
    visible(&mut command)?;
    let text = fs::read_to_string(&results).map_err(|error| Error::of_io(&results.to_string_lossy(), &error))?;
    let rows = row::parse(&text)?;
    println!("\n{setting}\n{}", table::for_terminal(&rows));
    if let Some(path) = &arguments.json {
        fs::write(path, &text).map_err(|error| Error::of_io(&path.to_string_lossy(), &error))?;
    }
    if arguments.readme { section::MICRO.write(&setting, &rows, "") } else { Ok(()) }
}
