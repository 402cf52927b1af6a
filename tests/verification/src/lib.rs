//! The lock-free parts of the engine, built by themselves for the tools that check them.
//!
//! These are the engine's own files. They stand in a package of their own because each tool needs them built in its own
//! way (other atomics, another compiler, a sanitizer), and the engine's other dependencies, which nobody checks here,
//! would have to be built as often.
//!
//! | what | where | run by `cargo xtask test` with |
//! |---|---|---|
//! | loom models | `models.rs` beside each part | `--features loom` |
//! | property tests against an oracle | the parts' own tests | nothing, with the engine, and AddressSanitizer |
//! | larger scenarios under random schedules | `schedules.rs` | `--features shuttle` |
//! | threads against checksums | `stress.rs` | nothing, ThreadSanitizer, AddressSanitizer |
//! | what the sanitizers must find | `seeded_fault.rs` | the same |
//!
//! `cargo xtask mutate-orderings` weakens each ordering in turn, and the models have to notice.
#![allow(unexpected_cfgs)] // features of the engine that are never on here

#[path = "../../../engine/src/dedup/mod.rs"]
pub mod dedup;
#[path = "../../../engine/src/fold.rs"]
mod fold;
#[path = "../../../engine/src/frame/mod.rs"]
pub mod frame;
#[path = "../../../engine/src/memory/mod.rs"]
pub mod memory;
// Of the metrics the reasons why the parser rejects a frame.
#[path = "../../../engine/src/metrics/counter.rs"]
pub mod metrics;
#[path = "../../../engine/src/queue/mod.rs"]
pub mod queue;
pub mod runtime;
#[path = "../../../engine/src/sync/mod.rs"]
mod sync;
