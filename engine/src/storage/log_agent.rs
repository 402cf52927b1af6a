//! The log writer: appends what workers have handled, makes it durable, and tells them.
//!
//! - **Thread**: a runner of its own. It is the one agent that blocks in the kernel, for as long as the disk takes to write, and
//!   to sync where that is done at once; what arrives meanwhile is made durable together. At intervals another thread syncs; none
//!   is waited for when much waits for it, or the engine drains.
//! - **In**: batches of records from each worker of a logged class. **Out**: records in the streams' segments; word to each worker,
//!   in the order of its frames, of what is durable.
//! - **Overload**: while a stream takes nothing, because its buffer is full or the disk fails, the batches of those who have
//!   frames for it stay where they are, and their workers stop. It is tried again until it works; in a drain for a part of the
//!   time there is for that. Then it is given up: what is not durable is told to be lost, as is what still comes.
//! - **Invariant**: a frame is settled once, after the point that its stream's policy promises.

use std::collections::VecDeque;
use std::sync::Arc;

use super::directory::DataDirectory;
use super::feed::{Batch, Kept, LogInlet, OUTSTANDING_MAX, Part, Settled};
use super::format::{Prefix, Record, topic_of};
use super::log::{AgeClock, Appended, EventLog, Refused};
use super::log_readers::LogReaders;
use super::replay::Replays;
use super::streams::Streams;
use crate::control::{State, StateCell};
use crate::memory::off_data_path;
use crate::metrics::{Counter, Counters};
use crate::runtime::agent::{Agent, Blocking, Cycle};
use crate::runtime::clock::{Nanos, unix_now};

/// How often it is looked for segments that are to go.
const RETENTION_INTERVAL_NS: Nanos = 1_000_000_000;

/// Where a worker's frames are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// With this stream.
    Stream(usize),
    /// No stream took them.
    Refused,
    /// Their stream has been given up.
    GivenUp,
}

/// Frames of one worker that became records one behind the other in one stream.
#[derive(Clone, Copy)]
struct Run {
    place: Place,
    next_offset: u64,
    count: u32,
}

/// What was last said of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Nothing, or that it can be written again.
    Works,
    Fails,
    GivenUp,
}

/// One worker's.
struct Inlet {
    feed: LogInlet,
    /// What is being read, and how far.
    batch: Option<(Batch, usize)>,
    unsettled: VecDeque<Run>,
    /// Frames of those.
    frames: usize,
}

impl Inlet {
    /// So many of its frames are unsettled that the worker will soon hand over none.
    fn is_half_full(&self) -> bool {
        self.frames >= OUTSTANDING_MAX / 2
    }

    fn note(&mut self, place: Place, taken: &Appended) {
        let Appended { offset, records, .. } = *taken;
        self.frames += records as usize;
        match self.unsettled.back_mut() {
            Some(run) if run.place == place && run.next_offset + u64::from(run.count) == offset => run.count += records,
            _ => self.unsettled.push_back(Run { place, next_offset: offset, count: records }),
        }
    }

    /// A stream has given up its records from `durable` on.
    fn give_up(&mut self, stream: usize, durable: u64) {
        for mut run in std::mem::take(&mut self.unsettled) {
            if run.place == Place::Stream(stream) {
                let kept = durable.saturating_sub(run.next_offset).min(run.count.into()) as u32;
                if kept > 0 {
                    self.unsettled.push_back(Run { count: kept, ..run });
                }
                run = Run { place: Place::GivenUp, count: run.count - kept, ..run };
            }
            if run.count > 0 {
                self.unsettled.push_back(run);
            }
        }
    }
}

/// What the agent is made of.
pub struct LogAgentSpec {
    pub streams: Streams,
    pub directory: Arc<DataDirectory>,
    /// One from each worker of a logged class.
    pub inlets: Vec<LogInlet>,
    pub replays: Replays,
    pub state: StateCell,
    /// How long a drain waits for a stream that cannot be written.
    pub drain_wait_ns: Nanos,
}

/// The agent.
pub struct LogAgent {
    inlets: Vec<Inlet>,
    streams: Streams,
    directory: Arc<DataDirectory>,
    replays: Replays,
    counters: Counters,
    /// From the first look on.
    age_clock: Option<AgeClock>,
    retained_at: Nanos,
    now: Nanos,
    /// Of each stream.
    said: Vec<Said>,
    state: StateCell,
    /// How long a drain waits for a stream that cannot be written.
    drain_wait_ns: Nanos,
    /// From when on it waits no longer.
    give_up_at: Option<Nanos>,
    readers: Option<LogReaders>,
}

