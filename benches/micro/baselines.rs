//! Queues of other crates that serve one producer and many alike.

use std::sync::Arc;

use crossbeam::channel;
use crossbeam::queue::ArrayQueue;
use disruptor::{
    BusySpin, EventPoller, MultiProducer, MultiProducerBarrier, Producer, SingleConsumerBarrier, SingleProducer,
    SingleProducerBarrier,
};
use thingbuf::ThingBuf;

use crate::descriptor::Descriptor;
use crate::transfer::{Receiver, Sender};

/// Sends one after the other, for queues that have no batches.
#[inline(always)]
fn send_each(producer: u32, first: u32, count: u32, mut send: impl FnMut(Descriptor) -> bool) -> u32 {
    for index in 0..count {
        if !send(Descriptor::new(producer, first + index)) {
            return index;
        }
    }
    count
}

#[inline(always)]
fn receive_each(limit: u32, mut see: impl FnMut(&Descriptor), mut receive: impl FnMut() -> Option<Descriptor>) -> u32 {
    for index in 0..limit {
        match receive() {
            Some(descriptor) => see(&descriptor),
            None => return index,
        }
    }
    limit
}

impl Sender for Arc<ArrayQueue<Descriptor>> {
    #[inline]
    fn send(&mut self, producer: u32, first: u32, count: u32) -> u32 {
        send_each(producer, first, count, |descriptor| self.push(descriptor).is_ok())
    }
}

impl Receiver for Arc<ArrayQueue<Descriptor>> {
    #[inline]
    fn receive(&mut self, limit: u32, see: impl FnMut(&Descriptor)) -> u32 {
        receive_each(limit, see, || self.pop())
    }
}

impl Sender for channel::Sender<Descriptor> {
    #[inline]
    fn send(&mut self, producer: u32, first: u32, count: u32) -> u32 {
        send_each(producer, first, count, |descriptor| self.try_send(descriptor).is_ok())
    }
}

impl Receiver for channel::Receiver<Descriptor> {
    #[inline]
    fn receive(&mut self, limit: u32, see: impl FnMut(&Descriptor)) -> u32 {
        receive_each(limit, see, || self.try_recv().ok())
    }
}

impl Sender for Arc<ThingBuf<Descriptor>> {
    #[inline]
    fn send(&mut self, producer: u32, first: u32, count: u32) -> u32 {
        send_each(producer, first, count, |descriptor| self.push(descriptor).is_ok())
    }
}

impl Receiver for Arc<ThingBuf<Descriptor>> {
    #[inline]
    fn receive(&mut self, limit: u32, mut see: impl FnMut(&Descriptor)) -> u32 {
        for index in 0..limit {
            if self.pop_with(|descriptor| see(descriptor)).is_none() {
                return index;
            }
        }
        limit
    }
}

pub fn array_queue<const P: usize>(depth: usize) -> ([Arc<ArrayQueue<Descriptor>>; P], Arc<ArrayQueue<Descriptor>>) {
    let queue = Arc::new(ArrayQueue::new(depth));
    (std::array::from_fn(|_| queue.clone()), queue)
}

pub fn channel<const P: usize>(depth: usize) -> ([channel::Sender<Descriptor>; P], channel::Receiver<Descriptor>) {
    let (sender, receiver) = channel::bounded(depth);
    (std::array::from_fn(|_| sender.clone()), receiver)
}

pub fn thingbuf<const P: usize>(depth: usize) -> ([Arc<ThingBuf<Descriptor>>; P], Arc<ThingBuf<Descriptor>>) {
    let queue = Arc::new(ThingBuf::new(depth));
    (std::array::from_fn(|_| queue.clone()), queue)
}

/// The disruptor's producers differ in type only.
pub struct DisruptorSender<D>(D);

impl<D: Producer<Descriptor> + Send> Sender for DisruptorSender<D> {
    #[inline]
    fn send(&mut self, producer: u32, first: u32, count: u32) -> u32 {
        if count == 1 {
            let published = self.0.try_publish(|slot| *slot = Descriptor::new(producer, first));
            return u32::from(published.is_ok());
        }
        let published = self.0.try_batch_publish(count as usize, |slots| {
            for (index, slot) in slots.enumerate() {
                *slot = Descriptor::new(producer, first + index as u32);
            }
        });
        // A batch fits whole or is refused: what is missing is waited for, as with a claim of ours.
        if published.is_ok() { count } else { 0 }
    }
}

/// The trait both barriers implement is the crate's own.
macro_rules! receive_by_polling {
    ($barrier:ty) => {
        impl Receiver for EventPoller<Descriptor, $barrier> {
            #[inline]
            fn receive(&mut self, _: u32, mut see: impl FnMut(&Descriptor)) -> u32 {
                // All there is: with a limit it would look for the end of what is published anew each time.
                let Ok(mut events) = self.poll() else { return 0 };
                let mut count = 0;
                for descriptor in &mut events {
                    see(descriptor);
                    count += 1;
                }
                count
            }
        }
    };
}

receive_by_polling!(SingleProducerBarrier);
receive_by_polling!(MultiProducerBarrier);

pub type Single = DisruptorSender<SingleProducer<Descriptor, SingleConsumerBarrier>>;
pub type Multi = DisruptorSender<MultiProducer<Descriptor, SingleConsumerBarrier>>;

/// Its own wait strategy is never used: the consumer polls.
pub fn disruptor_single(depth: usize) -> ([Single; 1], EventPoller<Descriptor, SingleProducerBarrier>) {
    let builder = disruptor::build_single_producer(depth, Descriptor::default, BusySpin);
    let (poller, builder) = builder.new_event_poller();
    ([DisruptorSender(builder.build())], poller)
}

pub fn disruptor_multi<const P: usize>(depth: usize) -> ([Multi; P], EventPoller<Descriptor, MultiProducerBarrier>) {
    let builder = disruptor::build_multi_producer(depth, Descriptor::default, BusySpin);
    let (poller, builder) = builder.new_event_poller();
    let producer = builder.build();
    (std::array::from_fn(|_| DisruptorSender(producer.clone())), poller)
}
