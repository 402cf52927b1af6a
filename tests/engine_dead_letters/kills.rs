//! An engine that is killed while it replays, again and again, and a sender that meanwhile sends some of the letters again.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Lines};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use eventstream_tests::acks::{Ack, Told};
use eventstream_tests::publisher::{DUPLICATE, DURABLE};

use super::*;

const KILLS: u64 = 5;

/// Statuses and reasons as the protocol has them.
const REJECTED: (u8, u8) = (4, 1);
const FIRST_DEAD_LETTERED: (u8, u8) = (DUPLICATE | 4, 0);
const FIRST_DURABLE: (u8, u8) = (DUPLICATE | DURABLE, 0);
const PROCESSED_ANEW: (u8, u8) = (DURABLE, 0);

/// Shed, not failed: the ids of those were never claimed.
pub(super) const fn is_shed(number: u64) -> bool {
    number % 7 == 2 && number % 200 != 13
}

/// One in a hundred fails when it is replayed. Half of those are sent again, too.
const fn fails_again(number: u64) -> bool {
    matches!(number % 200, 13 | 107)
}

/// One in ten is sent again: half of those before any replay,
const fn is_resent_before(number: u64) -> bool {
    number % 20 == 3
}

/// the others while one is under way: the first time, the second, until the last, which is not killed.
const fn is_resent_during(number: u64, run: u64) -> bool {
    number % 20 == 13 && number / 20 % (KILLS + 1) == run
}

fn topic(number: u64) -> String {
    format!("t/{}", number % 3)
}

/// A client that asks, and counts.
struct Sender {
    stream: TcpStream,
    reader: Reader,
    sent: u64,
}

impl Sender {
    fn connect(port: u16) -> Self {
        let stream = connect(port);
        Self { reader: Reader::new(&stream), stream, sent: 0 }
    }

    fn send(&mut self, numbers: impl IntoIterator<Item = u64>) {
        let mut bytes = Vec::new();
        for number in numbers {
            bytes.extend(asking(Priority::Medium, Some(number), &topic(number), &number.to_be_bytes()));
            self.sent += 1;
        }
        self.stream.write_all(&bytes).unwrap();
    }

    /// Sends and waits for the answers, part by part.
    fn have_told(&mut self, numbers: impl IntoIterator<Item = u64>) -> Vec<Ack> {
        let (numbers, mut acks) = (numbers.into_iter().collect::<Vec<_>>(), Vec::new());
        for part in numbers.chunks(256) {
            self.send(part.iter().copied());
            acks.extend(self.reader.read(part.len()).acks);
        }
        acks
    }

    /// What was told until the engine was killed.
    fn told_until_killed(mut self) -> Vec<Ack> {
        let mut told = Told::default();
        while matches!(self.reader.try_next(&mut told), Ok(true)) {}
        told.acks
    }

    fn end(mut self) -> u64 {
        self.stream.shutdown(Shutdown::Write).unwrap();
        assert!(self.reader.read_to_end().acks.is_empty());
        self.sent
    }
}

fn number_of(ack: &Ack) -> u64 {
    number(Some(ack.id))
}

/// Sends datagrams that are shed, no more at a time than a socket holds.
pub(super) fn shed(engine: &Engine, numbers: &[u64]) {
    let control = engine.control();
    control.set_state(State::Dropping).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sent = 0;
    for part in numbers.chunks(100) {
        for datagram in part.chunks(20) {
            let mut bytes = Vec::new();
            for number in datagram {
                let header =
                    FrameHeader { id: Some(u128::from(*number).to_be_bytes()), ..FrameHeader::new(Priority::Low) };
                encode(&mut bytes, &header, topic(*number).as_bytes(), &number.to_be_bytes());
            }
            socket.send_to(&bytes, ("127.0.0.1", control.ports().udp)).unwrap();
        }
        sent += part.len() as u64;
        wait_for(&control, "what is shed", |control| control.ledger().dlq.received == sent);
    }
    control.set_state(State::Running).unwrap();
}

