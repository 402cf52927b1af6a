//! Which events of a burst are first copies, and which are duplicates.

use super::{Worker, WorkerSpec};
use crate::acks::REPLAY;
use crate::dedup::{Claim, EventId};
use crate::dispatch::topic_word;
use crate::frame::FLAG_ID;
use crate::runtime::clock::Nanos;
use crate::worker::acks::First;
use crate::worker::burst::{Burst, Verdict};
use crate::worker::handler::Handler;

impl<H: Handler> Worker<H> {
    /// Claims the ids of the burst in one batch; events that lose get their verdict.
    pub(super) fn claim(&mut self, ring: usize, count: usize, now: Nanos) {
        let WorkerSpec { rings, frames, claimer: Some(claimer), .. } = &mut self.spec else { return };
        let Burst { verdicts, tokens, duplicates, may_ask, firsts, dead_lettered, .. } = &mut self.burst;
        let ids = rings[ring].peek(0..count).enumerate().filter_map(|(index, event)| {
            let deduplicated = event.topic() & topic_word::DEDUP != 0 && event.shape().has(FLAG_ID);
            let id = if deduplicated { frames.view(event).id() } else { None };
            id.map(|id| (index as u32, EventId(id)))
        });
        claimer.claim_each(ids, now, |index, answer| {
            if let Claim::Won(token) = answer {
                tokens.push((index, token));
                return;
            }
            verdicts[index as usize] = Verdict::Duplicate;
            *duplicates += 1;
            if *may_ask {
                firsts.extend(First::of(&answer).map(|first| (index, first)));
                if let Claim::DeadLettered = answer {
                    dead_lettered.push(index);
                }
            }
        });
        if !self.burst.dead_lettered.is_empty() {
            self.retake(ring, now);
        }
    }

    /// Takes the claims of letters up again that are replayed, and had failed: what was shed holds none. Other copies in the
    /// burst then wait for those.
    #[cold]
    fn retake(&mut self, ring: usize, now: Nanos) {
        let Self { spec: WorkerSpec { rings, frames, claimer: Some(claimer), .. }, burst, .. } = self else { return };
        let id_of = |index: u32| {
            let place = index as usize;
            let event = rings[ring].peek(place..place + 1).next()?;
            Some((EventId(frames.view(event).id()?), event.connection() == REPLAY))
        };
        let mut duplicates = std::mem::take(&mut burst.dead_lettered);
        duplicates.retain(|index| {
            let Some((id, true)) = id_of(*index) else { return true };
            let token = claimer.table().retake_dead_lettered(id, now);
            token.map(|token| burst.is_first(*index, token)).is_none()
        });
        for index in duplicates.drain(..) {
            let Some((id, _)) = id_of(index) else { continue };
            match claimer.claim(id, now) {
                Claim::Won(token) => burst.is_first(index, token),
                met => burst.is_duplicate_of(index, First::of(&met)),
            }
        }
        burst.dead_lettered = duplicates;
    }
}
