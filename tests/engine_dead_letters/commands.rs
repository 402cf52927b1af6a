//! What operators ask of the dead letters of a running engine, and of a data directory that none has.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixStream;
use std::process::Command;

use eventstream_tests::binaries;
use eventstream_tests::engine_process::Engine as Process;

use super::*;

fn engine_of(folder: &Folder) -> Process {
    Setup::default().config(&format!("storage: {{directory: {}}}\n", folder.0.display())).start()
}

fn output(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn a_running_engine_lists_and_shows_the_same_as_its_files() {
    let folder = Folder::new("lists");
    kills::fill_both(&folder.0, 5000);
    let engine = engine_of(&folder);
    let questions: [&[&str]; 9] = [
        &["list"],
        &["list", "--json"],
        &["list", "--queue", "shed"],
        &["list", "--reason", "rejected", "--topic", "t/1", "--json"],
        &["list", "--topic", "x/#"],
        &["list", "--until", "2000-01-01T00:00:00Z"],
        &["list", "--limit", "7"],
        &["show", "failed", "4000"],
        &["show", "shed", "17"],
    ];
    let asked = questions.map(|question| engine.ask(&[&["dlq"], question].concat()));
    let lines = asked.each_ref().map(|answer| answer.lines().count());
    let shed = (0..5000).filter(|number| kills::is_shed(*number)).count();
    let of_topic = (0..5000).filter(|number| !kills::is_shed(*number) && number % 3 == 1).count();
    assert_eq!(lines, [5000, 5000, shed, of_topic, 0, 0, 7, 1, 1]);
    let (known, said) = output(&mut engine.command(&["dlq", "show", "failed", "99999999"]));
    assert!(!known && said.contains("no letter with offset 99999999"), "{said}");
    engine.drain().assert_balanced();
    for (question, asked) in questions.iter().zip(&asked) {
        let mut command = Command::new(binaries::engine());
        command.arg("dlq").args(*question).arg("--directory").arg(&folder.0);
        assert_eq!(output(&mut command), (true, asked.clone()), "{question:?}");
    }
}

#[test]
fn whoever_does_not_read_a_list_holds_up_nobody() {
    let folder = Folder::new("unread");
    kills::fill_both(&folder.0, 20_000);
    let engine = engine_of(&folder);
    let asker = || {
        let mut stream = UnixStream::connect(engine.socket()).unwrap();
        stream.write_all(b"{\"command\": \"dlq_list\", \"whole\": true}\n").unwrap();
        stream
    };
    let idle: Vec<UnixStream> = (0..4).map(|_| asker()).collect();
    // Of another that ends after a line, too, nothing is left that holds up a drain.
    let mut line = String::new();
    assert!(BufReader::new(asker()).read_line(&mut line).unwrap() > 0 && line.contains("letter"));
    let replayed = engine.ask(&["dlq", "replay"]);
    assert!(replayed.starts_with("20000 letters replayed: 20000 processed"), "{replayed}");
    assert_eq!(engine.ask(&["dlq", "list"]), "");
    // What was held when they asked is told, once they read.
    let mut first = BufReader::new(&idle[0]).lines().map_while(Result::ok);
    assert_eq!(first.by_ref().filter(|line| line.contains("\"letter\"")).count(), 20_000);
    engine.drain().assert_balanced();
    let mut rest = Vec::new();
    (&idle[1]).read_to_end(&mut rest).unwrap();
    assert!(rest.len() < 1 << 20, "{} bytes were in memory for a reader who was away", rest.len());
}

#[test]
fn commands_go_to_the_running_engine() {
    let folder = Folder::new("commands");
    let engine = engine_of(&folder);
    engine.set_state("dropping");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..50_u64 {
        let mut datagram = Vec::new();
        encode(&mut datagram, &FrameHeader::new(Priority::Low), format!("t/{}", number % 2).as_bytes(), b"payload");
        socket.send_to(&datagram, ("127.0.0.1", engine.udp_port())).unwrap();
    }
    engine.wait_until("letters", |status| count(status, "/dlq/held") == 50);
    engine.set_state("running");
    let stats = engine.ask(&["dlq", "stats"]);
    let words: Vec<&str> = stats.split_whitespace().take(4).collect();
    assert_eq!(words, ["shed", "shed_dropping", "50", "350"], "{stats}");
    assert_eq!(engine.ask(&["dlq", "purge", "--topic", "t/0"]).trim(), "25 letters purged");
    let replayed = engine.ask(&["dlq", "replay", "--reason", "shed_dropping", "--rate", "1000"]);
    assert_eq!(replayed.trim(), "25 letters replayed: 25 processed, 0 duplicates, 0 failed again; 0 kept");
    assert_eq!(engine.ask(&["dlq", "stats", "--queue", "shed"]), "");
    let ended = engine.drain();
    ended.assert_balanced();
    let counts = ["/dlq/purged", "/dlq/replayed", "/events/replayed", "/events/processed/transactional"];
    assert_eq!(counts.map(|path| ended.count(path)), [25; 4]);
}
