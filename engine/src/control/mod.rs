//! The control plane: states, how they reach the data path, and what moves them.

mod controller;
mod state;

pub use controller::{Controller, Inputs, Transition};
pub use state::{State, StateCell};
