//! The programs under test, built in the profile and folder of the test that asks.
//!
//! Cargo tells a test about the binaries of its own package only. Asking cargo to build them each time costs a fraction of
//! a second when nothing has changed, and no test runs against yesterday's engine.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use xtask::process::{capture, cargo};

/// The engine.
pub fn engine() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build("eventstream", "eventstream", None))
}

/// The load generator.
pub fn blast() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build("eventstream-benches", "blast", None))
}

/// The engine that can be told to miscount, in a folder of its own: it must never be taken for the real one.
pub fn faulty_engine() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build("eventstream", "eventstream", Some("fault-injection")))
}

/// `<target>/<profile>` of the running test, whose executable is in its `deps`.
fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its executable");
    test.parent().and_then(Path::parent).expect("an executable in target/profile/deps").to_path_buf()
}

fn build(package: &str, binary: &str, feature: Option<&str>) -> PathBuf {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let profile_folder = profile_folder();
    let folder_name = profile_folder.file_name().and_then(|name| name.to_str()).expect("a profile's folder");
    let profile = if folder_name == "debug" { "dev" } else { folder_name };
    let mut target = profile_folder.parent().expect("a target folder").to_path_buf();
    let mut command = cargo();
    command.args(["build", "--quiet", "--package", package, "--bin", binary, "--profile", profile]);
    if let Some(feature) = feature {
        command.args(["--features", feature]);
        target.push(feature);
    }
    command.arg("--target-dir").arg(&target);
    capture(&mut command).unwrap_or_else(|error| panic!("building {binary}: {error}"));
    target.join(folder_name).join(binary)
}
