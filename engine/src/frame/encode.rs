//! Writing frames: for clients, load generators and the engine's own answers.

use super::{FLAG_ID, FLAG_TIME, HEADER_BYTES, PRIORITY_MASK, Priority};

/// What goes before topic and payload.
#[derive(Clone, Copy, Debug)]
pub struct FrameHeader {
    pub priority: Priority,
    pub id: Option<[u8; 16]>,
    pub sent_time_ns: Option<u64>,
    /// Further flags, such as [`FLAG_ACK`](super::FLAG_ACK).
    pub flags: u8,
}

impl FrameHeader {
    pub const fn new(priority: Priority) -> Self {
        Self { priority, id: None, sent_time_ns: None, flags: 0 }
    }
}

/// Appends one frame to `out`. Topic and payload are written as they are: whether they are allowed is the
/// receiver's to say.
///
/// # Panics
/// When the topic is longer than 65,535 bytes or the frame longer than its length field can say.
pub fn encode(out: &mut Vec<u8>, header: &FrameHeader, topic: &[u8], payload: &[u8]) {
    let optional = header.id.map_or(0, |_| 16) + header.sent_time_ns.map_or(0, |_| 8);
    let length = HEADER_BYTES + optional + topic.len() + payload.len();
    let length = u32::try_from(length).expect("frame longer than 4 GiB");
    let topic_length = u16::try_from(topic.len()).expect("topic longer than 65,535 bytes");
    let id_flag = header.id.map_or(0, |_| FLAG_ID);
    let time_flag = header.sent_time_ns.map_or(0, |_| FLAG_TIME);
    out.extend_from_slice(&length.to_be_bytes());
    out.push((header.flags & !PRIORITY_MASK) | id_flag | time_flag | header.priority as u8);
    out.extend_from_slice(&topic_length.to_be_bytes());
    out.extend(header.id.iter().flatten());
    out.extend(header.sent_time_ns.iter().flat_map(|time| time.to_be_bytes()));
    out.extend_from_slice(topic);
    out.extend_from_slice(payload);
}
