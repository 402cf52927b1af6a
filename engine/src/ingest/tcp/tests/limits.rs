//! What happens when something is short: credit, slots, carries, connections, patience.

use super::*;

#[test]
fn credit_stalls_and_resumes_in_order() {
    let mut setup = Setup::default();
    setup.options.credits.limit = 10;
    let mut bench = setup.start();
    bench.releases = false;
    let (mut first, mut second) = (bench.connect(), bench.connect());
    first.write_all(&numbered(0..500)).unwrap();
    second.write_all(&numbered(500..1000)).unwrap();
    bench.until_taken(10);
    bench.settle();
    assert_eq!(bench.taken.len(), 10, "no more than the credit");
    assert_eq!(bench.count(Counter::TCP_CREDIT_STALLS), 1);
    assert_eq!(bench.backend.blocking(), crate::runtime::agent::Blocking::Forbidden);
    let mut rounds = 1;
    while bench.taken.len() < 1000 {
        bench.release();
        bench.until_taken((10 * rounds).min(1000));
        bench.step();
        assert!(bench.held.len() <= 10);
        rounds += 1;
    }
    for numbers in [0..500, 500..1000] {
        let wanted = names(numbers.clone());
        let found: Vec<_> = bench.payloads().into_iter().filter(|name| wanted.contains(name)).collect();
        assert_eq!(found, wanted);
    }
    bench.release();
    bench.check();
}

#[test]
fn short_credit_goes_round() {
    let mut setup = Setup::default();
    setup.options.credits.limit = 10;
    let mut bench = setup.start();
    bench.releases = false;
    let mut clients: Vec<_> = (0..4).map(|_| bench.connect()).collect();
    for client in &mut clients {
        client.write_all(&numbered(0..500)).unwrap();
    }
    bench.until_taken(10);
    bench.settle();
    for round in 2..=20 {
        bench.release();
        bench.until_taken(10 * round);
    }
    let mut shares = std::collections::BTreeMap::new();
    bench.taken.iter().for_each(|taken| *shares.entry(taken.connection).or_insert(0) += 1);
    assert!(shares.values().all(|share| (40..=60).contains(share)), "{shares:?}");
    bench.releases = true;
    bench.release();
    bench.until_taken(2000);
    bench.check();
}

#[test]
fn without_a_free_slot_nothing_is_read() {
    let mut bench = Setup { slots: 2, ..Setup::default() }.start();
    bench.releases = false;
    let mut client = bench.connect();
    client.write_all(&numbered(0..2000)).unwrap();
    bench.until("the last slot", |bench| bench.taken.len() > 300);
    bench.settle();
    let stuck = bench.taken.len();
    assert!(stuck <= 2 * SLOT_BYTES / 16, "{stuck}");
    bench.releases = true;
    bench.until_taken(2000);
    assert_eq!(bench.payloads(), names(0..2000));
    bench.check();
}

#[test]
fn a_full_queue_keeps_the_order() {
    let mut bench = Setup { queue: 256, ..Setup::default() }.start();
    let mut client = bench.connect();
    client.write_all(&numbered(0..3000)).unwrap();
    for _ in 0..50 {
        bench.now += 1000;
        bench.step_only();
    }
    bench.until_taken(3000);
    assert_eq!(bench.payloads(), names(0..3000));
    bench.check();
}

#[test]
fn unfinished_frames_without_room_stay_in_the_kernel() {
    let mut setup = Setup::default();
    setup.options.carry_bytes = 4096;
    let mut bench = setup.start();
    let whole = [numbered(0..2), frame("t", &[3; 3000])].concat();
    let mut clients: Vec<_> = (0..6).map(|_| bench.connect()).collect();
    for client in &mut clients {
        client.write_all(&whole[..whole.len() - 500]).unwrap();
    }
    bench.until_taken(12);
    bench.settle();
    assert!(bench.backend.reader.carries.used_bytes() <= 4096);
    for client in &mut clients {
        client.write_all(&whole[whole.len() - 500..]).unwrap();
    }
    bench.until_taken(18);
    drop(clients);
    bench.until_closed(6);
    bench.check();
}

#[test]
fn what_had_no_room_is_tried_again_and_its_end_is_seen() {
    let mut setup = Setup::default();
    setup.options.carry_bytes = 128; // below the smallest buffer: nothing can ever be carried
    let mut bench = setup.start();
    let stream = [numbered(0..50), frame("t", &[3; 3000]), frame("t", &[4; 20_000]), numbered(50..99)].concat();
    let mut client = bench.connect();
    for part in stream.chunks(111) {
        client.write_all(part).unwrap();
        bench.step();
    }
    bench.until_taken(101);
    client.write_all(&[0, 0, 0]).unwrap();
    drop(client);
    bench.until_closed(1);
    assert_eq!(bench.malformed(MalformedReason::StreamTruncated), 1);
    assert_eq!(bench.count(Counter::BYTES_RECEIVED), stream.len() as u64);
    bench.check();
}

