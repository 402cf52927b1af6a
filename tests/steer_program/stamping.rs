//! The load program: every byte it stamps, every counter it keeps, and that what it sends arrives.

use std::collections::HashMap;

use eventstream_steer::Datagram;
use eventstream_steer::blast::{
    BlastConfig, BlastState, DUPLICATE_DISTANCE, Endpoints, PRIORITY_COUNT, PRIORITY_UNIFORM, PRODUCER_MALFORMED,
    priority_of, spread, topic_of, write_template,
};
use eventstream_steer::maps::{MODE_REFUSE, SteerConfig, v4_mapped};

use crate::kernel::{Blast, Steer, XDP_DROP, XDP_TX};
use crate::surroundings::with_veth_pair;
use crate::{is_skipped, skipped};

pub const ENDPOINTS: Endpoints = Endpoints {
    source_mac: [2, 0, 0, 0, 0, 2],
    destination_mac: [2, 0, 0, 0, 0, 1],
    source: [198, 18, 0, 2],
    destination: [198, 18, 0, 1],
    source_port: 40_000,
    destination_port: 8082,
};
const PRODUCER: u64 = 0x1000;

fn template(config: &BlastConfig) -> Vec<u8> {
    let mut packet = vec![0; config.packet_bytes()];
    write_template(&mut packet, &ENDPOINTS, config).expect("template");
    packet
}

/// An event as it stands in a stamped datagram.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    flags: u8,
    id: Option<(u64, u64)>,
    topic: String,
    sequence: u64,
}

/// Reads a datagram as a receiver would, from lengths alone.
fn events(packet: &[u8], config: &BlastConfig) -> Vec<Event> {
    let datagram = Datagram::locate(packet).expect("a whole datagram");
    let mut rest = &packet[datagram.payload_at..][..datagram.payload_bytes];
    let mut events = Vec::new();
    while !rest.is_empty() {
        let following = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let (frame, behind) = rest.split_at(4 + following);
        assert_eq!(frame.len(), config.frame_bytes as usize);
        let word = |at: usize| u64::from_be_bytes(frame[at..at + 8].try_into().unwrap());
        let has_id = frame[4] & 0x80 != 0;
        let topic_at = if has_id { 23 } else { 7 };
        let topic_end = topic_at + usize::from(u16::from_be_bytes([frame[5], frame[6]]));
        events.push(Event {
            flags: frame[4],
            id: has_id.then(|| (word(7), word(15))),
            topic: String::from_utf8(frame[topic_at..topic_end].to_vec()).unwrap(),
            sequence: word(topic_end),
        });
        rest = behind;
    }
    events
}

fn expected(config: &BlastConfig, producer: u64, sequence: u64) -> Event {
    let spread = spread(sequence);
    let priority = match config.priority {
        PRIORITY_UNIFORM => priority_of(spread),
        fixed => fixed as u8,
    };
    Event {
        flags: if config.id_at == 0 { priority } else { 0x80 | priority },
        id: (config.id_at != 0).then_some((producer, sequence)),
        topic: format!("load/{:06}", topic_of(spread, config.topics)),
        sequence,
    }
}

/// Stamps `datagrams` datagrams one by one and checks every event, then the counters against what was seen.
fn check_stamping(config: BlastConfig, datagrams: u64) -> BlastState {
    let config = BlastConfig { producer: PRODUCER, ..config };
    let mut blast = Blast::load();
    blast.configure(&config);
    let template = template(&config);
    // By CPU: the test may be moved to another one between runs, and each numbers its own events.
    let mut seen: HashMap<u64, BlastState> = HashMap::new();
    for _ in 0..datagrams {
        let before = blast.states();
        let (action, packet) = blast.run(&template);
        let after = blast.states();
        assert_eq!(action, XDP_TX);
        let cpu = (0..before.len()).find(|&cpu| before[cpu] != after[cpu]).expect("a moved state");
        let state = seen.entry(cpu as u64).or_default();
        check_datagram(&config, cpu as u64, &events(&packet, &config), state);
        state.random = after[cpu].random;
        assert_eq!(*state, after[cpu]);
    }
    let mut sum = BlastState::default();
    for state in seen.values() {
        sum.datagrams += state.datagrams;
        sum.malformed_datagrams += state.malformed_datagrams;
        sum.events += state.events;
        sum.duplicates += state.duplicates;
        (0..PRIORITY_COUNT).for_each(|index| sum.priorities[index] += state.priorities[index]);
    }
    sum
}

/// Checks one datagram's events and adds them to `state` as the program must have.
fn check_datagram(config: &BlastConfig, cpu: u64, events: &[Event], state: &mut BlastState) {
    assert_eq!(events.len(), config.events as usize);
    let is_malformed = events.last().unwrap().flags & 0x10 != 0;
    let mut producer = PRODUCER + cpu;
    let mut next = state.sequence;
    if is_malformed {
        producer |= PRODUCER_MALFORMED;
        next = state.malformed_sequence;
    }
    let mut duplicates = 0;
    for (index, event) in events.iter().enumerate() {
        if event.sequence == next {
            next += 1;
        } else {
            assert!(event.sequence < next && next - event.sequence <= DUPLICATE_DISTANCE, "{event:?}");
            duplicates += 1;
        }
        if is_malformed && index + 1 == events.len() {
            assert_eq!(event.flags & 0x18, 0x10, "one reserved flag");
            continue;
        }
        assert_eq!(*event, self::expected(config, producer, event.sequence));
        if !is_malformed {
            state.priorities[usize::from(event.flags & 7)] += 1;
        }
    }
    state.datagrams += 1;
    if is_malformed {
        state.malformed_sequence = next;
        state.malformed_datagrams += 1;
    } else {
        state.sequence = next;
        state.events += events.len() as u64;
        state.duplicates += duplicates;
    }
}

