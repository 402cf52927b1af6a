//! The lock-free parts under the tools that check them: how the package `verification` is built for each.

use std::process::Command;

use crate::process::cargo;

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
