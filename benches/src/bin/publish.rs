//! The publisher's command line: see `eventstream_benches::publish`.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use eventstream_benches::output::{end, say};
use eventstream_benches::publish::{Cli, run};

fn main() -> ExitCode {
    let report = run(&Cli::parse(), |step| {
        say(step).and_then(|()| io::stdin().read_line(&mut String::new())).map_err(|error| error.to_string())?;
        Ok(())
    });
    end("publish", report)
}
