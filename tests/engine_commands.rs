//! Events in and out by hand: `eventstream send` and `eventstream tail`, as a person or a script uses them.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use eventstream_tests::binaries;
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::{Engine, Setup};
use serde_json::Value;

fn eventstream(engine: &Engine, arguments: &[&str]) -> Command {
    let mut command = Command::new(binaries::engine());
    command.args(arguments).args(["--address", &format!("127.0.0.1:{}", engine.tcp_port())]);
    command
}

/// Runs to its end, with this on standard input.
fn run(engine: &Engine, arguments: &[&str], input: &str) -> Output {
    let mut command = eventstream(engine, arguments);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the program starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn what_is_sent_comes_out_in_lines() {
    let folder = DataFolder::new();
    let engine = Setup::default().config(&folder.storage("fsync: always")).start();
    assert_eq!(code(&run(&engine, &["send", "room/1", "warm"], "")), 0);
    assert_eq!(code(&run(&engine, &["send", "room/2", "--lines"], "one\ntwo\n")), 0);
    assert_eq!(code(&run(&engine, &["send", "room/3"], "all\nof it")), 0);
    let line = r#"{"topic":"room/4","payload_base64":"AAH/","priority":"low","id":"000102030405060708090a0b0c0d0e0f"}"#;
    for duplicate in [false, true] {
        let told = run(&engine, &["send", "--json"], line);
        let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        let wanted = serde_json::json!({
            "id": "000102030405060708090a0b0c0d0e0f", "status": "durable", "reason": null, "duplicate": duplicate
        });
        assert_eq!(told, wanted);
    }
    let out = run(&engine, &["tail", "room/1", "room/2", "--start", "earliest", "-n", "3"], "");
    let mut lines: Vec<String> = text(&out.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!((code(&out), lines), (0, ["room/1 warm", "room/2 one", "room/2 two"].map(str::to_owned).to_vec()));
    let out = run(&engine, &["tail", "room/3", "--start", "earliest", "-n", "1", "--payload"], "");
    assert_eq!(text(&out.stdout), "all\nof it\n");
    let out = run(&engine, &["tail", "#", "--start", "1:4", "-n", "1", "--json"], "");
    let event: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(
        (&event["topic"], &event["payload_base64"], event["offset"].as_u64()),
        (&"room/4".into(), &"AAH/".into(), Some(4))
    );
    assert_eq!((&event["class"], &event["id"]), (&"transactional".into(), &"000102030405060708090a0b0c0d0e0f".into()));
    engine.drain().assert_balanced();
}

#[test]
fn what_cannot_be_is_told_with_its_place() {
    let engine = Setup::default().start();
    for (arguments, input, wanted) in [
        (&["send", "--json"][..], "{\"topic\":\"a\",\"payload\":\"x\"}\n{\"topic\":\"a\"}\n", "standard input:2:"),
        (&["send", "--json"], "{\"topic\":\"a\",\"payload\":\"x\",\"id\":\"7\"}", "32 hex digits"),
        (&["send", "a/+", "x"], "", "topic"),
        (&["send"], "x", "a topic is needed"),
        (&["tail", "a#"], "", "bad_filter"),
        (&["tail", "a", "--start", "earliest"], "", "no_log"),
    ] {
        let out = run(&engine, arguments, input);
        assert!(code(&out) == 2 && text(&out.stderr).contains(wanted), "{arguments:?}: {out:?}");
    }
    // Nothing came in time.
    assert_eq!(code(&run(&engine, &["tail", "a", "--timeout", "0.2"], "")), 1);
    engine.drain().assert_balanced();
}

#[test]
fn a_reader_that_goes_ends_a_tail_in_order() {
    let engine = Setup::default().start();
    let mut tail = eventstream(&engine, &["tail", "#"]);
    let mut tail = tail.stdout(Stdio::piped()).spawn().expect("the program starts");
    drop(tail.stdout.take());
    engine.wait_until("it has subscribed", |status| status["counters"]["subscriptions_opened"].as_u64() == Some(1));
    // Standard output is buffered: it is found out when that is full.
    let lines = "x\n".repeat(200_000);
    assert_eq!(code(&run(&engine, &["send", "a", "--lines"], &lines)), 0);
    assert_eq!(tail.wait().expect("it ends").code(), Some(0));
    engine.drain().assert_balanced();
}
