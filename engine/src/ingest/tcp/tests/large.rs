//! Frames above a slot: who gets a large slot, who waits for one, and who loses it again.

use super::*;

/// What `Setup` gives a connection for every 64 KiB of its large frame.
const FILL_NS: u64 = 4_000_000_000;

#[test]
fn without_a_large_slot_there_is_a_deadline() {
    let mut bench = Setup { large_slots: 1, ..Setup::default() }.start();
    let (mut first, mut second) = (bench.connect(), bench.connect());
    let big = frame("t", &vec![1; 100_000]);
    first.write_all(&big[..50_000]).unwrap();
    bench.until("the first half", |bench| bench.backend.large_pool().free() == 0);
    second.write_all(&[numbered(0..2), big[..9000].to_vec()].concat()).unwrap();
    bench.until_taken(2);
    bench.settle();
    assert_eq!(bench.count(Counter::TCP_LARGE_FRAME_TIMEOUTS), 0);
    bench.now += 1_000_000_000;
    let error = the_error(&mut bench, &mut second);
    assert_eq!((error["code"].as_str(), error["at_byte"].as_u64()), (Some("large_frame_timeout"), Some(32)));
    assert_eq!(bench.count(Counter::TCP_LARGE_FRAME_TIMEOUTS), 1);
    assert_eq!(bench.malformed(MalformedReason::StreamTruncated), 1);
    first.write_all(&big[50_000..]).unwrap();
    bench.until_taken(3);
    assert_eq!(bench.taken[2].payload.len(), 100_000);
    bench.check();
}

#[test]
fn a_large_slot_given_back_goes_to_who_waits() {
    let mut bench = Setup { large_slots: 1, ..Setup::default() }.start();
    let mut clients: Vec<_> = (0..4).map(|_| bench.connect()).collect();
    let threads: Vec<_> = (0..4u8)
        .map(|number| {
            let mut client = clients.pop().unwrap();
            std::thread::spawn(move || {
                client.write_all(&frame("t", &vec![number; 150_000])).unwrap();
                client
            })
        })
        .collect();
    bench.until_taken(4);
    let mut found: Vec<_> = bench.taken.iter().map(|taken| (taken.payload[0], taken.payload.len())).collect();
    found.sort_unstable();
    assert_eq!(found, [(0, 150_000), (1, 150_000), (2, 150_000), (3, 150_000)]);
    drop(threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>());
    bench.until_closed(4);
    bench.check();
}

#[test]
fn a_large_frame_waits_for_credit_too() {
    let mut setup = Setup::default();
    setup.options.credits.limit = 1;
    let mut bench = setup.start();
    bench.releases = false;
    let mut client = bench.connect();
    client.write_all(&[numbered(0..1), frame("t", &[2; 20_000]), numbered(1..2)].concat()).unwrap();
    for count in 1..=3 {
        bench.until_taken(count);
        bench.settle();
        assert_eq!(bench.taken.len(), count);
        bench.release();
    }
    assert_eq!(bench.taken[1].payload.len(), 20_000);
    bench.check();
}

/// A bench with one large slot, a frame for it, and a client that has sent the first part.
fn half_sent(setup: Setup) -> (Bench, TcpStream, Vec<u8>) {
    let mut bench = Setup { large_slots: 1, ..setup }.start();
    let mut client = bench.connect();
    let big = frame("t", &vec![1; 150_000]);
    client.write_all(&[numbered(0..2), big[..HALF].to_vec()].concat()).unwrap();
    bench.until("the first half", |bench| bench.count(Counter::BYTES_RECEIVED) == BEFORE + HALF as u64);
    assert_eq!(bench.backend.large_pool().free(), 0);
    (bench, client, big)
}

/// Bytes of the two small frames before the large one, and of its first part.
const BEFORE: u64 = 32;
const HALF: usize = 50_000;

