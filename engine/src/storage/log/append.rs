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
        let run = Run { bytes, records: 1, time_ns: record.time_ns };
        let appended = self.pending.append(run, |out| encode(out, record, offset, epoch, salt));
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
        loop {
            let rest = &records[taken.bytes..];
            let run = first_run(rest, self.pending.free(), largest, time_ns);
            if run.records == 0 {
                break;
            }
            let mut to = Place { offset: self.next_offset, epoch: self.view.epoch, time_ns, salt: self.salt };
            let topics = &mut self.topics;
            let appended = self.pending.append(run, |out| {
                let mut at = out.len();
                out.extend_from_slice(&rest[..run.bytes]);
                while let Some(prefix) = Prefix::parse(&out[at..]) {
                    let record = &mut out[at..at + prefix.bytes];
                    place(record, &to);
                    topics.add(topic_of(&record[RECORD_BYTES_MIN..]));
                    at += prefix.bytes;
                    to.offset += 1;
                }
            });
            if appended.is_none() {
                break;
            }
            self.next_offset = to.offset;
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

/// The first of `records` that are taken together: that fit into `room`, of which none is larger than `largest`.
fn first_run(records: &[u8], room: usize, largest: usize, time_ns: u64) -> Run {
    let mut run = Run { bytes: 0, records: 0, time_ns };
    while let Some(prefix) = Prefix::parse(&records[run.bytes..]) {
        let bytes = run.bytes + prefix.bytes;
        if prefix.bytes > largest || bytes > room || (bytes > Run::BYTES_MAX && run.records > 0) {
            break;
        }
        run = Run { bytes, records: run.records + 1, ..run };
    }
    run
}
