//! Batch topics with windows: what is handled together, when, and what becomes of it.

#[path = "pipeline_windows/limits.rs"]
mod limits;
#[path = "pipeline_windows/outcomes.rs"]
mod outcomes;
#[path = "pipeline_windows/random.rs"]
mod random;

use std::sync::{Arc, Mutex};

use eventstream::dispatch::{TopicEntry, WindowLimits};
use eventstream::frame::{Class, FrameHeader, Priority};
use eventstream::metrics::{Counter, Ledger};
use eventstream::worker::{Outcome, WindowView};
use eventstream_tests::pipeline::{FnHandler, Pipeline, PipelineSpec, datagram, topic};

const MS: u64 = 1_000_000;

/// A window of at most so many events, a thousand bytes and 100 ms.
fn limits(max_events: u32) -> WindowLimits {
    WindowLimits { max_events, max_bytes: 1000, max_ns: 100 * MS }
}

/// A batch topic with such windows.
fn windowed(name: &str, max_events: u32) -> TopicEntry {
    TopicEntry { window: Some(limits(max_events)), ..topic(name, Class::Batch) }
}

fn strict(name: &str, max_events: u32) -> TopicEntry {
    TopicEntry { strict: true, ..windowed(name, max_events) }
}

fn spec(topics: Vec<TopicEntry>) -> PipelineSpec {
    PipelineSpec { topics, window_slots: 4, ..PipelineSpec::default() }
}

/// Every call of a handler: `topic: payloads`, with the attempt if it is not the first; events that were handled by themselves
/// in brackets.
type Calls = Arc<Mutex<Vec<String>>>;

fn shown(window: &WindowView<'_>) -> String {
    let payloads: Vec<_> = window.events().map(|event| String::from_utf8_lossy(event.payload()).into_owned()).collect();
    let attempt = if window.attempt() > 1 { format!(" ({})", window.attempt()) } else { String::new() };
    format!("{}: {}{attempt}", window.topic().unwrap_or("?"), payloads.join(" "))
}

/// Notes windows, and answers as `answer` says of each.
fn watched(
    spec: &PipelineSpec,
    answer: impl Fn(&WindowView<'_>) -> Outcome + Clone + Send + 'static,
) -> (Pipeline, Calls) {
    let calls = Calls::default();
    let pipeline = Pipeline::new(spec, |_, _| {
        let (one, many, answer) = (calls.clone(), calls.clone(), answer.clone());
        let alone = FnHandler::new(move |event, _| {
            one.lock().unwrap().push(format!("[{}]", String::from_utf8_lossy(event.payload())));
            Outcome::Done
        });
        alone.with_windows(move |window| {
            many.lock().unwrap().push(shown(window));
            answer(window)
        })
    });
    (pipeline, calls)
}

fn done(_: &WindowView<'_>) -> Outcome {
    Outcome::Done
}

fn send(pipeline: &mut Pipeline, topic: &str, payloads: &[&str]) {
    for payload in payloads {
        pipeline.send(0, &datagram(&FrameHeader::new(Priority::Batch), topic, payload.as_bytes()), 1, None);
    }
    pipeline.settle();
}

fn wait(pipeline: &mut Pipeline, ms: u64) {
    pipeline.advance(ms * MS);
    pipeline.settle();
}

fn called(calls: &Calls) -> Vec<String> {
    std::mem::take(&mut *calls.lock().unwrap())
}

/// Windows closed by count, bytes, time, memory, drain.
fn closed(pipeline: &Pipeline) -> [u64; 5] {
    [
        Counter::WINDOWS_CLOSED_BY_COUNT,
        Counter::WINDOWS_CLOSED_BY_BYTES,
        Counter::WINDOWS_CLOSED_BY_TIME,
        Counter::WINDOWS_CLOSED_BY_MEMORY,
        Counter::WINDOWS_CLOSED_BY_DRAIN,
    ]
    .map(|counter| pipeline.sum(counter))
}

fn dead(ledger: &Ledger, reason: &str) -> u64 {
    ledger.events.dead_lettered.get(reason).copied().unwrap_or(0)
}