#[test]
fn one_too_many_is_told_so() {
    let mut setup = Setup::default();
    setup.options.max_connections = 2;
    let mut bench = setup.start();
    let mut served = [bench.connect(), bench.connect()];
    bench.until("both", |bench| bench.count(Counter::TCP_CONNECTIONS_OPENED) == 2);
    let mut refused = bench.connect();
    refused.write_all(&numbered(0..5)).unwrap();
    let error = the_error(&mut bench, &mut refused);
    assert_eq!((error["code"].as_str(), error["fatal"].as_bool()), (Some("too_many_connections"), Some(true)));
    drop(refused);
    for client in &mut served {
        client.write_all(&numbered(0..1)).unwrap();
    }
    bench.until_taken(2);
    assert_eq!(bench.count(Counter::TCP_CONNECTIONS_REFUSED), 1);
    drop(served);
    bench.until_closed(2);
    bench.until("the refused one", |bench| bench.backend.connections.is_empty());
    let mut again = bench.connect();
    again.write_all(&numbered(7..8)).unwrap();
    bench.until_taken(3);
    bench.check();
}

#[test]
fn the_silent_are_closed_and_the_stalled_are_not() {
    let mut setup = Setup::default();
    setup.options.idle_timeout_ns = Some(10_000_000_000);
    setup.options.credits.limit = 1;
    let mut bench = setup.start();
    bench.releases = false;
    let (mut silent, mut stalled) = (bench.connect(), bench.connect());
    silent.write_all(&[0, 0]).unwrap();
    stalled.write_all(&numbered(0..2)).unwrap();
    bench.until_taken(1);
    bench.settle();
    bench.now += 10_000_000_000;
    let error = the_error(&mut bench, &mut silent);
    assert_eq!(error["code"], "idle");
    assert_eq!(bench.count(Counter::TCP_CONNECTIONS_IDLE), 1);
    drop(silent);
    bench.until_closed(1);
    bench.release();
    bench.until_taken(2);
    assert_eq!(bench.malformed(MalformedReason::StreamTruncated), 1);
    bench.check();
}

#[test]
fn a_client_that_never_reads_disturbs_nobody() {
    let mut bench = Setup::default().start();
    let (mut deaf, mut other) = (bench.connect(), bench.connect());
    let hellos = frame("$esc/hello", br#"{"version":1}"#).repeat(1000);
    deaf.set_nonblocking(true).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    let mut refusals = 0;
    while refusals < 200 {
        assert!(Instant::now() < end, "everything was taken");
        match deaf.write(&hellos) {
            Ok(_) => refusals = 0,
            Err(_) => refusals += 1,
        }
        bench.step();
    }
    let (answered, waits) = (bench.count(Counter::TCP_FRAMES_CONTROL), bench.backend.lists.is_empty(List::Ready));
    assert!(waits, "it is not served in vain");
    other.write_all(&numbered(0..5)).unwrap();
    bench.until_taken(5);
    // Once it reads, it is read.
    let mut part = vec![0; 1 << 20];
    bench.until("more answers", |bench| {
        let _ = deaf.read(&mut part);
        bench.count(Counter::TCP_FRAMES_CONTROL) > answered + 5000
    });
    drop((deaf, other));
    bench.until_closed(2);
    bench.check();
}

#[test]
fn a_goodbye_nobody_reads_ends_by_its_deadline() {
    let mut bench = Setup::default().start();
    let mut client = bench.connect();
    client.write_all(&[0; 64]).unwrap();
    bench.until("the refusal", |bench| bench.malformed(MalformedReason::LengthShort) == 1);
    bench.settle();
    assert_eq!(bench.count(Counter::TCP_CONNECTIONS_CLOSED), 0, "it may still read");
    bench.now += 2_000_000_000;
    bench.until_closed(1);
    bench.check();
}

/// Many streams with everything short at once: whatever is scarce, each arrives whole and in order.
#[test]
fn everything_short_at_once_loses_nothing() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for round in 0..6 {
        let mut setup = Setup { slots: 3, large_slots: 2, queue: 256, ..Setup::default() };
        setup.options.credits.limit = [3, 40, 1000][round % 3];
        setup.options.carry_bytes = [300, 6000, 100_000][(round + 1) % 3];
        setup.options.connection_budget_bytes = 1 + random(5000);
        // The test's clock runs faster than its bytes.
        setup.options.large_wait_ns = 1 << 60;
        setup.options.large_fill_ns = 1 << 60;
        let mut bench = setup.start();
        let mut streams: Vec<_> = (0..5)
            .map(|client| {
                let stream = bench.connect();
                stream.set_nonblocking(true).unwrap();
                let sizes: Vec<_> = (0..60).map(|_| [random(20), random(600), random(9000)][random(3)]).collect();
                let bytes: Vec<u8> = sizes.iter().flat_map(|size| frame("t", &vec![client; *size])).collect();
                (stream, sizes, bytes, 0)
            })
            .collect();
        while streams.iter().any(|(_, _, bytes, sent)| *sent < bytes.len()) {
            let (stream, _, bytes, sent) = &mut streams[random(5)];
            let end = (*sent + 1 + random(3000)).min(bytes.len());
            *sent += stream.write(&bytes[*sent..end]).unwrap_or(0);
            bench.step();
        }
        bench.until_taken(300);
        for (client, (_, sizes, ..)) in streams.iter().enumerate() {
            let mine = bench.taken.iter().filter(|taken| !taken.payload.is_empty() && taken.payload[0] == client as u8);
            let wanted: Vec<_> = sizes.iter().copied().filter(|size| *size > 0).collect();
            assert_eq!(mine.map(|taken| taken.payload.len()).collect::<Vec<_>>(), wanted, "round {round}");
        }
        drop(streams);
        bench.until_closed(5);
        assert_eq!(bench.count(Counter::TCP_FRAMES_FOUND), 300);
        bench.check();
    }
}
