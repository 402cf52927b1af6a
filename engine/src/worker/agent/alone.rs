//! A worker by itself, for tests.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::{Worker, WorkerSpec};
use crate::acks::{AckSender, Told};
use crate::control::{State, StateCell};
use crate::frame::Class;
use crate::memory::{Event, FramePool, Frames, PoolSpec, Region};
use crate::queue::spsc;
use crate::runtime::clock::Clock;
use crate::storage::{DeadLetter, DeadLetterSender, ShedBudget};
use crate::worker::{CountingHandler, Windows};

pub fn pool(index: u8, slots: usize) -> FramePool {
    FramePool::new(index, Region::map(slots * 64).unwrap(), &PoolSpec { slot_bytes: 64, reliable: false })
}

/// One of the batch class that counts, with the other ends of its ring and of its way to the dead letters. It has a clock that
/// goes with `time`.
pub fn worker(
    frames: Frames,
    windows: Option<Windows>,
    time: Arc<AtomicU64>,
) -> (Worker<CountingHandler>, spsc::Producer<Event>, spsc::Consumer<DeadLetter>) {
    let (ring, consumer) = spsc::ring(16);
    let (letters, kept) = spsc::ring(16);
    let worker = Worker::new(WorkerSpec {
        name: "batch-0".into(),
        class: Class::Batch,
        handler: CountingHandler::default(),
        rings: vec![consumer],
        frames,
        dead_letters: DeadLetterSender::new(letters, ShedBudget::new(0), None),
        acks: AckSender::none(),
        claimer: None,
        retries: None,
        windows,
        log: None,
        done: Told::PROCESSED,
        clock: Clock::manual(time),
        state: StateCell::new(State::Running),
    });
    (worker, ring, kept)
}
