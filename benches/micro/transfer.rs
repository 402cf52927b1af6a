//! Descriptors through a queue, from pinned producers to one pinned consumer.
//!
//! Whoever finds the queue full or empty backs off by crossbeam's `Backoff`, spinning first and then yielding to the
//! scheduler: the same for every contestant.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crossbeam::utils::{Backoff, CachePadded};

use crate::case::{Round, Run};
use crate::descriptor::{Descriptor, Order};
use crate::machine;

/// A producer's end.
pub trait Sender: Send {
    /// Sends descriptors `first..first + count` as far as there is room, and says how many.
    fn send(&mut self, producer: u32, first: u32, count: u32) -> u32;
}

/// The consumer's end.
pub trait Receiver {
    /// Shows up to `limit` descriptors and takes them out of the queue.
    fn receive(&mut self, limit: u32, see: impl FnMut(&Descriptor)) -> u32;
}

/// How much goes through at once.
#[derive(Clone, Copy)]
pub struct Load {
    /// Descriptors a round, over all producers.
    pub total: u32,
    pub send: u32,
    pub receive: u32,
}

/// A contestant: `P` producers on queue ends made once, over all rounds.
///
/// Each end has cache lines to itself, as it has where threads own theirs. Ends keep what they know of each other in themselves: side by
/// side, every value would move that line between the threads, which costs several times what the queues do.
pub fn contestant<const P: usize, S, R>(senders: [S; P], receiver: R, load: Load) -> Run
where
    S: Sender + 'static,
    R: Receiver + 'static,
{
    let (mut senders, mut receiver) = (senders.map(CachePadded::new), CachePadded::new(receiver));
    Box::new(move || transfer(&mut senders, &mut *receiver, load))
}

fn transfer<const P: usize, S, R>(senders: &mut [CachePadded<S>; P], receiver: &mut R, load: Load) -> Round
where
    S: Sender,
    R: Receiver,
{
    let each = load.total / P as u32;
    let (ready, go) = (AtomicUsize::new(0), AtomicBool::new(false));
    machine::pin_consumer();
    thread::scope(|scope| {
        for (index, sender) in senders.iter_mut().enumerate() {
            let (ready, go) = (&ready, &go);
            scope.spawn(move || {
                machine::pin_producer(index);
                ready.fetch_add(1, Ordering::Relaxed);
                wait_until(|| go.load(Ordering::Relaxed));
                produce(&mut **sender, index as u32, each, load.send);
            });
        }
        wait_until(|| ready.load(Ordering::Relaxed) == P);
        let started = Instant::now();
        go.store(true, Ordering::Relaxed);
        let order = consume::<P, R>(receiver, each * P as u32, load.receive);
        let time = started.elapsed();
        order.check(each);
        Round { operations: u64::from(each) * P as u64, time }
    })
}

pub fn wait_until(ready: impl Fn() -> bool) {
    let backoff = Backoff::new();
    while !ready() {
        backoff.snooze();
    }
}

#[inline(never)]
fn produce<S: Sender>(sender: &mut S, producer: u32, count: u32, at_once: u32) {
    let mut sent = 0;
    let backoff = Backoff::new();
    while sent < count {
        match sender.send(producer, sent, at_once.min(count - sent)) {
            0 => backoff.snooze(),
            more => {
                sent += more;
                backoff.reset();
            }
        }
    }
}

#[inline(never)]
fn consume<const P: usize, R: Receiver>(receiver: &mut R, count: u32, at_once: u32) -> Order<P> {
    let mut order = Order::new();
    let mut received = 0;
    let backoff = Backoff::new();
    while received < count {
        match receiver.receive(at_once, |descriptor| order.see(descriptor)) {
            0 => backoff.snooze(),
            more => {
                received += more;
                backoff.reset();
            }
        }
    }
    order
}
