//! The lock-free parts under the tools that check them: how the package `verification` is built for each.

pub mod orderings;

use std::process::{Command, Stdio};

use crate::outcome::Outcome;
use crate::process::{cargo, nightly, shown, target_directory, workspace_root};
use crate::{Error, Result};

const PACKAGE: &str = "eventstream-verification";
/// A profile of the workspace: optimised, with the assertions of debug builds.
const PROFILE: &str = "models";
/// What the modules of the loom models are called.
const MODELS: &str = "models::";

/// Builds, and runs if not told otherwise, the package's tests with what `arguments` select.
fn tests(arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["test", "--package", PACKAGE, "--profile", PROFILE]).args(arguments);
    command
}

/// Loom's models.
pub fn models() -> Command {
    tests(&["--features", "loom", "--lib", MODELS, "--", "--show-output"])
}

/// Larger scenarios under shuttle's random schedules.
pub fn schedules() -> Command {
    tests(&["--features", "shuttle", "--test", "schedules", "--", "--show-output"])
}

/// A sanitizer of the nightly compiler. Its standard library is not built with it, which would need that library's
/// sources: `tests/verification/stress.rs` says what follows for the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sanitizer {
    Thread,
    Address,
}

impl Sanitizer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Address => "address",
        }
    }

    /// A mistake of `seeded_fault.rs`, and what the sanitizer has to say to it.
    fn seeded(self) -> (&'static str, &'static str) {
        match self {
            Self::Thread => ("race", "ThreadSanitizer: data race"),
            Self::Address => ("use_after_free", "AddressSanitizer: heap-use-after-free"),
        }
    }

    fn cargo(self, host: &str, verb: &str) -> Result<Command> {
        let mut command = nightly("cargo");
        // With a target of its own, build scripts and macros are built as usual.
        command.args([verb, "--package", PACKAGE, "--profile", PROFILE, "--target", host]);
        let flags = format!("-Zsanitizer={} -Cunsafe-allow-abi-mismatch=sanitizer", self.name());
        command.env("RUSTFLAGS", flags).env("CARGO_TARGET_DIR", target_directory()?.join("sanitizer"));
        let suppressions = workspace_root().join("tests/verification/tsan.supp");
        command.env("TSAN_OPTIONS", format!("suppressions={}", suppressions.display()));
        Ok(command)
    }

    /// The tests' command, built for `host`.
    pub fn tests(self, host: &str) -> Result<Command> {
        let mut command = self.cargo(host, "test")?;
        match self {
            // Only what crosses threads: the other tests hand things over by means it does not see.
            Self::Thread => command.args(["--test", "stress", "--", "--show-output"]),
            Self::Address => command.args(["--lib", "--test", "stress", "--", "--show-output"]),
        };
        Ok(command)
    }

    /// Runs a program that has to be reported. A sanitizer that says nothing to it says nothing by its silence.
    pub fn finds_seeded_fault(self, host: &str) -> Result<Outcome> {
        let (fault, report) = self.seeded();
        let mut command = self.cargo(host, "run")?;
        command.args(["--quiet", "--example", "seeded_fault", "--", fault]);
        println!("    {}, to be reported", shown(&command));
        let output = command.stdin(Stdio::null()).output().map_err(|error| Error::of_io(&shown(&command), &error))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() && said.contains(report) {
            return Ok(Outcome::pass());
        }
        Err(Error::failed(format!("the seeded fault `{fault}` was not reported ({}):\n{said}", output.status)))
    }
}
