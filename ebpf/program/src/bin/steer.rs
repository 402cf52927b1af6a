//! Steers the engine's datagrams into the AF_XDP socket of their receive queue; everything else passes.
//!
//! Runs in the NIC's softirq, once per packet. All it decides is in [`eventstream_steer::decide`]; here are the maps
//! and the counting, and the stamps that say when a packet was seen. Invariant: every run adds one to its queue's `RUNS`
//! and, at its end, one to one of its `VERDICTS`, independently, so that userspace can compare the two.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, XskMap};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_xdp_adjust_meta};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use eventstream_steer::maps::{self, AddressKey, SteerConfig};
use eventstream_steer::stamp::{STAMP_BYTES, is_due, stamp};
use eventstream_steer::{Policy, Verdict, decide};
use eventstream_xdp::{XdpPacket, metadata};

#[btf_map]
static CONFIG: Array<SteerConfig, 1> = Array::new();

#[btf_map]
static PORTS: Array<u64, { maps::PORT_WORD_COUNT }> = Array::new();

#[btf_map]
static ADDRESSES: HashMap<AddressKey, u32, { maps::ADDRESS_COUNT }> = HashMap::new();

#[btf_map]
static SOCKETS: XskMap<{ maps::QUEUE_COUNT }> = XskMap::new();

#[btf_map]
static VERDICTS: PerCpuArray<u64, { maps::VERDICT_ENTRY_COUNT }> = PerCpuArray::new();

#[btf_map]
static RUNS: PerCpuArray<u64, { maps::ROW_COUNT }> = PerCpuArray::new();

/// The kernel asks for a licence; nothing here needs a GPL-only helper.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"MIT\0";

struct Maps;

impl Policy for Maps {
    #[inline(always)]
    fn config(&self) -> SteerConfig {
        CONFIG.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn has_port(&self, port: u16) -> bool {
        let (word, bit) = maps::port_bit(port);
        PORTS.get(word).is_some_and(|ports| ports & bit != 0)
    }

    #[inline(always)]
    fn has_address(&self, address: &AddressKey) -> bool {
        ADDRESSES.get_ptr(address).is_some()
    }
}

/// Adds one, and answers what that makes.
#[inline(always)]
fn count(counter: Option<*mut u64>) -> u64 {
    let Some(counter) = counter else { return 0 };
    // SAFETY: a pointer to this CPU's own value from a map look-up; the program is not re-entered on a CPU.
    unsafe { *counter += 1 };
    // SAFETY: as above.
    unsafe { *counter }
}

/// Lays a stamp before the packet, where the driver has room for it. Nothing may be read of the packet afterwards through
/// pointers from before.
#[inline(always)]
fn lay_stamp(context: &XdpContext) {
    // SAFETY: the helper takes nothing and always answers.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the context is the kernel's own, and the helper checks the room.
    if unsafe { bpf_xdp_adjust_meta(context.ctx, -(STAMP_BYTES as i32)) } != 0 {
        return;
    }
    if let Some(place) = metadata(context) {
        // SAFETY: `metadata` compared the place with the packet's start, and the verifier checks that it did.
        unsafe { *place = stamp(now) };
    }
}

#[xdp]
pub fn steer(context: XdpContext) -> u32 {
    let queue = context.rx_queue_index();
    let row = maps::row(queue);
    count(RUNS.get_ptr_mut(row));
    let mut verdict = decide(&XdpPacket::new(&context), &Maps);
    // The kernel says by its answer whether the queue has a socket; asking first would be a second look-up.
    if verdict == Verdict::Steered && SOCKETS.redirect(queue, xdp_action::XDP_PASS.into()).is_err() {
        verdict = Verdict::NoSocket;
    }
    let counted = count(VERDICTS.get_ptr_mut(maps::verdict_index(row, verdict)));
    match verdict {
        Verdict::Steered => {
            if is_due(counted) {
                lay_stamp(&context);
            }
            xdp_action::XDP_REDIRECT
        }
        Verdict::Refused | Verdict::Filtered => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    }
}
