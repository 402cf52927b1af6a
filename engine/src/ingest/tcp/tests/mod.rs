//! The backend on loopback, stepped by hand, with a consumer in place of the dispatcher.

mod acks;
mod classes;
mod large;
mod limits;
mod runner;
mod states;
mod streams;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lists::List;
use super::{AckInlet, Credits, TcpBackend, TcpOptions};
use crate::acks::{AckLink, AckSender, AcksWanted, Asked, Told};
use crate::control::State;
use crate::frame::{Class, FrameHeader, FrameView, Limits, Parser, Priority, Shape, Transport, encode};
use crate::ingest::{Backend, Intake, IntakeSpec};
use crate::memory::{Event, FramePool, Frames, PoolSpec, Region, Releaser};
use crate::metrics::{Counter, MalformedReason};
use crate::queue::{ClassSet, Feedback, Progress, mpsc, spsc};
use crate::runtime::agent::Cycle;

/// Small, so that tests meet its end often.
const SLOT_BYTES: usize = 4096;
const LARGE_BYTES: usize = 256 << 10;
const MAX_FRAME: u32 = 200_000;

struct Bench {
    backend: TcpBackend,
    intake: Intake,
    events: mpsc::Consumer<Event>,
    frames: Frames,
    feedback: Arc<Feedback>,
    /// What the dispatcher would tell.
    progress: Progress,
    state: State,
    /// Stepped time: deadlines pass when a test says so.
    now: u64,
    taken: Vec<Taken>,
    /// Whether taken events are released at once.
    releases: bool,
    held: Vec<Event>,
    acks: AckSender,
    /// Events that ask and have no answer.
    asked: Vec<Asked>,
    /// Whether they get one at once.
    answers: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Taken {
    payload: Vec<u8>,
    connection: u32,
}

struct Setup {
    slots: usize,
    large_slots: usize,
    queue: usize,
    topic_bytes: u16,
    ack_depth: usize,
    options: TcpOptions,
}

impl Default for Setup {
    fn default() -> Self {
        let options = TcpOptions {
            subscriptions: None,
            address: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            agent: 0,
            agents: 1,
            max_connections: 64,
            connection_budget_bytes: 64 << 10,
            large_wait_ns: 1_000_000_000,
            large_fill_ns: 4_000_000_000,
            ack_wait_ns: 3_000_000_000,
            drain_wait_ns: 1_000_000_000,
            carry_bytes: 1 << 20,
            idle_timeout_ns: None,
            max_frame_bytes: MAX_FRAME,
            dedup_window_ms: 60_000,
            run_id: "run-7".into(),
            credits: Credits { limit: 1 << 20, feedback: Arc::default() },
        };
        Self { slots: 8, large_slots: 2, queue: 4096, topic_bytes: 255, ack_depth: 64, options }
    }
}

impl Setup {
    /// What a bench is around.
    fn parts(self) -> (TcpBackend, Intake, mpsc::Consumer<Event>, Frames, AckSender) {
        let spec = PoolSpec { slot_bytes: SLOT_BYTES, reliable: true };
        let pool = FramePool::new(0, Region::map(self.slots * SLOT_BYTES).unwrap(), &spec);
        let spec = PoolSpec { slot_bytes: LARGE_BYTES, reliable: true };
        let large = FramePool::new(1, Region::map(self.large_slots * LARGE_BYTES).unwrap(), &spec);
        let (ring, end) = spsc::ring(self.ack_depth);
        let wanted = AcksWanted::default();
        let inlet = AckInlet { links: vec![end], wanted: wanted.clone(), depth: self.ack_depth };
        let acks = AckSender::new(vec![AckLink { ring, waker: None }], wanted);
        let backend = TcpBackend::bind(self.options, large, Box::new(class_of), inlet).unwrap();
        let frames = Frames::new(&[&pool, backend.large_pool()]);
        let (mut queues, events) = mpsc::queue(self.queue, 1);
        let limits = Limits { frame_bytes: MAX_FRAME, topic_bytes: self.topic_bytes };
        let parser = Parser::new(limits, Transport::Tcp, Priority::Critical, 7);
        let intake = Intake::new(IntakeSpec { pool, queue: queues.remove(0), parser, waker: None });
        (backend, intake, events, frames, acks)
    }

