//! `eventstream log` on data directories that are whole, damaged, or somebody's.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use crate::{Scratch, feed, file, frame, line, run};

fn lines(count: u64) -> String {
    (0..count).map(|number| line(number, &format!("a/{}", number % 3)) + "\n").collect()
}

fn stream(directory: &Path) -> std::path::PathBuf {
    directory.join("log/default")
}

#[test]
fn what_is_exported_can_be_imported_and_is_the_same() {
    let scratch = Scratch::new("round-trip");
    let (first, second) = (scratch.path().join("1"), scratch.path().join("2"));
    let imported = feed("log import", &first, lines(50).as_bytes());
    assert_eq!((imported.code, imported.err.as_str()), (0, ""));
    assert!(imported.out.contains("50 records imported, offsets 0 up to, not including, 50"), "{}", imported.out);
    let exported = run("log export", &first);
    assert_eq!((exported.code, exported.out.lines().count()), (0, 50));
    assert!(exported.out.lines().nth(7).unwrap().contains(r#""topic":"a/1""#), "{}", exported.out);
    assert_eq!(feed("log import", &second, exported.out.as_bytes()).code, 0);
    assert_eq!(run("log export", &second).out, exported.out);
    // A part of it.
    let part = run("log export --from 40 --topic a/+ --limit 5", &first).out;
    assert_eq!(part, exported.out.lines().skip(40).take(5).map(|line| line.to_owned() + "\n").collect::<String>());
    assert_eq!(run("log export --topic a/2", &first).out.lines().count(), 16);
    let beyond = run("log export --from 51", &first);
    assert!(beyond.code == 2 && beyond.err.contains("first valid offset is 50"), "{}", beyond.err);
}

#[test]
fn frames_go_in_and_out_as_they_are() {
    let scratch = Scratch::new("frames");
    let frames: Vec<u8> = (0..1000u32).flat_map(|number| frame("t", &vec![number as u8; number as usize])).collect();
    assert_eq!(feed("log import --format frames --stream s", scratch.path(), &frames).code, 0);
    let exported = crate::command("log export --format frames --stream s", scratch.path()).output().unwrap();
    assert!(exported.stdout == frames, "{} bytes of {}", exported.stdout.len(), frames.len());
    // What is not whole is said; what came before is kept.
    let torn = feed("log import --format frames --stream torn", scratch.path(), &frames[..frames.len() - 1]);
    assert!(torn.code == 2 && torn.err.contains("the last frame is not whole"), "{}", torn.err);
    assert!(torn.out.contains("999 records imported"), "{}", torn.out);
    let wrong = feed("log import --stream s", scratch.path(), b"{\"class\": \"fast\"}\n");
    assert!(wrong.code == 2 && wrong.err.contains("line 1: missing field"), "{}", wrong.err);
}

#[test]
fn damage_is_found_named_and_told_by_the_exit_code() {
    let scratch = Scratch::new("verify");
    assert_eq!(feed("log import", scratch.path(), lines(20).as_bytes()).code, 0);
    let verified = run("log verify", scratch.path());
    assert_eq!((verified.code, verified.err.as_str()), (0, ""), "{}", verified.out);
    assert!(verified.out.contains("20 records in 1 segments"), "{}", verified.out);
    let segment = file(&stream(scratch.path()), ".segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    // In the twelfth record: each has 32 bytes, a frame of 16, and no padding.
    bytes[128 + 11 * 48 + 40] ^= 0x20;
    std::fs::write(&segment, &bytes).unwrap();
    let verified = run("log verify", scratch.path());
    assert_eq!(verified.code, 1);
    assert!(verified.out.contains("DAMAGE: 48 bytes at 656") && verified.out.contains("offset 11"), "{}", verified.out);
    let json: serde_json::Value = serde_json::from_str(&run("log verify --json", scratch.path()).out).unwrap();
    assert_eq!((&json[0]["quarantined"][0]["from"], &json[0]["records"]), (&11.into(), &19.into()));
    let exported = run("log export", scratch.path());
    assert_eq!((exported.code, exported.out.lines().count()), (1, 20));
    assert_eq!(exported.out.lines().nth(11), Some(r#"{"gap":{"from":11,"until":12}}"#));
    assert!(exported.err.contains("offsets 11 up to, not including, 12 cannot be read"), "{}", exported.err);
    // Nothing was changed by looking.
    assert_eq!(std::fs::read(&segment).unwrap(), bytes);
    // The end of it is gone.
    std::fs::write(&segment, &bytes[..128 + 15 * 48]).unwrap();
    let verified = run("log verify", scratch.path());
    assert!(verified.code == 1, "{}", verified.out);
}

#[test]
fn a_directory_that_is_somebody_s_or_none_is_refused() {
    let scratch = Scratch::new("locked");
    let nothing = run("log info", &scratch.path().join("nothing"));
    assert!(nothing.code == 2 && nothing.err.contains("no data directory"), "{}", nothing.err);
    let mut holder = crate::command("log import --sync-each", scratch.path());
    let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = holder.stdin.take().unwrap();
    input.write_all((line(0, "t") + "\n").as_bytes()).unwrap();
    let mut told = [0; 9];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut told).unwrap();
    assert_eq!(&told, b"durable 0");
    for words in ["log info", "log verify", "log export", "log import", "dlq list", "dlq purge --all", "dlq stats"] {
        let refused = run(words, scratch.path());
        let expected = format!("in use by eventstream log import, pid {}", holder.id());
        assert!(refused.code == 2 && refused.err.contains(&expected), "{words}: {}", refused.err);
    }
    drop(input);
    assert!(holder.wait().unwrap().success());
    assert_eq!(run("log info", scratch.path()).code, 0);
    let unknown = run("log info --stream x", scratch.path());
    assert!(unknown.code == 2 && unknown.err.contains("no stream x; there are: default"), "{}", unknown.err);
}
