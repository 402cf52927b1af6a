//! `cargo xtask mutate-orderings`: is every memory ordering of the lock-free parts needed, and would a model notice it
//! were it too weak?
//!
//! The models are built once, of atomics that weaken one ordering chosen by the environment (`engine/src/sync/mutation.rs`).
//! A first run weakens nothing and lists the places; then each place gets each weaker ordering in turn, and some model
//! must fail. One that survives is an ordering nobody needs, or a model nobody wrote.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Args;

use super::{MODELS, tests};
use crate::process::{bound_to_us, capture, target_directory, workspace_root};
use crate::tidy::code;
use crate::{Error, Result};

/// Longest run of one part's models with one ordering weakened. All parts take some seconds with none, on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Folders and files of `engine/src` whose orderings have to be caught, and the models that have to do it.
const PARTS: &[&str] = &["queue", "memory", "dedup", "runtime/waker.rs"];
const STRONG: &[&str] = &["Acquire", "Release", "AcqRel", "SeqCst"];

/// Weaken the memory orderings of the lock-free parts one by one: each must be caught by a model.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Seconds for everything after the build; what is not tried by then has failed.
    #[arg(long, default_value_t = 900)]
    budget: u64,
    /// Only places whose name contains this, such as `mpsc.rs` or `pool.rs:61`.
    #[arg(long, default_value = "")]
    only: String,
}

/// An operation with an ordering, as the run that lists them names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Relative to `engine/src`.
    file: String,
    line: u32,
    operation: String,
    ordering: String,
    /// What the environment has to say to choose it.
    name: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Caught(String),
    Survived,
    /// It ran on for longer than the patience or the budget.
    Undecided,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let program = build()?;
    let deadline = Instant::now() + Duration::from_secs(arguments.budget);
    let places = list(&program)?;
    let unreached = unreached(&places)?;
    let (mut caught, mut missed) = (0, 0);
    for place in places.iter().filter(|place| place.label().contains(&arguments.only)) {
        for weaker in weaker(&place.ordering, &place.operation) {
            let verdict = weakened(&program, place, weaker, deadline.min(Instant::now() + PATIENCE))?;
            let row = format!("{:<20} {:<10} {:>7} as {weaker:<8}", place.label(), place.operation, place.ordering);
            println!("{row} {verdict}");
            let counter = if matches!(verdict, Verdict::Caught(_)) { &mut caught } else { &mut missed };
            *counter += 1;
        }
    }
    unreached.iter().for_each(|line| println!("{line}"));
    println!("{caught} caught, {missed} not; {} files with orderings no model reaches", unreached.len());
    if caught > 0 && missed == 0 && unreached.is_empty() {
        Ok(())
    } else {
        Err(Error::failed("not every ordering is shown to be needed"))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caught(model) => write!(f, "caught by {model}"),
            Self::Survived => f.write_str("SURVIVED"),
            Self::Undecided => f.write_str("not decided in time"),
        }
    }
}

impl Place {
    /// Reads `tests/verification/src/../../../engine/src/queue/spsc.rs:127:32:store Release`.
    fn parse(line: &str) -> Option<Self> {
        let (name, ordering) = line.split_once(' ')?;
        let mut parts = name.rsplitn(4, ':');
        let operation = parts.next()?.to_owned();
        let line = parts.nth(1)?.parse().ok()?;
        let file = parts.next()?.rsplit_once("engine/src/")?.1.to_owned();
        Some(Self { file, line, operation, ordering: ordering.to_owned(), name: name.to_owned() })
    }

    fn label(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// The models of its part stand in the same folder.
    fn models(&self) -> String {
        format!("{}::{MODELS}", self.file.split('/').next().unwrap_or_default())
    }
}

/// What an ordering can be weakened to, weakest first: that one is the most likely to be caught. A fence that is
/// `Relaxed` is none.
fn weaker(ordering: &str, operation: &str) -> &'static [&'static str] {
    match ordering {
        "SeqCst" if operation == "fence" => &["Relaxed", "AcqRel"],
        "SeqCst" => &["Relaxed", "Acquire", "Release", "AcqRel"],
        "AcqRel" => &["Relaxed", "Acquire", "Release"],
        _ => &["Relaxed"],
    }
}

/// The program with the models, which cargo names among much else.
fn build() -> Result<PathBuf> {
    let mut command =
        tests(&["--features", "mutation", "--lib", "--no-run", "--message-format", "json-render-diagnostics"]);
    println!("Building the models with atomics that can be weakened.");
    let said = capture(command.stderr(Stdio::inherit()))?;
    let mut programs = said.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    programs.next_back().ok_or_else(|| Error::failed("cargo built no program with models"))
}

/// Runs everything unchanged, and returns each place that was reached.
fn list(program: &Path) -> Result<Vec<Place>> {
    let file = target_directory()?.join("orderings");
    // Of an earlier run, if there was one.
    let _ = fs::remove_file(&file);
    let mut command = Command::new(program);
    command.arg(MODELS).env("ORDERINGS_LIST", &file).env_remove("ORDERINGS_WEAKEN");
    capture(&mut command)?;
    let text = fs::read_to_string(&file).map_err(|error| Error::of_io(&file.display().to_string(), &error))?;
    let mut places = text.lines().map(Place::parse).collect::<Option<Vec<_>>>();
    places.iter_mut().for_each(|places| places.sort());
    places.ok_or_else(|| Error::failed(format!("{} has lines of another kind", file.display())))
}

