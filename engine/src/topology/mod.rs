//! Which agents there are, what links them, on which core each runs, and what memory they get.
//!
//! ```text
//!   hwloc ─ discover ─► Machine ─┐
//!   the interface ─────► Nic ────┼─► Plan:  agents ─► place (runners, cores) ─► links, pools ─► check
//!   the file ──────────► Config ─┘
//! ```
//!
//! [`Plan`] is pure arithmetic over these three: `--check-config` and `eventstream topology` print it. The engine builds
//! exactly what the plan says; a plan that cannot work is refused before anything is opened.

mod affinity;
mod agents;
mod check;
mod discover;
mod disk;
mod machine;
mod nic;
mod place;
mod plan;
mod pools;
mod show;
#[cfg(test)]
mod tests;

pub use affinity::confine;
pub use agents::{AgentPlan, DEAD_LETTER, DEAD_LETTER_LINK_DEPTH, LOG, LinkPlan, Role, SUBSCRIBERS, ack_link_depth};
pub use machine::{Cache, Cpu, Machine, Node};
pub use nic::Nic;
pub use plan::{Plan, PlanError, RunnerPlan};
pub use pools::{PoolPlan, REPLAY};
pub use show::{Described, DescribedNic};
