//! What a user of the engine writes.

use std::net::SocketAddr;

use super::window_view::WindowView;
use crate::frame::{Class, FrameView, Priority};
use crate::memory::{Event, Frames};
use crate::runtime::clock::Nanos;

/// An event as a handler sees it: borrowed from its frame, valid for the call.
#[derive(Clone, Copy)]
pub struct EventView<'a> {
    frames: &'a Frames,
    event: &'a Event,
    frame: FrameView<'a>,
    class: Class,
    attempt: u32,
}

impl<'a> EventView<'a> {
    #[inline]
    pub(super) fn new(frames: &'a Frames, event: &'a Event, class: Class, attempt: u32) -> Self {
        let frame = frames.view(event);
        Self { frames, event, frame, class, attempt }
    }

    #[inline]
    pub fn topic(&self) -> &'a str {
        self.frame.topic()
    }

    #[inline]
    pub fn topic_bytes(&self) -> &'a [u8] {
        self.frame.topic_bytes()
    }

    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.frame.payload()
    }

    /// Capped by the listener's `max_priority`.
    #[inline]
    pub fn priority(&self) -> Priority {
        self.frame.priority()
    }

    #[inline]
    pub fn class(&self) -> Class {
        self.class
    }

    #[inline]
    pub fn id(&self) -> Option<[u8; 16]> {
        self.frame.id()
    }

    /// Nanoseconds since the UNIX epoch by the sender's clock, if the frame carries them.
    #[inline]
    pub fn sent_time_ns(&self) -> Option<u64> {
        self.frame.sent_time_ns()
    }

    /// CLOCK_MONOTONIC nanoseconds when ingest took the bytes.
    #[inline]
    pub fn arrival_ns(&self) -> Nanos {
        self.frames.arrival_ns(self.event)
    }

    /// The sender's address for datagrams; unspecified for TCP, where [`connection`](Self::connection) tells senders apart.
    pub fn source(&self) -> SocketAddr {
        self.frames.peer(self.event)
    }

    /// The TCP connection's number, or `None` for a datagram.
    #[inline]
    pub fn connection(&self) -> Option<u32> {
        Some(self.event.connection()).filter(|connection| *connection != 0)
    }

    /// 1 for the first call with this event, 2 for the first retry, and so on.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

/// What a handler made of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Try again later, a bounded number of times. Realtime events are not retried: for them it is a rejection.
    Retry,
    /// Never: the event goes to the dead letter queue.
    Reject(&'static str),
}

/// Called by one worker, on its thread, with one event at a time.
///
/// A panic is caught: the event goes to the dead letter queue as `handler_panic`, the worker and its frames go on, and so does the
/// handler, in whatever state the panic left it.
pub trait Handler: Send {
    /// `end_of_batch`: the last event of what the worker has at hand; a good moment to flush what was gathered.
    fn handle(&mut self, event: &EventView<'_>, end_of_batch: bool) -> Outcome;

    /// Called in place of it with the events of batch topics that have windows. The answer is for all events of the window that
    /// were not [settled](super::WindowEvent::settle) one by one: a retry has them handled again together, and a panic ends them all.
    ///
    /// As it stands the events are handled one by one, each with an outcome of its own.
    fn handle_window(&mut self, window: &WindowView<'_>) -> Outcome {
        window.each(|event, end_of_batch| self.handle(event, end_of_batch))
    }
}

/// Makes a handler for each worker, at start.
pub trait HandlerFactory: Send {
    type Handler: Handler + 'static;

    fn make(&mut self, class: Class, worker: usize) -> Self::Handler;
}

impl<H: Handler + 'static, F: FnMut(Class, usize) -> H + Send> HandlerFactory for F {
    type Handler = H;

    fn make(&mut self, class: Class, worker: usize) -> H {
        self(class, worker)
    }
}

/// The default handler: reads the first and last 8 bytes of every payload, so that the payload really is touched, and
/// folds them into a checksum.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingHandler {
    checksum: u64,
}

impl CountingHandler {
    pub fn checksum(&self) -> u64 {
        self.checksum
    }
}

impl Handler for CountingHandler {
    #[inline]
    fn handle(&mut self, event: &EventView<'_>, _end_of_batch: bool) -> Outcome {
        let payload = event.payload();
        let edge = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let (first, last) = (edge(payload.first_chunk()), edge(payload.last_chunk()));
        // The optimiser must not find out that nobody looks at the sum.
        self.checksum = std::hint::black_box(self.checksum.rotate_left(1) ^ first ^ last);
        Outcome::Done
    }
}
