//! What lies in the bytes of a stream: frames to publish, requests to answer, or the fault that ends it.
//!
//! - **Thread**: the ingest agent's. **In**: bytes of one connection, from the start of a frame. **Out**: the places of
//!   frames, answers in the connection's buffer, and how far the bytes were used up.
//! - **Overload**: stops before the first frame that has no credit, whose class is full, or that asks for one acknowledgement
//!   too many, and before the first request whose answer has no room; what lies behind is looked at again later.
//! - **Invariant**: each frame passed is counted as found, and as one of accepted (by who publishes it), control or
//!   malformed.

use super::ClassOf;
use super::connection::Connection;
use super::control::{Fault, Request, request, request_begun};
use crate::frame::{Class, FLAG_ACK, FrameView, Incomplete, LENGTH_BYTES, ParsedFrame, Parser, Shape, StreamStep};
use crate::memory::off_data_path;
use crate::metrics::{Counter, Counters, MalformedReason};
use crate::queue::ClassSet;
use crate::subscribe::request;
use crate::subscribe::{Message, SubscriptionLink, Turn};

#[derive(Debug)]
pub(super) enum Stop {
    /// The frame behind is not whole: with `needed` bytes of it more can be told, and it has announced `whole`.
    Incomplete { needed: usize, whole: usize },
    /// No more frames may be published now.
    NoCredit,
    /// The next frame's class has its share of slots or credits.
    ClassFull(Class),
    /// The next frame asks for an acknowledgement, and too many are under way.
    NoAckRoom,
    /// The client has to read its answers first.
    OutFull,
    /// The stream ends here.
    Fatal(Fault),
}

#[derive(Debug)]
pub(super) struct Scan {
    /// Bytes used up.
    pub(super) consumed: usize,
    /// Frames among those found that ask for an acknowledgement.
    pub(super) asking: u64,
    pub(super) stop: Stop,
}

/// What a scan needs of the agent.
pub(super) struct Context<'a> {
    pub(super) parser: &'a Parser,
    pub(super) counters: &'a mut Counters,
    /// Replaced by the frames found; at most as many as it has room for, so it never grows.
    pub(super) frames: &'a mut Vec<ParsedFrame>,
    pub(super) credit: u64,
    /// How many of them may ask for an acknowledgement.
    pub(super) ack_room: u64,
    /// Classes of which no frame may be taken in.
    pub(super) full: ClassSet,
    pub(super) class_of: &'a ClassOf,
    /// A frame that needs more is a large one.
    pub(super) slot_bytes: usize,
    pub(super) hello_answer: &'a [u8],
    pub(super) subscriptions: Option<&'a SubscriptionLink>,
}

/// Looks through `bytes`, the first of which is at the connection's position.
pub(super) fn scan(bytes: &[u8], connection: &mut Connection, context: Context<'_>) -> Scan {
    let Context { parser, counters, frames, credit, ack_room, full, class_of, slot_bytes, hello_answer, subscriptions } =
        context;
    frames.clear();
    let most = frames.capacity().min(usize::try_from(credit).unwrap_or(usize::MAX));
    let (mut at, mut asking) = (0, 0);
    let stop = loop {
        let rest = bytes.get(at..).unwrap_or_default();
        match parser.stream(rest) {
            Ok(StreamStep::Incomplete(Incomplete { needed, whole, control })) => {
                let frame_at = connection.position + at as u64;
                if control && let Some(fault) = off_data_path(|| refuse_begun(rest, whole, frame_at, counters)) {
                    break Stop::Fatal(fault);
                }
                if needed > slot_bytes
                    && let Some((shape, view)) = begun(rest)
                {
                    let topic = view.topic_bytes();
                    connection.large_class = class_of(parser.topic_hash(topic), parser.capped(shape), topic);
                }
                break Stop::Incomplete { needed, whole };
            }
            Ok(StreamStep::Frame(_)) if frames.len() == most => break Stop::NoCredit,
            Ok(StreamStep::Frame(frame)) => {
                if !full.is_empty() {
                    let body = rest.get(LENGTH_BYTES..).unwrap_or_default();
                    let topic = FrameView::new(body, frame.shape).topic_bytes();
                    let class = class_of(frame.topic_hash, frame.shape, topic);
                    if full.has(class) {
                        break Stop::ClassFull(class);
                    }
                }
                if frame.shape.has(FLAG_ACK) {
                    if asking == ack_room {
                        break Stop::NoAckRoom;
                    }
                    asking += 1;
                }
                frames.push(ParsedFrame { offset: frame.offset + at as u32, ..frame });
                at += LENGTH_BYTES + frame.length as usize;
            }
            Ok(StreamStep::Control(frame)) => {
                if !connection.can_answer() {
                    break Stop::OutFull;
                }
                let whole = LENGTH_BYTES + frame.length as usize;
                let body = rest.get(LENGTH_BYTES..whole).unwrap_or_default();
                let view = FrameView::new(body, frame.shape);
                let frame_at = connection.position + at as u64;
                let fault =
                    off_data_path(|| control(&view, frame_at, connection, counters, (hello_answer, subscriptions)));
                if let Some(fault) = fault {
                    break Stop::Fatal(fault);
                }
                at += whole;
            }
            Err(malformed) => {
                count_malformed(counters, malformed.reason);
                let at_byte = connection.position + (at + malformed.at_byte) as u64;
                break Stop::Fatal(off_data_path(|| Fault::malformed(malformed.reason, at_byte)));
            }
        }
    };
    counters.add(Counter::TCP_FRAMES_FOUND, frames.len() as u64);
    Scan { consumed: at, asking, stop }
}

