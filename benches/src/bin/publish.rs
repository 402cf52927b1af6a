//! The publisher's command line: see `eventstream_benches::publish`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use eventstream_benches::publish::{Cli, run};

fn main() -> ExitCode {
    // Not println: a reader that has gone is no reason to panic.
    let say = |line: &str| writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
    let report = run(&Cli::parse(), |step| {
        say(step).and_then(|()| io::stdin().read_line(&mut String::new())).map_err(|error| error.to_string())?;
        Ok(())
    });
    let said = report.and_then(|report| {
        let text = serde_json::to_string(&report).map_err(|error| error.to_string())?;
        say(&text).map_err(|error| format!("printing the report: {error}"))
    });
    match said {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("publish: {error}");
            ExitCode::FAILURE
        }
    }
}
