//! Who asks is answered, once, whatever becomes of the others.

use std::net::Shutdown;

use super::*;
use crate::frame::FLAG_ACK;
use crate::runtime::agent::Blocking;

const ACK_BYTES: usize = 26;

/// An answer as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u8,
    reason: u8,
    ordinal: u64,
    id: [u8; 16],
}

/// Frames that ask.
fn asking(numbers: std::ops::Range<usize>) -> Vec<u8> {
    numbers.flat_map(|number| with_flag(frame("t", format!("{number:08}").as_bytes()))).collect()
}

fn with_flag(mut frame: Vec<u8>) -> Vec<u8> {
    frame[4] |= FLAG_ACK;
    frame
}

/// A client that takes the frames of its stream apart.
struct Reading {
    client: TcpStream,
    bytes: Vec<u8>,
    ended: bool,
    /// How many each frame had.
    frames: Vec<usize>,
    answers: Vec<Answer>,
    /// Of other topics.
    others: Vec<(String, serde_json::Value)>,
}

impl Reading {
    fn new(client: TcpStream) -> Self {
        client.set_nonblocking(true).unwrap();
        Self { client, bytes: Vec::new(), ended: false, frames: Vec::new(), answers: Vec::new(), others: Vec::new() }
    }

    /// Reads what there is.
    fn read(&mut self) {
        let mut part = [0; 65_536];
        loop {
            match self.client.read(&mut part) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(count) => self.bytes.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        while let Some((length, rest)) = self.bytes.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            if rest.len() < length {
                break;
            }
            let body = rest[..length].to_vec();
            self.bytes.drain(..4 + length);
            self.take(&body);
        }
    }

    fn take(&mut self, body: &[u8]) {
        let view = FrameView::new(body, Shape::from_header([body[0], body[1], body[2]]));
        if view.topic() != "$esc/ack" {
            let payload = serde_json::from_slice(view.payload()).unwrap();
            return self.others.push((view.topic().to_owned(), payload));
        }
        assert_eq!((view.payload().len() % ACK_BYTES, view.priority()), (0, Priority::Critical));
        self.frames.push(view.payload().len() / ACK_BYTES);
        self.answers.extend(view.payload().chunks(ACK_BYTES).map(|ack| Answer {
            status: ack[0],
            reason: ack[1],
            ordinal: u64::from_be_bytes(*ack[2..].first_chunk().unwrap()),
            id: *ack[10..].first_chunk().unwrap(),
        }));
    }

    fn ordinals(&self) -> Vec<u64> {
        self.answers.iter().map(|answer| answer.ordinal).collect()
    }
}

fn until_answered(bench: &mut Bench, reading: &mut Reading, count: usize) {
    bench.until("answers", |_| {
        reading.read();
        reading.answers.len() >= count
    });
    assert_eq!(reading.answers.len(), count);
}

#[test]
fn each_frame_that_asks_is_answered_by_its_number_and_id() {
    let mut bench = Setup::default().start();
    let mut reading = Reading::new(bench.connect());
    let header = FrameHeader { id: Some([7; 16]), flags: FLAG_ACK, ..FrameHeader::new(Priority::High) };
    let mut stream = [asking(0..2), numbered(2..4)].concat();
    encode(&mut stream, &header, b"t", b"with an id");
    reading.client.write_all(&stream).unwrap();
    until_answered(&mut bench, &mut reading, 3);
    let answer = |ordinal, id| Answer { status: 3, reason: 0, ordinal, id };
    assert_eq!(reading.answers, [answer(0, [0; 16]), answer(1, [0; 16]), answer(2, [7; 16])]);
    assert_eq!(bench.count(Counter::ACKS_SENT), 3);
    assert_eq!(bench.count(Counter::ACK_FLAG_IGNORED), 0);
    bench.check();
}

