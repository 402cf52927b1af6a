//! Writes dead letters to disk: takes the place of the dead letter agent where there is a data directory.
//!
//! - **Thread**: the log writer's runner; it blocks in the kernel for as long as the disk takes.
//! - **In**: letters from each agent that dead-letters. **Out**: records in two queues, failed and shed; when a letter is durable its
//!   claim is settled and who asked for its event is told, when it is evicted its claim is released.
//! - **Overload**: letters wait in their links while the disk is slow. While it takes nothing, they wait in bounded memory; half
//!   of that gone, those who send are told so, and count what they cannot dead-letter as lost. The other half is for what
//!   is in the links by then, so that no frame stays pinned for want of a disk.
//! - **Invariant**: held at start + received = replayed + purged + evicted + held.

mod unsettled;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::unsettled::{Unsettled, Waiting};
use super::consumer_letters::ConsumerLetterInlet;
use super::dead_letter::{DeadLetter, DeadLetterGauges, Refusing};
use super::format::LetterQueue;
use super::letter_control::{LetterCommand, LetterCommands, Purge};
use super::letters::{Letter, LetterCounts, LetterOptions, Letters};
use super::log::{Position, Refused};
use super::replay::{Queues, ReplaySource, Replayer, Replays};
use super::streams::fsync;
use crate::acks::{AckSender, is_replay};
use crate::config::{Config, Storage};
use crate::control::{State, StateCell};
use crate::dedup::{ClaimToken, DedupTable, EventId};
use crate::fault::{self, Stage};
use crate::frame::LENGTH_BYTES;
use crate::ingest::DrainStatus;
use crate::memory::{Event, Frames, Releaser, off_data_path};
use crate::metrics::{Counter, Counters, DeadLetterReason};
use crate::queue::spsc;
use crate::runtime::agent::{Agent, Blocking, Cycle};
use crate::runtime::clock::{Nanos, unix_now};

/// Letters taken from one link in a duty cycle.
const BURST: usize = 256;
/// The least memory of a queue for letters that are not durable yet: a tenth of a second at the default budget of what is shed.
const BUFFER_BYTES_MIN: u64 = 8 << 20;
const RETENTION_INTERVAL_NS: Nanos = 1_000_000_000;

/// Memory of a queue for letters that are not durable yet.
fn letter_buffer_bytes(frame_bytes: u64) -> u64 {
    // In half of it the longest letter fits.
    BUFFER_BYTES_MIN.max(4 * frame_bytes)
}

/// All that a queue takes at most: the letters twice, and who waits for them, which takes as much as the shortest letters do.
pub fn letter_bytes(frame_bytes: u64) -> u64 {
    3 * letter_buffer_bytes(frame_bytes)
}

/// A queue's options as configured.
pub fn letter_options(config: &Config, bytes: u64, after_crash: bool) -> LetterOptions {
    let Storage { policy, .. } = &config.storage;
    let frame_bytes = u64::from(config.limits.frame_bytes);
    LetterOptions {
        fsync: fsync(policy),
        bytes,
        buffer_bytes: letter_buffer_bytes(frame_bytes) as usize,
        frame_bytes,
        after_crash,
    }
}

/// What the agent is made of.
pub struct LetterAgentSpec {
    pub links: Vec<spsc::Consumer<DeadLetter>>,
    /// From groups.
    pub consumers: Option<ConsumerLetterInlet>,
    pub failed: Letters,
    pub shed: Letters,
    pub frames: Frames,
    pub refusing: Refusing,
    /// Where ids are claimed.
    pub claims: Option<Arc<DedupTable>>,
    /// To those who ask what becomes of their events.
    pub acks: AckSender,
    pub frame_bytes: usize,
    /// Where letters go in again, with the agent's way to say that it takes no more in.
    pub replay: Option<(ReplaySource, DrainStatus)>,
    pub replays: Replays,
    pub state: StateCell,
    pub commands: Option<LetterCommands>,
}

/// The agent.
pub struct LetterAgent {
    spec: LetterAgentSpec,
    releaser: Releaser,
    replayer: Option<Replayer>,
    /// Of the failed and of the shed.
    unsettled: [Unsettled; 2],
    counters: Counters,
    gauges: Arc<DeadLetterGauges>,
    /// A frame with its length field.
    frame: Vec<u8>,
    /// That fit no segment.
    refused: u64,
    segments_begun: u64,
    retained_at: Nanos,
    now: Nanos,
    writable: bool,
}

