//! Which agents there are, what links them, on which core each runs, and what memory they get.
//!
//! [`Plan`] is pure arithmetic over the configuration and the machine: `--check-config` prints it. The engine builds exactly
//! what the plan says.

mod machine;
mod plan;

pub use machine::Machine;
pub use plan::{
    AgentPlan, DEAD_LETTER_LINK_DEPTH, LinkPlan, Plan, PlanError, PoolPlan, Role, RunnerPlan, SPILL_SLOT_BYTES,
    large_slot_bytes, retry_slots,
};
