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

    /// Reads a test run's standard output to its end. Shows what a person wants to see of it, and all of it when
    /// something failed.
    pub fn of_tests(output: impl Read) -> Self {
        let mut outcome = Outcome::default();
        let mut passed = 0;
        let mut all = String::new();
        let mut reader = BufReader::new(output);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let line = String::from_utf8_lossy(&bytes).into_owned();
            let trimmed = line.trim();
            if let Some(counts) = trimmed.strip_prefix("test result: ") {
                passed += counted(counts, "passed");
                outcome.failed += counted(counts, "failed");
                if counted(counts, "passed") + counted(counts, "failed") > 0 {
                    println!("    {}", counts.split("; 0 measured").next().unwrap_or(counts));
                }
            } else if let Some(reason) = skipped(trimmed) {
                // Repeated when a test's output is shown twice, as it is for one that fails.
                if !outcome.skipped.iter().any(|known| known == reason) {
                    outcome.skipped.push(reason.to_owned());
                }
            } else if let Some(ignored) = ignored(trimmed) {
                outcome.skipped.push(ignored);
                // Not among the passed ones, from which the skipped are taken below.
                passed += 1;
            } else if trimmed.starts_with("test ") && trimmed.ends_with("FAILED") {
                println!("    | {trimmed}");
            }
            all.push_str(&line);
            bytes.clear();
        }
        outcome.passed = passed.saturating_sub(outcome.skipped.len() as u64);
        if outcome.failed > 0 {
            // Set off by a mark, so that nobody who counts our output in turn takes these for its own lines.
            all.lines().for_each(|line| println!("    | {line}"));
        }
        outcome
    }
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
    }
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
mod tests {
    use super::*;

    #[test]
    fn tests_are_counted_over_all_programs() {
        let text = "running 3 tests\ntest a ... ok\ntest b ... ignored, slow\n\n---- a stdout ----\n\
            SKIPPED: a: no right to load BPF programs\n\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; \
            0 filtered out; finished in 0.01s\n\ntest result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let outcome = Outcome::of_tests(text.as_bytes());
        assert_eq!((outcome.passed, outcome.failed), (6, 0));
        assert_eq!(outcome.skipped, ["b: slow", "a: no right to load BPF programs"]);
    }

    #[test]
    fn a_skip_is_seen_wherever_a_test_may_say_it() {
        assert_eq!(skipped("SKIPPED: a: no rights"), Some("a: no rights"));
        assert_eq!(skipped("test a ... SKIPPED: a: no rights"), Some("a: no rights"));
        assert_eq!(skipped("test a ... ok"), None);
        assert_eq!(skipped("it says SKIPPED: b"), None);
    }

    #[test]
    fn failures_are_counted() {
        let text = "test a ... FAILED\ntest result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured\n";
        let outcome = Outcome::of_tests(text.as_bytes());
        assert_eq!((outcome.passed, outcome.failed), (1, 2));
    }

    #[test]
    fn an_example_that_is_not_run_is_no_skipped_test() {
        assert_eq!(ignored("test src/lib.rs - (line 5) ... ignored"), None);
        assert_eq!(ignored("test a::b ... ignored"), Some("a::b: marked as ignored".into()));
    }
}
