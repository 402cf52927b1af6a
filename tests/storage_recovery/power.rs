//! A process killed at any time, and the power cut with it: what it called durable is there.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use eventstream::storage::disk::power_cut;
use eventstream_tests::random::Random;

use crate::{Scratch, line, run};

const RECORDS: u64 = 3000;

/// Imports until so many records are durable, kills, cuts the power; gives how many were and how many are there.
fn after_cut(seed: u64, faults: &str) -> (u64, u64) {
    let scratch = Scratch::new("power");
    let (data, journal) = (scratch.path().join("data"), scratch.path().join("journal"));
    let mut command = crate::command("log import --sync-each", &data);
    command.env("EVENTSTREAM_DISK_FAULT", format!("journal={}{faults}", journal.display()));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
    let mut input = child.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || {
        // Ends with the reader's end of the pipe.
        let _ = (0..RECORDS).try_for_each(|number| writeln!(input, "{}", line(number, "t")));
    });
    let wanted = Random::new(seed).below(120);
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut durable = 0;
    for _ in 0..=wanted {
        let mut text = String::new();
        output.read_line(&mut text).expect("a line");
        assert_eq!(text, format!("durable {durable}\n"));
        durable += 1;
    }
    child.kill().expect("killed");
    child.wait().expect("gone");
    writer.join().expect("ended");
    // It went on until it was killed.
    durable +=
        output.lines().filter(|line| line.as_ref().is_ok_and(|line| line.starts_with("durable "))).count() as u64;
    power_cut(&journal, &data.join("log/default"), seed).expect("cuts");
    let exported = run("log export", &data);
    assert_eq!((exported.code, exported.err.as_str()), (0, ""));
    for (number, text) in (0..).zip(exported.out.lines()) {
        let found: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let expected: serde_json::Value = serde_json::from_str(&line(number, "t")).expect("JSON");
        assert_eq!((&found["offset"], &found["payload"]), (&number.into(), &expected["payload"]));
    }
    // And it can be gone on with.
    let more = crate::feed("log import", &data, line(7, "more").as_bytes());
    assert_eq!(more.code, 0, "{}", more.err);
    assert_eq!(run("log verify", &data).code, 0);
    (durable, exported.out.lines().count() as u64)
}

#[test]
fn what_was_called_durable_survives_a_kill_and_a_power_cut() {
    for seed in 0..12 {
        let (durable, found) = after_cut(seed, "");
        assert!(found >= durable, "seed {seed}: {found} of {durable}");
    }
}
