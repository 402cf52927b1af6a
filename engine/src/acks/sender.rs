//! The end of whoever ends events: a ring to each agent that has connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_utils::CachePadded;

use super::{Ack, Asked, Told, is_replay};
use crate::frame::FLAG_ACK;
use crate::memory::{Event, Frames};
use crate::queue::spsc;
use crate::runtime::waker::Waker;

/// How many agents have frames that ask and are not answered yet. Cheap to clone.
///
/// An agent adds itself before it publishes the first such event, and takes itself off after the last answer has come.
#[derive(Clone, Debug, Default)]
pub struct AcksWanted(Arc<CachePadded<AtomicU32>>);

impl AcksWanted {
    /// By an agent with connections.
    pub fn begin(&self) {
        // Relaxed: whoever takes an event off a queue has acquired what was stored before it was put there, this among
        // it, and in the order of this one word finds the addition or what came after.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// By the same.
    pub fn end(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    #[inline]
    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

/// The ring to one agent with connections.
pub struct AckLink {
    pub ring: spsc::Producer<Ack>,
    /// Wakes that agent's runner; `None` when it is the sender's own.
    pub waker: Option<Waker>,
}

/// Owned by one agent that ends events.
pub struct AckSender {
    /// The connection numbers of an agent leave its place here when divided by the number of these.
    links: Vec<AckLink>,
    /// To who replays dead letters.
    replay: Option<AckLink>,
    wanted: AcksWanted,
    /// Something was pushed and is not visible yet.
    pushed: bool,
}

impl AckSender {
    /// `links` in the order of the agents with connections.
    pub fn new(links: Vec<AckLink>, wanted: AcksWanted) -> Self {
        Self { links, replay: None, wanted, pushed: false }
    }

    /// With a ring to who replays dead letters.
    pub fn with_replay(self, replay: Option<AckLink>) -> Self {
        Self { replay, ..self }
    }

    fn all_links(&mut self) -> impl Iterator<Item = &mut AckLink> {
        self.links.iter_mut().chain(&mut self.replay)
    }

    /// Where there are no connections.
    pub fn none() -> Self {
        Self::new(Vec::new(), AcksWanted::default())
    }

    /// How many answers may be asked for at once.
    pub fn bound(&self) -> usize {
        self.links.iter().chain(&self.replay).map(|link| link.ring.capacity() as usize).sum()
    }

    /// Whether any event at hand may ask: to be looked at after the events have become visible.
    #[inline]
    pub fn are_wanted(&self) -> bool {
        self.wanted.any()
    }

    /// Who is to be told, if the event asks.
    #[inline]
    pub fn asked(&self, event: &Event, frames: &Frames) -> Option<Asked> {
        // Over UDP the flag means nothing, and there is no connection.
        let asks =
            event.shape().has(FLAG_ACK) && event.connection() != 0 && (!self.links.is_empty() || self.replay.is_some());
        asks.then(|| Asked {
            connection: event.connection(),
            ordinal: frames.ordinal(event),
            id: frames.view(event).id().unwrap_or_default(),
        })
    }

    /// Answers; seen once [`publish`](Self::publish) is called.
    pub fn tell(&mut self, asked: Asked, told: Told) {
        let Asked { connection, ordinal, id } = asked;
        let link = match &mut self.replay {
            Some(replay) if is_replay(connection) => replay,
            _ => {
                let place = connection as usize % self.links.len().max(1);
                let Some(link) = self.links.get_mut(place) else { return };
                link
            }
        };
        let pushed = link.ring.push(Ack { connection, ordinal, id, told });
        debug_assert!(pushed.is_ok(), "more frames ask than a ring has room for");
        self.pushed = true;
    }

    /// Makes what was told visible, once a batch.
    #[inline]
    pub fn publish(&mut self) {
        if self.pushed {
            self.publish_links();
        }
    }

    #[cold]
    fn publish_links(&mut self) {
        self.pushed = false;
        for link in self.all_links() {
            if link.ring.publish() > 0
                && let Some(waker) = &link.waker
            {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Shape;
    use crate::memory::{FramePool, Peer, PoolSpec, Region, Releaser, Route};

    #[test]
    fn each_answer_takes_the_ring_of_its_connection() {
        let (links, mut ends): (Vec<_>, Vec<_>) =
            (0..3).map(|_| spsc::ring(4)).map(|(ring, end)| (AckLink { ring, waker: None }, end)).unzip();
        let mut sender = AckSender::new(links, AcksWanted::default());
        assert_eq!(sender.bound(), 12);
        for connection in [7, 9, 10] {
            sender.tell(Asked { connection, ordinal: 1, id: [0; 16] }, Told::PROCESSED);
        }
        assert!(ends.iter_mut().all(|end| end.take().is_none()), "not published yet");
        sender.publish();
        let mut taken =
            |end: usize| std::iter::from_fn(|| ends[end].take().map(|ack| ack.connection)).collect::<Vec<_>>();
        assert_eq!((taken(0), taken(1), taken(2)), (vec![9], vec![7, 10], vec![]));
    }

    #[test]
    fn only_frames_of_connections_with_the_flag_ask() {
        let mut pool = FramePool::new(0, Region::map(64).unwrap(), &PoolSpec { slot_bytes: 64, reliable: true });
        let frames = Frames::new(&[&pool]);
        let (ring, _end) = spsc::ring(4);
        let sender = AckSender::new(vec![AckLink { ring, waker: None }], AcksWanted::default());
        let mut slot = pool.acquire().unwrap();
        pool.bytes_mut(&mut slot)[..4].copy_from_slice(&77_u32.to_be_bytes());
        let mut maker = pool.seal(slot, 3, 0, Peer::NONE);
        let mut releaser = Releaser::new(frames.clone());
        for (head, connection, expected) in [(0, 5, None), (FLAG_ACK, 0, None), (FLAG_ACK, 5, Some(77))] {
            let event = maker.make(4, 8, Route { shape: Shape::new(head, 1), connection, ..Route::default() });
            assert_eq!(sender.asked(&event, &frames).map(|asked| asked.ordinal), expected);
            assert_eq!(AckSender::none().asked(&event, &frames), None);
            releaser.release(event);
        }
    }
}
