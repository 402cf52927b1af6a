//! What the tests in this folder share.

pub mod pipeline;
pub mod random;
