//! Dead letters on disk: over restarts, by filters, purged, and replayed, some of them failing again, however the engine
//! ends meanwhile. How many there are says `DEAD_LETTERS`.

#[path = "engine_dead_letters/commands.rs"]
mod commands;
#[path = "engine_dead_letters/cuts.rs"]
mod cuts;
#[path = "engine_dead_letters/kills.rs"]
mod kills;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{Shutdown, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eventstream::control::State;
use eventstream::engine::{Control, Engine};
use eventstream::frame::{Class, FrameHeader, Priority, encode};
use eventstream::metrics::{DeadLetterReason, Report};
use eventstream::storage::disk::RealDisk;
use eventstream::storage::format::{LetterQueue, Reference};
use eventstream::storage::letters::{HeldLetters, Letter, LetterFilter, LetterOptions, Letters};
use eventstream::storage::log::{Fsync, Item, Start, Survey, Trust};
use eventstream::storage::topics::TopicFilter;
use eventstream::storage::{ReplayOrder, ReplayStatus};
use eventstream::worker::Outcome;
use eventstream_tests::acks::{Reader, asking};
use eventstream_tests::client::{PATIENCE, connect};
use eventstream_tests::engine_process::{Setup, count};
use eventstream_tests::handler::FnHandler;
use eventstream_tests::local;
use eventstream_tests::publisher::{DEAD_LETTERED, DURABLE};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("esc-dead-letters-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn letters(usually: u64) -> u64 {
    std::env::var("DEAD_LETTERS").map_or(usually, |count| count.parse().expect("a number"))
}

/// An engine in this process that rejects the ids that `fails` says.
fn start(folder: &Path, fails: fn(u64) -> bool) -> Engine {
    start_with(folder, fails, "fsync: every")
}

fn start_with(folder: &Path, fails: fn(u64) -> bool, policy: &str) -> Engine {
    let config = local::config(&format!("storage: {{directory: {}, {policy}}}\n", folder.display()));
    let handlers = move |_: Class, _: usize| {
        FnHandler::new(move |event, _| {
            let number = u64::from_be_bytes(*event.payload().first_chunk().expect("a number"));
            if fails(number) { Outcome::Reject("as asked") } else { Outcome::Done }
        })
    };
    Engine::builder().config(config).handlers(handlers).start().unwrap()
}

const fn all(_: u64) -> bool {
    true
}

const fn none(_: u64) -> bool {
    false
}

const fn every_fifth(number: u64) -> bool {
    number.is_multiple_of(5)
}

/// Transactional events, their topics by their numbers.
fn publish(engine: &Engine, numbers: std::ops::Range<u64>) {
    let mut stream = connect(engine.control().ports().tcp.unwrap());
    let mut bytes = Vec::new();
    for number in numbers {
        let header = FrameHeader { id: Some(u128::from(number).to_be_bytes()), ..FrameHeader::new(Priority::Medium) };
        encode(&mut bytes, &header, format!("t/{}", number % 3).as_bytes(), &number.to_be_bytes());
    }
    stream.write_all(&bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    bytes.clear();
    assert_eq!(std::io::Read::read_to_end(&mut stream, &mut bytes).unwrap(), 0);
}

fn wait_for(control: &Control, what: &str, done: impl Fn(&Control) -> bool) {
    let started = Instant::now();
    while !done(control) {
        assert!(started.elapsed() < PATIENCE, "{what}: {:#?}", control.ledger());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn end(engine: Engine) -> Report {
    let report = engine.drain();
    assert!(report.ledger.balanced, "{:#?}", report.ledger);
    report
}

/// Rejects so many events, and leaves them in the dead letter queue.
fn fill(folder: &Path, count: u64) {
    let engine = start(folder, all);
    publish(&engine, 0..count);
    let report = end(engine);
    assert_eq!((report.ledger.dlq.received, report.ledger.dlq.held), (count, count));
}

fn order(filter: LetterFilter) -> ReplayOrder {
    ReplayOrder { queue: None, filter, per_s: None }
}

fn replay(control: &Control, filter: LetterFilter) -> ReplayStatus {
    let dead_letters = control.dead_letters().unwrap();
    dead_letters.replay(order(filter)).unwrap();
    wait_for(control, "the replay's end", |_| !dead_letters.replay_status().unwrap().running);
    dead_letters.replay_status().unwrap()
}

fn of_topic(topic: &str) -> LetterFilter {
    LetterFilter { topic: Some(TopicFilter::parse(topic).unwrap()), ..LetterFilter::default() }
}

fn number(id: Option<[u8; 16]>) -> u64 {
    u128::from_be_bytes(id.expect("each has one")) as u64
}

/// What is in a data directory that no engine has, whatever became of the last one.
#[derive(Default)]
struct OnDisk {
    /// How often each id is in the log, and in the dead letter queue.
    found: BTreeMap<u64, (u32, u32)>,
    /// Letters that are in the log as well, or in the other queue again: they go with the next start, and are not counted above.
    ended: u64,
}

impl OnDisk {
    fn of(folder: &Path) -> Self {
        let mut this = Self::default();
        let mut ended: BTreeSet<Reference> = BTreeSet::new();
        let directory = folder.join("log/default");
        let survey = Survey::of(&RealDisk, &directory, "default", Trust::Indexes).unwrap();
        let (view, _) = survey.into_view(Arc::new(RealDisk), directory, "default");
        let mut reader = Arc::new(view).reader(Start::Earliest, None).unwrap();
        while let Some(item) = reader.read().unwrap() {
            let Item::Record(record) = item else { panic!("{item:?}") };
            this.found.entry(number(record.event().id())).or_default().0 += 1;
            ended.extend(record.reference);
        }
        let mut letters = Vec::new();
        for queue in LetterQueue::ALL {
            let directory = folder.join("dlq").join(queue.as_str());
            let held = HeldLetters::of(Arc::new(RealDisk), &directory, queue).unwrap().0;
            let mut reader = held.reader().unwrap();
            while let Some(letter) = reader.read().unwrap() {
                let place = Reference { queue, epoch: letter.epoch, offset: letter.offset };
                letters.push((place, number(letter.event().id())));
                ended.extend(letter.reference.filter(|was| was.queue != queue));
            }
        }
        for (place, number) in letters {
            if ended.contains(&place) {
                this.ended += 1;
            } else {
                this.found.entry(number).or_default().1 += 1;
            }
        }
        this
    }

    fn is_logged(&self, number: u64) -> bool {
        self.found.get(&number).is_some_and(|(log, _)| *log > 0)
    }

    fn logged(&self) -> u64 {
        self.found.values().map(|(log, _)| u64::from(*log)).sum()
    }

    fn held(&self) -> u64 {
        self.found.values().map(|(_, queue)| u64::from(*queue)).sum()
    }
}

fn assert_each_once(folder: &Path, count: u64, in_queue: impl Fn(u64) -> bool) {
    let on_disk = OnDisk::of(folder);
    assert_eq!((on_disk.found.len() as u64, on_disk.ended), (count, 0));
    for (number, places) in on_disk.found {
        assert_eq!(places, if in_queue(number) { (0, 1) } else { (1, 0) }, "{number}");
    }
}

#[test]
fn letters_survive_a_restart_and_go_by_filters() {
    let folder = Folder::new("filters");
    fill(&folder.0, 300);
    let engine = start(&folder.0, none);
    let control = engine.control();
    let dead_letters = control.dead_letters().unwrap();
    let held = |filter: &LetterFilter| -> u64 {
        dead_letters.stats(None, filter).unwrap().iter().map(|held| held.letters).sum()
    };
    assert_eq!((held(&LetterFilter::default()), held(&of_topic("t/1")), held(&of_topic("x/#"))), (300, 100, 0));
    // Their ids are known: a resend is a duplicate, until its letter is thrown away.
    publish(&engine, 0..300);
    wait_for(&control, "duplicates", |control| control.ledger().events.duplicate == 300);
    assert_eq!(dead_letters.purge(None, &of_topic("t/1")), Ok(100));
    assert_eq!((held(&LetterFilter::default()), held(&of_topic("t/1"))), (200, 0));
    publish(&engine, 0..300);
    wait_for(&control, "the rest", |control| control.ledger().events.processed.transactional == 100);
    let report = end(engine);
    let dlq = &report.ledger.dlq;
    assert_eq!((dlq.held_at_start, dlq.purged, dlq.held, dlq.received), (300, 100, 200, 0));
    assert_eq!(report.ledger.events.duplicate, 500);
    assert_each_once(&folder.0, 300, |number| number % 3 != 1);
}

#[test]
fn what_is_replayed_is_processed_once_or_is_in_the_queue_again() {
    let folder = Folder::new("replay");
    let count = letters(3_000);
    fill(&folder.0, count);
    let engine = start(&folder.0, every_fifth);
    let control = engine.control();
    let of_one = replay(&control, of_topic("t/0"));
    let (all, failing) = (count.div_ceil(3), count.div_ceil(15));
    assert_eq!((of_one.replayed, of_one.processed, of_one.dead_lettered), (all, all - failing, failing));
    // Resends of those that were processed, and of those that were not, are duplicates all the same.
    publish(&engine, 0..count);
    wait_for(&control, "duplicates", |control| control.ledger().events.duplicate == count);
    let of_all = replay(&control, LetterFilter::default());
    let failing_all = count.div_ceil(5);
    assert_eq!(of_all.replayed, count - all + failing);
    assert_eq!((of_all.dead_lettered, of_all.duplicate, of_all.kept), (failing_all, 0, 0));
    let report = end(engine);
    let (events, dlq) = (&report.ledger.events, &report.ledger.dlq);
    assert_eq!(events.replayed, of_one.replayed + of_all.replayed);
    assert_eq!((dlq.held_at_start, dlq.held, dlq.evicted), (count, failing_all, 0));
    assert_eq!(dlq.replayed, events.replayed);
    assert_each_once(&folder.0, count, every_fifth);
}

#[test]
fn a_rate_is_kept_and_a_drain_ends_a_replay() {
    let folder = Folder::new("rate");
    fill(&folder.0, 1000);
    let engine = start(&folder.0, none);
    let control = engine.control();
    let dead_letters = control.dead_letters().unwrap();
    let started = Instant::now();
    dead_letters.replay(ReplayOrder { per_s: Some(200), ..order(LetterFilter::default()) }).unwrap();
    let second = dead_letters.replay(order(LetterFilter::default()));
    assert!(second.is_err_and(|why| why.contains("under way")));
    wait_for(&control, "some of them", |_| dead_letters.replay_status().unwrap().processed >= 50);
    let status = dead_letters.replay_status().unwrap();
    let allowed = 200.0 * started.elapsed().as_secs_f64() + 10.0;
    assert!(status.running && status.replayed as f64 <= allowed, "{status:?}, {allowed}");
    let report = end(engine);
    let dlq = &report.ledger.dlq;
    assert!(dlq.replayed >= 50 && dlq.held == 1000 - dlq.replayed, "{dlq:?}");
    assert_eq!(report.ledger.events.processed.transactional, dlq.replayed);
    let found = OnDisk::of(&folder.0).found;
    assert!(found.values().all(|(log, queue)| log + queue == 1) && found.len() == 1000);
}

/// What fails at the moment, for engines whose mind is changed.
static FAILING: AtomicBool = AtomicBool::new(false);

fn while_failing(_: u64) -> bool {
    FAILING.load(Ordering::SeqCst)
}

fn told(engine: &Engine, number: u64) -> (u8, u8) {
    let mut stream = connect(engine.control().ports().tcp.unwrap());
    let payload = number.to_be_bytes();
    stream.write_all(&asking(Priority::Low, Some(number), "t", &payload)).unwrap();
    let acks = Reader::new(&stream).read(1).acks;
    (acks[0].status, acks[0].reason)
}

/// One test: what fails is common to all.
#[test]
fn a_letter_that_was_shed_holds_no_claim() {
    let folder = Folder::new("claims");
    let engine = start(&folder.0, while_failing);
    let control = engine.control();
    let dead_letters = control.dead_letters().unwrap();
    // Those that can be read, and so replayed: they are durable.
    let wait_for_held = |expected: &[(&str, u64)]| {
        wait_for(&control, "letters", |_| {
            let held = dead_letters.stats(None, &LetterFilter::default()).unwrap();
            held.iter().map(|held| (held.queue, held.letters)).eq(expected.iter().copied())
        });
    };
    let replay_of = |queue| {
        dead_letters.replay(ReplayOrder { queue, ..order(LetterFilter::default()) }).unwrap();
        wait_for(&control, "the replay's end", |_| !dead_letters.replay_status().unwrap().running);
        let ReplayStatus { processed, duplicate, dead_lettered, kept, .. } = dead_letters.replay_status().unwrap();
        (processed, duplicate, dead_lettered, kept)
    };
    FAILING.store(true, Ordering::SeqCst);
    kills::shed(&engine, &[1]);
    assert_eq!(told(&engine, 1), (4, 1), "what was shed may be sent again, and fail");
    wait_for_held(&[("failed", 1), ("shed", 1)]);
    FAILING.store(false, Ordering::SeqCst);
    assert_eq!(replay_of(Some(LetterQueue::Shed)), (0, 0, 0, 1), "the claim is the other letter's");
    assert_eq!(replay_of(None), (1, 1, 0, 0));
    wait_for_held(&[]);
    // Failed, failed again, and then shed: it gives up its claim.
    FAILING.store(true, Ordering::SeqCst);
    assert_eq!((told(&engine, 2), told(&engine, 3)), ((4, 1), (4, 1)));
    wait_for_held(&[("failed", 2)]);
    assert_eq!(replay_of(None), (0, 0, 2, 0));
    wait_for_held(&[("failed", 2)]);
    control.set_state(State::Dropping).unwrap();
    assert_eq!(replay_of(None), (0, 0, 2, 0));
    wait_for_held(&[("shed", 2)]);
    control.set_state(State::Running).unwrap();
    FAILING.store(false, Ordering::SeqCst);
    assert_eq!(told(&engine, 2), (1, 0), "a resend is taken as new");
    assert_eq!(replay_of(None), (1, 1, 0, 0));
    let report = end(engine);
    let dlq = &report.ledger.dlq;
    assert_eq!((dlq.received, dlq.replayed, dlq.held), (8, 8, 0));
    let found = OnDisk::of(&folder.0).found;
    assert!(found.len() == 3 && found.values().all(|places| *places == (1, 0)), "{found:?}");
}

/// The power was cut after a letter had failed, was replayed and shed, and was replayed again and processed. Of the removals
/// only the second is on disk: each queue is synced by itself.
#[test]
fn a_letter_is_found_to_have_ended_through_another_that_has() {
    let folder = Folder::new("chain");
    fill(&folder.0, 2);
    let queue = |queue: LetterQueue| {
        let options = LetterOptions {
            fsync: Fsync::Always,
            bytes: 64 << 20,
            buffer_bytes: 4 << 20,
            frame_bytes: 1 << 20,
            after_crash: false,
        };
        Letters::open(Arc::new(RealDisk), &folder.0.join("dlq").join(queue.as_str()), queue, &options).unwrap().0
    };
    let failed = queue(LetterQueue::Failed);
    let mut reader = failed.letters().reader().unwrap();
    let first = reader.read().unwrap().unwrap();
    let was = Reference { queue: LetterQueue::Failed, epoch: first.epoch, offset: first.offset };
    let letter = Letter {
        class: first.class,
        reason: DeadLetterReason::ShedEmergency,
        arrival_ns: first.time_ns,
        frame: first.frame,
    };
    let mut shed = queue(LetterQueue::Shed);
    let place = shed.append_again(&letter, first.time_ns, Some(was)).unwrap();
    assert_eq!(shed.remove(place, true, first.time_ns), Ok(true));
    shed.close(1).unwrap();
    drop((shed, failed));
    let run = folder.0.join("run");
    let text = std::fs::read_to_string(&run).unwrap();
    std::fs::write(&run, text.replace("\"ended_in_order\":true", "\"ended_in_order\":false")).unwrap();
    let engine = start(&folder.0, none);
    assert_eq!(engine.control().ledger().dlq.held, 1);
    end(engine);
}

/// So rarely that what is written becomes durable at the end of the run.
const RARELY: &str = "fsync: every, fsync_every_ms: 60000";

#[test]
fn a_letter_that_was_shed_last_has_left_the_queue_it_was_in() {
    let folder = Folder::new("shed-last");
    fill(&folder.0, 50);
    let engine = start_with(&folder.0, none, RARELY);
    let control = engine.control();
    control.set_state(State::Emergency).unwrap();
    let status = replay(&control, LetterFilter::default());
    assert_eq!((status.replayed, status.dead_lettered), (50, 50));
    let report = end(engine);
    let dlq = &report.ledger.dlq;
    assert_eq!((dlq.received, dlq.held), (50, 50));
    // The run ended in order: nothing is left for the next one to put in order.
    let on_disk = OnDisk::of(&folder.0);
    assert_eq!((on_disk.ended, on_disk.held(), on_disk.logged()), (0, 50, 0));
}

#[test]
fn a_run_that_is_left_amid_a_replay_is_put_in_order_by_the_next() {
    let folder = Folder::new("left");
    fill(&folder.0, 3000);
    let engine = start_with(&folder.0, none, RARELY);
    let control = engine.control();
    control.dead_letters().unwrap().replay(order(LetterFilter::default())).unwrap();
    wait_for(&control, "records", |control| {
        control.report().counters.get("log_records_appended").is_some_and(|count| *count > 100)
    });
    drop(engine);
    let on_disk = OnDisk::of(&folder.0);
    assert!(on_disk.ended > 100, "{}", on_disk.ended);
    let engine = start(&folder.0, none);
    assert_eq!(engine.control().ledger().dlq.held, on_disk.held());
    let status = replay(&engine.control(), LetterFilter::default());
    assert_eq!((status.processed, status.duplicate), (on_disk.held(), 0));
    end(engine);
    assert_each_once(&folder.0, 3000, none);
}

/// Whoever waits for what is on disk is told before the engine ends, however long others would have waited for it.
#[test]
fn a_drain_waits_for_no_interval() {
    const COUNT: u64 = 100;
    let folder = Folder::new("drain");
    let engine = start_with(&folder.0, every_fifth, "fsync: every, fsync_every_ms: 60000");
    let mut stream = connect(engine.control().ports().tcp.unwrap());
    let asking = |number: u64| asking(Priority::Medium, Some(number), "t/0", &number.to_be_bytes());
    stream.write_all(&(0..COUNT).flat_map(asking).collect::<Vec<_>>()).unwrap();
    wait_for(&engine.control(), "all events", |control| control.ledger().events.accepted == COUNT);
    let reading = std::thread::spawn(move || Reader::new(&stream).read_to_end());
    let report = end(engine);
    let statuses = reading.join().unwrap().acks.iter().fold(BTreeMap::new(), |mut counts, ack| {
        *counts.entry(ack.status).or_insert(0) += 1;
        counts
    });
    assert_eq!(statuses, BTreeMap::from([(DURABLE, COUNT - COUNT / 5), (DEAD_LETTERED, COUNT / 5)]));
    assert_eq!((report.ledger.events.processed.transactional, report.ledger.dlq.held), (COUNT - COUNT / 5, COUNT / 5));
}