#[test]
fn who_announces_and_stalls_loses_the_slot_to_who_waits() {
    let mut setup = Setup::default();
    setup.options.large_wait_ns = 1 << 60;
    let (mut bench, mut stalled, big) = half_sent(setup);
    let mut waiting = bench.connect();
    let sender = std::thread::spawn(move || {
        waiting.write_all(&frame("t", &vec![2; 150_000])).unwrap();
        waiting
    });
    bench.settle();
    bench.now += FILL_NS - 1_000_000;
    bench.settle();
    assert_eq!(bench.count(Counter::TCP_LARGE_FRAMES_STALLED), 0);
    bench.now += 1_000_000;
    let error = the_error(&mut bench, &mut stalled);
    assert_eq!((error["code"].as_str(), error["at_byte"].as_u64()), (Some("large_frame_stalled"), Some(50_032)));
    assert_eq!(error["fatal"], true);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&format!("{} bytes stalled after {HALF}", big.len())), "{message}");
    bench.until_taken(3);
    assert_eq!((bench.taken[2].payload.len(), bench.taken[2].payload[0]), (150_000, 2));
    assert_eq!(bench.count(Counter::TCP_LARGE_FRAMES_STALLED), 1);
    assert_eq!(bench.malformed(MalformedReason::StreamTruncated), 1);
    drop((sender.join().unwrap(), stalled));
    bench.until_closed(2);
    bench.check();
}

#[test]
fn a_slow_sender_that_goes_on_is_not_cut_off() {
    let (mut bench, mut slow, big) = half_sent(Setup::default());
    // 25,000 bytes buy three eighths of the time. It takes a third, over and over.
    for part in big[HALF..].chunks(25_000) {
        bench.now += FILL_NS / 3;
        let before = bench.count(Counter::BYTES_RECEIVED);
        slow.write_all(part).unwrap();
        bench.until("a part", |bench| bench.count(Counter::BYTES_RECEIVED) == before + part.len() as u64);
    }
    bench.until_taken(3);
    assert_eq!(bench.taken[2].payload.len(), 150_000);
    assert_eq!(bench.count(Counter::TCP_LARGE_FRAMES_STALLED), 0);
    bench.check();
}

#[test]
fn a_trickle_is_no_progress_and_no_time_is_saved_up() {
    let (mut bench, mut trickling, big) = half_sent(Setup::default());
    // As fast as can be up to here, and then a byte now and then.
    let started = bench.now;
    for byte in &big[HALF..HALF + 20] {
        bench.settle_briefly();
        bench.now += FILL_NS / 10;
        bench.settle_briefly();
        if trickling.write_all(&[*byte]).is_err() || bench.count(Counter::TCP_LARGE_FRAMES_STALLED) > 0 {
            break;
        }
    }
    let error = the_error(&mut bench, &mut trickling);
    assert_eq!(error["code"], "large_frame_stalled");
    assert!(bench.now - started < FILL_NS * 2, "{} ns", bench.now - started);
    drop(trickling);
    bench.until_closed(1);
    bench.check();
}

#[test]
fn what_came_while_nobody_looked_counts_and_a_pause_costs_nothing() {
    let (mut bench, mut client, big) = half_sent(Setup::default());
    client.write_all(&big[HALF..HALF + 1000]).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    bench.now += 10 * FILL_NS;
    bench.settle();
    assert_eq!(bench.count(Counter::BYTES_RECEIVED), BEFORE + HALF as u64 + 1000);
    bench.set(State::Paused);
    bench.now += 10 * FILL_NS;
    bench.settle();
    bench.set(State::Running);
    client.write_all(&big[HALF + 1000..HALF + 2000]).unwrap();
    bench.until("more", |bench| bench.count(Counter::BYTES_RECEIVED) == BEFORE + HALF as u64 + 2000);
    client.write_all(&big[HALF + 2000..]).unwrap();
    bench.until_taken(3);
    assert_eq!(bench.count(Counter::TCP_LARGE_FRAMES_STALLED), 0);
    bench.check();
}