impl LetterAgent {
    pub fn new(mut spec: LetterAgentSpec) -> Self {
        let gauges = Arc::new(DeadLetterGauges::default());
        let held_at_start = spec.failed.counts().held_at_start + spec.shed.counts().held_at_start;
        gauges.held_at_start.store(held_at_start, Ordering::Release);
        let replays = spec.replays.clone();
        let replayer = spec.replay.take().map(|(source, drain)| Replayer::new(source, replays, drain));
        let this = Self {
            releaser: Releaser::new(spec.frames.clone()),
            replayer,
            unsettled: Default::default(),
            counters: Counters::default(),
            gauges,
            frame: Vec::with_capacity(LENGTH_BYTES + spec.frame_bytes),
            refused: 0,
            segments_begun: 0,
            retained_at: 0,
            now: 0,
            writable: true,
            spec,
        };
        this.publish_held();
        this
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn gauges(&self) -> Arc<DeadLetterGauges> {
        self.gauges.clone()
    }

    fn publish_held(&self) {
        self.gauges.held_failed.store(self.spec.failed.held(), Ordering::Release);
        self.gauges.held_shed.store(self.spec.shed.held(), Ordering::Release);
    }

    fn queues(&mut self) -> [&mut Letters; 2] {
        [&mut self.spec.failed, &mut self.spec.shed]
    }

    /// Takes what has arrived, as far as there is room. Returns how many letters that was.
    fn take_in(&mut self) -> usize {
        let (time_ns, mut count) = (unix_now(), 0);
        for link in 0..self.spec.links.len() {
            for _ in 0..self.spec.links[link].available(BURST) {
                let place = if fault::drops(Stage::DeadLetter) { None } else { self.keep_next(link, time_ns) };
                if let Some(Err(Refused::Full)) = place {
                    break;
                }
                let Some(letter) = self.spec.links[link].take() else { break };
                if let Some(place) = place {
                    self.await_disk(&letter.event, (letter.reason, letter.token), place.ok());
                }
                self.releaser.release(letter.event);
                count += 1;
            }
            // Frames before ring positions: who sees the link empty may count on the frames.
            self.releaser.flush();
            self.spec.links[link].release();
        }
        if let Some(consumers) = &mut self.spec.consumers {
            let (taken, refused) = consumers.take_in(&mut self.spec.failed, time_ns);
            self.refused += refused;
            count += taken;
        }
        count
    }

    /// Appends the next letter of a link, if there is one: says in which queue it is, and its offset.
    fn keep_next(&mut self, link: usize, time_ns: u64) -> Option<Result<(LetterQueue, u64), Refused>> {
        let LetterAgentSpec { links, failed, shed, frames, claims, .. } = &mut self.spec;
        let DeadLetter { event, class, reason, .. } = links[link].peek(0..1).next()?;
        self.frame.clear();
        self.frame.extend_from_slice(&event.length().to_be_bytes());
        self.frame.extend_from_slice(frames.bytes(event));
        // The wall clock is read once a cycle; the engine's own tells how long before that it was.
        let arrival_ns = time_ns.saturating_sub(self.now.saturating_sub(frames.arrival_ns(event)));
        let number = is_replay(event.connection()).then(|| frames.ordinal(event));
        let was = number.and_then(|number| self.replayer.as_ref()?.was(number));
        let arrival_ns = was.map_or(arrival_ns, |(_, arrival_ns)| arrival_ns);
        let letter = Letter { class: *class, reason: *reason, arrival_ns, frame: &self.frame };
        let queue = if reason.is_shed() { LetterQueue::Shed } else { LetterQueue::Failed };
        let letters = Queues { failed, shed }.into(queue);
        let appended = letters.append_again(&letter, time_ns, was.map(|(was, _)| was));
        match &appended {
            Ok(position) => {
                if let (Some(number), Some(replayer)) = (number, &mut self.replayer) {
                    replayer.kept_anew(number, queue, position.offset);
                }
                let was_claimed = was.is_some_and(|(was, _)| was.queue == LetterQueue::Failed);
                if let (LetterQueue::Shed, true, Some(claims)) = (queue, was_claimed, claims) {
                    release_claim(claims, frames.view(event).id(), self.now);
                }
            }
            // Its own eviction. A configuration that would let that happen is refused.
            Err(Refused::TooLarge) => self.refused += 1,
            Err(Refused::Full) => {}
        }
        Some(appended.map(|position| (queue, position.offset)))
    }

    /// The event of a letter ends when that is durable; at once if it has no place. One that is replayed has ended for its sender.
    fn await_disk(
        &mut self,
        event: &Event,
        (reason, token): (DeadLetterReason, Option<ClaimToken>),
        place: Option<(LetterQueue, u64)>,
    ) {
        if is_replay(event.connection()) {
            return;
        }
        let LetterAgentSpec { acks, frames, claims, .. } = &mut self.spec;
        let waiting = Waiting { reason, token, asked: acks.asked(event, frames) };
        match place {
            Some((queue, offset)) => self.unsettled[queue as usize].push(offset, waiting),
            None => waiting.settle(true, claims.as_deref(), acks),
        }
    }

    /// Settles what has become durable.
    fn settle(&mut self) {
        let LetterAgentSpec { acks, failed, shed, claims, .. } = &mut self.spec;
        for (unsettled, letters) in self.unsettled.iter_mut().zip([&*failed, &*shed]) {
            unsettled.settle(letters.log().durable_offset(), claims.as_deref(), acks);
        }
        acks.publish();
    }

    /// Writes what was taken, and syncs what is due.
    fn flush(&mut self) {
        let (now, mut writable, mut refusing, mut failure) = (self.now, true, false, None);
        let is_draining = self.spec.state.get() == State::Draining;
        for letters in self.queues() {
            let mut flushed = letters.write(now);
            if is_draining {
                letters.press(now); // whoever waits for a letter holds up the end
            }
            if flushed.is_ok() && letters.due(now).is_some_and(|due| due <= now) {
                flushed = letters.sync(now);
            }
            failure = flushed.err().or(failure);
            writable &= letters.log().writable();
            refusing |= !letters.log().writable() && letters.is_half_full();
        }
        if let Some(error) = failure.filter(|_| self.writable) {
            tracing::error!(%error, "the dead letter queue: letters wait in memory, and are lost once that is full");
        }
        if writable && !self.writable {
            tracing::info!("the dead letter queue can be written again");
        }
        if let Some(consumers) = &mut self.spec.consumers {
            consumers.tell(self.spec.failed.log().durable_offset());
        }
        self.writable = writable;
        self.spec.refusing.set(refusing);
    }

    /// Makes room where a queue has become too large, and lets the ids of what goes be claimed anew.
    fn retain(&mut self) {
        let LetterAgentSpec { failed, shed, claims, .. } = &mut self.spec;
        let now = self.now;
        let release = |letter: &super::format::RecordView<'_>| {
            if let Some(claims) = claims {
                release_claim(claims, letter.event().id(), now);
            }
        };
        // What was shed had not been claimed.
        for retained in [failed.retain(now, release), shed.retain(now, |_| {})] {
            if let Err(error) = retained {
                tracing::warn!(%error, "the dead letter queue: a segment that is to go, or room that is to be set aside");
            }
        }
    }