impl LogAgent {
    pub fn new(spec: LogAgentSpec) -> Self {
        let LogAgentSpec { streams, directory, inlets, replays, state, drain_wait_ns } = spec;
        let inlet = |feed| Inlet { feed, batch: None, unsettled: VecDeque::new(), frames: 0 };
        Self {
            inlets: inlets.into_iter().map(inlet).collect(),
            said: vec![Said::Works; streams.logs().len()],
            streams,
            directory,
            replays,
            state,
            drain_wait_ns,
            give_up_at: None,
            counters: Counters::default(),
            age_clock: None,
            retained_at: 0,
            now: 0,
            readers: None,
        }
    }

    /// Wakes who reads the log, whenever there is more to read.
    pub fn with_readers(self, readers: Option<LogReaders>) -> Self {
        Self { readers, ..self }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Appends what has arrived, as far as there is room. Returns how many events that was.
    fn take_in(&mut self) -> usize {
        let (time_ns, mut count) = (unix_now(), 0);
        let Self { inlets, streams, replays, .. } = self;
        for inlet in inlets {
            while let Some((batch, mut at)) =
                inlet.batch.take().or_else(|| inlet.feed.full.take().map(|batch| (batch, 0)))
            {
                while let Some(part) = batch.part(at) {
                    let (stream, taken) = append(streams, replays, &part, time_ns);
                    let noted = match taken {
                        Ok(taken) => (Place::Stream(stream), taken),
                        Err((Refused::TooLarge, bytes)) => (Place::Refused, Appended { offset: 0, records: 1, bytes }),
                        Err((Refused::Full, _)) => break,
                    };
                    inlet.note(noted.0, &noted.1);
                    at += noted.1.bytes;
                    count += noted.1.records as usize;
                }
                if batch.part(at).is_some() {
                    inlet.batch = Some((batch, at));
                    break;
                }
                inlet.feed.give_back(batch);
            }
            inlet.feed.full.release();
            inlet.feed.empty.publish();
        }
        count
    }

    /// Writes what was appended, and syncs what is due. Says once of each stream that it fails, and that it works again.
    fn flush(&mut self) {
        let presses = self.state.get() == State::Draining || self.inlets.iter().any(Inlet::is_half_full);
        for (log, said) in self.streams.logs_mut().iter_mut().zip(&mut self.said) {
            let mut flushed = log.end_sync(self.now).and_then(|()| log.write(self.now));
            if presses {
                log.press(self.now);
            }
            // Also after a failure: by what is synced then the log can be written again.
            if flushed.is_ok() && log.due(self.now).is_some_and(|due| due <= self.now) {
                flushed = log.begin_sync(self.now);
            }
            let stream = log.stream();
            match flushed {
                Err(error) if *said == Said::Works => {
                    *said = Said::Fails;
                    tracing::error!(%stream, %error, "the event log: publishers to logged classes are not read until it works again");
                }
                _ if *said != Said::Works && log.writable() => {
                    *said = Said::Works;
                    tracing::info!(%stream, "the event log can be written again");
                }
                _ => {}
            }
        }
    }

    /// In a drain, gives up the streams that cannot be written once that has taken its time. Returns how many frames are lost
    /// by that.
    fn give_up_if_due(&mut self) -> usize {
        if self.state.get() != State::Draining {
            return 0;
        }
        let give_up_at = *self.give_up_at.get_or_insert(self.now + self.drain_wait_ns);
        if self.now < give_up_at { 0 } else { self.give_up() }
    }

    #[cold]
    fn give_up(&mut self) -> usize {
        let mut lost = 0;
        for (index, (log, said)) in self.streams.logs_mut().iter_mut().zip(&mut self.said).enumerate() {
            let given_up = log.give_in(self.now);
            if given_up > 0 {
                let durable = log.durable_offset();
                self.inlets.iter_mut().for_each(|inlet| inlet.give_up(index, durable));
                lost += given_up as usize;
            }
            if given_up > 0 && *said != Said::GivenUp {
                *said = Said::GivenUp;
                let stream = log.stream();
                tracing::error!(%stream, "the event log cannot be written, and the engine ends: what is not on disk is lost");
            }
        }
        lost
    }

    /// Tells the workers what has become durable. Returns how many frames that was.
    fn settle(&mut self) -> usize {
        let mut count = 0;
        for inlet in &mut self.inlets {
            let mut told = 0;
            while let Some(run) = inlet.unsettled.front_mut() {
                let (ended, kept) = match run.place {
                    Place::Refused => (run.count, Kept::Refused),
                    Place::GivenUp => (run.count, Kept::GivenUp),
                    Place::Stream(stream) => {
                        let log = &self.streams.logs()[stream];
                        let ended = log.durable_offset().saturating_sub(run.next_offset).min(run.count.into()) as u32;
                        (ended, if log.is_synced() { Kept::Durable } else { Kept::Written })
                    }
                };
                if ended == 0 {
                    break;
                }
                let pushed = inlet.feed.settled.push(Settled { count: ended, kept });
                debug_assert!(pushed.is_ok(), "no more is outstanding than the ring has room for");
                run.count -= ended;
                run.next_offset += u64::from(ended);
                told += ended as usize;
                if run.count == 0 {
                    inlet.unsettled.pop_front();
                }
            }
            inlet.frames -= told;
            inlet.feed.settled.publish();
            if told > 0
                && let Some(waker) = &inlet.feed.waker
            {
                waker.wake();
            }
            count += told;
        }
        if count > 0
            && let Some(readers) = &self.readers
        {
            readers.wake();
        }
        count
    }

    fn retain(&mut self, now: Nanos) {
        let last_record_ns = || self.streams.logs().iter().filter_map(EventLog::last_record_ns).max();
        let age_clock = self.age_clock.get_or_insert_with(|| AgeClock::new(unix_now(), last_record_ns(), now));
        let time_ns = age_clock.advance(unix_now(), now);
        for log in self.streams.logs_mut() {
            if let Err(error) = log.retain(time_ns, now, |_| {}) {
                tracing::warn!(%error, "the event log: a segment that is to go");
            }
        }
    }

    fn next_due(&self) -> Option<Nanos> {
        self.streams.logs().iter().filter_map(|log| log.due(self.now)).min()
    }
}

/// Appends the first of what it is given, to the stream of its topic; if it is refused, that with the bytes of its record.
fn append(
    streams: &mut Streams,
    replays: &Replays,
    part: &Part<'_>,
    time_ns: u64,
) -> (usize, Result<Appended, (Refused, usize)>) {
    match part {
        Part::Records(records) => {
            let (stream, end) = streams.of_first(records);
            let first = Prefix::parse(records).map_or(records.len(), |prefix| prefix.bytes);
            let taken = streams.logs_mut()[stream].append_unplaced(&records[..end], time_ns);
            (stream, taken.map_err(|refused| (refused, first)))
        }
        Part::Replayed(record, bytes, number) => {
            let stream = streams.of_topic(topic_of(record.frame));
            let reference = replays.reference(*number);
            let record = Record { reference, ..Record::event(time_ns, record.class, record.frame) };
            let taken = streams.logs_mut()[stream].append(&record);
            let taken = taken.map(|offset| Appended { offset, records: 1, bytes: *bytes });
            (stream, taken.map_err(|refused| (refused, *bytes)))
        }
    }
}

impl Agent for LogAgent {
    fn name(&self) -> &str {
        "log"
    }

