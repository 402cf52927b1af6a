//! From the readers of connections to the sender: who subscribes, asks and goes.
//!
//! Off the path of events: a request may allocate, and waits in a bounded channel. When that is full the client is told so.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::time::Duration;

use super::kept::{Listed, NameKind};
use super::request::{Refused, Request};
use super::turn::Turn;
use crate::runtime::waker::Waker;

/// Which connection: what its reader calls it, and above that who reads it.
pub type ConnectionKey = u64;

/// Requests that may wait.
const WAITING_MAX: usize = 1 << 14;
/// How long an operator waits for an answer: as long as a disk may take, and longer.
const PATIENCE: Duration = Duration::from_secs(8);

#[derive(Debug)]
pub enum Message {
    /// A connection that asks for the first time: its socket once more, and whose turn it is to write to it.
    Opened {
        connection: ConnectionKey,
        socket: OwnedFd,
        turn: Turn,
    },
    Asked {
        connection: ConnectionKey,
        at_byte: u64,
        asked: Result<Request, Refused>,
    },
    /// `stays`: its reader has let it go because the engine drains, and what is on the way is still sent.
    Closed {
        connection: ConnectionKey,
        stays: bool,
    },
    /// An operator's.
    Names(NameCommand),
}

/// What an operator asks of the names whose positions are kept.
#[derive(Debug)]
pub enum NameCommand {
    List(Sender<Vec<Listed>>),
    Delete { kind: Option<NameKind>, name: String, answer: Sender<Result<NameKind, String>> },
}

/// The end where that is asked.
#[derive(Clone, Debug)]
pub struct NameControl(SubscriptionLink);

impl NameControl {
    pub const fn new(link: SubscriptionLink) -> Self {
        Self(link)
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> NameCommand) -> Result<T, String> {
        let (sender, receiver) = channel();
        if !self.0.send(Message::Names(command(sender))) {
            return Err("the engine is ending, or has too much to do".to_owned());
        }
        receiver.recv_timeout(PATIENCE).map_err(|_| "the engine is ending, or its disk does not answer".to_owned())
    }

    pub fn list(&self) -> Result<Vec<Listed>, String> {
        self.ask(NameCommand::List)
    }

    pub fn delete(&self, kind: Option<NameKind>, name: String) -> Result<NameKind, String> {
        self.ask(|answer| NameCommand::Delete { kind, name, answer })?
    }
}

/// A reader's end.
#[derive(Clone)]
pub struct SubscriptionLink {
    messages: SyncSender<Message>,
    waker: Waker,
}

impl std::fmt::Debug for SubscriptionLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SubscriptionLink")
    }
}

/// Both ends; the sender's runner is woken by `waker`.
pub fn link(waker: Waker) -> (SubscriptionLink, Receiver<Message>) {
    let (messages, received) = sync_channel(WAITING_MAX);
    (SubscriptionLink { messages, waker }, received)
}

impl SubscriptionLink {
    /// False: too much waits already, or nobody takes anything any more.
    pub fn send(&self, message: Message) -> bool {
        let is_sent = self.messages.try_send(message).is_ok();
        self.waker.wake();
        is_sent
    }

    /// The same of what must not be lost. Waits for the sender, which waits for nobody but the disk.
    pub fn send_surely(&self, message: Message) {
        if let Err(TrySendError::Full(message)) = self.messages.try_send(message) {
            self.waker.wake();
            let _ = self.messages.send(message);
        }
        self.waker.wake();
    }
}
