//! The engine's state, read on the data path as one relaxed load.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What the engine does with what comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    Running = 0,
    /// Nothing new is taken in; what is in flight finishes.
    Paused = 1,
    /// Nothing new is taken in, everything is flushed, then the engine ends.
    Draining = 2,
    /// Batch and low priority go to the dead letter queue.
    Dropping = 3,
    /// Everything but critical goes to the dead letter queue.
    Emergency = 4,
}

impl State {
    pub const ALL: [Self; 5] = [Self::Running, Self::Paused, Self::Draining, Self::Dropping, Self::Emergency];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Dropping => "dropping",
            Self::Emergency => "emergency",
        }
    }

    /// Whether ingest takes in anything.
    #[inline]
    pub const fn takes_in(self) -> bool {
        !matches!(self, Self::Paused | Self::Draining)
    }
}

/// The shared cell.
#[derive(Clone, Debug)]
pub struct StateCell(Arc<AtomicU8>);

impl StateCell {
    pub fn new(state: State) -> Self {
        Self(Arc::new(AtomicU8::new(state as u8)))
    }

    #[inline]
    pub fn get(&self) -> State {
        // Relaxed: a state change carries no data, and a duty cycle more or less under the old one is allowed.
        match self.0.load(Ordering::Relaxed) {
            0 => State::Running,
            1 => State::Paused,
            2 => State::Draining,
            3 => State::Dropping,
            _ => State::Emergency,
        }
    }

    pub fn set(&self, state: State) {
        self.0.store(state as u8, Ordering::Relaxed);
    }
}
