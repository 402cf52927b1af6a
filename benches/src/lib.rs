//! Load generators and what the benchmarks share.

pub mod guard;
pub mod mix;
pub mod stop;
