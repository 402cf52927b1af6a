//! Classes that have their share: who waits, who does not, and what may be on its way meanwhile.

use super::*;
use crate::runtime::agent::Blocking;

impl Bench {
    fn set_full(&mut self, classes: &[Class]) {
        self.progress.full = ClassSet::default();
        classes.iter().for_each(|class| self.progress.full.insert(*class));
        self.feedback.tell(self.progress);
    }
}

fn batch(numbers: std::ops::Range<usize>) -> Vec<u8> {
    numbers.flat_map(|number| frame_of(Priority::Batch, "t", format!("{number:08}").as_bytes())).collect()
}

#[test]
fn a_full_class_holds_up_those_whose_next_frame_is_one_of_it() {
    // Once with room to keep what was read, once without.
    for carry_bytes in [1 << 20, 128] {
        let mut setup = Setup::default();
        setup.options.carry_bytes = carry_bytes;
        let mut bench = setup.start();
        bench.set_full(&[Class::Batch]);
        let (mut mixed, mut other) = (bench.connect(), bench.connect());
        mixed.write_all(&[numbered(0..3), batch(3..5), numbered(5..8), batch(8..9)].concat()).unwrap();
        bench.until_taken(3);
        bench.settle();
        assert_eq!(bench.payloads(), names(0..3));
        assert_eq!(bench.count(Counter::TCP_CLASS_WAITS), 1);
        assert!(matches!(bench.backend.blocking(), Blocking::Until(_)), "{:?}", bench.backend.blocking());
        other.write_all(&numbered(100..1000)).unwrap();
        bench.until_taken(903);
        assert_eq!(bench.payloads()[3..], names(100..1000));
        bench.set_full(&[Class::Realtime, Class::Transactional]);
        bench.until_taken(905);
        bench.settle();
        assert_eq!(bench.payloads()[903..], names(3..5), "its next one is transactional");
        bench.set_full(&[]);
        bench.until_taken(909);
        assert_eq!(bench.payloads()[905..], names(5..9));
        assert_ne!(bench.backend.blocking(), Blocking::Forbidden);
        drop((mixed, other));
        bench.until_closed(2);
        bench.check();
    }
}

#[test]
fn a_large_frame_of_a_full_class_takes_no_slot_and_its_time_does_not_run() {
    let mut bench = Setup::default().start();
    bench.set_full(&[Class::Transactional]);
    let mut clients = [bench.connect(), bench.connect(), bench.connect()];
    for client in &mut clients {
        client.set_nonblocking(true).unwrap();
        // As much of it as the kernel takes.
        let _ = client.write(&frame("t", &[7; 100_000])).unwrap();
    }
    bench.until("all wait", |bench| bench.count(Counter::TCP_CLASS_WAITS) == 3);
    bench.now += 10_000_000_000;
    bench.settle();
    assert_eq!(bench.backend.large_pool().free(), 2);
    assert_eq!(bench.count(Counter::TCP_LARGE_FRAME_TIMEOUTS), 0);
    bench.set_full(&[]);
    bench.until("both slots are used", |bench| bench.backend.large_pool().free() == 0);
    drop(clients);
    bench.until_closed(3);
    bench.check();
}

#[test]
fn a_whole_large_frame_waits_for_its_class() {
    let mut bench = Setup::default().start();
    let mut client = bench.connect();
    let large = frame("t", &[7; 20_000]);
    client.write_all(&large[..15_000]).unwrap();
    bench.until("it has a slot", |bench| bench.backend.large_pool().free() == 1);
    bench.set_full(&[Class::Transactional]);
    client.write_all(&large[15_000..]).unwrap();
    bench.until("it waits", |bench| bench.count(Counter::TCP_CLASS_WAITS) == 1);
    bench.now += 60_000_000_000;
    bench.settle();
    assert!(bench.taken.is_empty() && bench.count(Counter::TCP_LARGE_FRAMES_STALLED) == 0);
    bench.set_full(&[]);
    bench.until_taken(1);
    assert_eq!(bench.taken[0].payload, [7; 20_000]);
    bench.check();
}

#[test]
fn what_is_on_its_way_to_the_dispatcher_is_bounded() {
    let start = |slots, limit| {
        let mut setup = Setup { slots, ..Setup::default() };
        setup.options.credits.limit = limit;
        setup.start()
    };
    // The dispatcher takes nothing for a while.
    let run_ahead = |bench: &mut Bench, stream: &[u8]| {
        let mut client = bench.connect();
        client.write_all(stream).unwrap();
        for _ in 0..100 {
            bench.now += 1000;
            bench.step_only();
            std::thread::sleep(Duration::from_micros(100));
        }
        client
    };
    let mut bench = start(64, 400);
    let _client = run_ahead(&mut bench, &numbered(0..1000));
    assert_eq!(bench.count(Counter::EVENTS_ACCEPTED), 50, "an eighth of the credits");
    assert_eq!(bench.count(Counter::TCP_CREDIT_STALLS), 0);
    bench.until_taken(1000);
    bench.check();
    let mut bench = start(64, 1 << 20);
    let stream: Vec<u8> = (0..40).flat_map(|number: u8| frame("t", &[number; 3000])).collect();
    let _client = run_ahead(&mut bench, &stream);
    assert_eq!(bench.count(Counter::EVENTS_ACCEPTED), 8, "one in each of an eighth of the slots");
    bench.until_taken(40);
    bench.check();
}
