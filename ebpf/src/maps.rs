//! The steering program's maps: names, value layouts and counter indices.
//!
//! A userspace of one build may meet a program of another (a stale one left by a killed run, or an object named by
//! hand), so nothing here may depend on compiler choices: values are `repr(C)` of fixed-width integers, and their sizes
//! and offsets are asserted.
//!
//! | map         | type         | key                       | value             | written by |
//! |-------------|--------------|---------------------------|-------------------|------------|
//! | [`CONFIG`]    | array        | 0                         | [`SteerConfig`]   | userspace  |
//! | [`PORTS`]     | array        | port / 64                 | `u64`, bit port % 64 | userspace |
//! | [`ADDRESSES`] | hash         | [`AddressKey`]            | `u32`, not read   | userspace  |
//! | [`SOCKETS`]   | xskmap       | rx queue                  | AF_XDP socket     | userspace  |
//! | [`VERDICTS`]  | per-CPU array | [`verdict_index`]        | `u64` packets     | program    |
//! | [`RUNS`]      | per-CPU array | [`row`]                  | `u64` packets     | program    |

use crate::decision::Verdict;
use core::mem::{offset_of, size_of};

/// Name of the program in the steering object.
pub const STEER_PROGRAM: &str = "steer";

pub const CONFIG: &str = "CONFIG";
pub const PORTS: &str = "PORTS";
pub const ADDRESSES: &str = "ADDRESSES";
pub const SOCKETS: &str = "SOCKETS";
pub const VERDICTS: &str = "VERDICTS";
pub const RUNS: &str = "RUNS";

/// Receive queues that can have a socket. Queues beyond it are counted in one row of their own and pass.
pub const QUEUE_COUNT: usize = 64;
/// Counter rows: one a queue and one for all queues beyond [`QUEUE_COUNT`].
pub const ROW_COUNT: usize = QUEUE_COUNT + 1;
/// Entries of [`VERDICTS`].
pub const VERDICT_ENTRY_COUNT: usize = ROW_COUNT * Verdict::COUNT;
/// Entries of [`PORTS`], 64 ports each.
pub const PORT_WORD_COUNT: usize = 65_536 / 64;
/// Own addresses and multicast groups: far more than a host has, 24 KiB of kernel memory.
pub const ADDRESS_COUNT: usize = 1_024;

/// What the program does with a packet that is meant for the engine.
pub const MODE_STEER: u32 = 0;
/// Drop it and count it as refused: the engine is paused or draining. Every value but [`MODE_STEER`] means this.
pub const MODE_REFUSE: u32 = 1;

/// The one value of [`CONFIG`]. All zeroes, as the kernel creates it, steers nothing: no packet fits a room of zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerConfig {
    /// [`MODE_STEER`] or [`MODE_REFUSE`].
    pub mode: u32,
    /// Not zero: the UDP checksum is verified, and what fails is filtered.
    pub verify_checksum: u32,
    /// Packet bytes that fit a UMEM frame behind its headroom. The kernel would drop a longer packet after steering it
    /// (`rx_dropped`), so it passes to the kernel's own socket instead.
    pub frame_room: u32,
    /// Zero; keeps the value a multiple of eight bytes.
    pub reserved: u32,
}

impl SteerConfig {
    /// The map value.
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        let fields = [self.mode, self.verify_checksum, self.frame_room, self.reserved];
        for (chunk, field) in bytes.chunks_exact_mut(4).zip(fields) {
            chunk.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

/// An IPv6 destination, or an IPv4 one as `::ffff:a.b.c.d`, in network byte order.
pub type AddressKey = [u8; 16];

/// The key of an IPv4 address in [`ADDRESSES`].
#[inline(always)]
pub const fn v4_mapped(address: [u8; 4]) -> AddressKey {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Where a port's bit is in [`PORTS`]: the entry, and the bit's mask in it.
#[inline(always)]
pub const fn port_bit(port: u16) -> (u32, u64) {
    (port as u32 / 64, 1 << (port % 64))
}

/// The counter row of a receive queue.
#[inline(always)]
pub const fn row(queue: u32) -> u32 {
    if queue < QUEUE_COUNT as u32 { queue } else { QUEUE_COUNT as u32 }
}

/// The entry of [`VERDICTS`] that counts `verdict` in `row`.
#[inline(always)]
pub const fn verdict_index(row: u32, verdict: Verdict) -> u32 {
    row * Verdict::COUNT as u32 + verdict as u32
}

const _: () = {
    assert!(size_of::<SteerConfig>() == 16);
    assert!(offset_of!(SteerConfig, mode) == 0);
    assert!(offset_of!(SteerConfig, verify_checksum) == 4);
    assert!(offset_of!(SteerConfig, frame_room) == 8);
    assert!(size_of::<AddressKey>() == 16);
    assert!(VERDICT_ENTRY_COUNT == 65 * 15);
    assert!(verdict_index(row(u32::MAX), Verdict::NoSocket) as usize == VERDICT_ENTRY_COUNT - 1);
};