/// A frame that is refused, or that its stream's end cuts off.
#[cold]
pub(super) fn count_malformed(counters: &mut Counters, reason: MalformedReason) {
    counters.add(Counter::TCP_FRAMES_FOUND, 1);
    counters.add(Counter::tcp_malformed(reason), 1);
}

/// Shape of a frame of which header and topic are there, and the frame as far as it is.
fn begun(bytes: &[u8]) -> Option<(Shape, FrameView<'_>)> {
    let (_, body) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    let shape = Shape::from_header(*body.first_chunk()?);
    Some((shape, FrameView::new(body, shape)))
}

/// Refuses a request without its payload, if it can be. `begun` is what is there of its frame, which has `whole` bytes:
/// the topic at least.
#[cold]
fn refuse_begun(begun: &[u8], whole: usize, frame_at: u64, counters: &mut Counters) -> Option<Fault> {
    let (shape, view) = self::begun(begun)?;
    let before = LENGTH_BYTES + shape.payload_start();
    let asked = request_begun(view.topic_bytes(), whole.saturating_sub(before))?;
    refuse(asked, &view, frame_at, counters)
}

/// Counts a request that ends the stream, and says why it does; `None` for any other.
#[cold]
fn refuse(asked: Request, view: &FrameView<'_>, frame_at: u64, counters: &mut Counters) -> Option<Fault> {
    let topic_at = frame_at + (LENGTH_BYTES + view.topic_offset()) as u64;
    match asked {
        Request::Unknown => {
            count_malformed(counters, MalformedReason::ReservedTopic);
            Some(Fault::malformed(MalformedReason::ReservedTopic, topic_at))
        }
        Request::Bad(message) => {
            count_malformed(counters, MalformedReason::ControlPayload);
            let at_byte = topic_at + view.topic_bytes().len() as u64;
            Some(Fault { code: "bad_request", message, at_byte })
        }
        Request::Hello | Request::Subscription(_) | Request::Unsupported => None,
    }
}

/// Refuses a request; the stream goes on.
fn say(connection: &mut Connection, code: &'static str, message: String, at_byte: u64) {
    if let Some(out) = connection.answer() {
        Fault { code, message, at_byte }.encode(out, false);
    }
}

/// Passes a request on to who sends events, with the socket before the first.
fn pass_on(
    link: &SubscriptionLink,
    asked: Result<request::Request, request::Refused>,
    at_byte: u64,
    connection: &mut Connection,
) {
    let number = connection.number.into();
    if connection.turn.is_none() {
        let turn = Turn::default();
        let opened = connection
            .socket
            .try_clone()
            .is_ok_and(|socket| link.send(Message::Opened { connection: number, socket, turn: turn.clone() }));
        connection.turn = opened.then_some(turn);
    }
    if connection.turn.is_none() || !link.send(Message::Asked { connection: number, at_byte, asked }) {
        say(connection, "busy", "too many requests wait, ask again".to_owned(), at_byte);
    }
}

/// Answers a request, or says why the stream must end.
#[cold]
fn control(
    view: &FrameView<'_>,
    frame_at: u64,
    connection: &mut Connection,
    counters: &mut Counters,
    (hello_answer, subscriptions): (&[u8], Option<&SubscriptionLink>),
) -> Option<Fault> {
    match request(view.topic_bytes(), view.payload()) {
        asked @ (Request::Unknown | Request::Bad(_)) => return refuse(asked, view, frame_at, counters),
        Request::Hello => {
            if let Some(out) = connection.answer() {
                out.extend_from_slice(hello_answer);
            }
        }
        Request::Subscription(asked) => match subscriptions {
            Some(link) => pass_on(link, asked, frame_at, connection),
            None => say(connection, "unsupported", format!("{} is not served", view.topic()), frame_at),
        },
        Request::Unsupported => {
            say(connection, "unsupported", format!("{} is not served", view.topic()), frame_at);
        }
    }
    counters.add(Counter::TCP_FRAMES_FOUND, 1);
    counters.add(Counter::TCP_FRAMES_CONTROL, 1);
    None
}
