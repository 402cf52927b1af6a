//! The load generator's template and arithmetic: what the stamping program relies on.

use eventstream_steer::Datagram;
use eventstream_steer::blast::{
    BlastConfig, BlastError, BlastState, Endpoints, PRIORITY_COUNT, PRIORITY_UNIFORM, TOPICS_MAX, priority_of, spread,
    topic_digits, topic_of, write_template,
};

const ENDPOINTS: Endpoints = Endpoints {
    source_mac: [2, 0, 0, 0, 0, 2],
    destination_mac: [2, 0, 0, 0, 0, 1],
    source: [198, 18, 0, 2],
    destination: [198, 18, 0, 1],
    source_port: 40_000,
    destination_port: 8082,
};

#[test]
fn digits_are_those_of_the_number_for_every_topic() {
    for topic in 0..TOPICS_MAX {
        let digits = topic_digits(topic).to_le_bytes();
        assert_eq!(digits[..6], *format!("{topic:06}").as_bytes());
        assert_eq!(digits[6..], [0, 0]);
    }
}

#[test]
fn topics_and_priorities_are_even() {
    let (mut topics, mut priorities) = ([0_u32; 1_000], [0_u32; PRIORITY_COUNT]);
    for sequence in 0..1_000_000 {
        let spread = spread(sequence);
        topics[topic_of(spread, 1_000) as usize] += 1;
        priorities[usize::from(priority_of(spread))] += 1;
    }
    assert!(topics.iter().all(|count| (900..1_100).contains(count)), "{topics:?}");
    assert!(priorities.iter().all(|count| (190_000..210_000).contains(count)), "{priorities:?}");
}

#[test]
fn a_template_is_a_whole_datagram_of_whole_frames() {
    for (events, frame_bytes, with_ids) in [(1, 42, true), (1, 26, false), (23, 64, true), (1, 1_430, true)] {
        let config = BlastConfig::new(events, frame_bytes, with_ids).unwrap();
        let mut buffer = [0xaa; 2_048];
        let byte_count = write_template(&mut buffer, &ENDPOINTS, &config).unwrap();
        let packet = &buffer[..byte_count];
        let datagram = Datagram::locate(packet).unwrap();
        assert_eq!(datagram.payload_bytes, (events * frame_bytes) as usize);
        let sum: u32 =
            packet[14..34].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        assert_eq!((sum >> 16) + (sum & 0xffff), 0xffff, "IPv4 header checksum");
        for frame in packet[datagram.payload_at..].chunks(frame_bytes as usize) {
            assert_eq!(frame[..4], (frame_bytes - 4).to_be_bytes());
            assert_eq!(frame[4], if with_ids { 0x80 } else { 0 });
            assert_eq!(frame[5..7], 11_u16.to_be_bytes());
            let topic_at = if with_ids { 23 } else { 7 };
            assert_eq!(&frame[topic_at..topic_at + 11], b"load/000000");
            assert_eq!(config.digits_at as usize, topic_at + 5);
        }
    }
}

#[test]
fn what_cannot_be_stamped_is_refused() {
    assert_eq!(BlastConfig::new(0, 64, true), Err(BlastError::Events));
    assert_eq!(BlastConfig::new(24, 64, true), Err(BlastError::Events));
    assert_eq!(BlastConfig::new(1, 41, true), Err(BlastError::FrameBytes));
    assert_eq!(BlastConfig::new(1, 25, false), Err(BlastError::FrameBytes));
    assert_eq!(BlastConfig::new(1, 1_473, false), Err(BlastError::FrameBytes));
    let config = BlastConfig::new(23, 64, false).unwrap();
    assert_eq!(config.with_mix(0, 0, 0, 0), Err(BlastError::Topics));
    assert_eq!(config.with_mix(TOPICS_MAX + 1, 0, 0, 0), Err(BlastError::Topics));
    assert_eq!(config.with_mix(1, 5, 0, 0), Err(BlastError::Priority));
    assert_eq!(config.with_mix(1, 0, 1, 0), Err(BlastError::Share), "duplicates without ids");
    assert_eq!(config.with_mix(1, 0, 0, 10_001), Err(BlastError::Share));
    assert!(config.with_mix(TOPICS_MAX, PRIORITY_UNIFORM, 0, 10_000).is_ok());
    assert_eq!(write_template(&mut [0; 100], &ENDPOINTS, &config), Err(BlastError::Buffer));
}

#[test]
fn map_values_are_read_and_written_field_by_field() {
    let mut bytes = [0; size_of::<BlastState>()];
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(index as u64 + 1).to_ne_bytes());
    }
    let state = BlastState::from_bytes(&bytes).unwrap();
    assert_eq!((state.sequence, state.datagrams, state.priorities[0], state.misfits), (1, 4, 8, 13));
    assert_eq!(BlastState::from_bytes(&bytes[..96]), None);
    let config = BlastConfig::new(3, 64, true).unwrap().with_mix(1_000, 4, 100, 7).unwrap();
    let bytes = config.to_bytes();
    assert_eq!(bytes[8..12], 3_u32.to_ne_bytes());
    assert_eq!(bytes[28..32], 1_000_u32.to_ne_bytes());
    assert_eq!(bytes[40..44], 7_u32.to_ne_bytes());
}
