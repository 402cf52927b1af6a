//! Load generators and what the benchmarks share.

pub mod mix;