#[test]
fn a_whole_frame_that_waits_for_credit_keeps_its_slot() {
    let mut setup = Setup { large_slots: 1, ..Setup::default() };
    setup.options.credits.limit = 1;
    let mut bench = setup.start();
    bench.releases = false;
    let mut client = bench.connect();
    client.write_all(&[numbered(0..1), frame("t", &[2; 20_000])].concat()).unwrap();
    bench.until_taken(1);
    bench.settle();
    bench.now += 10 * FILL_NS;
    bench.settle();
    assert_eq!((bench.taken.len(), bench.count(Counter::TCP_LARGE_FRAMES_STALLED)), (1, 0));
    bench.release();
    bench.until_taken(2);
    bench.release();
    bench.settle();
    bench.check();
}

#[test]
fn a_large_frame_with_a_bad_beginning_is_refused_without_its_rest_and_without_a_slot() {
    let with_head = |head: u8| {
        let mut bytes = frame("topic", &vec![0; 150_000]);
        bytes[4] = head;
        (bytes, 5)
    };
    let with_topic = |topic: &str| (frame(topic, &vec![0; 150_000]), 7 + topic.len());
    for ((bytes, proof), reason, at_byte) in [
        (with_head(0x10), MalformedReason::ReservedFlag, 4),
        (with_topic(&"t".repeat(256)), MalformedReason::TopicLimit, 5),
        (with_topic("a/+"), MalformedReason::TopicWildcard, 9),
        (with_topic("$esc/nothing"), MalformedReason::ReservedTopic, 7),
        (with_topic("$esc/hello"), MalformedReason::ControlPayload, 17),
    ] {
        let proof = if reason == MalformedReason::TopicLimit { 7 } else { proof };
        let mut bench = Setup::default().start();
        let mut client = bench.connect();
        for byte in &bytes[..proof] {
            assert_eq!(bench.malformed(reason), 0);
            client.write_all(&[*byte]).unwrap();
            bench.settle_briefly();
        }
        let error = the_error(&mut bench, &mut client);
        assert_eq!((bench.malformed(reason), error["at_byte"].as_u64()), (1, Some(at_byte)), "{error}");
        assert_eq!((bench.count(Counter::TCP_FRAMES_FOUND), bench.backend.large_pool().free()), (1, 2));
        drop(client);
        bench.until_closed(1);
        bench.check();
    }
}

#[test]
fn an_announced_length_alone_takes_no_slot() {
    let mut bench = Setup::default().start();
    let mut clients: Vec<_> = (0..3).map(|_| bench.connect()).collect();
    clients.iter_mut().for_each(|client| client.write_all(&150_000u32.to_be_bytes()).unwrap());
    bench.until("the lengths", |bench| bench.count(Counter::BYTES_RECEIVED) == 3 * 4);
    bench.settle();
    assert_eq!((bench.backend.large_pool().free(), bench.backend.lists.len(List::Large(Class::Transactional))), (2, 0));
    drop(clients);
    bench.until_closed(3);
    bench.check();
}

/// A topic so long that not even header and topic fit a slot.
#[test]
fn a_topic_longer_than_a_slot_is_judged_in_a_large_one() {
    for (topic, reason) in [("t".repeat(5000), None), ("t".repeat(5000) + "/+", Some(MalformedReason::TopicWildcard))] {
        let mut bench = Setup { topic_bytes: 6000, ..Setup::default() }.start();
        let mut client = bench.connect();
        let bytes = [numbered(0..1), frame(&topic, &[3; 20_000])].concat();
        for part in bytes.chunks(999) {
            client.write_all(part).unwrap();
            bench.step();
        }
        if let Some(reason) = reason {
            let error = the_error(&mut bench, &mut client);
            assert_eq!((bench.malformed(reason), error["at_byte"].as_u64()), (1, Some(16 + 7 + 5001)), "{error}");
        } else {
            bench.until_taken(2);
            assert_eq!(bench.taken[1].payload, [3; 20_000]);
        }
        drop(client);
        bench.until_closed(1);
        bench.check();
    }
}
