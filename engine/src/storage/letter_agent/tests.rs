//! Dead letters from their senders to a disk that works, one that does not, and one that is full.

use rustix::io::Errno;

use super::super::disk::FaultyDisk;
use super::super::format::LetterQueue;
use super::super::log::Fsync;
use super::super::scratch::Scratch;
use super::super::{DeadLetterSender, Sent, ShedBudget};
use super::*;
use crate::acks::{Ack, AckLink, AcksWanted, Told};
use crate::dedup::{Claim, ClaimState, Claimer, DedupConfig};
use crate::frame::{Class, FLAG_ACK, FrameHeader, Priority, encode};
use crate::memory::{Event, FramePool, Peer, PoolSpec, Region, Route};
use crate::metrics::{DeadLetterReason, LostReason};
use DeadLetterReason::{LinkFull, Rejected};

const SLOTS: usize = 4096;
const SLOT_BYTES: usize = 2048;

struct Place {
    scratch: Scratch,
    disk: FaultyDisk,
    bytes: u64,
    buffer_bytes: usize,
}

impl Place {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let disk = FaultyDisk::new(&scratch.path().join("journal")).unwrap();
        Self { scratch, disk, bytes: 16 << 20, buffer_bytes: 64 << 10 }
    }

    fn open(&self, queue: LetterQueue) -> Letters {
        let (bytes, buffer_bytes) = (self.bytes, self.buffer_bytes);
        let options =
            LetterOptions { fsync: Fsync::Always, bytes, buffer_bytes, frame_bytes: 2000, after_crash: false };
        let directory = self.scratch.path().join(queue.as_str());
        Letters::open(Arc::new(self.disk.clone()), &directory, queue, &options).unwrap().0
    }

    fn start(&self, claims: Option<Arc<DedupTable>>) -> Stage {
        let region = Region::map(SLOTS * SLOT_BYTES).unwrap();
        let pool = FramePool::new(0, region, &PoolSpec { slot_bytes: SLOT_BYTES, reliable: false });
        let frames = Frames::new(&[&pool]);
        let (producer, consumer) = spsc::ring(64);
        let refusing = Refusing::default();
        let (ring, told) = spsc::ring(64);
        let agent = LetterAgent::new(LetterAgentSpec {
            links: vec![consumer],
            consumers: None,
            failed: self.open(LetterQueue::Failed),
            shed: self.open(LetterQueue::Shed),
            frames: frames.clone(),
            refusing: refusing.clone(),
            claims,
            acks: AckSender::new(vec![AckLink { ring, waker: None }], AcksWanted::default()),
            frame_bytes: 2000,
            replay: None,
            replays: Replays::default(),
            state: StateCell::new(State::Running),
            commands: None,
        });
        let sender = DeadLetterSender::new(producer, ShedBudget::new(u64::MAX >> 1), None).to_disk(refusing);
        let (releaser, counters) = (Releaser::new(frames), Counters::default());
        Stage { pool, releaser, sender, agent, told, asks: false, counters, now: 1 }
    }
}

/// One sender and the agent, stepped by hand.
struct Stage {
    pool: FramePool,
    releaser: Releaser,
    sender: DeadLetterSender,
    agent: LetterAgent,
    told: spsc::Consumer<Ack>,
    /// Whether the next events do.
    asks: bool,
    counters: Counters,
    now: Nanos,
}

impl Stage {
    fn event(&mut self, id: u64, payload_bytes: usize) -> Event {
        let mut frame = Vec::new();
        let id = Some(u128::from(id).to_be_bytes());
        let flags = if self.asks { FLAG_ACK } else { 0 };
        let header = FrameHeader { id, flags, ..FrameHeader::new(Priority::Low) };
        encode(&mut frame, &header, b"t", &vec![1; payload_bytes]);
        let shape = crate::frame::Shape::from_header(*frame[LENGTH_BYTES..].first_chunk().unwrap());
        self.pool.reclaim();
        let mut slot = self.pool.acquire().expect("frames come back");
        self.pool.bytes_mut(&mut slot)[..frame.len()].copy_from_slice(&frame);
        let mut maker = self.pool.seal(slot, 1, self.now, Peer::NONE);
        let length = (frame.len() - LENGTH_BYTES) as u32;
        maker.make(LENGTH_BYTES as u32, length, Route { shape, connection: 7, ..Route::default() })
    }

    fn send(&mut self, id: u64, payload_bytes: usize, reason: DeadLetterReason) -> Result<(), LostReason> {
        self.send_claimed(id, payload_bytes, reason, None)
    }

