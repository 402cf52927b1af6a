//! The in-kernel program and [`Stamper`] make the same datagrams, byte for byte: what a receiver has checked of one kind
//! of load holds for the other.
//!
//! Needs the right to load BPF programs; without it says so and passes.

use aya::maps::Array;
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, Pod};
use eventstream_benches::mix::{Mix, Stamper, Tally};
use eventstream_steer::BLAST_OBJECT;
use eventstream_steer::blast::{
    BLAST_CONFIG, BLAST_PROGRAM, BlastConfig, Endpoints, FIRST_FRAME, PRIORITY_UNIFORM, write_template,
};

#[repr(transparent)]
#[derive(Clone, Copy)]
struct ConfigValue([u8; size_of::<BlastConfig>()]);

// SAFETY: an array of bytes: no padding, every content valid.
unsafe impl Pod for ConfigValue {}

const ENDPOINTS: Endpoints = Endpoints {
    source_mac: [2, 0, 0, 0, 0, 2],
    destination_mac: [2, 0, 0, 0, 0, 1],
    source: [198, 18, 0, 2],
    destination: [198, 18, 0, 1],
    source_port: 40_000,
    destination_port: 8082,
};

/// Compares this many datagrams, stamped one call each; `None` when programs cannot be loaded here.
fn compare(mix: &Mix, priority: u32, datagrams: usize) -> Option<Tally> {
    let (events, frame_bytes) = (mix.events_per_datagram as u32, mix.frame_bytes as u32);
    let config = BlastConfig::new(events, frame_bytes, mix.ids)
        .and_then(|config| config.with_mix(mix.topics, priority, mix.duplicates, mix.malformed))
        .unwrap();
    let config = BlastConfig { producer: mix.producer, ..config };
    let mut object = match Ebpf::load(BLAST_OBJECT) {
        Ok(object) => object,
        Err(error) => {
            eprintln!("skipped: no BPF program can be loaded here: {error}");
            return None;
        }
    };
    let mut configs = Array::<_, ConfigValue>::try_from(object.map_mut(BLAST_CONFIG).unwrap()).unwrap();
    configs.set(0, ConfigValue(config.to_bytes()), 0).unwrap();
    let program: &mut Xdp = object.program_mut(BLAST_PROGRAM).unwrap().try_into().unwrap();
    program.load().unwrap();

    let mut packet = vec![0; config.packet_bytes()];
    write_template(&mut packet, &ENDPOINTS, &config).unwrap();
    let layout = mix.layout().unwrap();
    assert_eq!(layout.template(), packet[FIRST_FRAME as usize..], "templates");
    // The program adds the number of the CPU it runs on, which pinning has made 0.
    let mut stamper = Stamper::new(&layout, 0);
    let (mut expected, mut tally) = (layout.template(), Tally::default());
    for index in 0..datagrams {
        let input = packet.clone();
        let options = TestRunOptions { data_in: Some(&input), data_out: Some(&mut packet), ..TestRunOptions::new() };
        program.test_run(options).unwrap();
        tally.count(&stamper.stamp(&mut expected, 0));
        assert_eq!(packet[FIRST_FRAME as usize..], expected, "datagram {index}");
    }
    Some(tally)
}

#[test]
fn every_datagram_is_the_same() {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(0);
    rustix::thread::sched_setaffinity(None, &cpus).unwrap();
    let mix = Mix { ids: true, duplicates: 1_000, malformed: 1_000, producer: 7, ..Mix::default() };
    let Some(tally) = compare(&mix, PRIORITY_UNIFORM, 2_000) else { return };
    assert!(tally.duplicates > 0 && tally.malformed_datagrams > 0, "{tally:?}");
    let single = Mix { events_per_datagram: 1, frame_bytes: 100, priorities: (3, 3), topics: 1_000_000, ..mix.clone() };
    compare(&single, 3, 2_000);
    let without_ids = Mix { ids: false, duplicates: 0, ..mix };
    compare(&without_ids, PRIORITY_UNIFORM, 2_000);
}
