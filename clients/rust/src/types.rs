//! What is handed out. None of it knows about connections.

use std::borrow::Cow;

/// Decides the class of topics without an entry in the configuration, and what is shed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Priority {
    Batch = 0,
    Low = 1,
    Medium = 2,
    High = 3,
    Critical = 4,
}

impl Priority {
    pub const ALL: [Self; 5] = [Self::Batch, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// 5 to 7 are taken as critical.
    pub(crate) fn from_wire(bits: u8) -> Self {
        Self::ALL[usize::from(bits).min(4)]
    }
}

/// How the engine works on an event. Realtime is never logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    Realtime = 0,
    Transactional = 1,
    Batch = 2,
}

impl Class {
    pub const ALL: [Self; 3] = [Self::Realtime, Self::Transactional, Self::Batch];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Realtime => "realtime",
            Self::Transactional => "transactional",
            Self::Batch => "batch",
        }
    }
}

/// What has become of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Status {
    /// In the event log, and synced.
    Durable = 1,
    /// In the event log, whose policy is `never`.
    Written = 2,
    /// Its handler has returned, and it is not logged.
    Processed = 3,
    /// In the dead letter queue.
    DeadLettered = 4,
    /// Nowhere: it may be published again.
    Lost = 5,
}

impl Status {
    pub const ALL: [Self; 5] = [Self::Durable, Self::Written, Self::Processed, Self::DeadLettered, Self::Lost];

    pub(crate) fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|status| *status as u8 == number)
    }

    fn reasons(self) -> &'static [&'static str] {
        match self {
            Self::Durable | Self::Written | Self::Processed => &[],
            Self::DeadLettered => &[
                "rejected",
                "retries_exhausted",
                "retry_overflow",
                "handler_panic",
                "link_full",
                "shed_dropping",
                "shed_emergency",
            ],
            Self::Lost => &[
                "shed_over_budget",
                "dead_letter_link_full",
                "forgotten",
                "log_refused",
                "dead_letter_disk",
                "log_disk",
            ],
        }
    }

    /// The engine's name for a reason; a number that is newer than this client is told as one.
    pub(crate) fn reason(self, code: u8) -> Option<Cow<'static, str>> {
        let known = usize::from(code).checked_sub(1)?;
        let newer = || Cow::Owned(format!("reason {code}"));
        Some(self.reasons().get(known).map_or_else(newer, |name| Cow::Borrowed(*name)))
    }
}

/// The engine's answer to one published event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    pub id: [u8; 16],
    pub status: Status,
    pub reason: Option<Cow<'static, str>>,
    /// The engine had this id already; the status is what its first copy came to.
    pub is_duplicate: bool,
}

impl Acknowledgement {
    /// The event did what it was meant to.
    pub fn is_ok(&self) -> bool {
        self.status <= Status::Processed
    }
}

/// What a subscription hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    Event(Event),
    /// Events that will not come.
    Gap(Gap),
    /// So many live events were dropped because they were not read in time.
    Dropped(u64),
    /// The connection broke, and events may be missing here: of a live subscription, or because what comes next in the log
    /// is not what came next before (`is_truncated`).
    Reconnected {
        is_truncated: bool,
    },
}

/// One event, as a subscriber gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub topic: String,
    pub payload: Vec<u8>,
    pub id: Option<[u8; 16]>,
    /// By the publisher's clock.
    pub sent_time_ns: Option<u64>,
    pub priority: Priority,
    pub class: Class,
    /// 1 the first time.
    pub delivery_count: u8,
    pub node: u16,
    pub epoch: u32,
    /// In the log, together with the epoch; none if the event is not logged.
    pub offset: Option<u64>,
    /// By the engine's clock.
    pub received_time_ns: u64,
    pub sub: u32,
}

/// Offsets from `start` up to but without `end` are not kept any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    pub stream: String,
    pub epoch: u32,
    pub start: u64,
    pub end: u64,
    pub count: u64,
}

/// A place in one stream of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub stream: String,
    pub epoch: u32,
    pub offset: u64,
}
