//! Load generators and what the benchmarks share.

pub mod guard;
pub mod link;
pub mod mix;
pub mod pace;
pub mod packet;
pub mod report;
pub mod stop;
