//! The way of records that a group's members did not do, from who sends events to who writes dead letters.
//!
//! Off the path of events: records are copies, and whoever hands one over goes on giving it up only when it is durable in the queue, so
//! that a crash between the two leaves it with the group.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::letters::{Letter, Letters};
use super::log::Refused;
use crate::frame::Class;
use crate::metrics::DeadLetterReason;
use crate::runtime::waker::Waker;

/// Records handed over and not durable yet.
const TRANSIT_MAX: usize = 256;

/// What a record is to who hands it over.
pub type Ticket = (u32, u64);

/// A record that nobody of a group has done.
#[derive(Debug)]
pub struct ConsumerLetter {
    pub class: Class,
    pub group: Arc<str>,
    /// Nanoseconds since the UNIX epoch.
    pub arrival_ns: u64,
    /// With its length field.
    pub frame: Vec<u8>,
    pub ticket: Ticket,
}

/// The end that hands over.
pub struct ConsumerLetters {
    letters: Sender<ConsumerLetter>,
    ended: Receiver<Ticket>,
    on_the_way: Arc<AtomicU64>,
    in_transit: usize,
    waker: Waker,
}

/// The end at the dead letter queue.
pub struct ConsumerLetterInlet {
    letters: Receiver<ConsumerLetter>,
    ended: Sender<Ticket>,
    on_the_way: Arc<AtomicU64>,
    waker: Waker,
    /// There was no room for it.
    next: Option<ConsumerLetter>,
    /// Offsets in the queue of those that are not durable yet.
    unsynced: VecDeque<(u64, Ticket)>,
}

/// Both ends, with the wakers of who writes dead letters and of who hands them over.
pub fn consumer_letters(writer: Waker, sender: Waker) -> (ConsumerLetters, ConsumerLetterInlet) {
    let (letters, received) = channel();
    let (ended, told) = channel();
    let on_the_way = Arc::new(AtomicU64::new(0));
    let inlet = ConsumerLetterInlet {
        letters: received,
        ended,
        on_the_way: on_the_way.clone(),
        waker: sender,
        next: None,
        unsynced: VecDeque::new(),
    };
    (ConsumerLetters { letters, ended: told, on_the_way, in_transit: 0, waker: writer }, inlet)
}

impl ConsumerLetters {
    /// Handed over, and not taken in yet; a term of the ledger.
    pub fn depth(&self) -> Arc<AtomicU64> {
        self.on_the_way.clone()
    }

    pub const fn has_room(&self) -> bool {
        self.in_transit < TRANSIT_MAX
    }

    /// False: nobody takes any.
    pub fn send(&mut self, letter: ConsumerLetter) -> bool {
        // Release: paired with the Acquire of who reads the ledger.
        self.on_the_way.fetch_add(1, Ordering::Release);
        if self.letters.send(letter).is_err() {
            self.on_the_way.fetch_sub(1, Ordering::Release);
            return false;
        }
        self.in_transit += 1;
        self.waker.wake();
        true
    }

    /// One that is durable.
    pub fn take_ended(&mut self) -> Option<Ticket> {
        let ended = self.ended.try_recv().ok()?;
        self.in_transit -= 1;
        Some(ended)
    }
}

impl ConsumerLetterInlet {
    /// Appends what has come, as far as there is room. Returns how many letters that was, and how many no segment is large enough for.
    pub(super) fn take_in(&mut self, failed: &mut Letters, time_ns: u64) -> (usize, u64) {
        let (mut count, mut refused) = (0, 0);
        while let Some(letter) = self.next.take().or_else(|| self.letters.try_recv().ok()) {
            let ConsumerLetter { class, group, arrival_ns, frame, ticket } = &letter;
            let reason = DeadLetterReason::Consumer;
            let record = Letter { class: *class, reason, arrival_ns: *arrival_ns, frame };
            match failed.append_of(&record, Some(group), time_ns, None) {
                Ok(position) => self.unsynced.push_back((position.offset, *ticket)),
                Err(Refused::TooLarge) => {
                    refused += 1;
                    let _ = self.ended.send(*ticket);
                }
                Err(Refused::Full) => {
                    self.next = Some(letter);
                    break;
                }
            }
            self.on_the_way.fetch_sub(1, Ordering::Release);
            count += 1;
        }
        (count, refused)
    }

    /// Tells of those that are durable.
    pub(super) fn tell(&mut self, durable: u64) {
        let before = self.unsynced.len();
        while let Some((_, ticket)) = self.unsynced.front().filter(|(offset, _)| *offset < durable) {
            // Whoever handed it over may have ended; it will be with its group again.
            let _ = self.ended.send(*ticket);
            self.unsynced.pop_front();
        }
        if self.unsynced.len() < before {
            self.waker.wake();
        }
    }
}
