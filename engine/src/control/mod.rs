//! The control plane: states, and how they reach the data path.

mod state;

pub use state::{State, StateCell};
