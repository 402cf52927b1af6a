//! What becomes of a published event, once it is known.
//!
//! Invariant: a [`Settler`] settles its receipt once; one that is dropped instead says [`Error::Closed`].

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::types::Acknowledgement;

type Outcome = Result<Acknowledgement, Error>;

#[derive(Debug, Default)]
struct Slot {
    outcome: Mutex<Option<Outcome>>,
    is_known: Condvar,
}

/// Stands for one published event. Whoever does not want to know drops it.
#[derive(Clone, Debug)]
pub struct Receipt {
    id: [u8; 16],
    slot: Arc<Slot>,
}

impl Receipt {
    /// Under which the event is sent, each time.
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Waits until it is known.
    pub fn wait(&self) -> Outcome {
        let outcome = self.slot.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.slot.is_known.wait_while(outcome, |outcome| outcome.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).clone().unwrap_or(Err(Error::Closed))
    }

    /// Waits for so long at most; none: it is not known yet.
    pub fn wait_for(&self, patience: Duration) -> Option<Outcome> {
        let outcome = self.slot.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.slot.is_known.wait_timeout_while(outcome, patience, |outcome| outcome.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

/// The other end.
#[derive(Debug)]
pub(crate) struct Settler(Arc<Slot>);

impl Settler {
    pub fn new(id: [u8; 16]) -> (Self, Receipt) {
        let slot = Arc::<Slot>::default();
        (Self(slot.clone()), Receipt { id, slot })
    }

    pub fn settle(self, outcome: Outcome) {
        self.set(outcome);
    }

    fn set(&self, outcome: Outcome) {
        self.0.outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(outcome);
        self.0.is_known.notify_all();
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        self.set(Err(Error::Closed));
    }
}
