//! `cargo xtask test`: every check as a named step, and at the end one line that says how it went.
//!
//! A step that cannot be made here says why and is counted as skipped; nothing is left out in silence.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::outcome::Outcome;
use crate::process::{capture, cargo, nightly, nightly_host, shown, visible, workspace_root};
use crate::setup::Purpose;
use crate::verification::{self, Sanitizer};
use crate::{Error, Result, ebpf, setup, tidy};

/// What tests need to see or to provoke in the engine, and nobody else builds in.
const FEATURES: &str = "eventstream/counting-allocator,eventstream/fault-injection,\
    eventstream-tests/counting-allocator,eventstream-tests/fault-injection";
/// From the seeds, which are frames at the parser's limits and beyond. From nothing, three times as long did not always come to those.
const FUZZ_SECONDS: u32 = 20;

struct Step {
    name: &'static str,
    run: fn(&Machine) -> Result<Outcome>,
}

/// Where the steps run.
#[derive(Clone, Debug, Default)]
struct Machine {
    /// Told to everything that runs as `CI=true`: a test that must not be skipped there looks at it.
    is_ci: bool,
    /// What cannot be checked here, and why.
    lacking: Vec<(Purpose, String)>,
}

impl Machine {
    /// Installs what single steps need, as far as that may be done here.
    fn prepared(is_ci: bool) -> Self {
        let started = Instant::now();
        let mut wanted = vec![Purpose::Style, Purpose::Fuzz];
        // A toolchain that is not Debian's may be there already.
        if ebpf::find_toolchain().is_err() {
            wanted.push(Purpose::Ebpf);
        }
        let attempt = |purpose| setup::attempt(purpose).err().map(|reason| (purpose, reason));
        let lacking = wanted.into_iter().filter_map(attempt).collect();
        println!("Looking for what the checks need, and installing it, took {:.0} s.", started.elapsed().as_secs_f64());
        Machine { is_ci, lacking }
    }

    /// Why a step that has this purpose cannot be made.
    fn lacks(&self, purpose: Purpose) -> Option<&str> {
        self.lacking.iter().find(|(lacking, _)| *lacking == purpose).map(|(_, reason)| reason.as_str())
    }

    fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if self.is_ci { command.env("CI", "true") } else { command }
    }

    fn checked(&self, command: &mut Command) -> Result<Outcome> {
        println!("    {}", shown(command));
        visible(self.environment(command)).map(|()| Outcome::pass())
    }

    /// Runs test programs and counts. What does not even build is one failure.
    fn counted(&self, command: &mut Command) -> Result<Outcome> {
        println!("    {}", shown(command));
        let mut child = self
            .environment(command)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Error::of_io(&shown(command), &error))?;
        let mut outcome = child.stdout.take().map(Outcome::of_tests).unwrap_or_default();
        let status = child.wait().map_err(|error| Error::of_io("wait", &error))?;
        if !status.success() && outcome.failed == 0 {
            let what = format!("`{}`: {status}", shown(command));
            println!("    {what}");
            outcome += Outcome::failure(what);
        }
        Ok(outcome)
    }
}

/// In the order of what a mistake costs: the quick ones first.
const STEPS: &[Step] = &[
    Step { name: "tidy: rules about the source, README commands", run: tidy_step },
    Step { name: "fmt: formatting", run: fmt },
    Step { name: "clippy: lints, warnings denied", run: clippy },
    Step { name: "build: programs the tests run", run: build },
    Step { name: "test: units and whole behaviours", run: test },
    Step { name: "ebpf: committed objects against their sources", run: ebpf_step },
    Step { name: "loom: models of the lock-free parts", run: loom },
    Step { name: "shuttle: larger scenarios under random schedules", run: shuttle },
    Step { name: "thread sanitizer: the lock-free parts under load", run: thread_sanitizer },
    Step { name: "address sanitizer: the lock-free parts and their memory", run: address_sanitizer },
    Step { name: "fuzz: the parser", run: fuzz },
];

