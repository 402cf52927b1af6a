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

/// On a runner that never blocks and has a ring to look at, one in so many idle rounds asks the kernel for what its sockets have: two
/// calls that find nothing take half a microsecond, in which a packet would wait in its ring. Without them a round takes a
/// fifth of that, so a socket is asked every few microseconds still.
pub(super) const ASK_EVERY: u32 = 16;
/// Idle rounds a backing-off runner spins before it yields. A round over an idle set of agents costs some 100 ns, so this
/// bridges the gaps between packets at 100 k/s.
pub(super) const SPINS: u32 = 100;
/// Idle rounds it yields before it blocks.
pub(super) const YIELDS: u32 = 10;