    fn duty_cycle(&mut self, cycle: &Cycle) -> usize {
        self.now = cycle.now;
        // Segments are begun and closed here, on a thread that waits for the disk to do so.
        off_data_path(|| {
            let taken = self.take_in();
            self.flush();
            taken + self.give_up_if_due() + self.settle()
        })
    }

    fn housekeeping(&mut self, now: Nanos) {
        if now.saturating_sub(self.retained_at) >= RETENTION_INTERVAL_NS {
            self.retained_at = now;
            self.retain(now);
        }
        let counts = self.streams.logs().iter().map(EventLog::counts);
        let sum = |of: fn(&super::log::LogCounts) -> u64| counts.clone().map(|counts| of(&counts)).sum();
        self.counters.set(Counter::LOG_RECORDS_APPENDED, sum(|counts| counts.records_appended));
        self.counters.set(Counter::LOG_BYTES_WRITTEN, sum(|counts| counts.bytes_written));
        self.counters.set(Counter::LOG_SYNCS, sum(|counts| counts.syncs));
        self.counters.set(Counter::LOG_FAILURES, sum(|counts| counts.failures));
        self.counters.set(Counter::LOG_SEGMENTS_BEGUN, sum(|counts| counts.segments_begun));
        self.counters.set(Counter::LOG_SEGMENTS_ABANDONED, sum(|counts| counts.segments_abandoned));
        self.counters.set(Counter::LOG_SEGMENTS_REMOVED, sum(|counts| counts.segments_removed));
        self.counters.flush();
    }

    fn blocking(&self) -> Blocking {
        let stuck = self.inlets.iter().any(|inlet| inlet.batch.is_some());
        let failing = self.said.contains(&Said::Fails);
        let give_up = self.give_up_at.filter(|_| failing).map(|at| at.max(self.now));
        match self.next_due().into_iter().chain(give_up).min() {
            Some(due) => Blocking::Until(due),
            // Room comes with what is due; without that it is there already.
            None if stuck => Blocking::Forbidden,
            None => Blocking::Allowed,
        }
    }

    fn close(&mut self) {
        let mut in_order = !self.replays.were_cut_short();
        for log in self.streams.logs_mut() {
            if let Err(error) = log.close(self.now) {
                in_order = false;
                tracing::error!(%error, "the event log could not be closed in order: the next start looks through it");
            }
        }
        if in_order && let Err(error) = self.directory.end_run() {
            tracing::error!(%error, "the data directory: the next start takes this run's end for a crash");
        }
    }
}