    fn start(self) -> Bench {
        let feedback = self.options.credits.feedback.clone();
        let (mut backend, mut intake, events, frames, acks) = self.parts();
        backend.start(&mut intake);
        let (state, taken, held) = (State::Running, Vec::new(), Vec::new());
        let progress = Progress::default();
        let now = 1_000_000_000;
        let (releases, answers, asked) = (true, true, Vec::new());
        Bench {
            backend,
            intake,
            events,
            frames,
            feedback,
            progress,
            state,
            now,
            taken,
            releases,
            held,
            acks,
            asked,
            answers,
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.backend.end(&mut self.intake);
        self.releases = true;
        self.take();
        while self.intake.push_pending() > 0 {
            self.take();
        }
    }
}

impl Bench {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.backend.local_port())).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    fn set(&mut self, state: State) {
        self.state = state;
        self.backend.state_changed(&mut self.intake, state);
    }

    /// What the agent does in one round.
    fn step_only(&mut self) -> usize {
        let cycle = Cycle { now: self.now, busy: false };
        let mut work = self.intake.push_pending();
        if !self.intake.is_blocked() {
            work += self.backend.receive(&mut self.intake, self.state, &cycle);
        }
        self.backend.housekeeping(&mut self.intake, self.now);
        self.intake.pool.reclaim();
        self.intake.pool.publish_gauges();
        self.intake.flush_counters();
        work
    }

    fn step(&mut self) -> usize {
        self.now += 1000;
        let work = self.step_only();
        self.take();
        work
    }

    /// The consumer: what a worker would see.
    fn take(&mut self) {
        while let Some(event) = self.events.take() {
            let view = self.frames.view(&event);
            self.taken.push(Taken { payload: view.payload().to_vec(), connection: event.connection() });
            self.asked.extend(self.acks.asked(&event, &self.frames));
            self.held.push(event);
            self.progress.dispatched += 1;
        }
        self.events.release();
        if self.answers {
            self.answer(usize::MAX);
        }
        self.feedback.tell(self.progress);
        if self.releases {
            self.release();
        }
    }

    /// Answers the first of those who ask.
    fn answer(&mut self, count: usize) {
        for asked in self.asked.drain(..count.min(self.asked.len())) {
            self.acks.tell(asked, Told::PROCESSED);
        }
        self.acks.publish();
    }

    fn release(&mut self) {
        self.progress.settled += self.held.len() as u64;
        self.feedback.tell(self.progress);
        let mut releaser = Releaser::new(self.frames.clone());
        self.held.drain(..).for_each(|event| releaser.release(event));
    }

