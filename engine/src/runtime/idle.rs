//! What a runner does when none of its agents had work.

/// How to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleStrategy {
    /// Never lets go of the core: lowest latency, one whole core.
    BusySpin,
    /// Lets others of the same core run, but never sleeps.
    Yield,
    /// Spins, yields, then blocks until there is work.
    Backoff,
}

impl IdleStrategy {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BusySpin => "busy_spin",
            Self::Yield => "yield",
            Self::Backoff => "backoff",
        }
    }
}

/// Idle rounds a backing-off runner spins before it yields. A round over an idle set of agents costs some 100 ns, so this
/// bridges the gaps between packets at 100 k/s.
pub(super) const SPINS: u32 = 100;
/// Idle rounds it yields before it blocks.
pub(super) const YIELDS: u32 = 10;
