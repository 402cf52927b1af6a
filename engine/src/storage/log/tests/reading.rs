//! Readers: where they begin, what they let through, what they meet.

use super::*;

/// 70 records a segment; topics `a/0` to `a/9` in the first two, `b/0` to `b/9` in the third.
fn filled(place: &Place) -> EventLog {
    let (mut log, _) = place.open(&options(Fsync::Always));
    for number in 0..200u64 {
        let topic = format!("{}/{}", if number < 140 { "a" } else { "b" }, number % 10);
        append(&mut log, 1000 + number, &topic, &number.to_be_bytes()).unwrap();
        log.write(number).unwrap();
        log.sync(number).unwrap();
    }
    log
}

fn filter(text: &str) -> Option<TopicFilter> {
    Some(TopicFilter::parse(text).unwrap())
}

#[test]
fn readers_begin_where_they_are_told() {
    let place = Place::new("starts");
    let mut log = filled(&place);
    let view = log.view();
    for start in 0..=200 {
        let mut reader = view.reader(Start::At(Position { epoch: 1, offset: start }), None).unwrap();
        assert_eq!(drain(&mut reader), numbered(start..200), "{start}");
        let mut reader = view.reader(Start::Time(1000 + start), None).unwrap();
        assert_eq!(drain(&mut reader), numbered(start..200), "time {start}");
    }
    let mut latest = view.reader(Start::Latest, None).unwrap();
    assert_eq!(drain(&mut latest), []);
    put(&mut log, 200);
    assert_eq!(drain(&mut latest), numbered(200..201));
    assert_eq!(latest.offset(), 201);
}

#[test]
fn a_reader_goes_on_across_segments_while_they_are_written() {
    let place = Place::new("tailing");
    let (mut log, _) = place.open(&options(Fsync::Always));
    let mut reader = log.view().reader(Start::Earliest, None).unwrap();
    let mut seen = Vec::new();
    for number in 0..300 {
        put(&mut log, number);
        // What is not durable is not seen.
        append(&mut log, 0, "t", b"unseen").unwrap();
        if number % 7 == 0 {
            seen.extend(drain(&mut reader));
            assert_eq!(seen.len() as u64, log.durable_offset());
        }
        log.write(number).unwrap();
        if number % 7 == 3 {
            seen.extend(drain(&mut reader));
        }
        log.sync(number).unwrap();
    }
    seen.extend(drain(&mut reader));
    assert_eq!(seen.len(), 600);
    assert!(seen.iter().zip(0..).all(|(seen, offset)| matches!(seen, Seen::Record(at, _) if *at == offset)));
}

#[test]
fn a_filter_lets_its_topics_through_and_spares_the_other_segments() {
    let place = Place::new("filter");
    let log = filled(&place);
    let read = |text: &str| drain(&mut log.view().reader(Start::Earliest, filter(text)).unwrap());
    assert_eq!(read("a/3"), numbered((3..140).step_by(10)));
    assert_eq!(read("b/#"), numbered(140..200));
    assert_eq!(read("+/7"), numbered((7..200).step_by(10)));
    assert_eq!(read("c"), []);
    // What is not read cannot be missed: the segments without `b` may be gone.
    let without = log.view().segments()[0].header.name.segment_file();
    std::fs::write(place.directory().join(without), b"").unwrap();
    assert_eq!(read("b/#"), numbered(140..200));
    assert!(matches!(read("a/#")[0], Seen::Gap(0, _)));
}

#[test]
fn a_reader_names_what_damage_has_cost() {
    let place = Place::new("gap");
    let log = filled(&place);
    let segment = &log.view().segments()[1];
    let path = place.directory().join(segment.header.name.segment_file());
    let mut bytes = std::fs::read(&path).unwrap();
    // In the frame of the second record.
    bytes[128 + 56 + 45] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let base = segment.base_offset();
    let expected = [numbered(0..=base), vec![Seen::Gap(base + 1, base + 2)], numbered(base + 2..200)].concat();
    assert_eq!(all(&log.view()), expected);
    // From within the gap, only what is left of it.
    let start = Start::At(Position { epoch: 1, offset: base + 1 });
    assert_eq!(drain(&mut log.view().reader(start, None).unwrap()), expected[base as usize + 1..]);
    let after = Start::At(Position { epoch: 1, offset: base + 2 });
    assert_eq!(drain(&mut log.view().reader(after, None).unwrap()), expected[base as usize + 2..]);
}

#[test]
fn bytes_in_a_payload_that_look_like_a_record_are_not_taken_for_one() {
    let place = Place::new("forged");
    let (mut log, _) = place.open(&options(Fsync::Always));
    put(&mut log, 0);
    // A sender may guess offset and epoch, and align what it sends. The salt it cannot know.
    let mut forged = Vec::new();
    super::super::super::format::encode(&mut forged, &Record::event(0, Class::Batch, &frame("t", b"forged")), 2, 1, 0);
    let offset = append(&mut log, 0, "t", &forged).unwrap();
    put(&mut log, 2);
    let path = place.files(".segment").pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let place_in_file = bytes.windows(6).position(|window| window == b"forged").unwrap();
    assert_eq!((place_in_file - 8 - 32) % 8, 0, "aligned as a record is");
    // The record around it is damaged.
    let around = 128 + RECORD as usize + 8;
    bytes[around] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let seen = all(&log.view());
    assert_eq!(seen[1..], [vec![Seen::Gap(offset, 2)], numbered(2..3)].concat());
}

#[test]
fn a_damaged_header_hides_nothing() {
    let place = Place::new("header");
    let (mut log, _) = place.open(&options(Fsync::Always));
    put_all(&mut log, 0..10);
    drop(log);
    let path = place.files(".segment").pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[13] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (log, recovery) = place.open(&options(Fsync::Always));
    assert_eq!((recovery.findings.headers.len(), recovery.epoch, recovery.next_offset), (1, 2, 10));
    assert_eq!(all(&log.view()), numbered(0..10));
    drop(log);
    // A file of another format's version is not touched.
    bytes[13] ^= 1;
    bytes[11] = 9;
    let checksum = crc32c::crc32c(&bytes[..124]).to_be_bytes();
    bytes[124..128].copy_from_slice(&checksum);
    std::fs::write(&path, &bytes).unwrap();
    std::fs::remove_file(path.with_extension("index")).unwrap();
    let refused = EventLog::open(place.disk(), &place.directory(), options(Fsync::Always)).err().unwrap();
    assert!(refused.to_string().contains("does not know"), "{refused}");
}
