//! The parser against the wire format's words, against every cut, and against a slower parser on bytes nobody chose.

mod reference;

use proptest::prelude::*;

use super::*;
use crate::metrics::MalformedReason::{self, *};
use reference::{Rules, Step};

const LIMITS: Limits = Limits { frame_bytes: 512, topic_bytes: 64 };
const SEED: u64 = 7;
/// What the length field, flags and topic length take up.
const FIXED: usize = LENGTH_BYTES + HEADER_BYTES;

fn parser(transport: Transport) -> Parser {
    Parser::new(LIMITS, transport, Priority::Critical, SEED)
}

fn rules(transport: Transport) -> Rules {
    let (frame_bytes, topic_bytes) = (u64::from(LIMITS.frame_bytes), u64::from(LIMITS.topic_bytes));
    Rules { frame_bytes, topic_bytes, udp: transport == Transport::Udp, max_priority: 4 }
}

fn frame(topic: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes, &FrameHeader::new(Priority::High), topic, payload);
    bytes
}

/// A frame whose header says what its maker wants it to.
fn raw(length: u32, head: u8, topic_length: u16, rest: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], &[head], &topic_length.to_be_bytes(), rest].concat()
}

fn datagram(bytes: &[u8]) -> Result<Vec<ParsedFrame>, Malformed> {
    let mut frames = Vec::new();
    parser(Transport::Udp).datagram(bytes, &mut frames).map(|()| frames)
}

/// All whole frames of a stream and what comes behind them.
fn stream(parser: &Parser, bytes: &[u8]) -> (Vec<ParsedFrame>, Result<usize, Malformed>) {
    let (mut frames, mut start) = (Vec::new(), 0);
    loop {
        match parser.stream(&bytes[start..]) {
            Ok(StreamStep::Frame(frame) | StreamStep::Control(frame)) => {
                let next = start + LENGTH_BYTES + frame.length as usize;
                frames.push(ParsedFrame { offset: frame.offset + start as u32, ..frame });
                start = next;
            }
            Ok(StreamStep::Incomplete(Incomplete { needed, .. })) => return (frames, Ok(start + needed)),
            Err(Malformed { reason, at_byte }) => {
                return (frames, Err(Malformed { reason, at_byte: start + at_byte }));
            }
        }
    }
}

/// What is malformed in a frame of its own, wherever it stands: bytes, reason, where in them.
fn malformed_frames() -> Vec<(Vec<u8>, MalformedReason, usize)> {
    let topic = |topic: &[u8]| frame(topic, b"payload");
    vec![
        (raw(0, 0, 1, b"t"), LengthShort, 0),
        (raw(2, 0, 1, b"t"), LengthShort, 0),
        (raw(513, 0, 1, &[b't'; 510]), LengthLimit, 0),
        (raw(1 << 30, 0, 1, b"t"), LengthLimit, 0),
        (raw(u32::MAX, 0, 1, b"t"), LengthLimit, 0),
        (raw(4, 0x10, 1, b"t"), ReservedFlag, 4),
        (raw(4, 0x08, 1, b"t"), ReservedFlag, 4),
        (raw(4, 0xff, 1, b"t"), ReservedFlag, 4),
        (raw(3, 0, 0, b""), TopicEmpty, 5),
        (raw(4, 0, 0, b"t"), TopicEmpty, 5),
        (frame(&[b't'; 65], b""), TopicLimit, 5),
        (raw(4, 0, u16::MAX, b"t"), TopicLimit, 5),
        (raw(4, 0, 2, b"t"), TopicBeyond, 5),
        (raw(3, 0, 1, b""), TopicBeyond, 5),
        (raw(3 + 16, FLAG_ID, 1, &[b't'; 16]), TopicBeyond, 5),
        (raw(3 + 15, FLAG_ID, 1, &[b't'; 15]), MissingField, 7),
        (raw(3 + 7, FLAG_TIME, 1, &[b't'; 7]), MissingField, 7),
        (raw(3 + 23, FLAG_ID | FLAG_TIME, 1, &[b't'; 23]), MissingField, 7),
        (raw(3, FLAG_ID, 1, b""), MissingField, 7),
        (topic(b"sensor/\xff"), TopicUtf8, FIXED + 7),
        (topic(b"\xc3"), TopicUtf8, FIXED),         // the first half of a character
        (topic(b"\xed\xa0\x80"), TopicUtf8, FIXED), // a surrogate
        (topic(b"sensor\0"), TopicNul, FIXED + 6),
        (topic("grüße/\0".as_bytes()), TopicNul, FIXED + 8),
        (topic(b"+"), TopicWildcard, FIXED),
        (topic(b"#"), TopicWildcard, FIXED),
        (topic(b"a/+/b"), TopicWildcard, FIXED + 2),
        (topic(b"a/b/#"), TopicWildcard, FIXED + 4),
        (topic(b"/+"), TopicWildcard, FIXED + 1),
    ]
}

