//! The control thread: looks at the engine at a steady interval and moves its state.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::EngineError;
use super::shared::Shared;
use crate::runtime::clock;
use crate::topology;

pub(super) fn spawn(shared: Arc<Shared>) -> Result<JoinHandle<()>, EngineError> {
    let run = move || {
        if let Err(error) = topology::confine(shared.control_cpus()) {
            tracing::warn!(%error, "the control thread");
        }
        while !shared.is_control_ended() {
            shared.evaluate(clock::kernel_now());
            std::thread::sleep(shared.evaluate_interval());
        }
    };
    std::thread::Builder::new()
        .name("control".into())
        .spawn(run)
        .map_err(|error| EngineError(format!("the control thread cannot be started: {error}")))
}
