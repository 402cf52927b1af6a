//! `cargo xtask`: reads the command line, calls the library, turns its result into an exit code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use xtask::Error;
use xtask::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, Error::Reported) {
                eprintln!("xtask: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
