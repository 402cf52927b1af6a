//! What an operator asks of the dead letters of a running engine.
//!
//! - **Threads**: any on the control side asks and waits; the log writer's runner answers between two of its cycles. Letters are
//!   read here, by who asks: only what changes a queue is done there.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::format::{LetterQueue, RecordView, reason_of_letter};
use super::letters::{HeldLetters, LetterFilter};
use super::log::Position;
use super::replay::{ReplayOrder, ReplayStatus};
use crate::dedup::EventId;
use crate::runtime::waker::Waker;

/// How long an answer may take: as long as a disk does, and longer.
const PATIENCE: Duration = Duration::from_secs(8);
/// Letters purged by one command: between two the log goes on.
const PURGED_AT_ONCE: usize = 1024;

pub(super) struct Purge {
    pub queue: LetterQueue,
    pub letters: Vec<(Position, Option<EventId>)>,
}

pub(super) enum LetterCommand {
    Held(Sender<Vec<(LetterQueue, HeldLetters)>>),
    Purge(Purge, Sender<Result<u64, String>>),
    Replay(ReplayOrder, Sender<Result<(), String>>),
    Status(Sender<ReplayStatus>),
}

/// The asking end.
#[derive(Clone)]
pub struct LetterControl {
    commands: Sender<LetterCommand>,
    waker: Waker,
}

/// The answering end.
pub struct LetterCommands(pub(super) Receiver<LetterCommand>);

/// Letters held for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct HeldFor {
    pub queue: &'static str,
    pub reason: String,
    pub letters: u64,
    pub payload_bytes: u64,
    pub oldest_ns: u64,
    pub newest_ns: u64,
}

/// Both ends; `waker` is that of the log writer's runner.
pub fn letter_control(waker: Waker) -> (LetterControl, LetterCommands) {
    let (commands, receiver) = channel();
    (LetterControl { commands, waker }, LetterCommands(receiver))
}

impl LetterControl {
    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> LetterCommand) -> Result<T, String> {
        let (sender, receiver) = channel();
        let ending = |_| "the engine is ending, or its disk does not answer".to_owned();
        self.commands.send(command(sender)).map_err(|_| "the engine is ending".to_owned())?;
        self.waker.wake();
        receiver.recv_timeout(PATIENCE).map_err(ending)
    }

    /// The letters that are held now, of each queue: to be read by who asks, for as long as that takes.
    pub fn held(&self) -> Result<Vec<(LetterQueue, HeldLetters)>, String> {
        self.ask(LetterCommand::Held)
    }

    /// Calls `visit` with each letter that is held, durable and matches, until it has had enough.
    pub fn visit(
        &self,
        wanted: Option<LetterQueue>,
        filter: &LetterFilter,
        mut visit: impl FnMut(LetterQueue, &RecordView<'_>) -> bool,
    ) -> Result<(), String> {
        for (queue, held) in self.held()? {
            if wanted.is_some_and(|wanted| wanted != queue) {
                continue;
            }
            let mut reader = held.reader().map_err(|error| error.to_string())?;
            while let Some(letter) = reader.read().map_err(|error| error.to_string())? {
                if filter.matches(&letter) && !visit(queue, &letter) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub fn stats(&self, wanted: Option<LetterQueue>, filter: &LetterFilter) -> Result<Vec<HeldFor>, String> {
        let mut all: Vec<HeldFor> = Vec::new();
        self.visit(wanted, filter, |queue, letter| {
            let (queue, reason) = (queue.as_str(), reason_of_letter(letter));
            let place = all.iter().position(|held| held.queue == queue && held.reason == reason);
            let place = place.unwrap_or_else(|| {
                let reason = reason.into_owned();
                all.push(HeldFor { queue, reason, oldest_ns: letter.time_ns, ..HeldFor::default() });
                all.len() - 1
            });
            let held = &mut all[place];
            held.letters += 1;
            held.payload_bytes += letter.event().payload().len() as u64;
            held.newest_ns = held.newest_ns.max(letter.time_ns);
            true
        })?;
        Ok(all)
    }

    /// Throws away the letters that match; returns how many those were.
    pub fn purge(&self, wanted: Option<LetterQueue>, filter: &LetterFilter) -> Result<u64, String> {
        let mut found: Vec<Purge> = Vec::new();
        self.visit(wanted, filter, |queue, letter| {
            let one = (Position { epoch: letter.epoch, offset: letter.offset }, letter.event().id().map(EventId));
            match found.last_mut() {
                Some(purge) if purge.queue == queue && purge.letters.len() < PURGED_AT_ONCE => purge.letters.push(one),
                _ => found.push(Purge { queue, letters: vec![one] }),
            }
            true
        })?;
        let mut purged = 0;
        for purge in found {
            purged += self.ask(|sender| LetterCommand::Purge(purge, sender))??;
        }
        Ok(purged)
    }

    /// Begins to replay the letters that match.
    pub fn replay(&self, order: ReplayOrder) -> Result<(), String> {
        self.ask(|sender| LetterCommand::Replay(order, sender))?
    }

    pub fn replay_status(&self) -> Result<ReplayStatus, String> {
        self.ask(LetterCommand::Status)
    }
}