/// All of them become dead letters, and the sender is told so.
pub(super) fn fill_both(folder: &Path, count: u64) {
    let engine = start(folder, all);
    let (to_shed, to_fail): (Vec<u64>, Vec<u64>) = (0..count).partition(|number| is_shed(*number));
    shed(&engine, &to_shed);
    let mut sender = Sender::connect(engine.control().ports().tcp.unwrap());
    let acks = sender.have_told(to_fail.iter().copied());
    assert!(acks.iter().all(|ack| (ack.status, ack.reason) == REJECTED), "{:?}", acks.first());
    sender.end();
    let report = end(engine);
    assert_eq!((report.ledger.dlq.received, report.ledger.dlq.held), (count, count));
    let reasons = ["rejected", "shed_dropping"].map(|reason| report.ledger.events.dead_lettered[reason]);
    assert_eq!(reasons, [to_fail.len() as u64, to_shed.len() as u64]);
}

/// A resend of a letter that failed is a duplicate of it. One of a letter that was shed is new, and the letter is the duplicate.
fn resend_before(folder: &Path, count: u64) {
    let engine = start(folder, fails_again);
    let resent: Vec<u64> = (0..count).filter(|number| is_resent_before(*number)).collect();
    let mut sender = Sender::connect(engine.control().ports().tcp.unwrap());
    for ack in sender.have_told(resent.iter().copied()) {
        let expected = if is_shed(number_of(&ack)) { PROCESSED_ANEW } else { FIRST_DEAD_LETTERED };
        assert_eq!((ack.status, ack.reason), expected, "{}", number_of(&ack));
    }
    let (sent, report) = (sender.end(), end(engine));
    let events = &report.ledger.events;
    let anew = resent.iter().filter(|number| is_shed(**number)).count() as u64;
    assert_eq!((events.accepted, events.processed.transactional, events.duplicate), (sent, anew, sent - anew));
    assert_eq!((report.ledger.dlq.received, report.ledger.dlq.held), (0, count));
}

/// A resend of a letter that is being replayed is told what has become of its id, or is the copy that is processed.
fn check_during(acks: &[Ack], before: &OnDisk, after: &OnDisk) {
    for ack in acks {
        let (number, told) = (number_of(ack), (ack.status, ack.reason));
        let allowed: &[(u8, u8)] = match number {
            _ if before.is_logged(number) => &[FIRST_DURABLE],
            _ if fails_again(number) => &[FIRST_DEAD_LETTERED],
            _ if is_shed(number) => &[PROCESSED_ANEW, FIRST_DURABLE],
            _ => &[FIRST_DEAD_LETTERED, FIRST_DURABLE],
        };
        assert!(allowed.contains(&told), "{number} was told {told:?}");
        assert!(told == FIRST_DEAD_LETTERED || after.is_logged(number), "{number} was told {told:?}, and is not there");
    }
}

/// Each is in the log or in the queue, once. Of one that was shed and sent again the letter is there until it is replayed.
fn check_places(on_disk: &OnDisk, count: u64) {
    assert_eq!(on_disk.found.len() as u64, count);
    for (number, places) in &on_disk.found {
        let copied = is_shed(*number) && number % 10 == 3 && *places == (1, 1);
        assert!(copied || places.0 + places.1 == 1, "{number} {places:?}");
        assert!(!fails_again(*number) || *places == (0, 1), "{number} {places:?}");
    }
}

/// Names the folder to the half of the test that is a process of its own.
pub(super) const FOLDER: &str = "DEAD_LETTERS_OF";

/// Says what it has found and how far it is, until it is killed.
fn replay_until_killed(folder: &Path) {
    let engine = start(folder, fails_again);
    let control = engine.control();
    let dead_letters = control.dead_letters().unwrap();
    let held = control.ledger().dlq.held;
    println!("port {}\nheld {held}", control.ports().tcp.unwrap());
    // All of them would take half a second at least: in each run some are under way.
    let per_s = Some(2 * letters(LETTERS));
    dead_letters.replay(ReplayOrder { per_s, ..order(LetterFilter::default()) }).unwrap();
    loop {
        let status = dead_letters.replay_status().unwrap();
        println!("ended {}", status.processed + status.duplicate + status.dead_lettered);
        std::thread::sleep(Duration::from_micros(500));
    }
}

const LETTERS: u64 = 800;

