//! EventStreamCore: an event streaming engine for UDP floods and ordinary TCP clients.
#![deny(unsafe_code)]

pub mod config;
pub mod control;
#[allow(unsafe_code)]
pub mod dedup;
pub mod dispatch;
pub mod fault;
pub mod frame;
pub mod ingest;
#[allow(unsafe_code)]
pub mod memory;
pub mod metrics;
#[allow(unsafe_code)]
pub mod nic;
#[allow(unsafe_code)]
pub mod queue;
#[allow(unsafe_code)]
pub mod runtime;
pub mod storage;
pub mod topology;
pub mod worker;
