//! The load generator's command line: see `eventstream_benches`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use eventstream_benches::options::{Cli, Kind};
use eventstream_benches::run::run;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let report = match run(&cli) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("blast: {error}");
            return ExitCode::from(2);
        }
    };
    let common = match &cli.kind {
        Kind::Testrun(args) => &args.common,
        Kind::Afxdp(args) => &args.common,
        Kind::Gso(args) | Kind::Udp(args) => &args.common,
        Kind::Tcp(args) => &args.common,
    };
    let text = if common.json { serde_json::to_string(&report) } else { Ok(report.to_string()) };
    // Not println: a reader that has gone is no reason to panic.
    if let Err(error) = text.map_err(io::Error::from).and_then(|text| writeln!(io::stdout(), "{text}")) {
        eprintln!("blast: printing the report: {error}");
        return ExitCode::from(1);
    }
    if let Some(failure) = &report.failure {
        eprintln!("blast: ended early: {failure}");
        return ExitCode::from(1);
    }
    ExitCode::SUCCESS
}