/// The other half, seen from outside.
pub(super) struct OtherHalf {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl OtherHalf {
    /// Of the test of this name, with what its disk is told.
    pub(super) fn start(test: &str, folder: &Path, disk: Option<&str>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(FOLDER, folder)
            .envs(disk.map(|told| ("EVENTSTREAM_DISK_FAULT", told)))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next number that it says behind the word, if it is as large.
    pub(super) fn hear(&mut self, word: &str, at_least: u64) -> u64 {
        let lines = self.lines.by_ref().map_while(Result::ok);
        let mut numbers = lines.filter_map(|line| line.split_once(word)?.1.trim().parse::<u64>().ok());
        numbers.find(|number| *number >= at_least).expect("it ended by itself")
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for OtherHalf {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One run that is killed: `waiting` are sent again, and those that are told of go from there.
fn one_killed(folder: &Path, count: u64, before: &OnDisk, waiting: &mut BTreeSet<u64>) -> OnDisk {
    let mut replaying =
        OtherHalf::start("kills::each_letter_is_somewhere_once_however_often_a_replay_is_killed", folder, None);
    let port = replaying.hear("port ", 1) as u16;
    assert_eq!(replaying.hear("held ", 0), before.held(), "what recovery has left in the queue");
    replaying.hear("ended ", count / 32);
    let mut sender = Sender::connect(port);
    sender.send(waiting.iter().copied());
    let telling = std::thread::spawn(move || sender.told_until_killed());
    replaying.hear("ended ", count / 8);
    replaying.kill();
    let (acks, after) = (telling.join().unwrap(), OnDisk::of(folder));
    check_during(&acks, before, &after);
    check_places(&after, count);
    for ack in &acks {
        assert!(waiting.remove(&number_of(ack)), "{} is told twice", number_of(ack));
    }
    after
}

/// The last run, in which all of them end.
fn last_run(folder: &Path, count: u64, before: &OnDisk, waiting: &BTreeSet<u64>) {
    let engine = start(folder, fails_again);
    let control = engine.control();
    assert_eq!(control.ledger().dlq.held, before.held());
    let mut sender = Sender::connect(control.ports().tcp.unwrap());
    let acks = std::thread::scope(|scope| {
        let resending = scope.spawn(|| sender.have_told(waiting.iter().copied()));
        let status = replay(&control, LetterFilter::default());
        let failing = (0..count).filter(|number| fails_again(*number)).count() as u64;
        assert_eq!((status.replayed, status.dead_lettered, status.kept), (before.held(), failing, 0));
        assert_eq!(status.processed + status.duplicate, status.replayed - failing, "{status:?}");
        resending.join().unwrap()
    });
    let resent = (0..count).filter(|number| number % 10 == 3);
    for ack in sender.have_told(resent) {
        let expected = if fails_again(number_of(&ack)) { FIRST_DEAD_LETTERED } else { FIRST_DURABLE };
        assert_eq!((ack.status, ack.reason), expected, "{}", number_of(&ack));
    }
    let (sent, report) = (sender.end(), end(engine));
    let after = OnDisk::of(folder);
    check_during(&acks, before, &after);
    let (events, dlq) = (&report.ledger.events, &report.ledger.dlq);
    assert_eq!((events.accepted, events.replayed), (sent, before.held()));
    assert_eq!(events.processed.transactional, after.logged() - before.logged());
    assert_eq!((dlq.held_at_start, dlq.replayed), (before.held() + before.ended, before.held() + before.ended));
    assert_eq!((dlq.purged, dlq.evicted, dlq.held), (0, 0, after.held()));
    assert_each_once(folder, count, fails_again);
}

#[test]
fn each_letter_is_somewhere_once_however_often_a_replay_is_killed() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return replay_until_killed(Path::new(&folder));
    }
    let (folder, count) = (Folder::new("kills"), letters(LETTERS));
    fill_both(&folder.0, count);
    resend_before(&folder.0, count);
    let mut on_disk = OnDisk::of(&folder.0);
    let (mut waiting, mut ended) = (BTreeSet::new(), 0);
    for run in 0..KILLS {
        waiting.extend((0..count).filter(|number| is_resent_during(*number, run)));
        on_disk = one_killed(&folder.0, count, &on_disk, &mut waiting);
        ended += on_disk.ended;
    }
    assert!(ended > 0, "no kill came between the log's record of an event and the removal of its letter");
    waiting.extend((0..count).filter(|number| is_resent_during(*number, KILLS)));
    last_run(&folder.0, count, &on_disk, &waiting);
}