#[test]
fn each_reason_is_told_with_its_place() {
    let good = frame(b"good", b"");
    for (bytes, reason, at_byte) in malformed_frames() {
        let expected = Malformed { reason, at_byte };
        assert_eq!(datagram(&bytes), Err(expected), "{bytes:x?}");
        for transport in [Transport::Udp, Transport::Tcp] {
            assert_eq!(parser(transport).stream(&bytes), Err(expected), "{bytes:x?}");
        }
        // Behind another frame: the whole datagram is refused, the stream only from there on.
        let behind = [&good[..], &bytes].concat();
        let expected = Malformed { reason, at_byte: good.len() + at_byte };
        assert_eq!(datagram(&behind), Err(expected), "{bytes:x?}");
        let (frames, end) = stream(&parser(Transport::Tcp), &behind);
        assert_eq!((frames.len(), end), (1, Err(expected)), "{bytes:x?}");
    }
}

#[test]
fn a_field_before_the_topic_moves_its_place() {
    let header = FrameHeader { id: Some([9; 16]), sent_time_ns: Some(1), ..FrameHeader::new(Priority::Low) };
    let mut bytes = Vec::new();
    encode(&mut bytes, &header, b"a/#", b"");
    assert_eq!(datagram(&bytes), Err(Malformed { reason: TopicWildcard, at_byte: FIXED + 24 + 2 }));
}

#[test]
fn what_only_a_datagram_can_be() {
    let good = frame(b"good", b"");
    let refused = |bytes: &[u8]| datagram(bytes).map_err(|malformed| (malformed.reason, malformed.at_byte));
    assert_eq!(refused(&[]), Err((EmptyDatagram, 0)));
    for trailing in 1..LENGTH_BYTES {
        let bytes = [&good[..], &vec![0; trailing]].concat();
        assert_eq!(refused(&bytes), Err((TrailingBytes, good.len())));
        assert_eq!(refused(&bytes[good.len()..]), Err((TrailingBytes, 0)));
    }
    assert_eq!(refused(&raw(5, 0, 1, b"t")), Err((LengthBeyond, 0)));
    assert_eq!(refused(&[&good[..], &512_u32.to_be_bytes()].concat()), Err((LengthBeyond, good.len())));
}

#[test]
fn the_protocols_own_topics_come_over_tcp_only() {
    for topic in [&b"$esc/hello"[..], b"$esc/", b"$esc/no such thing"] {
        let bytes = frame(topic, b"{}");
        assert_eq!(datagram(&bytes), Err(Malformed { reason: ReservedTopic, at_byte: FIXED }));
        let step = parser(Transport::Tcp).stream(&bytes).unwrap();
        assert!(matches!(step, StreamStep::Control(frame) if usize::from(frame.shape.topic_length()) == topic.len()));
    }
    for topic in [&b"$esc"[..], b"$ESC/hello", b"a/$esc/hello", b"$sys/x"] {
        assert_eq!(datagram(&frame(topic, b"")).unwrap().len(), 1);
        assert!(matches!(parser(Transport::Tcp).stream(&frame(topic, b"")), Ok(StreamStep::Frame(_))));
    }
}

