//! Acknowledgements: what a client over TCP is told of each frame with which it asked for that.
//!
//! - **Threads**: each agent that ends events owns an [`AckSender`]; the agent that has the connection reads the other ends.
//! - **In**: events that ask, and what became of them. **Out**: one [`Ack`] for each, in the order in which they ended.
//! - **Overload**: the agent that takes frames in never lets more of them ask than each ring has room for, so that no push
//!   can fail, and whoever ends an event waits for nobody.
//! - **Invariant**: each frame that asks is answered once, by whoever ends its event: a duplicate too, once the copy that
//!   came first has ended.
//!
//! As long as nobody asks, this costs one look a burst at a word that nobody writes.

mod sender;

pub use sender::{AckLink, AckSender, AcksWanted};

use crate::metrics::{DeadLetterReason, LostReason};

/// How an event has ended, as the protocol says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub status: u8,
    /// Zero: there is none, or it is not known here.
    pub reason: u8,
}

impl Told {
    /// It is on disk, synced.
    pub const DURABLE: Self = Self { status: 1, reason: 0 };
    /// It is written, by a policy that leaves the rest to the kernel.
    pub const WRITTEN: Self = Self { status: 2, reason: 0 };
    /// Its handler has returned.
    pub const PROCESSED: Self = Self { status: 3, reason: 0 };
    const DEAD_LETTERED: u8 = 4;
    const LOST: u8 = 5;
    /// Beside a status: of the copy that came first.
    const DUPLICATE: u8 = 0x80;
    /// Of a lost one that is none: the table of ids has forgotten what the first copy came to.
    const FORGOTTEN: u8 = 3;

    pub const fn dead_lettered(reason: DeadLetterReason) -> Self {
        Self { status: Self::DEAD_LETTERED, reason: reason.code() }
    }

    pub const fn lost(reason: LostReason) -> Self {
        let reason = match reason {
            LostReason::ShedOverBudget => 1,
            LostReason::DeadLetterLinkFull => 2,
            LostReason::LogRefused => 4,
            LostReason::DeadLetterDisk => 5,
            LostReason::LogDisk => 6,
        };
        Self { status: Self::LOST, reason }
    }

    /// Of a duplicate: its first copy has ended like this,
    pub const fn of_duplicate(self) -> Self {
        Self { status: Self::DUPLICATE | self.status, ..self }
    }

    /// is in the dead letter queue,
    pub const FIRST_DEAD_LETTERED: Self = Self { status: Self::DUPLICATE | Self::DEAD_LETTERED, reason: 0 };
    /// was lost,
    pub const FIRST_LOST: Self = Self { status: Self::DUPLICATE | Self::LOST, reason: 0 };
    /// or has ended, and nobody knows how. As after a loss, a resend is taken as new.
    pub const FIRST_FORGOTTEN: Self = Self { status: Self::DUPLICATE | Self::LOST, reason: Self::FORGOTTEN };
}

/// The connection number of events that are replayed from the dead letter queue: who replays them asks, too.
pub const REPLAY: u32 = u32::MAX;
/// The same of letters that were shed. Those hold no claim: one that is dead-lettered is another letter's.
pub const REPLAY_UNCLAIMED: u32 = u32::MAX - 1;

/// Whether it is one of those two.
#[inline]
pub const fn is_replay(connection: u32) -> bool {
    connection >= REPLAY_UNCLAIMED
}

/// What a status says of an event, whichever copy of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Well,
    DeadLettered,
    Lost,
}

impl Told {
    pub const fn ended(self) -> Ended {
        match self.status & !Self::DUPLICATE {
            Self::DEAD_LETTERED => Ended::DeadLettered,
            Self::LOST => Ended::Lost,
            _ => Ended::Well,
        }
    }

    pub const fn is_duplicate(self) -> bool {
        self.status & Self::DUPLICATE != 0
    }
}

/// Who asked: an event's name for its client. It outlives the event.
#[must_use = "a frame that asks is answered"]
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    connection: u32,
    ordinal: u32,
    id: [u8; 16],
}

impl Asked {
    /// Of an event that is replayed: its number among those.
    pub fn replayed(&self) -> Option<u32> {
        is_replay(self.connection).then_some(self.ordinal)
    }
}

/// An answer on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub connection: u32,
    /// The low half of the number that the frame has among those of its connection that ask.
    pub ordinal: u32,
    /// Zeros if the event has none.
    pub id: [u8; 16],
    pub told: Told,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They are part of the protocol, whatever the order of the names is.
    #[test]
    fn the_codes_of_reasons_stay() {
        let dead = |reason: &DeadLetterReason| (Told::dead_lettered(*reason).reason, reason.name());
        let dead: Vec<_> = DeadLetterReason::ALL.iter().map(dead).collect();
        let names = [
            (1, "rejected"),
            (2, "retries_exhausted"),
            (3, "retry_overflow"),
            (4, "handler_panic"),
            (5, "link_full"),
            (6, "shed_dropping"),
            (7, "shed_emergency"),
            (8, "consumer"),
        ];
        assert_eq!(dead, names);
        let lost: Vec<_> = LostReason::ALL.iter().map(|reason| (Told::lost(*reason).reason, reason.name())).collect();
        assert_eq!(
            lost,
            [
                (1, "shed_over_budget"),
                (2, "dead_letter_link_full"),
                (5, "dead_letter_disk"),
                (4, "log_refused"),
                (6, "log_disk")
            ]
        );
        assert!(lost.iter().all(|(code, _)| *code != Told::FIRST_FORGOTTEN.reason));
    }
}
