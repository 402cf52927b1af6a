//! Window memory: events of batch topics, copied out of their frames, until they are handled together.
//!
//! - **Thread**: its worker's. **In**: events of a burst. **Out**: windows that are full, due, or to be tried again.
//! - **Overload**: all memory is there from the start: copies, places of events, windows. When one of them runs out the window
//!   that would be due next is closed early. What finds no room even then is a window of its own, handled where it lies.
//! - **Invariant**: every event held is in one list: of an open window, or of one that waits for another attempt.

use std::sync::Arc;

use super::backlog::{Backlog, Place};
use super::deadlines::Deadlines;
use super::key_index::{KeyIndex, NONE};
use super::retry::RetryPolicy;
use super::window_view::{Entry, Progress, Told, WindowView};
use crate::dedup::ClaimToken;
use crate::dispatch::{SpillPool, WindowLimits, WindowProfiles, topic_word};
use crate::frame::Class;
use crate::memory::{Event, FramePool, Frames, Slab};
use crate::runtime::clock::Nanos;

/// What window memory is made of.
pub struct WindowsSpec {
    /// Where events are copied to.
    pub spill: SpillPool,
    /// Events held at one time.
    pub events: usize,
    /// Windows open or waiting at one time.
    pub windows: usize,
    pub profiles: Arc<WindowProfiles>,
    pub retry: RetryPolicy,
}

/// A window. Its key is the topic's word without what is asked for it.
#[derive(Clone, Copy)]
struct Window {
    word: u32,
    first: u32,
    last: u32,
    count: u32,
    bytes: u64,
    limits: WindowLimits,
    /// It has been handled; what is left of it has yet to go to the dead letter queue.
    is_ending: bool,
}

/// One event at a time: what a topic that has no windows any more has, while one of its windows is still there.
const SINGLE: WindowLimits = WindowLimits { max_events: 1, max_bytes: u32::MAX, max_ns: 0 };

const NO_WINDOW: Window =
    Window { word: 0, first: NONE, last: NONE, count: 0, bytes: 0, limits: SINGLE, is_ending: false };

/// Why a window was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Count,
    Bytes,
    Time,
    Memory,
    Drain,
}

/// What is to be done after an event has been put into its window.
pub(super) type Full = Option<(u32, Cause)>;

/// All windows of a worker.
pub struct Windows {
    spill: SpillPool,
    /// One more than can be held: the last is for the event that finds no room.
    entries: Slab<Entry>,
    free_entry: u32,
    windows: Box<[Window]>,
    free_windows: Vec<u32>,
    /// By key.
    open: KeyIndex,
    /// Of the open ones.
    closing: Deadlines,
    /// Those to be tried again, and behind them those of the same topic in strict order.
    waiting: Backlog<u32>,
    profiles: Arc<WindowProfiles>,
    retry: RetryPolicy,
    held: usize,
}

const fn key_of(word: u32) -> u32 {
    word & (topic_word::NAMED | topic_word::NUMBER)
}

impl Windows {
    pub fn new(spec: WindowsSpec) -> Self {
        let WindowsSpec { spill, events, windows, profiles, retry } = spec;
        let next = |index: usize| if index + 1 < events { index as u32 + 1 } else { NONE };
        Self {
            spill,
            entries: Slab::from_fn(events + 1, |index| Entry { next: next(index), ..Entry::default() }),
            free_entry: 0,
            windows: vec![NO_WINDOW; windows].into(),
            free_windows: (0..windows as u32).rev().collect(),
            open: KeyIndex::new(windows),
            closing: Deadlines::new(windows),
            waiting: Backlog::new(windows),
            profiles,
            retry,
            held: 0,
        }
    }

    /// Bytes that the places of so many events take.
    pub const fn bytes(events: usize) -> usize {
        Slab::<Entry>::bytes(events + 1)
    }

    pub fn pool(&self) -> &FramePool {
        self.spill.pool()
    }

