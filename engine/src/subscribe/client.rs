//! A subscriber's connection as the sender sees it: what waits for its socket, and what has become of it.
//!
//! - **Overload**: what the socket does not take waits here, up to a bound that whoever appends looks at; frames beyond it are not
//!   appended, and counted.
//! - **Invariant**: frames are appended whole, and the turn is kept while one is written in part.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

use super::matcher::Place;
use super::request::Slow;
use super::turn::{Turn, Writer};

/// An emptied buffer larger than this is given back.
const KEPT_BYTES: usize = 64 << 10;

/// How a subscription gets the events that are in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It wants none.
    None,
    /// As they become durable, together with others.
    Tail,
    /// By a reader of its own, until it has caught up.
    Cursor,
    /// With a name whose position is kept.
    Kept,
}

#[derive(Debug)]
pub struct Sub {
    /// Tells it from an earlier one of the same number.
    pub serial: u64,
    pub group: Place,
    pub way: Way,
    pub slow: Slow,
    pub delivered: u64,
    pub dropped: u64,
    pub waiting: u64,
    /// Of the dropped, those that it has not been told of.
    pub untold: u64,
}

/// Appended frames of one subscription, up to a position in the stream of bytes.
#[derive(Clone, Copy, Debug)]
struct Mark {
    end: u64,
    sub: u32,
    serial: u64,
    frames: u32,
}

/// What came of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    All,
    /// The socket takes nothing more now.
    Blocked,
    /// The connection's reader is writing.
    NotOurTurn,
    /// Nobody reads any more.
    Gone,
}

#[derive(Debug)]
pub struct Client {
    pub socket: OwnedFd,
    turn: Turn,
    pub subs: HashMap<u32, Sub>,
    out: Vec<u8>,
    /// Of `out`, what has been sent.
    sent: usize,
    /// Bytes appended and sent since the connection began.
    appended_total: u64,
    sent_total: u64,
    marks: VecDeque<Mark>,
    /// Frames of all marks.
    waiting: u64,
    /// Frames that the socket has taken since this was last asked.
    delivered: u64,
    is_gone: bool,
    /// It is on the list of those to be written to.
    pub is_listed: bool,
}

impl Client {
    pub fn new(socket: OwnedFd, turn: Turn) -> Self {
        Self {
            socket,
            turn,
            subs: HashMap::new(),
            out: Vec::new(),
            sent: 0,
            appended_total: 0,
            sent_total: 0,
            marks: VecDeque::new(),
            waiting: 0,
            delivered: 0,
            is_gone: false,
            is_listed: false,
        }
    }

    /// Bytes that wait for the socket.
    pub fn waiting_bytes(&self) -> usize {
        self.out.len() - self.sent
    }

    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Frames that wait for the socket, also of subscriptions that have ended.
    pub fn waiting_frames(&self) -> u64 {
        self.waiting
    }

    /// Sends nothing of what waits any more. Returns how many frames that were.
    pub fn give_up(&mut self) -> u64 {
        self.marks.clear();
        self.out = Vec::new();
        self.sent = 0;
        self.subs.values_mut().for_each(|sub| sub.waiting = 0);
        std::mem::take(&mut self.waiting)
    }

    pub fn take_delivered(&mut self) -> u64 {
        std::mem::take(&mut self.delivered)
    }

    /// Appends something that is no event.
    pub fn say(&mut self, what: impl FnOnce(&mut Vec<u8>)) {
        let before = self.out.len();
        what(&mut self.out);
        self.appended_total += (self.out.len() - before) as u64;
    }

    /// Sends events, or keeps what the socket does not take.
    pub fn send(&mut self, sub: u32, frames: u32, bytes: &[u8]) {
        self.appended_total += bytes.len() as u64;
        self.waiting += u64::from(frames);
        let mut serial = 0;
        if let Some(sub) = self.subs.get_mut(&sub) {
            sub.waiting += u64::from(frames);
            serial = sub.serial;
        }
        self.marks.push_back(Mark { end: self.appended_total, sub, serial, frames });
        let mut sent = 0;
        if self.waiting_bytes() == 0 && !self.is_gone && self.turn.take(Writer::Sender) {
            sent = self.write_some(bytes).unwrap_or(0);
            self.sent_total += sent as u64;
            if sent == bytes.len() {
                self.turn.give_back(Writer::Sender);
            }
        }
        self.out.extend_from_slice(&bytes[sent..]);
        self.strike_off();
    }

    /// Sends what the socket takes of what waits.
    pub fn flush(&mut self) -> Written {
        if self.is_gone {
            return Written::Gone;
        }
        if self.waiting_bytes() == 0 {
            return Written::All;
        }
        if !self.turn.take(Writer::Sender) {
            return Written::NotOurTurn;
        }
        let out = std::mem::take(&mut self.out);
        while self.sent < out.len() {
            match self.write_some(&out[self.sent..]) {
                Some(0) => break,
                Some(count) => {
                    self.sent += count;
                    self.sent_total += count as u64;
                }
                None => break,
            }
        }
        self.out = out;
        self.strike_off();
        if self.is_gone {
            return Written::Gone;
        }
        if self.sent < self.out.len() {
            return Written::Blocked;
        }
        self.out.clear();
        self.sent = 0;
        if self.out.capacity() > KEPT_BYTES {
            self.out = Vec::new();
        }
        self.turn.give_back(Writer::Sender);
        Written::All
    }

    /// How much the socket has taken; zero: it takes nothing now. `None`: nobody reads any more.
    fn write_some(&mut self, bytes: &[u8]) -> Option<usize> {
        loop {
            match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => return Some(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Some(0),
                // What is wrong with the connection, its reader finds out.
                Err(_) => {
                    self.is_gone = true;
                    return None;
                }
            }
        }
    }

    /// Counts the frames that have been sent whole.
    fn strike_off(&mut self) {
        while let Some(mark) = self.marks.front().filter(|mark| mark.end <= self.sent_total) {
            self.delivered += u64::from(mark.frames);
            self.waiting -= u64::from(mark.frames);
            if let Some(sub) = self.subs.get_mut(&mark.sub).filter(|sub| sub.serial == mark.serial) {
                sub.waiting -= u64::from(mark.frames);
                sub.delivered += u64::from(mark.frames);
            }
            self.marks.pop_front();
        }
        if self.sent > 0 && self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        } else if self.sent > KEPT_BYTES && self.sent > self.out.len() / 2 {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Ends the connection; its reader sees that and closes it.
    pub fn disconnect(&mut self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        self.is_gone = true;
    }
}
