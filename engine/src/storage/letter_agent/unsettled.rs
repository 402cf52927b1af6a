//! Letters that somebody waits for: they have ended when they are on disk, and not before.

use std::collections::VecDeque;

use crate::acks::{AckSender, Asked, Told};
use crate::dedup::{ClaimToken, DedupTable};
use crate::metrics::DeadLetterReason;

/// What is settled when a letter is durable.
#[derive(Debug)]
pub(super) struct Waiting {
    pub reason: DeadLetterReason,
    pub token: Option<ClaimToken>,
    pub asked: Option<Asked>,
}

impl Waiting {
    /// `evicted`: the letter is not there any more, so that a resend is taken as new.
    pub fn settle(self, evicted: bool, claims: Option<&DedupTable>, acks: &mut AckSender) {
        if let (Some(token), Some(claims)) = (self.token, claims) {
            if evicted { claims.release(token) } else { claims.dead_letter(token) }
        }
        if let Some(asked) = self.asked {
            acks.tell(asked, Told::dead_lettered(self.reason));
        }
    }
}

/// Those of one queue.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// With their offsets, which grow.
    letters: VecDeque<(u64, Waiting)>,
}

impl Unsettled {
    pub fn push(&mut self, offset: u64, waiting: Waiting) {
        if waiting.token.is_some() || waiting.asked.is_some() {
            self.letters.push_back((offset, waiting));
        }
    }

    /// Settles those before an offset.
    pub fn settle(&mut self, durable: u64, claims: Option<&DedupTable>, acks: &mut AckSender) {
        while let Some((_, waiting)) = self.letters.pop_front_if(|(offset, _)| *offset < durable) {
            waiting.settle(false, claims, acks);
        }
    }
}
