//! The boundary between the XDP programs and userspace: which packets are steered, and the maps both sides share.
//!
//! Everything here is compiled twice: into the XDP programs of `ebpf/program`, where the kernel's verifier must accept
//! it, and into the engine, the load generator and the tests. So there is one decoder of packet headers, one order of
//! checks, and one definition of every map value; what the unit tests prove about [`decide`] is what the kernel runs.
//!
//! Invariant: a packet gets exactly one [`Verdict`], and the programs count that verdict once and the run once, so that
//! per queue `runs = steered + refused + filtered + passed` where `passed` is the sum over [`Verdict::PASSED`].
#![no_std]
#![forbid(unsafe_code)]

pub mod blast;
mod checksum;
pub mod decision;
pub mod maps;
pub mod packet;
pub mod stamp;

#[cfg(not(target_arch = "bpf"))]
mod object;

pub use decision::{Datagram, Policy, Verdict, decide};
#[cfg(not(target_arch = "bpf"))]
pub use object::{BLAST_OBJECT, STEER_OBJECT};
pub use packet::Packet;