#[test]
fn every_stamped_event_is_what_its_sequence_says() {
    if is_skipped("every_stamped_event_is_what_its_sequence_says") {
        return;
    }
    let config = BlastConfig::new(23, 64, true).unwrap();
    let sum = check_stamping(config.with_mix(1_000, PRIORITY_UNIFORM, 0, 0).unwrap(), 500);
    assert_eq!((sum.datagrams, sum.events, sum.duplicates), (500, 11_500, 0));
    assert!(sum.priorities.iter().all(|count| (2_000..2_600).contains(count)), "{sum:?}");
    check_stamping(config.with_mix(1_000_000, 4, 0, 0).unwrap(), 100);
    let config = BlastConfig::new(1, 1_400, true).unwrap();
    check_stamping(config.with_mix(1, 0, 0, 0).unwrap(), 100);
    let config = BlastConfig::new(23, 26, false).unwrap();
    check_stamping(config.with_mix(1_000, PRIORITY_UNIFORM, 0, 0).unwrap(), 100);
}

#[test]
fn duplicates_and_malformed_datagrams_come_in_their_shares() {
    if is_skipped("duplicates_and_malformed_datagrams_come_in_their_shares") {
        return;
    }
    let config = BlastConfig::new(23, 64, true).unwrap();
    let sum = check_stamping(config.with_mix(1_000, PRIORITY_UNIFORM, 100, 500).unwrap(), 4_000);
    assert!((700..1_100).contains(&sum.duplicates), "1 % of about 87,400: {sum:?}");
    assert!((140..260).contains(&sum.malformed_datagrams), "5 % of 4,000: {sum:?}");
    assert_eq!(sum.events, (sum.datagrams - sum.malformed_datagrams) * 23);
    assert_eq!(sum.events, sum.priorities.iter().sum::<u64>());
    let sum = check_stamping(config.with_mix(1_000, PRIORITY_UNIFORM, 0, 10_000).unwrap(), 50);
    assert_eq!((sum.malformed_datagrams, sum.events), (50, 0));
}

#[test]
fn a_packet_that_does_not_fit_the_configuration_is_dropped_and_counted() {
    if is_skipped("a_packet_that_does_not_fit_the_configuration_is_dropped_and_counted") {
        return;
    }
    let config = BlastConfig::new(23, 64, true).unwrap();
    let mut blast = Blast::load();
    blast.configure(&config);
    let template = template(&config);
    assert_eq!(blast.run(&template[..template.len() - 40]).0, XDP_DROP);
    let states = blast.states();
    assert_eq!(states.iter().map(|state| state.misfits).sum::<u64>(), 1);
    assert_eq!(states.iter().map(|state| state.datagrams).sum::<u64>(), 0);
}

/// Sends live frames over a veth pair to a steering program that refuses, and so counts, what arrives.
fn send(count: u32, config: BlastConfig) -> Result<(BlastState, u64), String> {
    with_veth_pair(2, |pair| {
        let mut steer = Steer::load();
        steer.add_port(ENDPOINTS.destination_port);
        steer.add_address(&v4_mapped(ENDPOINTS.destination));
        steer.configure(SteerConfig { mode: MODE_REFUSE, frame_room: 1_792, ..SteerConfig::default() });
        steer.attach(pair.receiver);
        let mut blast = Blast::load();
        blast.configure(&config);
        let template = template(&config);
        blast.send(&template, pair.sender, count);
        let sent: Vec<_> = blast.states().into_iter().filter(|state| state.datagrams > 0).collect();
        assert_eq!(sent.len(), 1, "a call runs on one CPU");
        // Packets may still be in the receiver's NAPI when the sender's call returns.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(1);
        let refused = |steer: &mut Steer| (0..2).map(|row| steer.counts(row).verdicts[1]).sum::<u64>();
        while refused(&mut steer) < sent[0].datagrams && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let rows = [steer.counts(0), steer.counts(1)];
        for counts in &rows {
            assert_eq!(counts.runs, counts.verdicts.iter().sum::<u64>(), "{counts:?}");
        }
        let runs: u64 = rows.iter().map(|counts| counts.runs).sum();
        let arrived = refused(&mut steer);
        assert!(runs >= arrived && arrived <= sent[0].datagrams, "{runs} runs, {arrived} ours");
        (sent[0], arrived)
    })
}

#[test]
fn live_frames_arrive_at_a_steering_peer() {
    const TEST: &str = "live_frames_arrive_at_a_steering_peer";
    if is_skipped(TEST) {
        return;
    }
    let config = BlastConfig::new(23, 64, true).unwrap();
    match send(20_000, config.with_mix(1_000, PRIORITY_UNIFORM, 100, 10).unwrap()) {
        Ok((sent, arrived)) => {
            assert_eq!(sent.datagrams, 20_000);
            // The rest, if any, is what the link dropped: it is busy when the machine is.
            assert!(arrived >= 10_000, "{arrived} of {sent:?}");
        }
        Err(reason) => skipped(TEST, &reason),
    }
}