    /// Events held.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn policy(&self) -> &RetryPolicy {
        &self.retry
    }

    /// When there is something to do, or [`Nanos::MAX`].
    pub(super) fn next_due_ns(&self) -> Nanos {
        self.closing.first_ns().min(self.waiting.next_due_ns())
    }

    /// Whether an event of this topic belongs into a window: its topic has them, or had them until just now.
    #[inline]
    pub(super) fn gathers(&self, word: u32) -> bool {
        word & topic_word::WINDOW != 0
            || !self.open.is_empty() && self.open.find(key_of(word)).is_some()
            || self.is_blocked(word)
    }

    /// Whether a window of this topic, in strict order, waits for a retry.
    pub(super) fn is_blocked(&self, word: u32) -> bool {
        topic_word::strict_key(word).is_some_and(|_| self.waiting.has_key(key_of(word)))
    }

    /// The open window that has no room for this event's bytes.
    pub(super) fn outgrown_by(&self, event: &Event) -> Option<u32> {
        let window = self.open.find(key_of(event.topic()))?;
        let Window { bytes, limits, .. } = self.windows[window as usize];
        let fits = self.spill.can_hold(event) && bytes + u64::from(event.length()) <= u64::from(limits.max_bytes);
        (!fits).then_some(window)
    }

    /// Whether there could be room for the event at all.
    pub(super) fn can_hold(&self, event: &Event) -> bool {
        self.spill.can_hold(event)
    }

    /// Copies an event into its topic's window, and says whether that is full now. Without room the token comes back; the
    /// original event stays the caller's either way.
    pub(super) fn append(
        &mut self,
        event: &Event,
        token: Option<ClaimToken>,
        now: Nanos,
        frames: &Frames,
    ) -> Result<Full, Option<ClaimToken>> {
        let word = event.topic();
        let found = self.open.find(key_of(word));
        if self.free_entry == NONE || found.is_none() && self.free_windows.is_empty() {
            return Err(token);
        }
        let Some(copy) = self.spill.copy(event, frames) else { return Err(token) };
        let Some(number) = found.or_else(|| self.open(word, now)) else { return Err(token) };
        let entry = self.free_entry;
        self.free_entry = self.entries[entry as usize].next;
        let length = u64::from(copy.length());
        self.entries[entry as usize] = Entry { event: Some(copy), token, next: NONE, ..Entry::default() };
        self.link(number, entry);
        self.held += 1;
        let window = &mut self.windows[number as usize];
        window.bytes += length;
        let cause = match (window.count >= window.limits.max_events, window.bytes >= window.limits.max_bytes.into()) {
            (true, _) => Cause::Count,
            (_, true) => Cause::Bytes,
            _ => return Ok(None),
        };
        Ok(Some((number, cause)))
    }

    fn link(&mut self, window: u32, entry: u32) {
        let window = &mut self.windows[window as usize];
        if window.count == 0 {
            window.first = entry;
        } else {
            self.entries[window.last as usize].next = entry;
        }
        window.last = entry;
        window.count += 1;
    }

    fn open(&mut self, word: u32, now: Nanos) -> Option<u32> {
        let window = self.free_windows.pop()?;
        let limits = self.profiles.limits(word).unwrap_or(SINGLE);
        self.windows[window as usize] = Window { word, limits, ..NO_WINDOW };
        self.open.insert(key_of(word), window);
        self.closing.insert(window, now.saturating_add(limits.max_ns));
        Some(window)
    }

    /// The open window that is due next.
    pub(super) fn next_open(&self) -> Option<u32> {
        self.closing.first()
    }

    /// The open window that is due by `now`.
    pub(super) fn next_due_open(&self, now: Nanos) -> Option<u32> {
        self.closing.first().filter(|_| self.closing.first_ns() <= now)
    }

    /// Nothing comes to the window any more. False, and it has been put there, if it has to wait behind another one.
    pub(super) fn close(&mut self, window: u32) -> bool {
        self.open.remove(window);
        self.closing.remove(window);
        let blocked = self.is_blocked(self.windows[window as usize].word);
        if blocked {
            self.wait(window, None, Nanos::MAX);
        }
        !blocked
    }

    pub(super) fn count(&self, window: u32) -> u32 {
        self.windows[window as usize].count
    }

    pub(super) fn is_ending(&self, window: u32) -> bool {
        self.windows[window as usize].is_ending
    }

    /// Takes the next window to be tried again; while draining without waiting.
    pub(super) fn take_waiting(&mut self, now: Nanos, draining: bool) -> Option<(Place, u32)> {
        if draining { self.waiting.take_next() } else { self.waiting.take_due(now) }
    }

    pub(super) fn view<'a>(
        &'a self,
        window: u32,
        frames: &'a Frames,
        class: Class,
        progress: &'a Progress,
    ) -> WindowView<'a> {
        let Window { first, word, .. } = self.windows[window as usize];
        WindowView::new(frames, &self.entries, first, word, class, progress)
    }

    /// Puts an event that found no room where a handler can see it as a window of its own.
    pub(super) fn lone_view<'a>(
        &'a mut self,
        event: Event,
        frames: &'a Frames,
        class: Class,
        progress: &'a Progress,
    ) -> WindowView<'a> {
        let (word, place) = (event.topic(), self.entries.len() - 1);
        self.entries[place] = Entry { event: Some(event), next: NONE, ..Entry::default() };
        WindowView::new(frames, &self.entries, place as u32, word, class, progress)
    }

    /// Takes it back, with what was told of it.
    pub(super) fn take_lone(&mut self) -> Option<(Event, Told)> {
        let place = self.entries.len() - 1;
        let entry = std::mem::take(&mut self.entries[place]);
        entry.event.map(|event| (event, entry.told.get()))
    }

    /// A call of the handler has panicked: over the event at hand, or else over all that have no outcome. Whether there are
    /// any left.
    pub(super) fn blame(&mut self, window: u32, progress: &Progress) -> bool {
        let current = progress.current.take();
        self.for_each(window, |number, entry| {
            if entry.told.get() == Told::Nothing && current.is_none_or(|current| current == number) {
                entry.told.set(Told::Panicked);
            }
        });
        let mut is_left = false;
        self.for_each(window, |_, entry| is_left |= entry.told.get() == Told::Nothing);
        is_left
    }

    /// The handler has answered: gives every event that it was about its outcome, and says how many asked for a retry. After
    /// this the window is [ending](Self::is_ending).
    pub(super) fn answer(&mut self, window: u32, answer: Told, progress: &Progress) -> u64 {
        let (max_attempts, stopped) = (self.retry.max_attempts, progress.stopped.get());
        let mut retries = 0;
        self.for_each(window, |_, entry| {
            if entry.told.get() == Told::Nothing && !stopped {
                entry.told.set(answer);
                entry.attempts.set(entry.attempts.get() + u32::from(answer == Told::Retry));
            }
            if entry.told.get() == Told::Retry {
                retries += 1;
                if entry.attempts.get() >= max_attempts {
                    entry.told.set(Told::Exhausted);
                }
            }
        });
        self.windows[window as usize].is_ending = true;
        retries
    }

    fn for_each(&self, window: u32, mut each: impl FnMut(u32, &Entry)) {
        let mut number = self.windows[window as usize].first;
        while number != NONE {
            let entry = &self.entries[number as usize];
            each(number, entry);
            number = entry.next;
        }
    }

    /// Takes the next event off an ending window that is over; `None` if there is none left. Goes on behind `kept`, which it
    /// moves on over those that stay.
    pub(super) fn take_ended(&mut self, window: u32, kept: &mut u32) -> Option<(Event, Option<ClaimToken>, Told)> {
        loop {
            let after = |kept: u32| if kept == NONE { None } else { Some(kept) };
            let number = match after(*kept) {
                Some(kept) => self.entries[kept as usize].next,
                None => self.windows[window as usize].first,
            };
            let entry = self.entries.get(number as usize)?;
            let (told, next) = (entry.told.get(), entry.next);
            if matches!(told, Told::Nothing | Told::Retry) {
                *kept = number;
                continue;
            }
            match after(*kept) {
                Some(kept) => self.entries[kept as usize].next = next,
                None => self.windows[window as usize].first = next,
            }
            let of = &mut self.windows[window as usize];
            of.count -= 1;
            if next == NONE {
                of.last = *kept;
            }
            self.held -= 1;
            let entry = std::mem::take(&mut self.entries[number as usize]);
            self.entries[number as usize].next = std::mem::replace(&mut self.free_entry, number);
            return entry.event.map(|event| (event, entry.token, told));
        }
    }

    /// Ends the window, or lets what is left of it wait. `place` is where it waited before.
    pub(super) fn end(&mut self, window: u32, place: Option<Place>, now: Nanos) {
        let Window { first, count, .. } = self.windows[window as usize];
        if count == 0 {
            self.free_windows.push(window); // never grows: capacity is the number of windows
            return if let Some(place) = place {
                self.waiting.end(place, now)
            };
        }
        self.for_each(window, |_, entry| entry.told.set(Told::Nothing));
        self.windows[window as usize].is_ending = false;
        // Of those that have not been tried yet, behind one that has ended, the first is tried at once.
        let due_ns = match self.entries[first as usize].attempts.get() {
            0 => now,
            attempts => self.retry.due_ns(attempts, now),
        };
        self.wait(window, place, due_ns);
    }

    pub(super) fn wait(&mut self, window: u32, place: Option<Place>, due_ns: Nanos) {
        let word = self.windows[window as usize].word;
        let key = topic_word::strict_key(word).map(|_| key_of(word));
        match place {
            Some(place) => self.waiting.put_back(place, window, due_ns),
            None => {
                let pushed = self.waiting.push(key, window, due_ns);
                debug_assert!(pushed.is_ok(), "it has a place for every window");
            }
        }
    }

    pub(super) fn housekeeping(&mut self) {
        self.spill.housekeeping();
    }
}
