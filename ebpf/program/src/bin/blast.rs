//! Stamps load: makes each copy of a template datagram unlike every other and sends it off.
//!
//! Runs on the sender's end of a veth pair through `BPF_PROG_TEST_RUN` with live frames, on the core that made the call;
//! [`eventstream_steer::blast`] says what is stamped and why. Invariant: what the state's counters say was handed to
//! `XDP_TX`; what the link then dropped, the link counts.
//!
//! Everything per event is arithmetic on registers and five stores; state is read and written once a datagram.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use eventstream_steer::blast::{
    self, BlastConfig, BlastState, DUPLICATE_DISTANCE, EVENTS_MAX, FLAG_ID, FLAG_RESERVED, PRIORITY_UNIFORM,
    PRODUCER_MALFORMED, SHARE_ONE,
};
use eventstream_xdp::XdpPacket;

#[btf_map]
static BLAST_CONFIG: Array<BlastConfig, 1> = Array::new();

#[btf_map]
static BLAST_STATE: PerCpuArray<BlastState, 1> = PerCpuArray::new();

/// The kernel asks for a licence; nothing here needs a GPL-only helper.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"MIT\0";

/// A share in ten-thousandths as a bound for the upper half of a random number.
#[inline(always)]
fn threshold(share: u32) -> u64 {
    // Reciprocal of SHARE_ONE in 32 bits, rounded up: a share of one exceeds every 32-bit number.
    u64::from(share) * ((1 << 32) / u64::from(SHARE_ONE) + 1)
}

/// The next state of a 64-bit linear congruential generator; its upper half is random enough to pick by.
#[inline(always)]
fn advance(random: u64) -> u64 {
    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

/// Where a frame's flags are, behind its length.
const FLAGS_AT: usize = 4;

/// What is stamped at the start of a frame with an id. One bounds check covers it: each costs as much as a store.
#[repr(C)]
struct Head {
    flags: u8,
    _topic_bytes: [u8; 2],
    id: [[u8; 8]; 2],
}

/// What is stamped where the topic's digits are. Six digits in the sizes of registers.
#[repr(C)]
struct Tail {
    first_digits: [u8; 4],
    last_digits: [u8; 2],
    sequence: [u8; 8],
}

/// What a datagram's stamping carries from event to event.
struct Stamping {
    producer: u64,
    next: u64,
    random: u64,
    duplicates: u64,
    /// Events by priority, a byte each: a datagram has fewer than 256.
    priorities: u64,
}

impl Stamping {
    /// The sequence to stamp: the next one, or now and then one of the last few again.
    #[inline(always)]
    fn pick(&mut self, duplicate_threshold: u64) -> u64 {
        if duplicate_threshold != 0 {
            self.random = advance(self.random);
            if self.random >> 32 < duplicate_threshold && self.next >= DUPLICATE_DISTANCE {
                self.duplicates += 1;
                return self.next - 1 - (self.random >> 16) % DUPLICATE_DISTANCE;
            }
        }
        let sequence = self.next;
        self.next += 1;
        sequence
    }

    /// Stamps one frame. `None` if the packet ends before it does.
    #[inline(always)]
    fn stamp(&mut self, packet: &XdpPacket, frame: usize, config: &BlastConfig, sequence: u64) -> Option<()> {
        let spread = blast::spread(sequence);
        let priority =
            if config.priority == PRIORITY_UNIFORM { blast::priority_of(spread) } else { config.priority as u8 & 0x07 };
        self.priorities += 1 << (priority * 8);
        let sequence_bytes = sequence.to_be_bytes();
        if config.id_at == 0 {
            let flags = packet.pointer::<u8>(frame + FLAGS_AT)?;
            // SAFETY: within the packet, as `pointer` checked.
            unsafe { *flags = priority };
        } else {
            let head = packet.pointer::<Head>(frame + FLAGS_AT)?;
            let id = [self.producer.to_be_bytes(), sequence_bytes];
            // SAFETY: within the packet, as `pointer` checked.
            unsafe { (*head).flags = FLAG_ID | priority };
            // SAFETY: as above.
            unsafe { (*head).id = id };
        }
        let digits = blast::topic_digits(blast::topic_of(spread, config.topics));
        let tail = packet.pointer::<Tail>(frame + config.digits_at as usize)?;
        let stamped = Tail {
            first_digits: (digits as u32).to_le_bytes(),
            last_digits: ((digits >> 32) as u16).to_le_bytes(),
            sequence: sequence_bytes,
        };
        // SAFETY: within the packet, as `pointer` checked.
        unsafe { *tail = stamped };
        Some(())
    }
}

/// Stamps all frames; `None` if they do not fit the packet.
#[inline(always)]
fn stamp_all(packet: &XdpPacket, config: &BlastConfig, stamping: &mut Stamping) -> Option<()> {
    let duplicate_threshold = threshold(config.duplicates);
    let mut frame = config.first_frame as usize;
    for event in 0..EVENTS_MAX {
        if event >= config.events {
            break;
        }
        let sequence = stamping.pick(duplicate_threshold);
        stamping.stamp(packet, frame, config, sequence)?;
        frame += config.frame_bytes as usize;
    }
    Some(())
}

#[inline(always)]
fn spoil(packet: &XdpPacket, config: &BlastConfig) -> Option<()> {
    let last = config.first_frame + config.frame_bytes * (config.events - 1);
    let flags = if config.id_at != 0 { FLAG_ID } else { 0 };
    let pointer = packet.pointer::<u8>(last as usize + FLAGS_AT)?;
    // SAFETY: within the packet, as `pointer` checked.
    unsafe { *pointer = flags | FLAG_RESERVED };
    Some(())
}

#[inline(always)]
fn run(packet: &XdpPacket, config: &BlastConfig, state: &mut BlastState) -> Option<()> {
    // SAFETY: the helper takes nothing and always answers.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let random = advance(state.random);
    let is_malformed = random >> 32 < threshold(config.malformed);
    let mut stamping = Stamping {
        producer: config.producer + u64::from(cpu),
        next: state.sequence,
        random,
        duplicates: 0,
        priorities: 0,
    };
    if is_malformed {
        stamping.producer |= PRODUCER_MALFORMED;
        stamping.next = state.malformed_sequence;
    }
    stamp_all(packet, config, &mut stamping)?;
    state.random = stamping.random;
    state.datagrams += 1;
    if is_malformed {
        spoil(packet, config)?;
        state.malformed_sequence = stamping.next;
        state.malformed_datagrams += 1;
        return Some(());
    }
    state.sequence = stamping.next;
    state.events += u64::from(config.events);
    state.duplicates += stamping.duplicates;
    for (index, count) in state.priorities.iter_mut().enumerate() {
        *count += (stamping.priorities >> (index * 8)) & 0xff;
    }
    Some(())
}

#[xdp]
pub fn blast(context: XdpContext) -> u32 {
    let Some(config) = BLAST_CONFIG.get(0) else {
        return xdp_action::XDP_ABORTED;
    };
    let Some(state) = BLAST_STATE.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: this CPU's own value, which nobody else writes during a run; the program is not re-entered on a CPU.
    let state = unsafe { &mut *state };
    if run(&XdpPacket::new(&context), config, state).is_some() {
        xdp_action::XDP_TX
    } else {
        state.misfits += 1;
        xdp_action::XDP_DROP
    }
}