pub fn run(is_ci: bool) -> Result<()> {
    setup::ensure(Purpose::Run)?;
    let machine = Machine::prepared(is_ci);
    let started = Instant::now();
    let mut total = Outcome::default();
    for (index, step) in STEPS.iter().enumerate() {
        println!("\n[{}/{}] {}", index + 1, STEPS.len(), step.name);
        let step_started = Instant::now();
        let mut outcome = (step.run)(&machine).unwrap_or_else(|error| {
            println!("    {error}");
            Outcome::failure(error.to_string())
        });
        let verdict = match (outcome.failed, outcome.passed) {
            (0, 0) => "skipped",
            (0, _) => "ok",
            _ => "FAILED",
        };
        println!("    {verdict}, {:.1} s", step_started.elapsed().as_secs_f64());
        let name = step.name.split(':').next().unwrap_or(step.name);
        outcome.failures.iter_mut().for_each(|failure| *failure = format!("{name}: {failure}"));
        total += outcome;
    }
    println!("\nAll steps took {:.0} s.", started.elapsed().as_secs_f64());
    print!("{}", summary(&total));
    if total.failed == 0 { Ok(()) } else { Err(Error::Reported) }
}

/// The last lines, which have to be enough for whoever sees nothing else.
fn summary(total: &Outcome) -> String {
    let mut text = String::new();
    for (title, lines) in [("Skipped", &total.skipped), ("Failed", &total.failures)] {
        if !lines.is_empty() {
            text.push_str(&format!("{title}:\n"));
        }
        for line in lines {
            // One line each, whatever was said.
            text.push_str(&format!("  {}\n", line.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
    }
    text + &format!("{} passed, {} failed, {} skipped\n", total.passed, total.failed, total.skipped.len())
}

fn tidy_step(_: &Machine) -> Result<Outcome> {
    tidy::run().map(|()| Outcome::pass())
}

fn fmt(machine: &Machine) -> Result<Outcome> {
    if let Some(reason) = machine.lacks(Purpose::Style) {
        return Ok(Outcome::skip(format!("fmt: {reason}")));
    }
    machine.checked(cargo().args(["fmt", "--all", "--check"]))
}

fn clippy(machine: &Machine) -> Result<Outcome> {
    if let Some(reason) = machine.lacks(Purpose::Style) {
        return Ok(Outcome::skip(format!("clippy: {reason}")));
    }
    machine.checked(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        FEATURES,
        "--",
        "-D",
        "warnings",
    ]))
}

/// The tests of other packages run these, which cargo builds only for tests of their own package.
fn build(machine: &Machine) -> Result<Outcome> {
    machine.checked(cargo().args(["build", "--workspace", "--bins", "--features", FEATURES]))
}

fn test(machine: &Machine) -> Result<Outcome> {
    let arguments = ["test", "--workspace", "--features", FEATURES, "--no-fail-fast", "--", "--show-output"];
    machine.counted(cargo().args(arguments))
}

/// Other compilers give other bytes, which prove nothing: what they gave has to pass the tests of the committed object.
fn ebpf_step(machine: &Machine) -> Result<Outcome> {
    if let Some(reason) = machine.lacks(Purpose::Ebpf) {
        return Ok(Outcome::skip(format!("ebpf: {reason}")));
    }
    let root = workspace_root();
    ebpf::build(&root, true).map_err(Error::Failed)?;
    let rebuilt = ebpf::rebuilt_directory(&root);
    if same_objects(&rebuilt, &root.join("ebpf/object")) {
        return Ok(Outcome::pass());
    }
    let mut command = cargo();
    command.args(["test", "--package", "eventstream-tests", "--features", FEATURES, "--test", "steer_program"]);
    command.args(["--", "--show-output"]).env(ebpf::OBJECT_VARIABLE, rebuilt);
    machine.counted(&mut command)
}

fn same_objects(rebuilt: &Path, committed: &Path) -> bool {
    let objects = std::fs::read_dir(rebuilt).into_iter().flatten().flatten();
    objects
        .filter(|entry| entry.path().extension().is_some_and(|ending| ending == "o"))
        .all(|entry| std::fs::read(entry.path()).ok() == std::fs::read(committed.join(entry.file_name())).ok())
}

fn loom(machine: &Machine) -> Result<Outcome> {
    some(machine.counted(&mut verification::models())?)
}

fn shuttle(machine: &Machine) -> Result<Outcome> {
    some(machine.counted(&mut verification::schedules())?)
}

fn thread_sanitizer(machine: &Machine) -> Result<Outcome> {
    sanitized(machine, Sanitizer::Thread)
}

fn address_sanitizer(machine: &Machine) -> Result<Outcome> {
    sanitized(machine, Sanitizer::Address)
}

fn sanitized(machine: &Machine, sanitizer: Sanitizer) -> Result<Outcome> {
    let Some(host) = nightly_host() else {
        let reason = machine.lacks(Purpose::Fuzz).unwrap_or("there is no nightly toolchain");
        return Ok(Outcome::skip(format!("{} sanitizer: {reason}", sanitizer.name())));
    };
    let mut outcome = some(machine.counted(&mut sanitizer.tests(&host)?)?)?;
    outcome += sanitizer.finds_seeded_fault(&host)?;
    Ok(outcome)
}

/// A filter that matches nothing would otherwise pass.
fn some(outcome: Outcome) -> Result<Outcome> {
    if outcome == Outcome::default() { Err(Error::failed("no test has run")) } else { Ok(outcome) }
}

fn fuzz(machine: &Machine) -> Result<Outcome> {
    if let Some(reason) = machine.lacks(Purpose::Fuzz) {
        return Ok(Outcome::skip(format!("fuzz: {reason}")));
    }
    let mut outcome = Outcome::default();
    for target in capture(&mut cargo_fuzz(&["list"]))?.split_whitespace() {
        let (found, seeds) = (format!("corpus/{target}"), format!("seeds/{target}"));
        let seconds = format!("-max_total_time={FUZZ_SECONDS}");
        std::fs::create_dir_all(fuzz_folder().join(&found)).map_err(|error| Error::of_io(&found, &error))?;
        let arguments = ["run", target, &found, &seeds, "--", &seconds, "-print_final_stats=1"];
        outcome += machine.checked(&mut cargo_fuzz(&arguments))?;
    }
    if outcome == Outcome::default() {
        return Err(Error::failed("nothing was fuzzed"));
    }
    Ok(outcome)
}

/// The sanitizers are a nightly compiler's.
fn cargo_fuzz(arguments: &[&str]) -> Command {
    let mut command = nightly("cargo");
    command.arg("fuzz").args(arguments).current_dir(fuzz_folder());
    command
}

fn fuzz_folder() -> PathBuf {
    workspace_root().join("tests/fuzz")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(script: &str) -> Outcome {
        Machine::default().counted(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn a_test_program_that_breaks_off_is_a_failure() {
        let outcome = counted("echo 'test result: ok. 2 passed; 0 failed'; exit 101");
        assert_eq!((outcome.passed, outcome.failed), (2, 1));
        assert!(outcome.failures[0].contains("101"), "{:?}", outcome.failures);
    }

    #[test]
    fn failures_are_not_counted_twice() {
        let outcome = counted("echo 'test result: FAILED. 1 passed; 3 failed'; exit 101");
        assert_eq!((outcome.passed, outcome.failed), (1, 3));
    }

    #[test]
    fn the_last_lines_name_what_failed_and_what_was_skipped() {
        let mut total = Outcome { passed: 5, ..Outcome::default() };
        assert_eq!(summary(&total), "5 passed, 0 failed, 0 skipped\n");
        total += Outcome::failure("test: a::b");
        total += Outcome::skip("ebpf: no right\nto install");
        let lines = "Skipped:\n  ebpf: no right to install\nFailed:\n  test: a::b\n5 passed, 1 failed, 1 skipped\n";
        assert_eq!(summary(&total), lines);
    }

    #[test]
    fn a_step_whose_tools_cannot_be_had_is_skipped_with_the_reason() {
        let purposes = [Purpose::Style, Purpose::Ebpf, Purpose::Fuzz];
        let lacking = purposes.map(|purpose| (purpose, "no rights".to_owned())).into();
        let machine = Machine { is_ci: false, lacking };
        for (name, step) in [("fmt", fmt as fn(&Machine) -> _), ("clippy", clippy), ("ebpf", ebpf_step), ("fuzz", fuzz)]
        {
            assert_eq!(step(&machine).unwrap(), Outcome::skip(format!("{name}: no rights")));
        }
    }
}
