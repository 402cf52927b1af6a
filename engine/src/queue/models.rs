//! Loom's exploration of the queues and of the feedback: every index wraps, both ends come and go, cells are checked for
//! unordered access.
//!
//! Queues of one or two cells: a value is then never far from the one it replaces. The values are boxes, so that one
//! that is lost, dropped twice or read before it is whole is noticed.

use std::sync::Arc as StdArc;

use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
use loom::thread;

use super::{ClassSet, Feedback, Progress, mpsc, spsc};
use crate::frame::Class;

/// Every interleaving with up to three preemptions, one more than two operations of different threads need to meet in
/// each order. With two threads nothing is left out; with three, all would take hours.
fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(run);
}

mod single_producer {
    use super::*;

    #[test]
    fn values_pass_in_order_through_every_wrap() {
        model(|| {
            let (mut producer, mut consumer) = spsc::ring::<Box<u32>>(1);
            let writer = thread::spawn(move || {
                let mut pushed = 0;
                for _ in 0..3 {
                    pushed += u32::from(producer.push(Box::new(pushed)).is_ok());
                    producer.publish();
                }
                pushed
            });
            let mut taken = 0;
            let mut take = |consumer: &mut spsc::Consumer<Box<u32>>| {
                if let Some(value) = consumer.take() {
                    assert_eq!(*value, taken);
                    taken += 1;
                    consumer.release();
                }
            };
            (0..2).for_each(|_| take(&mut consumer));
            let pushed = writer.join().unwrap();
            (0..3).for_each(|_| take(&mut consumer));
            assert_eq!(taken, pushed, "lost");
        });
    }

    #[test]
    fn a_batch_appears_whole() {
        model(|| {
            let (mut producer, mut consumer) = spsc::ring::<Box<u32>>(2);
            let writer = thread::spawn(move || {
                producer.push(Box::new(7)).unwrap();
                assert!(producer.push_with(|| Box::new(0), |value| **value = 8));
                producer.publish();
                producer
            });
            match consumer.available(2) {
                0 => {}
                2 => {
                    assert!(consumer.peek(0..2).map(|value| **value).eq([7, 8]));
                    let mut next = 7;
                    consumer.take_each(2, |value| {
                        assert_eq!(*value, next);
                        next += 1;
                    });
                }
                other => panic!("{other} of a batch of two"),
            }
            drop(writer.join().unwrap());
        });
    }

    /// Of each batch as much as there is room for, the second round the end of the ring.
    #[test]
    fn batches_go_round_the_end() {
        model(|| {
            let (mut producer, mut consumer) = spsc::ring::<Box<usize>>(2);
            assert_eq!(producer.push_each(1, Box::new), 1);
            producer.publish();
            let writer = thread::spawn(move || {
                let mut pushed = 1;
                for _ in 0..2 {
                    pushed += producer.push_each(2, |index| Box::new(pushed + index));
                    producer.publish();
                }
                pushed
            });
            let mut taken = 0;
            let mut take = || {
                let count = consumer.available(2);
                consumer.take_each(count, |value| {
                    assert_eq!(*value, taken);
                    taken += 1;
                });
                consumer.release();
            };
            (0..2).for_each(|_| take());
            let pushed = writer.join().unwrap();
            (0..2).for_each(|_| take());
            assert_eq!(taken, pushed, "lost");
        });
    }

    #[test]
    fn a_full_ring_gets_room_by_a_release_of_several() {
        model(|| {
            let (mut producer, mut consumer) = spsc::ring::<Box<u32>>(2);
            (0..2).for_each(|value| producer.push(Box::new(value)).unwrap());
            producer.publish();
            let writer = thread::spawn(move || {
                let room = producer.push(Box::new(2)).is_ok();
                // All of a release or nothing of it.
                assert_eq!(producer.push(Box::new(3)).is_ok(), room || producer.occupied() == 1);
            });
            assert_eq!((consumer.take().as_deref(), consumer.take().as_deref()), (Some(&0), Some(&1)));
            consumer.release();
            writer.join().unwrap();
        });
    }

    /// A consumer that goes leaves what it has not taken to the ring, and the cells of what it has to the producer.
    #[test]
    fn a_dropped_consumer_leaves_each_value_to_one_owner() {
        model(|| {
            let value = StdArc::new(());
            let (mut producer, mut consumer) = spsc::ring(2);
            (0..2).for_each(|_| producer.push(value.clone()).unwrap());
            producer.publish();
            let another = value.clone();
            let writer = thread::spawn(move || drop(producer.push(another)));
            drop(consumer.take());
            drop(consumer);
            writer.join().unwrap();
            assert_eq!(StdArc::strong_count(&value), 1);
        });
    }

    #[test]
    fn a_dropped_producer_leaves_what_it_has_not_published() {
        model(|| {
            let value = StdArc::new(());
            let (mut producer, mut consumer) = spsc::ring(2);
            let pushed = value.clone();
            let writer = thread::spawn(move || {
                producer.push(pushed).unwrap();
            });
            drop(consumer.take());
            writer.join().unwrap();
            drop(consumer);
            assert_eq!(StdArc::strong_count(&value), 1);
        });
    }

