//! Whatever the bytes, the parser neither panics nor disagrees with the reference the property tests use.
//!
//! From the folder `tests/fuzz`: `cargo +nightly fuzz run parser corpus/parser seeds/parser -- -max_total_time=60`. The seeds are frames
//! at the limits and with each part there is, after the byte that chooses the cap. What is found is kept in `corpus`.
#![no_main]

use eventstream_verification::frame::{
    FrameView, LENGTH_BYTES, Limits, Malformed, ParsedFrame, Parser, Priority, StreamStep, Transport,
};
use libfuzzer_sys::fuzz_target;

#[path = "../../../engine/src/frame/tests/reference.rs"]
mod reference;

use reference::{Frame, Refusal, Rules, Step};

/// Small, so that the fuzzer reaches both sides of each.
const LIMITS: Limits = Limits { frame_bytes: 300, topic_bytes: 40 };

fn rules(transport: Transport, max_priority: Priority) -> Rules {
    let (frame_bytes, topic_bytes) = (LIMITS.frame_bytes.into(), LIMITS.topic_bytes.into());
    Rules { frame_bytes, topic_bytes, udp: transport == Transport::Udp, max_priority: max_priority as u8 }
}

fn named(malformed: Malformed) -> Refusal {
    (malformed.reason.name(), malformed.at_byte as u64)
}

/// What the engine reads out of a frame is what the reference found in it.
fn check(parser: &Parser, bytes: &[u8], found: &ParsedFrame, expected: &Frame) {
    assert_eq!((u64::from(found.offset), u64::from(found.length)), (expected.offset, expected.length));
    assert_eq!((found.shape.head(), found.topic_hash), (expected.head, parser.topic_hash(&expected.topic)));
    let body = &bytes[found.offset as usize..][..found.length as usize];
    let view = FrameView::new(body, found.shape);
    assert_eq!(view.topic_bytes(), expected.topic);
    assert!(body.ends_with(view.payload()));
}

fn datagram(bytes: &[u8], cap: Priority) {
    let parser = Parser::new(LIMITS, Transport::Udp, cap, 1);
    let mut frames = Vec::new();
    let found = parser.datagram(bytes, &mut frames).map_err(named);
    match (found, rules(Transport::Udp, cap).datagram(bytes)) {
        (Ok(()), Ok(expected)) => {
            assert_eq!(frames.len(), expected.len());
            assert!(frames.len() <= Parser::max_frames(bytes.len()));
            frames.iter().zip(&expected).for_each(|(found, expected)| check(&parser, bytes, found, expected));
        }
        (found, expected) => assert_eq!(found.err(), expected.err()),
    }
}

fn stream(bytes: &[u8], transport: Transport, cap: Priority) {
    let (parser, rules) = (Parser::new(LIMITS, transport, cap, 1), rules(transport, cap));
    let mut start = 0;
    loop {
        let rest = &bytes[start..];
        match (parser.stream(rest).map_err(named), rules.step(rest)) {
            (Ok(StreamStep::Frame(found)), Ok(Step::Frame(expected)))
            | (Ok(StreamStep::Control(found)), Ok(Step::Control(expected))) => {
                check(&parser, rest, &found, &expected);
                start += LENGTH_BYTES + found.length as usize;
            }
            (Ok(StreamStep::Incomplete(found)), Ok(Step::Incomplete(needed, whole, control))) => {
                assert_eq!((found.needed as u64, found.whole as u64, found.control), (needed, whole, control));
                return;
            }
            (Err(found), Err(expected)) => {
                assert_eq!(found, expected);
                return;
            }
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    let cap = Priority::ALL[usize::from(*choice) % Priority::ALL.len()];
    datagram(bytes, cap);
    stream(bytes, Transport::Tcp, cap);
    stream(bytes, Transport::Udp, cap);
});
