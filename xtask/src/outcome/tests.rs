use super::*;

/// What libtest prints with `--show-output` of a program whose tests do one of everything.
const ONE_OF_EACH: &str = "
running 6 tests
test group::fails ... FAILED
test group::is_left_out ... ignored, slow
test group::fails_in_silence ... FAILED
test group::passes_and_speaks ... ok
SKIPPED: says_a_skip: no rights
test group::says_a_skip ... ok
test group::passes ... ok

successes:

---- group::passes_and_speaks stdout ----
a passed test's words
test result: FAILED. 0 passed; 9 failed


successes:
    group::passes
    group::passes_and_speaks
    group::says_a_skip

failures:

---- group::fails stdout ----
a failed test's words
test result: ok. 7 passed; 0 failed

thread 'group::fails' (18807) panicked at s.rs:7:69:
assertion `left == right` failed: numbers differ
  left: 1
 right: 2
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace


failures:
    group::fails
    group::fails_in_silence

test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.05s

";

/// And of one whose tests all pass.
const ALL_WELL: &str = "
running 2 tests
test a ... ok
test b ... ok

successes:

---- a stdout ----
a's words


successes:
    a
    b

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

";

/// One thread: the harness has begun the line when the test writes past it.
const ONE_THREAD: &str = "
running 2 tests
test group::fails ... SKIPPED: group::fails: no rights for half of it
FAILED
test group::says_a_skip ... SKIPPED: says_a_skip: no rights
ok

failures:

---- group::fails stdout ----
the other half's words

failures:
    group::fails

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.05s
";

fn read(text: &str) -> (Outcome, Vec<String>) {
    let mut run = TestRun::default();
    let shown = text.lines().flat_map(|line| run.read(line)).collect();
    (run.end(), shown)
}

#[test]
fn failed_tests_are_named_and_only_what_they_said_is_shown() {
    let (outcome, shown) = read(ONE_OF_EACH);
    assert_eq!((outcome.passed, outcome.failed), (2, 2));
    assert_eq!(outcome.failures, ["group::fails", "group::fails_in_silence"]);
    assert_eq!(outcome.skipped, ["group::is_left_out: slow", "says_a_skip: no rights"]);
    let shown = shown.join("\n");
    for text in
        ["| a failed test's words", "|   left: 1", "| ---- group::fails stdout ----", "FAILED. 3 passed; 2 failed"]
    {
        assert!(shown.contains(text), "{text} is not in {shown}");
    }
    assert!(!shown.contains("a passed test's words") && !shown.contains("successes"), "{shown}");
}

#[test]
fn of_tests_that_pass_one_line_is_shown() {
    let (outcome, shown) = read(ALL_WELL);
    assert_eq!(outcome, Outcome { passed: 2, ..Outcome::default() });
    assert_eq!(shown, ["ok. 2 passed; 0 failed; 0 ignored"]);
}

#[test]
fn programs_are_added_up() {
    let (outcome, shown) = read(&[ALL_WELL, ONE_OF_EACH, ALL_WELL].concat());
    assert_eq!((outcome.passed, outcome.failed, outcome.skipped.len()), (6, 2, 2));
    assert_eq!(outcome.failures.len(), 2);
    assert_eq!(shown.iter().filter(|line| line.contains("a failed test's words")).count(), 1);
}

#[test]
fn a_failure_behind_a_skip_on_its_line_is_named() {
    let (outcome, shown) = read(ONE_THREAD);
    assert_eq!((outcome.failed, outcome.failures), (1, vec!["group::fails".to_owned()]));
    assert!(shown.contains(&"| the other half's words".to_owned()), "{shown:?}");
    assert!(outcome.skipped.contains(&"says_a_skip: no rights".to_owned()), "{:?}", outcome.skipped);
}

#[test]
fn a_program_that_breaks_off_is_a_failure() {
    let broken = "\nrunning 2 tests\ntest a ... ok\n";
    for text in [broken.to_owned(), [broken, ALL_WELL].concat()] {
        let (outcome, _) = read(&text);
        assert_eq!((outcome.failed, outcome.failures.len()), (1, 1), "{text}");
        assert!(outcome.failures[0].contains("2 tests"), "{:?}", outcome.failures);
    }
}

#[test]
fn a_skip_is_seen_wherever_a_test_may_say_it() {
    assert_eq!(skipped("SKIPPED: a: no rights"), Some("a: no rights"));
    assert_eq!(skipped("test a ... SKIPPED: a: no rights"), Some("a: no rights"));
    assert_eq!(skipped("test a ... ok"), None);
    assert_eq!(skipped("it says SKIPPED: b"), None);
}

#[test]
fn an_example_that_is_not_run_is_no_skipped_test() {
    assert_eq!(ignored("test src/lib.rs - (line 5) ... ignored"), None);
    assert_eq!(ignored("test a::b ... ignored"), Some("a::b: marked as ignored".into()));
}