    /// The ledger reads counters and depths of running threads: who sees a value come or go sees what was counted first.
    #[test]
    fn a_depth_shows_what_was_counted_before() {
        model(|| {
            let (mut producer, mut consumer) = spsc::ring::<u32>(1);
            let (depth, counted) = (producer.depth(), StdArc::new([AtomicU64::new(0), AtomicU64::new(0)]));
            let (accepted, processed) = (counted.clone(), counted.clone());
            let writer = thread::spawn(move || {
                accepted[0].store(1, Relaxed);
                producer.push(1).unwrap();
                producer.publish();
            });
            let reader = thread::spawn(move || {
                if consumer.take().is_some() {
                    processed[1].store(1, Relaxed);
                    consumer.release();
                }
                consumer
            });
            if depth.len() == 1 {
                assert_eq!(counted[0].load(Relaxed), 1);
                if depth.is_empty() {
                    assert_eq!(counted[1].load(Relaxed), 1);
                }
            }
            writer.join().unwrap();
            drop(reader.join().unwrap());
        });
    }
}

mod many_producers {
    use super::*;

    fn write(producer: &mut mpsc::Producer<Box<u32>>, first: u32, count: usize) -> bool {
        let Some(claim) = producer.claim(count) else { return false };
        claim.fill_with(|index| Box::new(first + index as u32));
        true
    }

    /// Takes what there is; values of one producer, counted from its hundred on, must come in order.
    fn take(consumer: &mut mpsc::Consumer<Box<u32>>, next: &mut [u32; 2]) -> usize {
        let count = consumer.take_each(4, |value| {
            let (producer, number) = ((**value / 100) as usize, **value % 100);
            assert_eq!(number, next[producer], "of producer {producer}");
            next[producer] += 1;
        });
        consumer.release();
        count
    }

    #[test]
    fn two_producers_wrap_and_nothing_is_lost() {
        model(|| {
            let (producers, mut consumer) = mpsc::queue(1, 2);
            let mut first = 0;
            let writers: Vec<_> = producers
                .into_iter()
                .map(|mut producer| {
                    let base = first;
                    first += 100;
                    thread::spawn(move || {
                        let mut written = 0;
                        for _ in 0..2 {
                            written += u32::from(write(&mut producer, base + written, 1));
                        }
                        written
                    })
                })
                .collect();
            let mut next = [0; 2];
            take(&mut consumer, &mut next);
            let written: Vec<u32> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            while take(&mut consumer, &mut next) > 0 {}
            assert_eq!(next, written[..]);
        });
    }

    /// A producer stopped anywhere in its claim shows nothing of it, and holds back nobody else.
    #[test]
    fn a_claim_appears_whole_and_hides_nothing_else() {
        model(|| {
            let (mut producers, mut consumer) = mpsc::queue(2, 2);
            let (mut quick, mut slow) = (producers.pop().unwrap(), producers.pop().unwrap());
            let writer = thread::spawn(move || assert!(write(&mut slow, 0, 2)));
            assert!(write(&mut quick, 100, 1));
            let mut next = [0; 2];
            take(&mut consumer, &mut next);
            assert!(next[1] == 1 && next[0] != 1, "{next:?}");
            writer.join().unwrap();
            take(&mut consumer, &mut next);
            assert_eq!(next, [2, 1]);
        });
    }

    #[test]
    fn dropped_ends_leave_each_value_to_one_owner() {
        model(|| {
            let value = StdArc::new(());
            let (mut producers, mut consumer) = mpsc::queue(2, 2);
            producers[0].claim(2).unwrap().fill_with(|_| value.clone());
            let another = value.clone();
            let writer = thread::spawn(move || producers[1].claim(1).unwrap().write(another));
            consumer.take_each(1, |looked_at| assert!(StdArc::ptr_eq(&looked_at, &value)));
            drop(consumer);
            writer.join().unwrap();
            assert_eq!(StdArc::strong_count(&value), 1);
        });
    }
}

/// What a source reads is as new as the count of dispatched events it comes with, or newer.
#[test]
fn feedback_is_at_least_as_new_as_its_count() {
    model(|| {
        let feedback = StdArc::new(Feedback::default());
        let dispatcher = feedback.clone();
        let teller = thread::spawn(move || {
            let mut full = ClassSet::default();
            full.insert(Class::Batch);
            dispatcher.tell(Progress { dispatched: 1, settled: 1, full });
            dispatcher.tell(Progress { dispatched: 2, settled: 2, full: ClassSet::default() });
        });
        let Progress { dispatched, settled, full } = feedback.read();
        assert!(settled >= dispatched);
        assert!(dispatched < 2 || full.is_empty());
        teller.join().unwrap();
    });
}
