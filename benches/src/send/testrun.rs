//! In-kernel load: the stamping program, run by the kernel on copies of a template that it then sends.
//!
//! One call of BPF_PROG_TEST_RUN is many datagrams, on the CPU that makes the call. The program counts what it handed to
//! `XDP_TX`; what the link refused after that, the link counts. A signal ends a call early and loses no counter.

use std::net::IpAddr;
use std::time::Duration;

use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{ProgramError, TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, Pod};
use eventstream_steer::BLAST_OBJECT;
use eventstream_steer::blast::{
    BLAST_CONFIG, BLAST_PROGRAM, BLAST_STATE, BlastConfig, BlastState, Endpoints, PRIORITY_UNIFORM, write_template,
};

use super::with_causes;
use crate::link::Link;
use crate::mix::{Mix, Tally};
use crate::pace::Schedule;
use crate::packet;
use crate::report::{FlowOutcome, Outcome};
use crate::stop;

/// Frames the kernel handles at a time. A repeat count that is no multiple of it is exceeded, hence [`next_repeat`].
const KERNEL_BATCH: u32 = 64;
/// The first call is short, to learn the rate.
const FIRST_REPEAT: u32 = 1 << 16;
/// A call costs 24 ms whatever it sends: long ones hide that, and this one still ends within a status line.
const CALL: Duration = Duration::from_millis(500);
/// Bounds a call at any rate; a multiple of the kernel's batch.
const REPEAT_MAX: u32 = 1 << 26;

#[repr(transparent)]
#[derive(Clone, Copy)]
struct ConfigValue([u8; size_of::<BlastConfig>()]);

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct StateValue([u8; size_of::<BlastState>()]);

// SAFETY: an array of bytes: no padding, every content valid.
unsafe impl Pod for ConfigValue {}
// SAFETY: an array of bytes whose length is a multiple of the alignment: no padding, every content valid.
unsafe impl Pod for StateValue {}

struct Loaded {
    object: Ebpf,
    packet: Vec<u8>,
    context: Vec<u8>,
}

/// Sends until the schedule's time, count or a signal ends it.
pub fn testrun(
    endpoints: &packet::Endpoints,
    link: &Link,
    mix: &Mix,
    schedule: impl FnOnce() -> Schedule,
) -> Result<(Outcome, Schedule), String> {
    let mut loaded = load(endpoints, link, mix)?;
    let before = link.counters().map_err(super::during(format!("--iface {}", link.name())))?;
    let mut schedule = schedule();
    let mut failure = run(&mut loaded, &mut schedule).err();
    schedule.stop();
    let states = read_states(&loaded.object)?;
    let misfits: u64 = states.iter().map(|state| state.misfits).sum();
    if misfits > 0 {
        failure = failure.or(Some(format!("{misfits} packets did not fit the program's configuration")));
    }
    let flows = states.iter().enumerate().filter(|(_, state)| state.datagrams > 0);
    let flows: Vec<_> = flows.map(|(cpu, state)| flow_of(cpu, state, mix)).collect();
    // A link that is gone by now is no reason to lose what the program counted.
    let has_moved = link.counters().map(|after| after != before);
    if !flows.is_empty() && matches!(has_moved, Ok(false)) {
        // The kernel drops such frames without counting them anywhere.
        let name = link.name();
        failure = failure.or(Some(format!("nothing left {name}: its peer needs an XDP program attached")));
    }
    Ok((Outcome { flows, failure }, schedule))
}

fn load(endpoints: &packet::Endpoints, link: &Link, mix: &Mix) -> Result<Loaded, String> {
    let config = configuration(mix)?;
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (endpoints.source, endpoints.destination) else {
        return Err(format!("--dst {}: in-kernel load is IPv4 only", endpoints.destination));
    };
    let endpoints = Endpoints {
        source_mac: endpoints.source_mac,
        destination_mac: endpoints.destination_mac,
        source: source.octets(),
        destination: destination.octets(),
        source_port: endpoints.source_port,
        destination_port: endpoints.destination_port,
    };
    let mut packet = vec![0; config.packet_bytes()];
    write_template(&mut packet, &endpoints, &config).map_err(|error| error.to_string())?;
    let mut object =
        Ebpf::load(BLAST_OBJECT).map_err(|error| format!("loading the stamping program: {}", with_causes(&error)))?;
    let map = object.map_mut(BLAST_CONFIG).ok_or("the stamping program has no configuration map")?;
    let mut configs = Array::<_, ConfigValue>::try_from(map).map_err(|error| with_causes(&error))?;
    configs.set(0, ConfigValue(config.to_bytes()), 0).map_err(|error| with_causes(&error))?;
    let program = program(&mut object)?;
    program.load().map_err(|error| format!("loading the stamping program: {}", with_causes(&error)))?;
    Ok(Loaded { object, context: context(packet.len(), link.index()), packet })
}

fn configuration(mix: &Mix) -> Result<BlastConfig, String> {
    let priority = if mix.priorities == (0, 4) { PRIORITY_UNIFORM } else { u32::from(mix.priorities.0) };
    let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let config = BlastConfig::new(narrow(mix.events_per_datagram), narrow(mix.frame_bytes), mix.ids)
        .and_then(|config| config.with_mix(mix.topics, priority, mix.duplicates, mix.malformed))
        .map_err(|error| format!("in-kernel load: {error}"))?;
    Ok(BlastConfig { producer: mix.producer, ..config })
}