#[test]
fn what_a_limit_or_a_level_allows_is_accepted() {
    let longest = frame(&[b't'; 64], &[0; 512 - 3 - 64]);
    assert_eq!(longest.len(), LENGTH_BYTES + 512);
    assert_eq!(datagram(&longest).unwrap().len(), 1);
    for topic in ["a+b", "c#", "++", "+a/b", "a//b", "/", "a/", "grüße/東京", "\u{10ffff}", "\x01", "\x7f"] {
        let bytes = frame(topic.as_bytes(), b"");
        let found = datagram(&bytes).unwrap_or_else(|malformed| panic!("{topic}: {malformed:?}"));
        let body = &bytes[found[0].offset as usize..];
        assert_eq!(FrameView::new(body, found[0].shape).topic(), topic);
    }
}

/// Two frames with everything a frame can have.
fn full_frames() -> (Vec<u8>, usize) {
    let header = FrameHeader {
        id: Some(*b"producersequence"),
        sent_time_ns: Some(u64::MAX),
        flags: FLAG_ACK,
        ..FrameHeader::new(Priority::Medium)
    };
    let mut bytes = Vec::new();
    encode(&mut bytes, &header, "grüße/x".as_bytes(), b"payload");
    let first = bytes.len();
    encode(&mut bytes, &header, b"t", b"");
    (bytes, first)
}

#[test]
fn a_datagram_cut_anywhere_is_whole_or_refused() {
    let (bytes, first) = full_frames();
    for cut in 0..=bytes.len() {
        let start = if cut > first { first } else { 0 };
        let expected = match cut {
            0 => Err(Malformed { reason: EmptyDatagram, at_byte: 0 }),
            _ if cut == first => Ok(1),
            _ if cut == bytes.len() => Ok(2),
            _ if cut - start < LENGTH_BYTES => Err(Malformed { reason: TrailingBytes, at_byte: start }),
            _ => Err(Malformed { reason: LengthBeyond, at_byte: start }),
        };
        assert_eq!(datagram(&bytes[..cut]).map(|frames| frames.len()), expected, "cut at {cut}");
    }
}

#[test]
fn a_stream_cut_anywhere_says_how_much_more_it_needs() {
    let (bytes, first) = full_frames();
    for cut in 0..=bytes.len() {
        let (frames, end) = stream(&parser(Transport::Tcp), &bytes[..cut]);
        let whole = usize::from(cut >= first) + usize::from(cut == bytes.len());
        let start = [0, first, bytes.len()][whole];
        // Length field, flags, topic length, topic behind id and time, and the rest: what is judged one after another.
        let topic_bytes = ["grüße/x".len(), 1, 1][whole];
        let ends = [4, 5, 7, 7 + 24 + topic_bytes, [first, bytes.len(), usize::MAX][whole] - start];
        let needed = start + ends.into_iter().find(|end| *end > cut - start).unwrap();
        assert_eq!((frames.len(), end), (whole, Ok(needed)), "cut at {cut}");
    }
}

#[test]
fn a_streams_length_is_judged_before_its_frame_is_there() {
    let announced = |length: u32| parser(Transport::Tcp).stream(&length.to_be_bytes());
    assert_eq!(announced(512), Ok(StreamStep::Incomplete(Incomplete { needed: 5, whole: 516, control: false })));
    assert_eq!(announced(513), Err(Malformed { reason: LengthLimit, at_byte: 0 }));
    assert_eq!(announced(1 << 30), Err(Malformed { reason: LengthLimit, at_byte: 0 }));
    assert_eq!(announced(2), Err(Malformed { reason: LengthShort, at_byte: 0 }));
}

