//! A second parser, written to be obviously right and not fast: a byte at a time, every sum in 64 bits, each check in
//! the order in which the wire format tells the fields. The property tests and the fuzzer hold the real one against it.

/// What a parser of a listener is set to.
pub struct Rules {
    pub frame_bytes: u64,
    pub topic_bytes: u64,
    /// Over UDP the protocol's own topics are refused.
    pub udp: bool,
    pub max_priority: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Of the byte after the length field.
    pub offset: u64,
    pub length: u64,
    pub topic: Vec<u8>,
    pub head: u8,
}

/// Name of the reason, and where.
pub type Refusal = (&'static str, u64);

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Frame(Frame),
    Control(Frame),
    /// How many bytes tell more, how many are the whole frame, and whether it is known to be one of the protocol's own.
    Incomplete(u64, u64, bool),
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number * 256 + u64::from(*byte))
}

impl Rules {
    /// What `bytes` begin with.
    pub fn step(&self, bytes: &[u8]) -> Result<Step, Refusal> {
        let Some(length) = self.length(bytes)? else {
            return Ok(Step::Incomplete(4, 4, false));
        };
        let there = &bytes[4..(4 + length).min(bytes.len() as u64) as usize];
        let (needed, control, topic) = self.look(there, length)?;
        match topic {
            Some(topic) if needed <= there.len() as u64 => {
                let priority = (there[0] % 8).min(4).min(self.max_priority);
                let frame = Frame { offset: 4, length, topic: topic.to_vec(), head: there[0] / 8 * 8 + priority };
                Ok(if control { Step::Control(frame) } else { Step::Frame(frame) })
            }
            _ => Ok(Step::Incomplete(4 + needed, 4 + length, control)),
        }
    }

    /// The length field, if it is there.
    fn length(&self, bytes: &[u8]) -> Result<Option<u64>, Refusal> {
        if bytes.len() < 4 {
            return Ok(None);
        }
        let length = number(&bytes[..4]);
        if length < 3 {
            return Err(("length_short", 0));
        }
        if length > self.frame_bytes {
            return Err(("length_limit", 0));
        }
        Ok(Some(length))
    }

    /// Judges what is there of a frame's `length` bytes: how many of them the next judgement needs, whether the frame is
    /// one of the protocol's own, and its topic.
    fn look<'a>(&self, there: &'a [u8], length: u64) -> Result<(u64, bool, Option<&'a [u8]>), Refusal> {
        if there.is_empty() {
            return Ok((1, false, None));
        }
        let head = there[0];
        if head & 0b0001_1000 != 0 {
            return Err(("reserved_flag", 4));
        }
        if there.len() < 3 {
            return Ok((3, false, None));
        }
        let topic_bytes = number(&there[1..3]);
        if topic_bytes == 0 {
            return Err(("topic_empty", 5));
        }
        if topic_bytes > self.topic_bytes {
            return Err(("topic_limit", 5));
        }
        let mut topic_at = 3;
        topic_at += if head & 0x80 != 0 { 16 } else { 0 };
        topic_at += if head & 0x40 != 0 { 8 } else { 0 };
        if length < topic_at {
            return Err(("missing_field", 7));
        }
        let topic_end = topic_at + topic_bytes;
        if length < topic_end {
            return Err(("topic_beyond", 5));
        }
        if (there.len() as u64) < topic_end {
            return Ok((topic_end, false, None));
        }
        let topic = &there[topic_at as usize..topic_end as usize];
        if let Some((reason, at)) = fault(topic) {
            return Err((reason, 4 + topic_at + at));
        }
        let control = topic.starts_with(b"$esc/");
        if self.udp && control {
            return Err(("reserved_topic", 4 + topic_at));
        }
        Ok((length, control, Some(topic)))
    }

    /// All frames of a datagram, or why it is refused.
    pub fn datagram(&self, bytes: &[u8]) -> Result<Vec<Frame>, Refusal> {
        if bytes.is_empty() {
            return Err(("empty_datagram", 0));
        }
        let (mut frames, mut start) = (Vec::new(), 0_u64);
        while start < bytes.len() as u64 {
            let rest = &bytes[start as usize..];
            let within = |(reason, at)| (reason, start + at);
            let Some(length) = self.length(rest).map_err(within)? else {
                return Err(("trailing_bytes", start));
            };
            if (rest.len() as u64) < 4 + length {
                return Err(("length_beyond", start));
            }
            let Step::Frame(frame) = self.step(rest).map_err(within)? else { panic!("{rest:?} is whole") };
            let next = start + 4 + frame.length;
            frames.push(Frame { offset: start + 4, ..frame });
            start = next;
        }
        Ok(frames)
    }
}

/// The first thing wrong with a topic: of the encoding, then of the bytes, then of the levels.
pub fn fault(topic: &[u8]) -> Option<(&'static str, u64)> {
    let mut at = 0;
    while at < topic.len() {
        let is_character = |bytes: &usize| topic.get(at..at + bytes).is_some_and(|c| std::str::from_utf8(c).is_ok());
        let Some(bytes) = (1..=4).find(is_character) else { return Some(("topic_utf8", at as u64)) };
        at += bytes;
    }
    for (at, byte) in topic.iter().enumerate() {
        if *byte == 0 {
            return Some(("topic_nul", at as u64));
        }
    }
    for (at, byte) in topic.iter().enumerate() {
        let begins = at == 0 || topic[at - 1] == b'/';
        let ends = at + 1 == topic.len() || topic[at + 1] == b'/';
        if (*byte == b'+' || *byte == b'#') && begins && ends {
            return Some(("topic_wildcard", at as u64));
        }
    }
    None
}
