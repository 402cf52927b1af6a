//! What streams may look like: any split, any size, and any nonsense.

use super::*;

fn three_frames() -> Vec<u8> {
    [frame("a", b"first"), frame("b/c", b""), frame("d", &[7; 300])].concat()
}

fn expected() -> Vec<Vec<u8>> {
    vec![b"first".to_vec(), Vec::new(), vec![7; 300]]
}

#[test]
fn one_byte_at_a_time() {
    let mut bench = Setup::default().start();
    let mut client = bench.connect();
    for byte in three_frames() {
        client.write_all(&[byte]).unwrap();
        bench.step();
    }
    bench.until_taken(3);
    assert_eq!(bench.taken.iter().map(|taken| taken.payload.clone()).collect::<Vec<_>>(), expected());
    assert!(bench.taken.iter().all(|taken| taken.connection == bench.taken[0].connection));
    assert_ne!(bench.taken[0].connection, 0);
    bench.check();
    assert_eq!(bench.backend.reader.carries.used_bytes(), 0, "an idle connection holds no carry");
}

#[test]
fn split_at_every_byte() {
    let mut bench = Setup::default().start();
    let mut client = bench.connect();
    let stream = three_frames();
    for at in 0..=stream.len() {
        bench.taken.clear();
        client.write_all(&stream[..at]).unwrap();
        let before = bench.count(Counter::BYTES_RECEIVED);
        bench.until("the first part", |bench| bench.count(Counter::BYTES_RECEIVED) == before + at as u64);
        client.write_all(&stream[at..]).unwrap();
        bench.until_taken(3);
        assert_eq!(bench.taken.iter().map(|taken| taken.payload.clone()).collect::<Vec<_>>(), expected());
    }
    let accepted = bench.count(Counter::TCP_FRAMES_ACCEPTED);
    assert_eq!((accepted, bench.count(Counter::TCP_FRAMES_FOUND)), (3 * (stream.len() as u64 + 1), accepted));
}

