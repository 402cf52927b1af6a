//! Bytes and frames: the same whatever pieces a stream comes in, and nothing else than the description says.

use std::borrow::Cow;

use super::fake::{Delivered, NOT_LOGGED, ack, delivered, frame, grant};
use crate::types::{Class, Priority, Status};
use crate::wire::*;

#[test]
fn the_bytes_are_those_of_the_description() {
    let id = *b"0123456789abcdef";
    let mut out = Vec::new();
    let header = Header { priority: Priority::High, id: Some(id), sent_time_ns: Some(5), flags: FLAG_ACK };
    encode(&mut out, &header, "a/b", b"xyz").unwrap();
    assert_eq!(out, frame(0x80 | 0x40 | 0x20 | 3, &[&id[..], &5_u64.to_be_bytes()].concat(), b"a/b", b"xyz"));
    out.clear();
    let plain = Header { priority: Priority::Batch, id: None, sent_time_ns: None, flags: 0 };
    encode(&mut out, &plain, "t", b"").unwrap();
    assert_eq!(out, b"\0\0\0\x04\0\0\x01t");
    out.clear();
    encode_done(&mut out, 7, &[1, 2]).unwrap();
    assert_eq!(out, frame(4, b"", b"$esc/done", b"\0\0\0\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02"));
    assert!(encode(&mut out, &plain, "t", &vec![0; FRAME_BYTES_MAX]).is_err());
}

#[test]
fn what_the_engine_would_refuse_is_refused_here() {
    for topic in ["", "a\0", "a/+/b", "#", "$esc/hello", &"x".repeat(65536)] {
        assert!(check_topic(topic).is_err(), "{topic}");
    }
    for topic in ["a+b", "a#", "$else", "ü", &"x".repeat(65535)] {
        assert!(check_topic(topic).is_ok(), "{topic}");
    }
}

#[test]
fn a_stream_gives_the_same_frames_in_any_pieces() {
    let unlogged = Delivered { offset: NOT_LOGGED, epoch: 0, topic: b"c" }.bytes();
    let stream = [delivered(3), grant(), unlogged].concat();
    let whole = Decoder::default().feed(&stream).unwrap();
    let [first, second, third] = &whole[..] else { panic!("{whole:?}") };
    let event = first.clone().into_event(first.place.unwrap());
    assert_eq!((event.topic.as_str(), &event.payload[..], event.id), ("a/b", &b"payload"[..], Some([b'i'; 16])));
    assert_eq!((event.sent_time_ns, event.priority, event.class), (Some(55), Priority::Medium, Class::Transactional));
    assert_eq!((event.sub, event.delivery_count, event.node, event.epoch), (1, 2, 0, 1));
    assert_eq!((event.offset, event.received_time_ns), (Some(3), 77));
    assert_eq!((second.topic.as_str(), second.place), ("$esc/ok", None));
    assert_eq!(third.clone().into_event(third.place.unwrap()).offset, None);
    for cut in 0..=stream.len() {
        let mut decoder = Decoder::default();
        let (head, tail) = stream.split_at(cut);
        assert_eq!([decoder.feed(head).unwrap(), decoder.feed(tail).unwrap()].concat(), whole, "{cut}");
    }
    let mut decoder = Decoder::default();
    let bytewise: Vec<_> = stream.iter().flat_map(|byte| decoder.feed(&[*byte]).unwrap()).collect();
    assert_eq!(bytewise, whole);
}

#[test]
fn what_is_no_frame_is_an_error() {
    let place = |class| [&[0, 0, 0, 1, class, 1, 0, 0][..], &[0; 20]].concat();
    for wrong in [
        b"HTTP/1.1 400".to_vec(),
        frame(0, b"", b"", b""),
        frame(0, b"", b"", b"x"),
        vec![0, 0, 0, 4, 0, 0, 2, b'a'],
        vec![0, 0, 0, 4, 0x80, 0, 1, b'a'],
        vec![0, 0, 0, 4, 0x40, 0, 1, b'a'],
        vec![0, 0, 0, 4, 0x10, 0, 1, b'a'],
        frame(0x08, b"", b"a", b""),
        frame(0, b"", b"\xff", b""),
        frame(0x10, &place(3), b"a", b""),
    ] {
        assert!(Decoder::default().feed(&wrong).is_err(), "{wrong:?}");
    }
    assert!(Decoder::default().feed(&frame(0x10, &place(2), b"a", b"")).is_ok());
}

#[test]
fn acknowledgements_are_read() {
    let bytes = ack(&[(0x84, 0, 9, [b'a'; 16]), (5, 3, 10, [b'b'; 16]), (4, 200, 11, [b'c'; 16])]);
    let frames = Decoder::default().feed(&bytes).unwrap();
    let acks = decode_acks(&frames[0].payload).unwrap();
    let [(9, first), (10, second), (11, third)] = &acks[..] else { panic!("{acks:?}") };
    assert!(first.is_duplicate && !first.is_ok());
    assert_eq!((first.id, first.status, &first.reason), ([b'a'; 16], Status::DeadLettered, &None));
    assert_eq!((second.status, &second.reason), (Status::Lost, &Some(Cow::Borrowed("forgotten"))));
    assert_eq!((second.is_duplicate, third.reason.as_deref()), (false, Some("reason 200")));
    for wrong in [&b""[..], &[1; 25], &[9; 26]] {
        assert!(decode_acks(wrong).is_err());
    }
}
