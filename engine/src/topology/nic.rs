//! What the plan needs to know of the interface that is steered.

use super::Plan;
use super::plan::PlanError;
use crate::config::Config;
use crate::nic::Interface;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nic {
    /// Queues that have an AF_XDP socket, or are to have one.
    pub queues: Vec<u32>,
    /// The node it hangs on, if that is known.
    pub node: Option<u32>,
}

impl Nic {
    /// What a configuration asks for, before anything is opened. An interface that does not answer is taken for one of one
    /// queue; the second value is then why.
    pub fn wanted(config: &Config) -> Result<(Self, Option<String>), PlanError> {
        let Some(name) = &config.xdp.interface else { return Ok((Self::default(), None)) };
        let (queue_count, node, unknown) = match Interface::named(name) {
            Ok(interface) => (interface.queue_count, interface.numa_node, None),
            Err(error) => (1, None, Some(format!("interface {name} ({error}): planned as if it had one queue"))),
        };
        Ok((Self { queues: Plan::xdp_queues(config, queue_count)?, node }, unknown))
    }
}
