//! Starting other programs: where they are, how they end when we do, how what they say is kept.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::signals::Stop;
use crate::{Error, Result};

/// How often a child is asked whether it has ended. Only the latency of ending depends on it.
const POLL: Duration = Duration::from_millis(20);

/// The workspace this program was built from. Cargo names the package's folder at run time too, which keeps a binary
/// right that another clone with the same target directory has built.
pub fn workspace_root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let package = PathBuf::from(package);
    package.parent().unwrap_or(&package).to_path_buf()
}

pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root());
    // What `cargo run` tells this package must not reach other packages' builds: they would be built again each time.
    for (key, _) in env::vars_os() {
        if key.to_str().is_some_and(|key| key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(key);
        }
    }
    command
}

/// Where cargo keeps what it downloads and installs.
pub fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME")
        .map_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"), PathBuf::from)
}

/// rustup. What it runs by another toolchain must not see the names of the one that runs us.
pub fn rustup() -> Command {
    let own = cargo_home().join("bin/rustup");
    let found = find_program("rustup").or_else(|| is_executable(&own).then_some(own));
    let mut command = Command::new(found.unwrap_or_else(|| "rustup".into()));
    for name in ["CARGO", "RUSTC", "CARGO_MANIFEST_DIR", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    // To look whether a toolchain is there must not download it.
    command.env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// A program of the nightly toolchain.
pub fn nightly(program: &str) -> Command {
    let mut command = rustup();
    command.args(["run", "nightly", program]).current_dir(workspace_root());
    command
}

/// What the nightly compiler builds for by itself; `None` when there is none.
pub fn nightly_host() -> Option<String> {
    let said = capture(nightly("rustc").arg("-vV")).ok()?;
    said.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
}

/// Where cargo puts what it builds, whatever the environment or a configuration file says about it.
pub fn target_directory() -> Result<&'static Path> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let text = capture(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| Error::failed(format!("cargo metadata: {error}")))?;
    let directory = metadata["target_directory"].as_str().ok_or_else(|| Error::failed("cargo names no target"))?;
    Ok(FOUND.get_or_init(|| PathBuf::from(directory)))
}

/// Looks for a program in `PATH` and then where administrators' tools are: an ordinary user's `PATH` lacks those on some
/// distributions, although the user may call them.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// A command for a system tool, by its full path where there is one.
pub fn tool(name: &str) -> Command {
    let mut command = Command::new(find_program(name).unwrap_or_else(|| name.into()));
    // Their messages are read by `Error::of_tool`.
    command.env("LC_ALL", "C");
    command
}

/// A command that the kernel kills when this process is gone, however it went, and that a ctrl-c does not reach.
///
/// A killed run would otherwise leave an engine behind that holds the ports the next run needs. For the kernel "this
/// process" is the thread that spawns: spawn from one that lives as long as the child should.
pub fn bound_to_us(program: impl AsRef<OsStr>) -> Command {
    let mut command = match find_program("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    own_group(&mut command);
    command.stdin(Stdio::null());
    command
}

pub fn own_group(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

/// How a command line is shown to people.
pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Runs to the end and returns standard output; a failure carries what was said on standard error.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::failed(format!("`{}`: {error}", shown(command))))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
        Err(Error::of_tool(&shown(command), &format!("{said}\n({})", output.status)))
    }
}

/// Runs to the end in view of the user.
pub fn visible(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| Error::failed(format!("`{}`: {error}", shown(command))))?;
    if status.success() { Ok(()) } else { Err(Error::failed(format!("`{}`: {status}", shown(command)))) }
}

/// Waits for the child, at most until `deadline`, and not on after a stop was asked for. `None`: it still runs.
pub fn wait(child: &mut Child, deadline: Instant, stop: Option<&Stop>) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait().map_err(|error| Error::of_io("wait", &error))? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline || stop.is_some_and(Stop::requested) {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Sleeps, but wakes when a stop is asked for. Says whether the whole time has passed.
pub fn sleep(duration: Duration, stop: &Stop) -> bool {
    let deadline = Instant::now() + duration;
    while Instant::now() < deadline {
        if stop.requested() {
            return false;
        }
        thread::sleep(POLL.min(deadline - Instant::now().min(deadline)));
    }
    true
}

/// Asks the child to end, and makes it end when it has not after `patience`.
pub fn terminate(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    let process = rustix::process::Pid::from_child(child);
    // An error means that it has ended already, which the wait below finds out.
    let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
    if let Some(status) = wait(child, Instant::now() + patience, None)? {
        return Ok(status);
    }
    let _ = child.kill();
    child.wait().map_err(|error| Error::of_io("wait", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }

    #[test]
    fn what_a_failing_command_said_is_in_the_error() {
        let error = capture(Command::new("sh").args(["-c", "echo out; echo broken >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
        assert!(error.to_string().contains('3'), "{error}");
    }

    #[test]
    fn a_child_that_ignores_being_asked_is_killed() {
        let mut child = bound_to_us("sh").args(["-c", "trap '' TERM; while :; do sleep 0.05; done"]).spawn().unwrap();
        thread::sleep(Duration::from_millis(100));
        let status = terminate(&mut child, Duration::from_millis(200)).unwrap();
        assert!(!status.success());
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        let mut child = bound_to_us("sleep").arg("30").spawn().unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        assert!(wait(&mut child, deadline, None).unwrap().is_none());
        terminate(&mut child, Duration::from_secs(1)).unwrap();
    }
}