/// `struct xdp_md`: data, end, metadata, interface, queue, egress. Live frames leave by the interface they claim to have
/// come in by.
fn context(packet_bytes: usize, interface: u32) -> Vec<u8> {
    [0, packet_bytes as u32, 0, interface, 0, 0].iter().flat_map(|field| field.to_ne_bytes()).collect()
}

fn program(object: &mut Ebpf) -> Result<&mut Xdp, String> {
    let program = object.program_mut(BLAST_PROGRAM).ok_or("the object has no stamping program")?;
    program.try_into().map_err(|error: ProgramError| with_causes(&error))
}

fn run(loaded: &mut Loaded, schedule: &mut Schedule) -> Result<(), String> {
    let program = program(&mut loaded.object)?;
    let mut repeat = FIRST_REPEAT;
    while let Some(batch) = schedule.next(repeat as usize) {
        let started = schedule.elapsed();
        // The schedule's limit may have cut the batch to a number that is no multiple of the kernel's.
        let (whole, rest) = (batch.count as u32 / KERNEL_BATCH * KERNEL_BATCH, batch.count as u32 % KERNEL_BATCH);
        for (repeat, kernel_batch) in [(whole, KERNEL_BATCH), (rest, rest)] {
            if repeat > 0 {
                call(program, &loaded.packet, &loaded.context, repeat, kernel_batch)?;
            }
        }
        let took = schedule.elapsed() - started;
        repeat = next_repeat(batch.count as u32, took, schedule.remaining());
    }
    Ok(())
}

fn call(program: &Xdp, packet: &[u8], context: &[u8], repeat: u32, kernel_batch: u32) -> Result<(), String> {
    let options = TestRunOptions {
        data_in: Some(packet),
        ctx_in: Some(context),
        repeat,
        attrs: TestRunAttrs::new().xdp_live_frames(kernel_batch),
        ..TestRunOptions::new()
    };
    match program.test_run(options) {
        Ok(_) => Ok(()),
        // The kernel ends a call at a signal; what it has sent by then is counted.
        Err(_) if stop::is_requested() => Ok(()),
        Err(error) => Err(format!("BPF_PROG_TEST_RUN with live frames: {}", with_causes(&error))),
    }
}

/// How many datagrams the next call sends, from what the last one did: a multiple of the kernel's batch.
fn next_repeat(last: u32, took: Duration, remaining: Duration) -> u32 {
    let per_second = f64::from(last) / took.as_secs_f64().max(1e-6);
    let repeat = (per_second * CALL.min(remaining).as_secs_f64()) as u32;
    (repeat.min(REPEAT_MAX) / KERNEL_BATCH * KERNEL_BATCH).max(KERNEL_BATCH)
}

fn read_states(object: &Ebpf) -> Result<Vec<BlastState>, String> {
    let map = object.map(BLAST_STATE).ok_or("the stamping program has no state map")?;
    let states = PerCpuArray::<&MapData, StateValue>::try_from(map).map_err(|error| with_causes(&error))?;
    let values: PerCpuValues<StateValue> = states.get(&0, 0).map_err(|error| with_causes(&error))?;
    Ok(values.iter().filter_map(|value| BlastState::from_bytes(&value.0)).collect())
}

fn flow_of(cpu: usize, state: &BlastState, mix: &Mix) -> FlowOutcome {
    FlowOutcome {
        name: format!("cpu {cpu}"),
        producer: mix.producer + cpu as u64,
        next_sequence: state.sequence,
        tally: Tally {
            datagrams: state.datagrams,
            malformed_datagrams: state.malformed_datagrams,
            events: state.events,
            events_in_malformed: state.malformed_datagrams * mix.events_per_datagram as u64,
            duplicates: state.duplicates,
            priorities: state.priorities,
        },
        completed: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_sized_by_the_rate_and_end_with_the_run() {
        let second = Duration::from_secs(1);
        assert_eq!(next_repeat(1_000_000, second, 10 * second), 499_968, "half a second's, in whole batches");
        assert_eq!(next_repeat(1_000_000, second, second / 10), 99_968);
        assert_eq!(next_repeat(64, second, Duration::ZERO), KERNEL_BATCH);
        assert_eq!(next_repeat(u32::MAX, Duration::ZERO, 10 * second), REPEAT_MAX);
    }

    #[test]
    fn the_configuration_carries_the_mix() {
        let mix = Mix { ids: true, duplicates: 100, malformed: 7, producer: 40, priorities: (3, 3), ..Mix::default() };
        let config = configuration(&mix).unwrap();
        assert_eq!((config.producer, config.events, config.frame_bytes), (40, 23, 64));
        assert_eq!((config.topics, config.priority, config.duplicates, config.malformed), (1_000, 3, 100, 7));
        let too_many = Mix { events_per_datagram: 24, ..mix };
        assert!(configuration(&too_many).unwrap_err().contains("events per datagram"));
    }
}
