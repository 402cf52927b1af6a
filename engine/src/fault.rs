//! Deliberate miscounting, in builds made to prove that the ledger notices. Compiled to nothing otherwise.
//!
//! `EVENTSTREAM_FAULT=drop:dispatcher` makes the dispatcher forget one event, `double:realtime` makes the realtime worker
//! count one twice. Each process commits its fault once. `EVENTSTREAM_CLOCK_FAULT=FILE` sets the wall clock wrong, by as many
//! seconds as the file says whenever the clock is read.

/// Where a fault can be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Ingest,
    Dispatcher,
    Realtime,
    Transactional,
    Batch,
    DeadLetter,
}

impl Stage {
    pub const ALL: [Self; 6] =
        [Self::Ingest, Self::Dispatcher, Self::Realtime, Self::Transactional, Self::Batch, Self::DeadLetter];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Dispatcher => "dispatcher",
            Self::Realtime => "realtime",
            Self::Transactional => "transactional",
            Self::Batch => "batch",
            Self::DeadLetter => "dead-letter",
        }
    }

    pub const fn of(class: crate::frame::Class) -> Self {
        match class {
            crate::frame::Class::Realtime => Self::Realtime,
            crate::frame::Class::Transactional => Self::Transactional,
            crate::frame::Class::Batch => Self::Batch,
        }
    }
}

/// Whether a fault is still to be committed at `stage`.
#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
pub const fn is_armed(_stage: Stage) -> bool {
    false
}

/// Whether this event is the one to be forgotten at `stage`.
#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
pub const fn drops(_stage: Stage) -> bool {
    false
}

/// Whether this event is the one to be counted twice at `stage`.
#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
pub const fn doubles(_stage: Stage) -> bool {
    false
}

#[cfg(feature = "fault-injection")]
mod armed {
    use super::Stage;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    static FAULT: OnceLock<Option<(bool, Stage)>> = OnceLock::new();
    static DONE: AtomicBool = AtomicBool::new(false);

    fn fault() -> Option<(bool, Stage)> {
        *FAULT.get_or_init(|| {
            let text = std::env::var("EVENTSTREAM_FAULT").ok()?;
            let (kind, stage) = text.split_once(':')?;
            let stage = Stage::ALL.into_iter().find(|known| known.name() == stage)?;
            match kind {
                "drop" => Some((true, stage)),
                "double" => Some((false, stage)),
                _ => None,
            }
        })
    }

    pub fn is_armed(stage: Stage) -> bool {
        fault().is_some_and(|(_, at)| at == stage) && !DONE.load(Ordering::Relaxed)
    }

    fn commits(drop: bool, stage: Stage) -> bool {
        fault() == Some((drop, stage)) && !DONE.swap(true, Ordering::Relaxed)
    }

    pub fn drops(stage: Stage) -> bool {
        commits(true, stage)
    }

    pub fn doubles(stage: Stage) -> bool {
        commits(false, stage)
    }

    static CLOCK: OnceLock<Option<PathBuf>> = OnceLock::new();

    /// What the wall clock says when it is `time_ns`.
    pub fn set_wrong(time_ns: u64) -> u64 {
        let Some(path) = CLOCK.get_or_init(|| std::env::var_os("EVENTSTREAM_CLOCK_FAULT").map(PathBuf::from)) else {
            return time_ns;
        };
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let seconds = text.trim().parse::<i64>().unwrap_or_default();
        time_ns.saturating_add_signed(seconds.saturating_mul(1_000_000_000))
    }
}

#[cfg(feature = "fault-injection")]
pub use armed::{doubles, drops, is_armed, set_wrong};