    /// Lets replays go on, and hears what has become of their events.
    fn replay(&mut self) -> usize {
        let LetterAgentSpec { failed, shed, .. } = &mut self.spec;
        let Some(replayer) = &mut self.replayer else { return 0 };
        if !replayer.is_busy() {
            return 0;
        }
        replayer.step(&mut Queues { failed, shed }, &mut self.counters, self.now, unix_now())
    }

    /// Does what operators ask for.
    fn obey(&mut self) -> usize {
        let Some(command) = self.spec.commands.as_ref().and_then(|commands| commands.0.try_recv().ok()) else {
            return 0;
        };
        let now = self.now;
        let LetterAgentSpec { failed, shed, claims, .. } = &mut self.spec;
        // Whoever asked may have given up; then nobody misses the answer.
        match command {
            LetterCommand::Held(answer) => {
                let held = [(LetterQueue::Failed, failed.letters()), (LetterQueue::Shed, shed.letters())];
                let _ = answer.send(held.map(|(queue, held)| (queue, held.clone())).to_vec());
            }
            LetterCommand::Purge(Purge { queue, letters }, answer) => {
                let claims = claims.as_deref().filter(|_| queue == LetterQueue::Failed);
                let _ = answer.send(purge(Queues { failed, shed }.into(queue), &letters, claims, now));
            }
            LetterCommand::Replay(order, answer) => {
                let begun = match &mut self.replayer {
                    Some(replayer) => replayer.begin(order, &mut Queues { failed, shed }, now),
                    None => Err("this engine cannot replay".to_owned()),
                };
                let _ = answer.send(begun);
            }
            LetterCommand::Status(answer) => {
                let _ = answer.send(self.replayer.as_ref().map(Replayer::status).unwrap_or_default());
            }
        }
        1
    }

