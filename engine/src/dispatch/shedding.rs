//! Which events a state of the engine sends to the dead letter queue instead of to a worker.

use crate::control::State;
use crate::frame::Priority;
use crate::memory::Event;
use crate::metrics::DeadLetterReason;

/// What a state sheds.
#[derive(Clone, Copy)]
pub(super) struct Shedding {
    below: Priority,
    pub(super) reason: DeadLetterReason,
}

impl Shedding {
    pub(super) const fn of(state: State) -> Option<Self> {
        match state {
            State::Dropping => Some(Self { below: Priority::Medium, reason: DeadLetterReason::ShedDropping }),
            State::Emergency => Some(Self { below: Priority::Critical, reason: DeadLetterReason::ShedEmergency }),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn hits(self, event: &Event) -> bool {
        event.shape().priority() < self.below
    }
}
