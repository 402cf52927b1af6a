//! What can go wrong, by what the caller does about it.
//!
//! Missing prerequisites have an exit code of their own, so that a script can tell "run setup first" from "it failed".
//! Missing rights are told apart because `run` answers them with the socket backend and not with an error.

use std::fmt;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug)]
pub enum Error {
    /// Something has to be installed first; the text says what, and the command that does it.
    Prerequisites(String),
    /// The kernel, or a tool speaking for it, said that we may not.
    NotPermitted(String),
    /// Anything else.
    Failed(String),
    /// A failure of which everything has been said.
    Reported,
}

impl Error {
    pub fn failed(text: impl Into<String>) -> Self {
        Error::Failed(text.into())
    }

    /// Sorts the failure of a system tool by what it printed: the tools have no exit code for "you may not".
    pub fn of_tool(command: &str, stderr: &str) -> Self {
        match stderr.lines().find(|line| is_refusal(line)) {
            Some(line) => Error::NotPermitted(format!("`{command}`: {}", line.trim())),
            None => Error::Failed(format!("`{command}`: {}", last_lines(stderr, 3))),
        }
    }

    pub fn of_io(what: &str, error: &std::io::Error) -> Self {
        let text = format!("{what}: {error}");
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => Error::NotPermitted(text),
            _ => Error::Failed(text),
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Prerequisites(_) => 2,
            Error::NotPermitted(_) | Error::Failed(_) | Error::Reported => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Prerequisites(text) | Error::NotPermitted(text) | Error::Failed(text) => out.write_str(text),
            Error::Reported => out.write_str("see above"),
        }
    }
}

impl std::error::Error for Error {}

fn is_refusal(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    ["not permitted", "permission denied", "access denied"].iter().any(|words| line.contains(words))
}

/// The last `count` lines that say something, on one line.
fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tools_refusal_is_told_from_its_failure() {
        let refused = Error::of_tool("ip link add", "RTNETLINK answers: Operation not permitted\n");
        assert!(matches!(refused, Error::NotPermitted(_)), "{refused}");
        let failed = Error::of_tool("ip link add", "RTNETLINK answers: File exists\n");
        assert!(matches!(failed, Error::Failed(_)), "{failed}");
        assert_eq!(failed.to_string(), "`ip link add`: RTNETLINK answers: File exists");
    }

    #[test]
    fn missing_prerequisites_exit_with_two() {
        assert_eq!(Error::Prerequisites(String::new()).exit_code(), 2);
        assert_eq!(Error::failed("x").exit_code(), 1);
    }
}
