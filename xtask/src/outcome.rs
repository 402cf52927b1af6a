//! Counting tests, from what the test programs print.
//!
//! A test that cannot be made here (no rights, no kernel feature) passes and prints a line `SKIPPED: name: reason`. It is
//! counted as skipped and its reason repeated at the end, so that a green result says what it does not stand for.

use std::io::{BufRead, BufReader, Read};
use std::ops::AddAssign;

const SKIPPED: &str = "SKIPPED: ";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub passed: u64,
    pub failed: u64,
    /// What failed, by name. Shorter than `failed` says where something failed that has no name.
    pub failures: Vec<String>,
    /// With the reason of each.
    pub skipped: Vec<String>,
}

impl Outcome {
    pub fn pass() -> Self {
        Outcome { passed: 1, ..Outcome::default() }
    }

    pub fn skip(reason: impl Into<String>) -> Self {
        Outcome { skipped: vec![reason.into()], ..Outcome::default() }
    }

    pub fn failure(what: impl Into<String>) -> Self {
        Outcome { failed: 1, failures: vec![what.into()], ..Outcome::default() }
    }

    /// Reads a test run's standard output to its end. Shows what a person wants to see of it: how each program ended, and
    /// what the failed tests said.
    pub fn of_tests(output: impl Read) -> Self {
        let mut run = TestRun::default();
        let mut reader = BufReader::new(output);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let line = String::from_utf8_lossy(&bytes);
            for shown in run.read(line.trim_end_matches(['\n', '\r'])) {
                println!("    {shown}");
            }
            bytes.clear();
        }
        run.end()
    }
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.skipped.extend(other.skipped);
    }
}

/// Where in a test program's output we are. What tests have said comes behind a heading, and their names behind the same
/// heading once more; what stands between the two is theirs, whatever it looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Tests,
    SaidByPassed,
    Passed,
    SaidByFailed,
    Failed,
}

/// Test programs, one after the other.
#[derive(Debug, Default)]
struct TestRun {
    outcome: Outcome,
    /// Passed by the programs' own count, the skipped included.
    passed: u64,
    part: Part,
    /// How many tests the program that has not ended yet announced.
    announced: Option<u64>,
    /// What the failed tests of this program said, line by line.
    said: Vec<String>,
}

impl TestRun {
    /// Takes one line; returns what is to be shown.
    fn read(&mut self, line: &str) -> Vec<String> {
        if let Some(reason) = skipped(line.trim()) {
            // Repeated when a test's output is shown twice, as it is for one that fails.
            if !self.outcome.skipped.iter().any(|known| known == reason) {
                self.outcome.skipped.push(reason.to_owned());
            }
        }
        match (self.part, line) {
            (Part::Tests | Part::Passed, "successes:") => self.part = Part::SaidByPassed,
            (Part::SaidByPassed, "successes:") => self.part = Part::Passed,
            (Part::Tests | Part::Passed, "failures:") => self.part = Part::SaidByFailed,
            (Part::SaidByFailed, "failures:") => self.part = Part::Failed,
            (Part::SaidByFailed, _) => self.said.push(line.to_owned()),
            (Part::Failed, _) if line.starts_with("    ") => self.outcome.failures.push(line.trim().to_owned()),
            (Part::SaidByPassed, _) => {}
            (Part::Tests | Part::Passed | Part::Failed, _) => return self.between(line),
        }
        Vec::new()
    }

    /// A line that is the harness's own.
    fn between(&mut self, line: &str) -> Vec<String> {
        let mut shown = Vec::new();
        if let Some(counts) = line.strip_prefix("test result: ") {
            let (passed, failed) = (counted(counts, "passed"), counted(counts, "failed"));
            self.passed += passed;
            self.outcome.failed += failed;
            if passed + failed > 0 {
                shown.push(counts.split("; 0 measured").next().unwrap_or(counts).to_owned());
            }
            // Set off by a mark, so that nobody who counts our output in turn takes these for its own lines.
            shown.extend(std::mem::take(&mut self.said).iter().map(|line| format!("| {line}")));
            (self.part, self.announced) = (Part::Tests, None);
        } else if let Some(count) = announced(line) {
            self.break_off();
            self.announced = Some(count);
        } else if let Some(ignored) = ignored(line) {
            self.outcome.skipped.push(ignored);
            // Not among the passed ones, from which the skipped are taken in the end.
            self.passed += 1;
        } else if line.starts_with("test ") && line.ends_with("FAILED") {
            shown.push(format!("| {line}"));
        }
        shown
    }

    /// A program that has not said how its tests went was killed, or has killed itself.
    fn break_off(&mut self) {
        if let Some(count) = self.announced.take() {
            self.outcome += Outcome::failure(format!("a program of {count} tests ended before they had"));
        }
    }

    fn end(mut self) -> Outcome {
        self.break_off();
        self.outcome.passed = self.passed.saturating_sub(self.outcome.skipped.len() as u64);
        self.outcome
    }
}

/// The number in `running 5 tests`.
fn announced(line: &str) -> Option<u64> {
    let count = line.strip_prefix("running ")?;
    count.strip_suffix(" tests").or_else(|| count.strip_suffix(" test"))?.parse().ok()
}

/// A line of its own, or what a test said past the harness, which had begun the line with the test's name.
fn skipped(line: &str) -> Option<&str> {
    let said = match line.strip_prefix("test ") {
        Some(rest) => rest.split_once(" ... ")?.1,
        None => line,
    };
    said.strip_prefix(SKIPPED)
}

/// The number before `word` in `ok. 5 passed; 0 failed; ...`.
fn counted(text: &str, word: &str) -> u64 {
    let part = text.split(['.', ';']).map(str::trim).find(|part| part.ends_with(word));
    part.and_then(|part| part.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// `test name ... ignored, reason`.
fn ignored(line: &str) -> Option<String> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    let reason = rest.strip_prefix(", ").unwrap_or("marked as ignored");
    // Doc examples that are not meant to be run are no tests.
    (!name.contains(" - ")).then(|| format!("{name}: {reason}"))
}

#[cfg(test)]
mod tests;