/// How many bytes of a malformed frame prove the fault: up to the end of the field it is in, and of those that say where
/// the field ends.
fn proof(bytes: &[u8], reason: MalformedReason) -> usize {
    match reason {
        LengthShort | LengthLimit => LENGTH_BYTES,
        ReservedFlag => LENGTH_BYTES + 1,
        TopicEmpty | TopicLimit | MissingField | TopicBeyond => FIXED,
        _ => {
            let optional =
                [(FLAG_ID, 16), (FLAG_TIME, 8)].map(|(flag, bytes_of)| if bytes[4] & flag == 0 { 0 } else { bytes_of });
            FIXED + optional.iter().sum::<usize>() + usize::from(u16::from_be_bytes([bytes[5], bytes[6]]))
        }
    }
}

#[test]
fn nobody_waits_for_the_rest_of_a_frame_to_refuse_its_beginning() {
    for (bytes, reason, at_byte) in malformed_frames() {
        for cut in 0..bytes.len() {
            let step = parser(Transport::Tcp).stream(&bytes[..cut]);
            if cut < proof(&bytes, reason) {
                assert!(matches!(step, Ok(StreamStep::Incomplete(_))), "{bytes:x?} cut at {cut}: {step:?}");
            } else {
                assert_eq!(step, Err(Malformed { reason, at_byte }), "{bytes:x?} cut at {cut}");
            }
        }
    }
    // Nor for a payload that may never come.
    for (transport, topic, reason) in
        [(Transport::Tcp, &b"a/+"[..], TopicWildcard), (Transport::Udp, b"$esc/x", ReservedTopic)]
    {
        let bytes = raw(512, 0, topic.len() as u16, topic);
        let refused = parser(transport).stream(&bytes).map_err(|malformed| malformed.reason);
        assert_eq!(refused, Err(reason));
    }
}

#[test]
fn a_frame_with_several_faults_is_refused_for_the_one_that_shows_first() {
    for (bytes, reason) in [
        (raw(3, FLAG_ID | 0x10, 0, b""), ReservedFlag),
        (raw(3, FLAG_ID, 0, b""), TopicEmpty),
        (raw(3, FLAG_ID, 65, b""), TopicLimit),
        (raw(3 + 8, FLAG_ID, 64, &[0; 8]), MissingField),
        (raw(3 + 8, FLAG_TIME, u16::MAX, &[0; 8]), TopicLimit),
        (raw(4, 0, 2, b"\xff"), TopicBeyond),
    ] {
        assert_eq!(datagram(&bytes).map_err(|malformed| malformed.reason), Err(reason));
        assert_eq!(parser(Transport::Tcp).stream(&bytes).map_err(|malformed| malformed.reason), Err(reason));
    }
}

#[test]
fn the_beginning_of_a_request_is_known_as_one() {
    let bytes = frame(b"$esc/hello", b"{}");
    for cut in 0..bytes.len() {
        let step = parser(Transport::Tcp).stream(&bytes[..cut]);
        let Ok(StreamStep::Incomplete(found)) = step else { panic!("{step:?}") };
        assert_eq!(found.control, cut >= FIXED + b"$esc/hello".len(), "cut at {cut}");
    }
}

#[test]
fn a_listener_caps_the_priority_and_leaves_the_flags() {
    for cap in Priority::ALL {
        let parser = Parser::new(LIMITS, Transport::Udp, cap, SEED);
        let mut frames = Vec::new();
        for wire in 0..8_u8 {
            for flags in [0, FLAG_ACK] {
                parser.datagram(&raw(4, wire | flags, 1, b"t"), &mut frames).unwrap();
                let expected = wire.min(4).min(cap as u8);
                assert_eq!(frames[0].shape.head(), flags | expected, "priority {wire} capped at {cap}");
            }
        }
    }
}

#[test]
fn the_smallest_frames_fill_no_more_than_was_reserved() {
    let bytes = raw(4, 0, 1, b"t").repeat(8);
    let mut frames = Vec::with_capacity(Parser::max_frames(bytes.len()));
    let reserved = frames.capacity();
    parser(Transport::Udp).datagram(&bytes, &mut frames).unwrap();
    assert_eq!((frames.len(), frames.capacity()), (8, reserved));
}

