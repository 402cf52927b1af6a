//! The engine as a whole: built from a configuration, observed, controlled, and drained.
//!
//! ```text
//!   Engine::builder().config(..).handlers(..).start()
//!        │ nic::open ─► plan ─► pools, queues, agents ─► runners           (build, sources)
//!        ▼
//!   running: data threads step agents; the control thread evaluates        (control_loop)
//!        │ drain: refuse ─► empty in path order ─► kernel counters ─► detach ─► stop
//!        ▼
//!   Report with the ledger
//! ```

mod build;
mod control_loop;
mod dead_letters;
mod logging;
mod observe;
mod queues;
mod shared;
mod sources;
mod subscriptions;

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::control::State;
use crate::frame::Class;
use crate::metrics::Report;
use crate::runtime::clock::Clock;
use crate::topology::{Machine, Nic, Plan, PlanError};
use crate::worker::{CountingHandler, HandlerFactory};

use shared::Shared;
pub use shared::{Control, ReloadError};
pub use sources::Ports;

/// Why the engine did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineError(pub String);

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for EngineError {}

/// Collects what an engine needs.
pub struct EngineBuilder<F> {
    config: Config,
    handlers: F,
}

/// A running engine. Dropping it without [`drain`](Engine::drain) stops the threads and loses what is in flight.
pub struct Engine {
    shared: Arc<Shared>,
    control: Option<JoinHandle<()>>,
}

impl Engine {
    /// A builder with the default configuration and the default handler.
    pub fn builder() -> EngineBuilder<fn(Class, usize) -> CountingHandler> {
        EngineBuilder { config: Config::default(), handlers: |_, _| CountingHandler::default() }
    }

    /// For observing and steering the engine from other threads.
    pub fn control(&self) -> Control {
        Control::new(self.shared.clone())
    }

    /// Takes in nothing more, lets everything in flight end, and returns the final report.
    ///
    /// What has not ended after the configured time, because a handler does not return, stays `in flight` in the
    /// report, and `balanced` is false.
    ///
    /// # Panics
    /// In debug builds, when everything has ended and a frame slot did not come back: a defect. The log names the slot.
    pub fn drain(mut self) -> Report {
        let drained = self.shared.drain();
        self.stop_control();
        debug_assert!(drained.lost_slots == 0, "{} frame slots are lost", drained.lost_slots);
        drained.report
    }

    fn stop_control(&mut self) {
        self.shared.stop_control();
        if let Some(control) = self.control.take() {
            // A control thread that panicked has said so already.
            let _ = control.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.abandon();
        self.stop_control();
    }
}

impl<F: HandlerFactory> EngineBuilder<F> {
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Called once for each worker, with its class and number.
    pub fn handlers<G: HandlerFactory>(self, handlers: G) -> EngineBuilder<G> {
        EngineBuilder { config: self.config, handlers }
    }

    /// Opens the interface and the sockets, starts the threads.
    pub fn start(mut self) -> Result<Engine, EngineError> {
        let started = Instant::now();
        let mut config = self.config;
        sources::choose_udp_port(&mut config)?;
        let clock = Clock::calibrated();
        let run_id = format!("{:016x}", std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), started));
        let machine = Machine::discover().with_disk_of(config.storage.directory.as_deref());
        if !machine.is_this_system {
            return Err(EngineError(
                "hwloc was told of another machine than this one: layouts for it can only be shown".into(),
            ));
        }
        let refused = |error: PlanError| EngineError(error.to_string());
        // A layout that cannot work is refused before the interface is touched.
        let (wanted, unknown) = Nic::wanted(&config).map_err(refused)?;
        let memory_node = match unknown {
            None => Plan::derive(&config, &machine, &wanted).map_err(refused)?.nic_node,
            // Opening says more.
            Some(_) => None,
        };
        let mut nic = sources::open_nic(&config, memory_node)?;
        let napi = sources::pin_napi(&config, nic.as_ref())?;
        let ready = nic.as_mut().map(|nic| std::mem::take(&mut nic.queues)).unwrap_or_default();
        let interface_index = nic.as_ref().map(|nic| nic.interface.index);
        let got = Nic { queues: ready.iter().map(|ready| ready.queue).collect(), ..wanted };
        let plan = Plan::derive(&config, &machine, &got).map_err(refused)?;
        let context = build::Context::new(&config, &plan, clock.clone(), run_id.clone())?;
        let state = context.state.clone();
        let built = build::build(context, ready, interface_index, &mut self.handlers)?;
        let shared = Arc::new(Shared::new(shared::Parts { config, plan, clock, run_id, nic, napi, state, built }));
        let control = control_loop::spawn(shared.clone())?;
        Ok(Engine { shared, control: Some(control) })
    }
}

/// Polls `done` until it holds or `timeout` is over; says which.
fn wait_until(timeout: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the state can be asked for by an operator.
pub const fn is_operator_state(state: State) -> bool {
    !matches!(state, State::Draining)
}