    /// Steps until `is_there`; the kernel delivers on loopback in its own time.
    fn until(&mut self, what: &str, mut is_there: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !is_there(self) {
            assert!(Instant::now() < end, "{what}: {} taken, {:?}", self.taken.len(), self.counts());
            if self.step() == 0 {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }

    fn until_taken(&mut self, count: usize) {
        self.until("events", |bench| bench.taken.len() >= count);
    }

    /// Steps for a while; nothing is expected to come of it.
    fn settle(&mut self) {
        for _ in 0..40 {
            self.step();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Long enough for one write to cross loopback.
    fn settle_briefly(&mut self) {
        for _ in 0..3 {
            self.step();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn until_closed(&mut self, count: u64) {
        self.until("connections closed", |bench| bench.count(Counter::TCP_CONNECTIONS_CLOSED) >= count);
    }

    fn count(&self, counter: Counter) -> u64 {
        self.intake.counters.get(counter)
    }

    fn malformed(&self, reason: MalformedReason) -> u64 {
        self.count(Counter::tcp_malformed(reason))
    }

    fn counts(&self) -> Vec<(&'static str, Option<&'static str>, u64)> {
        let all = Counter::all().map(|(counter, name, reason)| (name, reason, self.count(counter)));
        all.filter(|(.., count)| *count > 0).collect()
    }

    /// What the ledger asks for, and that no slot is lost once nothing is on its way.
    fn check(&mut self) {
        // A connection that may have more to read opens a slot to look; that one grows old like any other.
        self.step();
        self.now += 2_000_000_000;
        self.step();
        self.release();
        self.step();
        let malformed: u64 = MalformedReason::ALL.iter().map(|reason| self.malformed(*reason)).sum();
        let [found, accepted, control, events] = [
            Counter::TCP_FRAMES_FOUND,
            Counter::TCP_FRAMES_ACCEPTED,
            Counter::TCP_FRAMES_CONTROL,
            Counter::EVENTS_ACCEPTED,
        ]
        .map(|counter| self.count(counter));
        assert_eq!(found, accepted + control + malformed, "{:?}", self.counts());
        let [asked, sent, undeliverable] =
            [Counter::ACKS_ASKED, Counter::ACKS_SENT, Counter::ACKS_UNDELIVERABLE].map(|counter| self.count(counter));
        let outstanding = self.backend.outstanding_acks_gauge().load(std::sync::atomic::Ordering::Acquire);
        assert_eq!(asked, sent + undeliverable + outstanding, "{:?}", self.counts());
        assert_eq!((accepted, events), (self.taken.len() as u64, accepted), "{:?}", self.counts());
        assert_eq!(self.intake.pool.free(), self.intake.pool.slots());
        assert_eq!(self.backend.large_pool().free(), self.backend.large_pool().slots());
    }

    fn payloads(&self) -> Vec<String> {
        self.taken.iter().map(|taken| String::from_utf8_lossy(&taken.payload).into_owned()).collect()
    }
}

fn class_of(_hash: u32, shape: Shape, _topic: &[u8]) -> Class {
    shape.priority().class()
}

fn frame(topic: &str, payload: &[u8]) -> Vec<u8> {
    frame_of(Priority::Medium, topic, payload)
}

fn frame_of(priority: Priority, topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, &FrameHeader::new(priority), topic.as_bytes(), payload);
    out
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<u8> {
    numbers.flat_map(|number| frame("t", format!("{number:08}").as_bytes())).collect()
}

fn names(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{number:08}")).collect()
}

/// Steps the bench while the client reads to the end; what it got, as topics and JSON.
fn answers(bench: &mut Bench, client: &mut TcpStream) -> Vec<(String, serde_json::Value)> {
    client.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    bench.until("the end of the answers", |_| {
        let mut part = [0; 4096];
        match client.read(&mut part) {
            Ok(0) => true,
            Ok(count) => {
                bytes.extend_from_slice(&part[..count]);
                false
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error} after {} bytes", bytes.len()),
        }
    });
    client.set_nonblocking(false).unwrap();
    parse_answers(&bytes)
}

fn parse_answers(mut bytes: &[u8]) -> Vec<(String, serde_json::Value)> {
    let mut found = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (body, after) = rest.split_at(u32::from_be_bytes(*length) as usize);
        let view = FrameView::new(body, Shape::from_header([body[0], body[1], body[2]]));
        found.push((view.topic().to_owned(), serde_json::from_slice(view.payload()).unwrap()));
        bytes = after;
    }
    assert!(bytes.is_empty());
    found
}

/// The one answer, which must be an error.
fn the_error(bench: &mut Bench, client: &mut TcpStream) -> serde_json::Value {
    let answers = answers(bench, client);
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers[0].0, "$esc/error");
    answers[0].1.clone()
}