    fn send_claimed(
        &mut self,
        id: u64,
        payload_bytes: usize,
        reason: DeadLetterReason,
        token: Option<ClaimToken>,
    ) -> Result<(), LostReason> {
        let event = self.event(id, payload_bytes);
        let Self { sender, counters, releaser, now, .. } = self;
        let sent = sender.send(event, (Class::Transactional, reason, token), *now, counters, releaser);
        sender.publish();
        releaser.flush();
        match sent {
            Sent::Later => Ok(()),
            Sent::Kept(_) => panic!("it ends when it is on disk"),
            Sent::Lost(reason, _) => Err(reason),
        }
    }

    /// The ids that something was told of since the last look.
    fn told(&mut self) -> Vec<(u64, Told)> {
        let next = || self.told.take().map(|ack| (u128::from_be_bytes(ack.id) as u64, ack.told));
        let told = std::iter::from_fn(next).collect();
        self.told.release();
        told
    }

    fn step(&mut self) {
        self.now += 1_000_000_000;
        self.agent.duty_cycle(&Cycle { now: self.now, busy: true });
        self.agent.housekeeping(self.now);
    }

    fn count(&self, counter: Counter) -> u64 {
        self.agent.counters().block().get(counter)
    }

    fn held(&self) -> (u64, u64) {
        let read = |gauge: &std::sync::atomic::AtomicU64| gauge.load(Ordering::Acquire);
        (read(&self.agent.gauges.held_failed), read(&self.agent.gauges.held_shed))
    }

    /// The letters' own equation, and that no frame is missing.
    fn assert_books(&mut self) {
        let held = self.held();
        let out = [Counter::DEAD_LETTERS_EVICTED, Counter::DEAD_LETTERS_REPLAYED, Counter::DEAD_LETTERS_PURGED];
        let out: u64 = out.map(|counter| self.count(counter)).iter().sum();
        let at_start = self.agent.gauges.held_at_start.load(Ordering::Acquire);
        assert_eq!(at_start + self.count(Counter::DEAD_LETTERS_RECEIVED), out + held.0 + held.1);
        self.pool.reclaim();
        assert_eq!(self.pool.free(), SLOTS);
    }
}

fn claims() -> (Arc<DedupTable>, Claimer) {
    let config = DedupConfig { capacity: 4096, window_ns: u64::MAX >> 8, claimers: 1 };
    let (table, mut claimers) = DedupTable::new(config).unwrap();
    (table, claimers.remove(0))
}

fn claim(claimer: &mut Claimer, id: u64) -> ClaimToken {
    match claimer.claim(EventId(u128::from(id).to_be_bytes()), 1) {
        Claim::Won(token) => token,
        met => panic!("{id}: {met:?}"),
    }
}

fn state(table: &DedupTable, id: u64) -> Option<ClaimState> {
    table.lookup(EventId(u128::from(id).to_be_bytes()), 1)
}

#[test]
fn letters_are_held_over_a_restart_each_in_its_queue() {
    let place = Place::new("letter-agent");
    let mut stage = place.start(None);
    for id in 0..30 {
        stage.send(id, 100, if id % 3 == 0 { LinkFull } else { Rejected }).unwrap();
    }
    stage.step();
    assert_eq!((stage.held(), stage.count(Counter::DEAD_LETTERS_RECEIVED)), ((20, 10), 30));
    stage.assert_books();
    stage.agent.close();
    drop(stage);
    let mut stage = place.start(None);
    assert_eq!(stage.held(), (20, 10));
    let mut reader = stage.agent.spec.shed.letters().reader().unwrap();
    let letter = reader.read().unwrap().unwrap();
    assert_eq!((letter.event().id(), letter.event().topic()), (Some([0; 16]), "t"));
    // The event came in at 1 ns of the engine's time, one second before its letter was taken.
    assert!(letter.time_ns - letter.arrival_ns.unwrap() >= 1_000_000_000);
    stage.step();
    stage.assert_books();
}

#[test]
fn what_a_disk_does_not_take_waits_as_far_as_it_may_and_is_lost_beyond() {
    let place = Place::new("letter-agent-eio");
    let mut stage = place.start(None);
    place.disk.faults().fail_writes(Some(Errno::IO));
    let (mut kept, mut lost) = (0, 0);
    for id in 0..300 {
        match stage.send(id, 1000, Rejected) {
            Ok(()) => kept += 1,
            Err(reason) => {
                assert_eq!(reason, LostReason::DeadLetterDisk);
                lost += 1;
            }
        }
        stage.step();
    }
    assert!((30..50).contains(&kept) && kept + lost == 300, "{kept} {lost}");
    assert_eq!(stage.counters.get(Counter::lost(LostReason::DeadLetterDisk)), lost);
    // Who has events to begin is not held up.
    assert_eq!((stage.sender.fits(100, 0), stage.sender.has_room()), (100, true));
    stage.assert_books();
    place.disk.faults().fail_writes(None);
    stage.step();
    assert_eq!(stage.held(), (kept, 0));
    assert_eq!(stage.send(1000, 1000, Rejected), Ok(()));
    stage.step();
    stage.agent.close();
    drop(stage);
    assert_eq!(place.start(None).held(), (kept + 1, 0));
}

