//! Loom's exploration of parking: whatever is published is found before the runner blocks, or wakes it.
//!
//! The eventfd is a counter under a lock, which blocks without time-out; a publication that is slept through leaves the
//! runner blocked for ever, and loom reports a deadlock. Inputs are published and read without any ordering: the
//! fences alone have to do.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::waker::Parked;

#[derive(Default)]
struct Runner {
    parked: Parked,
    descriptor: Mutex<u64>,
    written: Condvar,
    inputs: [AtomicU64; 2],
}

impl Runner {
    /// A producer: publishes, and wakes the runner.
    fn publish(&self, input: usize) {
        self.inputs[input].store(1, Relaxed);
        if self.parked.must_be_woken() {
            *self.descriptor.lock().unwrap() += 1;
            self.written.notify_one();
        }
    }

    fn published(&self) -> u64 {
        self.inputs.iter().map(|input| input.load(Relaxed)).sum()
    }

    /// The runner: blocks as often as it finds nothing, until everything has come.
    fn run(&self, expected: u64) {
        loop {
            let seen = self.published();
            if seen == expected {
                return;
            }
            self.parked.set();
            if self.published() == seen {
                let mut count = self.descriptor.lock().unwrap();
                while *count == 0 {
                    count = self.written.wait(count).unwrap();
                }
            }
            self.parked.clear();
            *self.descriptor.lock().unwrap() = 0;
        }
    }
}

fn model(producers: usize, preemptions: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(move || {
        let runner = Arc::new(Runner::default());
        let threads: Vec<_> = (0..producers)
            .map(|input| {
                let runner = runner.clone();
                thread::spawn(move || runner.publish(input))
            })
            .collect();
        runner.run(producers as u64);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_publication_is_never_slept_through() {
    model(1, 5);
}

/// The second producer may find that the first wakes the runner, and leaves it at that. Two preemptions: each producer
/// stopped once between its publication and the flag.
#[test]
fn a_producer_may_rely_on_another_ones_wake_up() {
    model(2, 2);
}
