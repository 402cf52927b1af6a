//! The programs under test, built in the profile and folder of the test that asks.
//!
//! Cargo tells a test about the binaries of its own package only. Asking cargo to build them each time costs a fraction of
//! a second when nothing has changed, and no test runs against yesterday's engine.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use xtask::process::{capture, cargo};

/// What tests see of the engine, or provoke in it, and nobody else builds in: the count of allocations on the data path, and
/// miscounting on demand. Without the demand the engine is the ordinary one. The programs beside it are built with the same: an
/// engine without them would be a second one to build.
const FEATURES: &str = "eventstream/counting-allocator,eventstream/fault-injection";

/// The engine.
pub fn engine() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build(&["--bin", "eventstream"]))
}

/// The load generator.
pub fn blast() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build(&["--bin", "blast"]))
}

/// The receivers without a pipeline.
pub fn walk() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build(&["--bin", "walk"]))
}

/// The load for servers over TCP.
pub fn publish() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build(&["--bin", "publish"]))
}

/// An example of the Rust client.
pub fn example(name: &str) -> PathBuf {
    build(&["--example", name])
}

/// `<target>/<profile>` of the running test, whose executable is in its `deps`.
fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its executable");
    test.parent().and_then(Path::parent).expect("an executable in target/profile/deps").to_path_buf()
}

/// Of the whole workspace, whose dependencies' features are then those that it was built with.
fn build(program: &[&str; 2]) -> PathBuf {
    static TURN: Mutex<()> = Mutex::new(());
    let [kind, name] = program;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let profile_folder = profile_folder();
    let folder_name = profile_folder.file_name().and_then(|name| name.to_str()).expect("a profile's folder");
    let profile = if folder_name == "debug" { "dev" } else { folder_name };
    let target = profile_folder.parent().expect("a target folder");
    let mut command = cargo();
    command.args(["build", "--quiet", "--workspace", "--features", FEATURES, "--profile", profile]).args(program);
    command.arg("--target-dir").arg(target);
    capture(&mut command).unwrap_or_else(|error| panic!("building {name}: {error}"));
    if *kind == "--example" { profile_folder.join("examples").join(name) } else { profile_folder.join(name) }
}
