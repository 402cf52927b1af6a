//! What a program says on its standard output, to who has started it.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

/// A line, at once. Not `println!`: a reader that has gone is no reason to panic.
pub fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{line}").and_then(|()| output.flush())
}

/// Ends with the report as the last line, or with what was wrong on standard error.
pub fn end(program: &str, report: Result<impl Serialize, String>) -> ExitCode {
    let said = report.and_then(|report| {
        let text = serde_json::to_string(&report).map_err(|error| error.to_string())?;
        say(&text).map_err(|error| format!("printing the report: {error}"))
    });
    match said {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}