#[test]
fn answers_of_one_cycle_share_a_frame() {
    let mut bench = Setup::default().start();
    bench.answers = false;
    let mut reading = Reading::new(bench.connect());
    reading.client.write_all(&asking(0..12)).unwrap();
    bench.until("all that ask", |bench| bench.asked.len() == 12);
    bench.asked.reverse();
    bench.answer(5);
    until_answered(&mut bench, &mut reading, 5);
    bench.answer(7);
    until_answered(&mut bench, &mut reading, 12);
    assert_eq!((reading.frames.as_slice(), reading.ordinals()), (&[5, 7][..], (0..12).rev().collect::<Vec<_>>()));
    bench.check();
}

#[test]
fn connections_are_told_of_their_own() {
    let mut bench = Setup::default().start();
    bench.answers = false;
    let mut readings: Vec<_> = (0..3).map(|_| Reading::new(bench.connect())).collect();
    for (index, reading) in readings.iter_mut().enumerate() {
        reading.client.write_all(&asking(0..index + 1)).unwrap();
    }
    bench.until("all that ask", |bench| bench.asked.len() == 6);
    bench.answer(6);
    for (index, reading) in readings.iter_mut().enumerate() {
        until_answered(&mut bench, reading, index + 1);
        assert_eq!(reading.ordinals(), (0..=index as u64).collect::<Vec<_>>());
    }
    bench.check();
}

#[test]
fn frames_above_a_slot_and_frames_in_crumbs_ask_as_well() {
    let mut bench = Setup::default().start();
    let mut reading = Reading::new(bench.connect());
    let large = with_flag(frame("t", &[9; 3 * SLOT_BYTES]));
    let stream = [asking(0..1), large, asking(1..2)].concat();
    for piece in stream.chunks(501) {
        reading.client.write_all(piece).unwrap();
        bench.step();
    }
    until_answered(&mut bench, &mut reading, 3);
    assert_eq!(reading.ordinals(), [0, 1, 2]);
    bench.check();
}

