//! Interrupt and terminate, as a flag.
//!
//! Children run in process groups of their own, so a ctrl-c reaches only this process; it then ends them in the order
//! that keeps the books: load first, the engine after it, the network last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{Error, Result};

/// Set once a signal asked this process to end. Cloning shares the flag.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Takes over SIGINT and SIGTERM for the rest of the process. A second signal of the kind ends the process at once,
    /// for whoever does not want to wait.
    pub fn on_signals() -> Result<Self> {
        let stop = Stop::default();
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the one that ends the process looks at the flag before the other sets it.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop.0))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop.0)))
                .map_err(|error| Error::of_io("signal handler", &error))?;
        }
        Ok(stop)
    }

    pub fn requested(&self) -> bool {
        // Relaxed: the flag orders nothing, it is only looked at again and again.
        self.0.load(Ordering::Relaxed)
    }

    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
