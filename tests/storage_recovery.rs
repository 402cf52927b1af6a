//! What is kept on disk is there after everything that may happen to it: torn tails, flipped bits, killed processes and
//! power cuts; and the commands say so.

#[path = "storage_recovery/bytes.rs"]
mod bytes;
#[path = "storage_recovery/commands.rs"]
mod commands;
#[path = "storage_recovery/letters.rs"]
mod letters;
#[cfg(feature = "fault-injection")]
#[path = "storage_recovery/power.rs"]
mod power;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use eventstream::frame::{FrameHeader, Priority, encode};
use eventstream_tests::binaries;

/// A folder of a test's own, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("storage-recovery-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("a new folder");
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn frame(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(&mut frame, &FrameHeader::new(Priority::Low), topic.as_bytes(), payload);
    frame
}

/// The one file with this ending in a folder.
fn file(folder: &Path, ending: &str) -> PathBuf {
    let mut found = files(folder, ending);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    files.sort();
    files
}

/// `eventstream` with these words and the data directory.
fn command(words: &str, directory: &Path) -> Command {
    let mut command = Command::new(binaries::engine());
    command.args(words.split_whitespace()).arg("--directory").arg(directory).stderr(Stdio::piped());
    command
}

struct Ended {
    code: i32,
    out: String,
    err: String,
}

fn ended(output: Output) -> Ended {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let code = output.status.code().expect("an exit code");
    Ended { code, out: text(output.stdout), err: text(output.stderr) }
}

fn run(words: &str, directory: &Path) -> Ended {
    ended(command(words, directory).stdin(Stdio::null()).output().expect("runs"))
}

/// With something on standard input.
fn feed(words: &str, directory: &Path, input: &[u8]) -> Ended {
    let mut child = command(words, directory).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
    let written = std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), input);
    let ended = ended(child.wait_with_output().expect("ends"));
    assert!(written.is_ok() || ended.code == 2, "{written:?}");
    ended
}

/// A line as `import` takes it; the payload says the number.
fn line(number: u64, topic: &str) -> String {
    // Four letters for every three bytes: numbers of six digits need no padding.
    let digits = format!("{number:06}");
    let payload: String = digits.as_bytes().chunks(3).map(base64_of_digits).collect();
    format!(r#"{{"class": "transactional", "time_ns": {}, "topic": "{topic}", "payload": "{payload}"}}"#, number + 1)
}

fn base64_of_digits(digits: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = digits.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
    (0..4).map(|letter| char::from(LETTERS[(bits >> (18 - 6 * letter) & 63) as usize])).collect()
}
