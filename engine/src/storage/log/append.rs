//! How records come into memory, with their offsets.

use super::super::format::{
    HEADER_BYTES, Place, Prefix, RECORD_BYTES_MAX, RECORD_BYTES_MIN, Record, encode, encoded_bytes, place, topic_of,
};
use super::index::Run;
use super::writer::EventLog;

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too much waits to become durable.
    Full,
    /// No segment, or no buffer, is as large.
    TooLarge,
}

/// Records that were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Of the first of them.
    pub offset: u64,
    pub records: u32,
    pub bytes: usize,
}

impl EventLog {
    /// No record may be larger: no segment, or no buffer, is.
    fn largest(&self) -> usize {
        let segment = usize::try_from(self.options.segment_bytes).unwrap_or(usize::MAX).saturating_sub(HEADER_BYTES);
        RECORD_BYTES_MAX.min(self.options.buffer_bytes).min(segment)
    }

    /// Takes a record into memory and gives its offset.
    pub fn append(&mut self, record: &Record<'_>) -> Result<u64, Refused> {
        let bytes = encoded_bytes(record);
        if bytes > self.largest() {
            return Err(Refused::TooLarge);
        }
        let (offset, epoch, salt) = (self.next_offset, self.view.epoch, self.salt);
        let appended = self.pending.append(bytes, record.time_ns, |out| {
            encode(out, record, offset, epoch, salt);
            1
        });
        appended.ok_or(Refused::Full)?;
        if !record.frame.is_empty() {
            self.topics.add(topic_of(record.frame));
        }
        self.next_offset += 1;
        self.counts.records_appended += 1;
        Ok(offset)
    }

    /// Takes the first of `records` into memory, as many as there is room for. They lie one behind the other, are summed up, and get
    /// their places here.
    pub(in crate::storage) fn append_unplaced(&mut self, records: &[u8], time_ns: u64) -> Result<Appended, Refused> {
        let largest = self.largest();
        let mut taken = Appended { offset: self.next_offset, records: 0, bytes: 0 };
        while let Some(first) = Prefix::parse(&records[taken.bytes..]).filter(|first| first.bytes <= largest) {
            let rest = &records[taken.bytes..];
            let most = self.pending.free().min(Run::BYTES_MAX.max(first.bytes));
            let mut to = Place { offset: self.next_offset, epoch: self.view.epoch, time_ns, salt: self.salt };
            let topics = &mut self.topics;
            // Copied before it is looked at: where a record begins is known from the one before it, and each would be waited for.
            let appended = self.pending.append(first.bytes, time_ns, |out| {
                let mut at = out.len();
                let part = most.min(out.capacity() - at).min(rest.len());
                out.extend_from_slice(&rest[..part]);
                while let Some(prefix) = Prefix::parse(&out[at..]).filter(|prefix| prefix.bytes <= largest) {
                    let Some(record) = out.get_mut(at..at + prefix.bytes) else { break };
                    place(record, &to);
                    topics.add(topic_of(&record[RECORD_BYTES_MIN..]));
                    at += prefix.bytes;
                    to.offset += 1;
                }
                out.truncate(at);
                (to.offset - self.next_offset) as u32
            });
            let Some(run) = appended else { break };
            self.next_offset += u64::from(run.records);
            taken.records += run.records;
            taken.bytes += run.bytes;
        }
        self.counts.records_appended += u64::from(taken.records);
        match Prefix::parse(records) {
            Some(prefix) if taken.records == 0 && prefix.bytes <= largest => Err(Refused::Full),
            _ if taken.records == 0 => Err(Refused::TooLarge),
            _ => Ok(taken),
        }
    }
}