/// Files in which more orderings are written than the models have come across.
fn unreached(places: &[Place]) -> Result<Vec<String>> {
    let mut reached = BTreeMap::<&str, usize>::new();
    places.iter().for_each(|place| *reached.entry(&place.file).or_default() += 1);
    let source = workspace_root().join("engine/src");
    let mut lines = Vec::new();
    for file in files(&source)? {
        let text = fs::read_to_string(source.join(&file)).map_err(|error| Error::of_io(&file, &error))?;
        let (written, reached) = (written(&text), reached.get(file.as_str()).copied().unwrap_or(0));
        if written != reached {
            lines.push(format!("{file}: {written} orderings are written, the models reach {reached}"));
        }
    }
    Ok(lines)
}

/// The Rust files of the parts, relative to `source`, without those of tests.
fn files(source: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut paths: Vec<PathBuf> = PARTS.iter().map(|part| source.join(part)).collect();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            let folder = fs::read_dir(&path).map_err(|error| Error::of_io(&path.display().to_string(), &error))?;
            paths.extend(folder.flatten().map(|entry| entry.path()));
            continue;
        }
        let name = path.strip_prefix(source).map_err(|error| Error::failed(error.to_string()))?;
        let name = name.to_string_lossy().into_owned();
        if !["models.rs", "tests.rs", "oracle.rs"].iter().any(|ending| name.ends_with(ending)) {
            found.push(name);
        }
    }
    Ok(found)
}

/// How many orderings above `Relaxed` a file asks for, its unit tests left out.
fn written(text: &str) -> usize {
    let code = code(text);
    let code = code.split("#[cfg(all(test").next().unwrap_or_default();
    let strong = |rest: &&str| STRONG.iter().any(|ordering| rest.starts_with(ordering));
    code.split("Ordering::").skip(1).filter(strong).count()
}

/// Runs the models of the place's part until one fails.
fn weakened(program: &Path, place: &Place, weaker: &str, deadline: Instant) -> Result<Verdict> {
    let mut command = bound_to_us(program);
    // One after the other, so that the last one named is the one that ended the program, if one does.
    command
        .args([&place.models(), "--test-threads=1"])
        .env("ORDERINGS_WEAKEN", format!("{}={weaker}", place.name))
        .env("RUST_BACKTRACE", "0");
    let mut child = command
        .env_remove("ORDERINGS_LIST")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| Error::of_io("models", &error))?;
    let verdict = judge(&mut child, deadline);
    // It may have more models to go through, or never end: nobody waits for them.
    let _ = child.kill();
    child.wait().map_err(|error| Error::of_io("wait", &error))?;
    Ok(verdict)
}

fn judge(child: &mut Child, deadline: Instant) -> Verdict {
    let (said, heard) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
    }
    loop {
        let Ok(line) = heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
            return Verdict::Undecided;
        };
        let Some(said) = line.strip_prefix("test ") else { continue };
        match said.split_once(" ... ") {
            Some((model, "FAILED")) => return Verdict::Caught(model.to_owned()),
            // Nothing after the name: a second panic, in a destructor, has aborted the program.
            Some((model, "")) => return Verdict::Caught(format!("{model} (aborts)")),
            _ if said.starts_with("result: ok") => return Verdict::Survived,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_the_models_write_them() {
        let place =
            Place::parse("tests/verification/src/../../../engine/src/queue/spsc.rs:127:32:store Release").unwrap();
        assert_eq!((place.label().as_str(), place.models().as_str()), ("queue/spsc.rs:127", "queue::models::"));
        assert_eq!((place.operation.as_str(), place.ordering.as_str()), ("store", "Release"));
        assert!(Place::parse("nonsense").is_none());
    }

    #[test]
    fn orderings_are_counted_in_code_alone() {
        let text = "a.load(Ordering::Acquire); // Ordering::Release\nb.store(1, Ordering::Relaxed);\n\
                    c.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);\n\
                    #[cfg(all(test, not(x)))]\nmod tests { fence(Ordering::SeqCst); }\n";
        assert_eq!(written(text), 3);
    }

    #[test]
    fn a_run_without_verdict_is_undecided() {
        let judged = |script: &str| {
            let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
            let verdict = judge(&mut child, Instant::now() + Duration::from_secs(10));
            child.wait().unwrap();
            verdict
        };
        assert_eq!(judged("echo 'test a::b ... ok'; echo 'test a::c ... FAILED'"), Verdict::Caught("a::c".into()));
        assert_eq!(judged("echo 'test a::b ... ok'; printf 'test a::c ... '"), Verdict::Caught("a::c (aborts)".into()));
        assert_eq!(judged("echo 'test result: ok. 2 passed'"), Verdict::Survived);
        assert_eq!(judged("echo 'running 2 tests'; exit 101"), Verdict::Undecided);
    }
}