#[test]
fn truncated_at_every_byte() {
    let mut bench = Setup::default().start();
    let stream = frame("topic", b"payload");
    for at in 1..stream.len() {
        let mut client = bench.connect();
        client.write_all(&stream[..at]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let error = the_error(&mut bench, &mut client);
        assert_eq!((error["code"].as_str(), error["at_byte"].as_u64()), (Some("malformed"), Some(at as u64)));
        drop(client);
        bench.until_closed(at as u64);
        assert_eq!(bench.malformed(MalformedReason::StreamTruncated), at as u64);
    }
    bench.check();
}

#[test]
fn garbage_ends_one_connection_and_no_other() {
    let mut bench = Setup::default().start();
    let (mut good, mut bad) = (bench.connect(), bench.connect());
    good.write_all(&numbered(0..10)).unwrap();
    let whole = numbered(10..15);
    let mut garbage = frame("t", b"x");
    garbage[4] |= 0x08; // a reserved flag
    bad.write_all(&[whole.clone(), garbage, vec![0xff; 100_000]].concat()).unwrap();
    let error = the_error(&mut bench, &mut bad);
    assert_eq!(error["code"], "malformed");
    assert_eq!(error["at_byte"], whole.len() as u64 + 4);
    assert_eq!((error["fatal"].as_bool(), error["sub"].is_null()), (Some(true), true));
    assert!(error["message"].as_str().unwrap().contains("reserved_flag"), "{error}");
    drop(bad);
    bench.until_closed(1);
    good.write_all(&numbered(15..20)).unwrap();
    bench.until_taken(20);
    let mut found = bench.payloads();
    found.sort();
    assert_eq!(found, names(0..20));
    assert_eq!(bench.malformed(MalformedReason::ReservedFlag), 1);
    bench.check();
}

#[test]
fn pipelined_batches_fill_slot_after_slot() {
    let mut bench = Setup::default().start();
    let mut client = bench.connect();
    client.write_all(&numbered(0..2000)).unwrap();
    client.write_all(&numbered(2000..4000)).unwrap();
    bench.until_taken(4000);
    assert_eq!(bench.payloads(), names(0..4000));
    bench.check();
    assert!(bench.count(Counter::REASSEMBLY_COPIED_BYTES) < 4000 * 20 / 4, "{:?}", bench.counts());
}

#[test]
fn frames_around_the_size_of_a_slot() {
    let mut bench = Setup::default().start();
    let mut client = bench.connect();
    // Length field, head, topic length and a topic of one byte come on top.
    let sizes: Vec<_> = (SLOT_BYTES - 12..SLOT_BYTES + 4).chain([10_000, 150_000, 1]).collect();
    for size in &sizes {
        let mut stream = frame("t", &vec![*size as u8; *size]);
        stream.extend(numbered(*size..size + 2));
        bench.taken.clear();
        for part in stream.chunks(1500) {
            client.write_all(part).unwrap();
            bench.step();
        }
        bench.until_taken(3);
        assert_eq!(bench.taken[0].payload, vec![*size as u8; *size]);
        assert_eq!(bench.payloads()[1..], names(*size..size + 2));
    }
    bench.until("slots", |bench| bench.backend.large_pool().free() == 2);
    let accepted = bench.count(Counter::TCP_FRAMES_ACCEPTED);
    assert_eq!((accepted, bench.count(Counter::TCP_FRAMES_FOUND)), (3 * sizes.len() as u64, accepted));
}

#[test]
fn an_announced_gigabyte_is_refused_at_once() {
    let mut bench = Setup::default().start();
    let mut client = bench.connect();
    client.write_all(&(1u32 << 30).to_be_bytes()).unwrap();
    let error = the_error(&mut bench, &mut client);
    assert_eq!(error["at_byte"], 0);
    assert_eq!(bench.malformed(MalformedReason::LengthLimit), 1);
    drop(client);
    bench.until_closed(1);
    bench.check();
}

#[test]
fn requests_are_answered_between_events() {
    let mut bench = Setup::default().start();
    let mut client = bench.connect();
    let mut stream = frame("$esc/hello", br#"{"version": 1, "client": "test"}"#);
    stream.extend(numbered(0..1));
    stream.extend(frame("$esc/subscribe", b"{}"));
    stream.extend(numbered(1..2));
    client.write_all(&stream).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let answers = answers(&mut bench, &mut client);
    assert_eq!(answers[0].0, "$esc/ok");
    let hello = serde_json::json!({
        "version": 1, "max_frame": MAX_FRAME, "dedup_window_ms": 60_000, "features": ["ack", "subscribe"], "run_id": "run-7"
    });
    assert_eq!(answers[0].1, hello);
    assert_eq!((answers[1].0.as_str(), answers[1].1["code"].as_str()), ("$esc/error", Some("unsupported")));
    assert_eq!(answers[1].1["fatal"], false);
    assert_eq!(answers.len(), 2);
    bench.until_taken(2);
    assert_eq!((bench.payloads(), bench.count(Counter::TCP_FRAMES_CONTROL)), (names(0..2), 2));
    bench.check();
}

#[test]
fn bad_requests_end_the_stream() {
    for (topic, payload, code, reason) in [
        ("$esc/hello", &br#"{"version":1,"extra":0}"#[..], "bad_request", MalformedReason::ControlPayload),
        ("$esc/hello", b"not json", "bad_request", MalformedReason::ControlPayload),
        ("$esc/nothing", b"", "malformed", MalformedReason::ReservedTopic),
    ] {
        let mut bench = Setup::default().start();
        let mut client = bench.connect();
        client.write_all(&[frame(topic, payload), numbered(0..3)].concat()).unwrap();
        let error = the_error(&mut bench, &mut client);
        assert_eq!((error["code"].as_str(), error["fatal"].as_bool()), (Some(code), Some(true)));
        assert_eq!((bench.malformed(reason), bench.taken.len()), (1, 0));
        bench.check();
    }
}

#[test]
fn a_large_request_costs_no_large_slot_for_long() {
    let mut bench = Setup::default().start();
    let mut client = bench.connect();
    client.write_all(&frame("$esc/auth", &[b' '; 10_000])).unwrap();
    client.write_all(&numbered(0..1)).unwrap();
    bench.until_taken(1);
    assert_eq!(bench.count(Counter::TCP_FRAMES_CONTROL), 1);
    bench.check();
}

#[test]
fn a_reset_inside_a_frame_is_counted() {
    let mut bench = Setup::default().start();
    let mut client = bench.connect();
    let stream = [numbered(0..3), frame("t", b"cut off")].concat();
    client.write_all(&stream[..stream.len() - 2]).unwrap();
    bench.until_taken(3);
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    bench.until_closed(1);
    assert_eq!(bench.malformed(MalformedReason::StreamTruncated), 1);
    bench.check();
}