#[test]
fn a_full_disk_takes_letters_until_what_was_set_aside_is_gone() {
    let place = Place { bytes: 1 << 20, ..Place::new("letter-agent-full") };
    let mut stage = place.start(None);
    stage.send(0, 1000, Rejected).unwrap();
    stage.step();
    place.disk.faults().fill(true);
    let mut kept = 0;
    for id in 0..1000 {
        kept += u64::from(stage.send(id, 1000, Rejected).is_ok());
        stage.step();
    }
    // Two segments of 128 KiB, and half the memory.
    assert!((220..300).contains(&kept), "{kept}");
    stage.assert_books();
    place.disk.faults().fill(false);
    stage.step();
    assert_eq!(stage.send(0, 1000, Rejected), Ok(()));
    stage.step();
    stage.assert_books();
    assert_eq!(stage.held(), (kept + 2, 0));
}

#[test]
fn the_ids_of_letters_that_are_evicted_may_be_claimed_anew() {
    let place = Place { bytes: 1 << 20, ..Place::new("letter-agent-claims") };
    let (table, mut claimer) = claims();
    let mut stage = place.start(Some(table.clone()));
    for id in 0..2000 {
        let token = claim(&mut claimer, id);
        // A flood of what was shed evicts no letter that has a claim, and releases none.
        stage.send_claimed(id, 1000, Rejected, Some(token)).unwrap();
        stage.send(id, 1000, LinkFull).unwrap();
        stage.step();
    }
    stage.assert_books();
    let (held, _) = stage.held();
    assert!(held < 1000, "{held}");
    for id in 0..2000 {
        let expected = (id >= 2000 - held).then_some(ClaimState::DeadLettered);
        assert_eq!(state(&table, id), expected, "{id} of the last {held}");
    }
}

#[test]
fn a_link_that_a_disk_empties_bounds_what_may_fail() {
    let place = Place::new("letter-agent-link");
    let mut stage = place.start(None);
    assert_eq!((stage.sender.fits(100, 7), stage.sender.due_ns()), (64, None));
    for id in 0..64 {
        stage.send(id, 10, Rejected).unwrap();
    }
    assert_eq!(stage.sender.fits(100, 7), 0);
    assert!(stage.sender.due_ns().is_some_and(|due| due > 7));
    assert_eq!(stage.send(64, 10, Rejected), Err(LostReason::DeadLetterLinkFull));
    stage.step();
    assert_eq!((stage.sender.fits(100, 7), stage.sender.due_ns()), (64, None));
    stage.assert_books();
}

/// Whoever is told that an event is in the queue does not send it again, and neither does who finds its id claimed for good.
#[test]
fn an_event_has_ended_when_its_letter_is_on_disk() {
    let place = Place::new("letter-agent-told");
    let (table, mut claimer) = claims();
    let mut stage = place.start(Some(table.clone()));
    let rejected = Told::dead_lettered(Rejected);
    place.disk.faults().fail_syncs(2);
    stage.asks = true;
    stage.send_claimed(1, 10, Rejected, Some(claim(&mut claimer, 1))).unwrap();
    stage.send(2, 10, LinkFull).unwrap();
    stage.asks = false;
    stage.send_claimed(3, 10, Rejected, Some(claim(&mut claimer, 3))).unwrap();
    stage.step();
    // Both syncs have failed, of one queue and of the other.
    assert_eq!(stage.told(), []);
    assert_eq!([1, 3].map(|id| state(&table, id)), [Some(ClaimState::Pending); 2]);
    stage.step();
    assert_eq!(stage.told(), [(1, rejected), (2, Told::dead_lettered(LinkFull))]);
    assert_eq!([1, 3].map(|id| state(&table, id)), [Some(ClaimState::DeadLettered); 2]);
    // One that fits no segment is its own eviction.
    stage.asks = true;
    let token = claim(&mut claimer, 4);
    let small = Place { buffer_bytes: 1000, ..Place::new("letter-agent-small") };
    stage.agent.spec.failed = small.open(LetterQueue::Failed);
    stage.send_claimed(4, 1000, Rejected, Some(token)).unwrap();
    stage.step();
    assert_eq!((stage.told(), state(&table, 4)), (vec![(4, rejected)], None));
    stage.assert_books();
}
