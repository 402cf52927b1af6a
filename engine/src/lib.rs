//! EventStreamCore: an event streaming engine for UDP floods and ordinary TCP clients.
//!
//! The modules stand in the order of the data path:
//!
//! ```text
//!  NIC queue ─ XDP steer ─► rx ring ─┐  nic, ingest::xdp
//!  UDP socket ─ recvmmsg ────────────┼─► parse in place ─► MPSC ─► dispatcher ─► SPSC ─► worker
//!  TCP socket ─ epoll ───────────────┘   frame             queue    dispatch      queue   worker, dedup
//!                 ▲                                                                         │
//!                 └─────────────── frames go back to their pools (memory) ◄─────────────────┤
//!                                             event log, dead letter queue (storage) ◄──────┘
//!  back to who asked over TCP, from whoever ends an event: acks
//!  beside it: control, metrics, admin;  built and placed by: config, topology, engine;  stepped by: runtime
//! ```
//!
//! A stage may use memory, frame, queue, runtime and metrics, never a later stage. Unsafe code stands only in the modules
//! that allow it here.
#![deny(unsafe_code)]

pub mod acks;
pub mod admin;
pub mod config;
pub mod control;
#[allow(unsafe_code)]
pub mod dedup;
pub mod dispatch;
pub mod engine;
pub mod fault;
mod fold;
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
mod sync;
pub mod topology;
pub mod worker;