/// Mostly what the checks are about, at every place of a word.
fn topics() -> impl Strategy<Value = Vec<u8>> {
    let interesting = prop_oneof![
        4 => Just(b"a".to_vec()),
        2 => Just(b"/".to_vec()),
        1 => prop_oneof![Just(b"+"), Just(b"#"), Just(b"\0"), Just(b"\x80"), Just(b"\xff")].prop_map(|b| b.to_vec()),
        1 => prop_oneof![Just("ü"), Just("東"), Just("🦀")].prop_map(|text| text.as_bytes().to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
        1 => Just(b"$esc/".to_vec()),
    ];
    prop::collection::vec(interesting, 1..20).prop_map(|parts| parts.concat())
}

/// Bytes that get past the first checks more often than bytes by chance do.
fn nearly_frames() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![4 => Just(0_u8), 1 => Just(FLAG_ID), 1 => Just(FLAG_TIME), 1 => any::<u8>()];
    let nearly = (topics(), prop::collection::vec(any::<u8>(), 0..40), flags, -2..3_i64, any::<prop::sample::Index>())
        .prop_map(|(topic, payload, flags, off_by, place)| {
            let mut bytes = raw(0, flags, topic.len() as u16, &[&topic[..], &payload].concat());
            let length = (bytes.len() - LENGTH_BYTES) as i64 + if place.index(4) == 0 { off_by } else { 0 };
            bytes[..LENGTH_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
            if place.index(3) == 0 {
                let at = place.index(bytes.len());
                bytes[at] = bytes[at].wrapping_add(off_by as u8);
            }
            bytes
        });
    let part = prop_oneof![6 => nearly, 1 => prop::collection::vec(any::<u8>(), 0..12)];
    prop::collection::vec(part, 0..5).prop_map(|parts| parts.concat())
}

/// Holds a parsed frame against the reference's.
fn same(parser: &Parser, found: &ParsedFrame, expected: &reference::Frame) -> bool {
    u64::from(found.offset) == expected.offset
        && u64::from(found.length) == expected.length
        && usize::from(found.shape.topic_length()) == expected.topic.len()
        && found.topic_hash == parser.topic_hash(&expected.topic)
        && found.shape.head() == expected.head
}

fn named(malformed: Malformed) -> reference::Refusal {
    (malformed.reason.name(), malformed.at_byte as u64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_encoded_is_read_back(
        topic in "[a-zé東$]{1,12}(/[a-z+#]{2,5}){0,3}",
        payload in prop::collection::vec(any::<u8>(), 0..200),
        id: Option<[u8; 16]>,
        sent_time_ns: Option<u64>,
        priority in prop::sample::select(&Priority::ALL[..]),
        ack: bool,
    ) {
        let header = FrameHeader { priority, id, sent_time_ns, flags: if ack { FLAG_ACK } else { 0 } };
        let mut bytes = Vec::new();
        encode(&mut bytes, &header, topic.as_bytes(), &payload);
        let found = datagram(&bytes).unwrap()[0];
        prop_assert_eq!((found.offset as usize, found.length as usize), (LENGTH_BYTES, bytes.len() - LENGTH_BYTES));
        prop_assert_eq!(found.shape.has(FLAG_ACK), ack);
        let view = FrameView::new(&bytes[LENGTH_BYTES..], found.shape);
        prop_assert_eq!((view.topic(), view.payload(), view.priority()), (&topic[..], &payload[..], priority));
        prop_assert_eq!((view.id(), view.sent_time_ns()), (id, sent_time_ns));
    }

    #[test]
    fn a_datagram_is_judged_as_the_reference_does(bytes in nearly_frames()) {
        let expected = rules(Transport::Udp).datagram(&bytes);
        match (datagram(&bytes).map_err(named), expected) {
            (Ok(found), Ok(expected)) => {
                let parser = parser(Transport::Udp);
                prop_assert_eq!(found.len(), expected.len());
                prop_assert!(found.len() <= Parser::max_frames(bytes.len()));
                prop_assert!(found.iter().zip(&expected).all(|(found, expected)| same(&parser, found, expected)));
            }
            (found, expected) => prop_assert_eq!(found.err(), expected.err()),
        }
    }

    #[test]
    fn a_stream_is_judged_as_the_reference_does(bytes in nearly_frames()) {
        let parser = parser(Transport::Tcp);
        let expected = rules(Transport::Tcp).step(&bytes);
        match (parser.stream(&bytes).map_err(named), expected) {
            (Ok(StreamStep::Frame(found)), Ok(Step::Frame(expected)))
            | (Ok(StreamStep::Control(found)), Ok(Step::Control(expected))) => {
                prop_assert!(same(&parser, &found, &expected));
            }
            (Ok(StreamStep::Incomplete(found)), Ok(Step::Incomplete(needed, whole, control))) => {
                prop_assert_eq!((found.needed as u64, found.whole as u64, found.control), (needed, whole, control));
                prop_assert!(bytes.len() < found.needed && found.needed <= found.whole);
            }
            (found, expected) => prop_assert_eq!(found.err(), Some(expected.unwrap_err())),
        }
    }

    #[test]
    fn a_frame_is_refused_by_the_first_bytes_that_prove_it_malformed(bytes in nearly_frames()) {
        let cut = |end: usize| parser(Transport::Tcp).stream(&bytes[..end]);
        let refused = (0..=bytes.len()).find_map(|end| cut(end).err().map(|malformed| (end, malformed)));
        let Some((end, malformed)) = refused else { return Ok(()) };
        prop_assert_eq!(end, proof(&bytes, malformed.reason), "{:?}", malformed);
        // What follows changes nothing, and whoever waits for what is asked for gets there.
        for further in end..=bytes.len() {
            prop_assert_eq!(cut(further), Err(malformed));
        }
        let mut asked = 0;
        while let Ok(step) = cut(asked) {
            let StreamStep::Incomplete(Incomplete { needed, .. }) = step else { panic!("{step:?}") };
            prop_assert!(asked < needed && needed <= end, "{} of {}", needed, end);
            asked = needed;
        }
        prop_assert_eq!(asked, end);
    }

    #[test]
    fn bytes_by_chance_are_no_trouble(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = datagram(&bytes);
        for transport in [Transport::Udp, Transport::Tcp] {
            let _ = stream(&parser(transport), &bytes);
        }
        let head = bytes.first().copied().unwrap_or(0);
        let view = FrameView::new(&bytes, Shape::new(head, bytes.len() as u16));
        let _ = (view.topic(), view.payload(), view.id(), view.sent_time_ns(), view.priority());
    }

    #[test]
    fn how_a_stream_was_split_shows_in_nothing(bytes in nearly_frames(), cuts: [prop::sample::Index; 4]) {
        let parser = parser(Transport::Tcp);
        let whole = stream(&parser, &bytes);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let (mut frames, mut start, mut refused) = (Vec::new(), 0, None);
        for end in ends {
            if refused.is_some() {
                break;
            }
            let (found, rest) = stream(&parser, &bytes[start..end]);
            let base = start;
            for frame in found {
                start = base + (frame.offset + frame.length) as usize;
                frames.push(ParsedFrame { offset: frame.offset + base as u32, ..frame });
            }
            refused = rest.err().map(|m| Malformed { at_byte: base + m.at_byte, ..m });
        }
        prop_assert_eq!(frames, whole.0);
        prop_assert_eq!(refused, whole.1.err());
    }

    #[test]
    fn the_fast_look_at_a_topic_misses_nothing(topic in topics()) {
        let bytes = frame(&topic, b"");
        let at = |(reason, at): (&'static str, u64)| (reason, FIXED as u64 + at);
        let limit = |topic: &[u8]| topic.len() > usize::from(LIMITS.topic_bytes);
        let expected = if limit(&topic) { Some(("topic_limit", 5)) } else { reference::fault(&topic).map(at) };
        let found = parser(Transport::Tcp).stream(&bytes);
        prop_assert_eq!(found.map_err(named).err(), expected, "{:?}", topic);
    }
}