    fn retain_if_due(&mut self) {
        let begun = self.queues().map(|letters| letters.log().counts().segments_begun).iter().sum();
        if begun != self.segments_begun || self.now.saturating_sub(self.retained_at) >= RETENTION_INTERVAL_NS {
            (self.segments_begun, self.retained_at) = (begun, self.now);
            self.retain();
        }
    }

    fn publish_counts(&mut self) {
        let [failed, shed] = self.queues().map(|letters| letters.counts());
        let sum = |of: fn(&LetterCounts) -> u64| of(&failed) + of(&shed);
        let doubled = u64::from(fault::doubles(Stage::DeadLetter));
        self.counters.set(Counter::DEAD_LETTERS_RECEIVED, sum(|counts| counts.received) + self.refused + doubled);
        self.counters.set(Counter::DEAD_LETTERS_EVICTED, sum(|counts| counts.evicted) + self.refused);
        self.counters.set(Counter::DEAD_LETTERS_REPLAYED, sum(|counts| counts.replayed));
        self.counters.set(Counter::DEAD_LETTERS_PURGED, sum(|counts| counts.purged));
        self.publish_held();
        self.counters.flush();
    }
}

impl Agent for LetterAgent {
    fn name(&self) -> &str {
        "dead-letter"
    }

    fn duty_cycle(&mut self, cycle: &Cycle) -> usize {
        self.now = cycle.now;
        // As for the log: files are begun and closed here, on a thread that waits for the disk to do so.
        off_data_path(|| {
            let mut work = self.obey();
            work += self.take_in();
            work += self.replay();
            self.flush();
            self.settle();
            self.retain_if_due();
            work
        })
    }

    fn housekeeping(&mut self, _now: Nanos) {
        if let Some(replayer) = &mut self.replayer {
            replayer.housekeeping();
        }
        self.publish_counts();
    }

    fn blocking(&self) -> Blocking {
        let due = |letters: &Letters| letters.due(self.now);
        let replay = self.replayer.as_ref().and_then(|replayer| replayer.due_ns(self.now));
        match due(&self.spec.failed).into_iter().chain(due(&self.spec.shed)).chain(replay).min() {
            Some(due) => Blocking::Until(due),
            None => Blocking::Allowed,
        }
    }

    fn close(&mut self) {
        let now = self.now;
        self.take_in();
        for letters in self.queues() {
            // What comes of it closing will tell.
            let _ = letters.write(now).and_then(|()| letters.sync(now));
        }
        let LetterAgentSpec { failed, shed, .. } = &mut self.spec;
        let replayer = self.replayer.as_mut();
        let mut in_order = replayer.is_none_or(|replayer| replayer.close(&mut Queues { failed, shed }, unix_now()));
        for letters in self.queues() {
            let waiting = letters.log().next_offset() - letters.log().durable_offset();
            if let Err(error) = letters.close(now) {
                in_order = false;
                tracing::error!(%error, records = waiting, "the dead letter queue could not be closed in order: what was not durable is lost");
            }
        }
        if !in_order {
            self.spec.replays.cut_short();
        }
    }
}

/// Lets the id of a letter that failed be claimed anew: the letter goes, or is one of those that were shed from now on.
fn release_claim(claims: &DedupTable, id: Option<[u8; 16]>, now: Nanos) {
    if let Some(id) = id {
        claims.release_dead_lettered(EventId(id), now);
    }
}

/// Throws letters away, and lets their ids be claimed anew. Returns how many there were.
fn purge(
    letters: &mut Letters,
    which: &[(Position, Option<EventId>)],
    claims: Option<&DedupTable>,
    now: Nanos,
) -> Result<u64, String> {
    let mut purged = 0;
    for (position, id) in which {
        let mut removed = letters.remove(*position, false, unix_now());
        if removed == Err(Refused::Full) {
            letters.write(now).and_then(|()| letters.sync(now)).map_err(|error| error.to_string())?;
            removed = letters.remove(*position, false, unix_now());
        }
        if removed.map_err(|_| format!("{purged} purged; the disk takes no more"))? {
            purged += 1;
            if let (Some(claims), Some(id)) = (claims, id) {
                claims.release_dead_lettered(*id, now);
            }
        }
    }
    Ok(purged)
}

#[cfg(test)]
mod tests;
