//! What a handler sees of a window, and how it says what became of it.

use std::cell::Cell;
use std::ops::Deref;

use super::handler::{EventView, Outcome};
use super::key_index::NONE;
use crate::dedup::ClaimToken;
use crate::dispatch::topic_word;
use crate::frame::Class;
use crate::memory::{Event, Frames};

/// What is known of an event's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Told {
    #[default]
    Nothing,
    Done,
    Retry,
    Rejected,
    Panicked,
    Exhausted,
}

/// An event in window memory; part of one list.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) event: Option<Event>,
    pub(super) token: Option<ClaimToken>,
    pub(super) next: u32,
    /// Calls of the handler that the event has been in.
    pub(super) attempts: Cell<u32>,
    pub(super) told: Cell<Told>,
}

/// How far a call of the handler is; outlives a panic of it.
#[derive(Default)]
pub(super) struct Progress {
    /// The event that is being handled by itself.
    pub(super) current: Cell<Option<u32>>,
    /// Events behind a retry have been left alone, their topic being in strict order.
    pub(super) stopped: Cell<bool>,
}

/// Events of a topic that are handled together, in the order of their arrival; valid for the call.
///
/// Topics without entry share windows: see [`topic`](Self::topic).
pub struct WindowView<'a> {
    frames: &'a Frames,
    entries: &'a [Entry],
    first: u32,
    count: usize,
    bytes: u64,
    /// Of its topic.
    word: u32,
    class: Class,
    progress: &'a Progress,
}

/// An event of a window.
pub struct WindowEvent<'a> {
    view: EventView<'a>,
    entry: &'a Entry,
}

impl<'a> Deref for WindowEvent<'a> {
    type Target = EventView<'a>;

    fn deref(&self) -> &EventView<'a> {
        &self.view
    }
}

impl WindowEvent<'_> {
    /// Says what became of this event, if that is not what the handler's answer says of the window.
    pub fn settle(&self, outcome: Outcome) {
        let told = told(outcome);
        if told == Told::Retry && self.entry.told.get() != Told::Retry {
            self.entry.attempts.set(self.entry.attempts.get() + 1);
        }
        self.entry.told.set(told);
    }
}

pub(super) fn told(outcome: Outcome) -> Told {
    match outcome {
        Outcome::Done => Told::Done,
        Outcome::Retry => Told::Retry,
        Outcome::Reject(_) => Told::Rejected,
    }
}

impl<'a> WindowView<'a> {
    pub(super) fn new(
        frames: &'a Frames,
        entries: &'a [Entry],
        first: u32,
        word: u32,
        class: Class,
        progress: &'a Progress,
    ) -> Self {
        let mut view = Self { frames, entries, first, count: 0, bytes: 0, word, class, progress };
        let lengths =
            view.untold().filter_map(|(_, entry)| entry.event.as_ref()).map(|event| u64::from(event.length()));
        (view.count, view.bytes) = lengths.fold((0, 0), |(count, sum), length| (count + 1, sum + length));
        view
    }

    /// Events of the window that have no outcome yet, with their numbers.
    fn untold(&self) -> impl Iterator<Item = (u32, &'a Entry)> + use<'a> {
        let entries = self.entries;
        let entry = move |number: u32| entries.get(number as usize).map(|entry| (number, entry));
        let all = std::iter::successors(
            entry(self.first),
            move |(_, of)| if of.next == NONE { None } else { entry(of.next) },
        );
        all.filter(|(_, entry)| entry.told.get() == Told::Nothing)
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Never: an empty window is not handled.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Of the events' frames, without their length fields.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn class(&self) -> Class {
        self.class
    }

    /// The topic of all its events, or `None` if topics without entry share it.
    pub fn topic(&self) -> Option<&'a str> {
        let first = self.events().next().filter(|_| self.word & topic_word::NAMED != 0)?;
        Some(first.view.topic())
    }

    /// Which call with its first event this is: 1 for the first, 2 for the first retry.
    pub fn attempt(&self) -> u32 {
        self.events().next().map_or(1, |event| event.view.attempt())
    }

    /// The events without an outcome.
    pub fn events(&self) -> impl Iterator<Item = WindowEvent<'a>> + use<'a> {
        let (frames, class) = (self.frames, self.class);
        self.untold().filter_map(move |(_, entry)| {
            let event = entry.event.as_ref()?;
            let view = EventView::new(frames, event, class, entry.attempts.get() + 1);
            Some(WindowEvent { view, entry })
        })
    }

    /// Hands out the events one by one, the last of them marked, and settles each as `handle` answers; a panic ends the event it
    /// was about, and the rest is handed out again. The answer is that for the window.
    ///
    /// In a topic of strict order a retry ends it: what comes behind is handed out with the next attempt.
    pub fn each(&self, mut handle: impl FnMut(&EventView<'_>, bool) -> Outcome) -> Outcome {
        let mut left = self.count;
        for (number, entry) in self.untold() {
            let Some(event) = &entry.event else { continue };
            left -= 1;
            self.progress.current.set(Some(number));
            entry.attempts.set(entry.attempts.get() + 1);
            let outcome = handle(&EventView::new(self.frames, event, self.class, entry.attempts.get()), left == 0);
            self.progress.current.set(None);
            entry.told.set(told(outcome));
            if outcome == Outcome::Retry && self.word & topic_word::STRICT != 0 {
                self.progress.stopped.set(left > 0);
                return Outcome::Retry;
            }
        }
        Outcome::Done
    }
}
