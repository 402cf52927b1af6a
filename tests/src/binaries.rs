//! The programs under test, built in the profile and folder of the test that asks.
//!
//! Cargo tells a test about the binaries of its own package only. Asking cargo to build them each time costs a fraction of
//! a second when nothing has changed, and no test runs against yesterday's engine.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use xtask::process::{capture, cargo};

/// What tests see of the engine, or provoke in it, and nobody else builds in: the count of allocations on the data path, and
/// miscounting on demand. Without the demand the engine is the ordinary one.
const FEATURES: &str = "counting-allocator,fault-injection";

/// The engine.
pub fn engine() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build("eventstream", &["--bin", "eventstream"], Some(FEATURES)))
}

/// The load generator.
pub fn blast() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build("eventstream-benches", &["--bin", "blast"], None))
}

/// The receivers without a pipeline.
pub fn walk() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build("eventstream-benches", &["--bin", "walk"], None))
}

/// The load for servers over TCP.
pub fn publish() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build("eventstream-benches", &["--bin", "publish"], None))
}

/// An example of the Rust client.
pub fn example(name: &str) -> PathBuf {
    build("eventstream-client", &["--example", name], None)
}

/// `<target>/<profile>` of the running test, whose executable is in its `deps`.
fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its executable");
    test.parent().and_then(Path::parent).expect("an executable in target/profile/deps").to_path_buf()
}

fn build(package: &str, program: &[&str; 2], features: Option<&str>) -> PathBuf {
    static TURN: Mutex<()> = Mutex::new(());
    let [kind, name] = program;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let profile_folder = profile_folder();
    let folder_name = profile_folder.file_name().and_then(|name| name.to_str()).expect("a profile's folder");
    let profile = if folder_name == "debug" { "dev" } else { folder_name };
    let target = profile_folder.parent().expect("a target folder");
    let mut command = cargo();
    command.args(["build", "--quiet", "--package", package, "--profile", profile]).args(program);
    command.args(features.map(|features| ["--features", features]).into_iter().flatten());
    command.arg("--target-dir").arg(target);
    capture(&mut command).unwrap_or_else(|error| panic!("building {name}: {error}"));
    if *kind == "--example" { profile_folder.join("examples").join(name) } else { profile_folder.join(name) }
}