#[test]
fn a_client_that_ends_its_side_gets_what_it_is_owed_first() {
    let mut bench = Setup::default().start();
    bench.answers = false;
    let mut reading = Reading::new(bench.connect());
    let mut stream = asking(0..3);
    stream.extend(frame("$esc/hello", br#"{"version":1}"#));
    reading.client.write_all(&stream).unwrap();
    reading.client.shutdown(Shutdown::Write).unwrap();
    bench.until("all that ask", |bench| bench.asked.len() == 3);
    bench.settle();
    reading.read();
    assert!(!reading.ended && reading.answers.is_empty());
    assert_eq!(bench.backend.blocking(), Blocking::Allowed, "nothing to do but wait");
    bench.answer(3);
    until_answered(&mut bench, &mut reading, 3);
    bench.until("the end", |_| {
        reading.read();
        reading.ended
    });
    assert_eq!(reading.others.len(), 1);
    bench.until_closed(1);
    bench.check();
}

#[test]
fn the_error_that_ends_a_stream_comes_behind_what_its_events_have_come_to() {
    let mut bench = Setup::default().start();
    bench.answers = false;
    let mut reading = Reading::new(bench.connect());
    let mut bad = frame("t", b"x");
    bad[4] |= 0x08;
    reading.client.write_all(&[asking(0..2), bad].concat()).unwrap();
    bench.until("all that ask", |bench| bench.asked.len() == 2);
    bench.settle();
    reading.read();
    assert!(reading.others.is_empty(), "{:?}", reading.others);
    bench.answer(2);
    bench.until("the end", |_| {
        reading.read();
        reading.ended
    });
    assert_eq!((reading.ordinals(), reading.others.len()), (vec![0, 1], 1));
    assert_eq!(reading.others[0].1["code"], "malformed");
    bench.check();
}

#[test]
fn what_comes_for_one_who_has_gone_is_undeliverable_and_no_others() {
    let mut bench = Setup::default().start();
    bench.answers = false;
    let mut gone = bench.connect();
    gone.write_all(&asking(0..5)).unwrap();
    bench.until("all that ask", |bench| bench.asked.len() == 5);
    rustix::net::sockopt::set_socket_linger(&gone, Some(Duration::ZERO)).unwrap();
    drop(gone);
    bench.until_closed(1);
    // Somebody new, who would have the same place if it were free.
    let mut reading = Reading::new(bench.connect());
    reading.client.write_all(&asking(5..6)).unwrap();
    bench.until("one more that asks", |bench| bench.asked.len() == 6);
    bench.answer(6);
    until_answered(&mut bench, &mut reading, 1);
    assert_eq!(reading.ordinals(), [0]);
    assert_eq!(bench.count(Counter::ACKS_UNDELIVERABLE), 5);
    // Now it is.
    let places = bench.backend.connections.capacity();
    let mut late = Reading::new(bench.connect());
    late.client.write_all(&asking(6..7)).unwrap();
    bench.until("the last that asks", |bench| bench.asked.len() == 1);
    assert_eq!(bench.backend.connections.capacity(), places);
    bench.answer(1);
    until_answered(&mut bench, &mut late, 1);
    bench.check();
}

#[test]
fn no_more_ask_than_there_is_room_for_and_the_others_go_on() {
    let mut bench = Setup { ack_depth: 16, ..Setup::default() }.start();
    bench.answers = false;
    let mut readings: Vec<_> = (0..5).map(|_| Reading::new(bench.connect())).collect();
    for reading in &mut readings {
        reading.client.write_all(&asking(0..6)).unwrap();
    }
    bench.until("all there is room for", |bench| bench.asked.len() == 16);
    bench.settle();
    assert_eq!(bench.asked.len(), 16, "a quarter for each of four, and none for the fifth");
    let mut other = bench.connect();
    other.write_all(&numbered(0..100)).unwrap();
    bench.until_taken(116);
    assert_eq!(bench.asked.len(), 16);
    bench.answers = true;
    for reading in &mut readings {
        until_answered(&mut bench, reading, 6);
        assert_eq!(reading.ordinals(), (0..6).collect::<Vec<_>>());
    }
    bench.check();
}

/// Asks until the engine reads no more, and reads nothing.
fn fill(bench: &mut Bench, client: &mut TcpStream) -> u64 {
    client.set_nonblocking(true).unwrap();
    let stream = asking(0..1000);
    let (mut written, mut idle) = (0, 0);
    while idle < 200 {
        match client.write(&stream[written % stream.len()..]) {
            Ok(count) => (written, idle) = (written + count, 0),
            Err(_) => {
                idle += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        bench.step();
    }
    (written / (stream.len() / 1000)) as u64
}

#[test]
fn who_does_not_read_answers_is_not_read_and_goes_on_when_it_does() {
    let mut bench = Setup { ack_depth: 1024, ..Setup::default() }.start();
    let mut reading = Reading::new(bench.connect());
    // The kernel's buffers are filled in both directions.
    let written = fill(&mut bench, &mut reading.client);
    assert!(bench.count(Counter::ACKS_ASKED) < written, "{written} are not all read");
    assert!(bench.backend.blocking() != Blocking::Forbidden);
    let mut other = Reading::new(bench.connect());
    other.client.write_all(&asking(0..10)).unwrap();
    until_answered(&mut bench, &mut other, 10);
    until_answered(&mut bench, &mut reading, written as usize);
    assert_eq!(reading.ordinals(), (0..written).collect::<Vec<_>>());
    assert_eq!(bench.count(Counter::TCP_ACKS_UNREAD), 0);
    drop((reading, other));
    bench.until_closed(2);
    bench.check();
}

#[test]
fn who_never_reads_answers_is_told_so_and_closed() {
    let mut bench = Setup { ack_depth: 1024, ..Setup::default() }.start();
    let mut reading = Reading::new(bench.connect());
    fill(&mut bench, &mut reading.client);
    bench.now += 3_000_000_000;
    bench.until("the goodbye", |bench| bench.count(Counter::TCP_ACKS_UNREAD) == 1);
    assert!(bench.count(Counter::ACKS_UNDELIVERABLE) > 0);
    // It reads after all: a stream of whole frames, with the error as the last.
    bench.until("the end", |_| {
        reading.read();
        reading.ended
    });
    assert_eq!((reading.bytes.len(), reading.others.len()), (0, 1));
    assert_eq!(reading.others[0].1["code"], "acks_unread");
    let sent = bench.count(Counter::ACKS_SENT);
    assert!((sent..=sent + 512).contains(&(reading.answers.len() as u64)), "{sent} {}", reading.answers.len());
    drop(reading);
    bench.until_closed(1);
    bench.check();
}

#[test]
fn a_pause_answers_what_was_taken_in_before_it() {
    let mut bench = Setup::default().start();
    bench.answers = false;
    let mut reading = Reading::new(bench.connect());
    reading.client.write_all(&asking(0..3)).unwrap();
    bench.until("all that ask", |bench| bench.asked.len() == 3);
    bench.set(State::Paused);
    reading.client.write_all(&asking(3..4)).unwrap();
    bench.answer(3);
    until_answered(&mut bench, &mut reading, 3);
    bench.answers = true;
    bench.set(State::Running);
    until_answered(&mut bench, &mut reading, 4);
    bench.check();
}

#[test]
fn a_drain_answers_what_it_has_taken_in_and_then_closes() {
    let mut bench = Setup::default().start();
    bench.answers = false;
    let mut reading = Reading::new(bench.connect());
    reading.client.write_all(&asking(0..3)).unwrap();
    bench.until("all that ask", |bench| bench.asked.len() == 3);
    reading.client.write_all(&asking(3..5)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    bench.set(State::Draining);
    bench.until("the rest", |bench| bench.asked.len() == 5);
    assert!(!bench.backend.drained());
    bench.answer(5);
    until_answered(&mut bench, &mut reading, 5);
    bench.until("the end", |_| {
        reading.read();
        reading.ended
    });
    // Were it to be reset now, answers that are still under way would not arrive.
    assert!(!bench.backend.drained());
    drop(reading);
    bench.until("the end of the drain", |bench| bench.backend.drained());
    bench.check();
}

#[test]
fn a_drain_does_not_wait_for_ever_for_who_does_not_read() {
    let mut bench = Setup { ack_depth: 1024, ..Setup::default() }.start();
    let mut deaf = bench.connect();
    fill(&mut bench, &mut deaf);
    bench.set(State::Draining);
    bench.settle();
    assert!(!bench.backend.drained());
    bench.now += 1_000_000_000;
    bench.until("the end of the drain", |bench| bench.backend.drained());
    assert!(bench.count(Counter::ACKS_UNDELIVERABLE) > 0);
    bench.check();
}

#[test]
fn a_warm_stream_that_asks_allocates_nothing() {
    use crate::memory::{data_path_allocations, on_data_path};
    if data_path_allocations().is_none() {
        return; // only a build that counts can tell
    }
    let mut bench = Setup { slots: 16, ..Setup::default() }.start();
    let mut reading = Reading::new(bench.connect());
    let stream = asking(0..10);
    let mut watched = 0;
    for round in 1..=50 {
        reading.client.write_all(&stream).unwrap();
        while reading.answers.len() < 10 * round {
            let cycle = Cycle { now: bench.now, busy: false };
            bench.now += 1000;
            let before = data_path_allocations().unwrap_or_default();
            on_data_path(|| bench.backend.receive(&mut bench.intake, State::Running, &cycle));
            watched += data_path_allocations().unwrap_or_default() - before;
            bench.take();
            reading.read();
        }
    }
    assert_eq!(watched, 0);
    bench.check();
}
