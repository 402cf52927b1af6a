//! The receivers' command line: see `eventstream_benches::receive`.

use std::process::ExitCode;

use clap::Parser;
use eventstream_benches::output::{end, say};
use eventstream_benches::receive::{Cli, run};

fn main() -> ExitCode {
    let report = run(&Cli::parse(), || {
        let _ = say("READY");
    });
    end("walk", report)
}
