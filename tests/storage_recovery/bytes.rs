//! A torn tail and a flipped bit at every byte of a segment's last records.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use eventstream::frame::Class;
use eventstream::storage::disk::RealDisk;
use eventstream::storage::format::Record;
use eventstream::storage::log::{EventLog, Fsync, Item, LogOptions, Recovery, Start};

use crate::{Scratch, file, frame};

const RECORDS: u64 = 6;
/// So many of the last ones are torn and flipped byte by byte.
const LAST: u64 = 3;
const HEADER: usize = 128;

fn options() -> LogOptions {
    LogOptions { fsync: Fsync::Always, segment_bytes: 8192, buffer_bytes: 8192, ..LogOptions::new("s") }
}

fn open(folder: &Path) -> (EventLog, Recovery) {
    EventLog::open(Arc::new(RealDisk), folder, options()).expect("opens")
}

fn payload(offset: u64) -> Vec<u8> {
    // Not a zero among them: what is torn off a record is never what zeros would say as well.
    vec![offset as u8 + 1; 5 + 9 * offset as usize]
}

/// A segment as a killed engine leaves it, zeros behind its records, and where each of them lies.
struct Written {
    name: String,
    bytes: Vec<u8>,
    records: Vec<Range<usize>>,
}

impl Written {
    fn new() -> Self {
        let scratch = Scratch::new("written");
        let (mut log, _) = open(scratch.path());
        let mut records = Vec::new();
        let mut end = HEADER;
        for offset in 0..RECORDS {
            let frame = frame("t", &payload(offset));
            log.append(&Record::event(offset + 1, Class::Batch, &frame)).expect("room");
            log.write(0).expect("writes");
            log.sync(0).expect("syncs");
            let start = end;
            end = start + (32 + frame.len()).next_multiple_of(8);
            records.push(start..end);
        }
        let path = file(scratch.path(), ".segment");
        let bytes = std::fs::read(&path).expect("reads");
        assert_eq!(bytes.len(), 8192, "room is set aside");
        assert!(bytes[end - 8..end] != [0; 8] && bytes[end..].iter().all(|byte| *byte == 0));
        Self { name: path.file_name().expect("a name").to_string_lossy().into_owned(), bytes, records }
    }

    /// Opens a folder that has only these bytes for a segment.
    fn recovered(&self, bytes: &[u8]) -> (Scratch, EventLog, Recovery) {
        let scratch = Scratch::new("recovered");
        std::fs::write(scratch.path().join(&self.name), bytes).expect("writes");
        let (log, recovery) = open(scratch.path());
        (scratch, log, recovery)
    }

    fn last(&self) -> &[Range<usize>] {
        &self.records[(RECORDS - LAST) as usize..]
    }
}

/// The offsets of the records that a reader gives, each with the payload it was written with, and the gaps between them: from, until.
fn read(log: &EventLog) -> (Vec<u64>, Vec<(u64, u64)>) {
    let mut reader = log.view().reader(Start::Earliest, None).expect("a beginning");
    let (mut offsets, mut gaps) = (Vec::new(), Vec::new());
    while let Some(item) = reader.read().expect("reads") {
        match item {
            Item::Gap(gap) => gaps.push((gap.from, gap.until)),
            Item::Record(record) => {
                assert_eq!(record.event().payload(), payload(record.offset));
                offsets.push(record.offset);
            }
        }
    }
    (offsets, gaps)
}

#[test]
fn a_tail_torn_at_any_byte_costs_only_the_record_it_is_torn_in() {
    let written = Written::new();
    let end = written.records.last().expect("records").end;
    for at in written.last()[0].start..=end {
        let mut zeroed = written.bytes.clone();
        zeroed[at..].fill(0);
        for bytes in [&written.bytes[..at], &zeroed] {
            // Where zeros are torn off and zeros follow, nothing is.
            let is_whole = |record: &Range<usize>| bytes.get(record.clone()) == Some(&written.bytes[record.clone()]);
            let whole: Vec<u64> = (0..RECORDS).filter(|offset| is_whole(&written.records[*offset as usize])).collect();
            let torn = written.records.get(whole.len()).filter(|record| record.start < at);
            let (_scratch, mut log, recovery) = written.recovered(bytes);
            assert!(!recovery.clean && recovery.epoch == 2, "byte {at}");
            assert_eq!(recovery.next_offset, whole.len() as u64, "byte {at}");
            assert!(!recovery.findings.is_damage(), "byte {at}: {recovery:?}");
            // Of a record of which only the zeros at the beginning of its length are there, there is nothing to tell.
            let told = torn.filter(|record| bytes[record.start..at.min(record.end)].iter().any(|byte| *byte != 0));
            let cut: Vec<_> = recovery.findings.cut.iter().map(|cut| (cut.position as usize, cut.offset)).collect();
            let expected: Vec<_> = told.iter().map(|record| (record.start, whole.len() as u64)).collect();
            assert_eq!(cut, expected, "byte {at}");
            assert_eq!(read(&log), (whole.clone(), vec![]), "byte {at}");
            // And it goes on from there.
            let next = frame("t", &payload(recovery.next_offset));
            assert_eq!(log.append(&Record::event(9, Class::Batch, &next)), Ok(recovery.next_offset));
            log.close(0).expect("closes");
            assert_eq!(read(&log).0.len(), whole.len() + 1, "byte {at}");
        }
    }
}

#[test]
fn a_bit_flipped_at_any_byte_costs_only_the_record_it_is_in() {
    let written = Written::new();
    for at in written.last()[0].start..written.records.last().expect("records").end {
        let hit = written.records.iter().position(|record| record.contains(&at)).expect("in a record") as u64;
        let mut bytes = written.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let (scratch, log, recovery) = written.recovered(&bytes);
        let whole: Vec<u64> = (0..RECORDS).filter(|offset| *offset != hit).collect();
        let place = written.records[hit as usize].clone();
        if hit == RECORDS - 1 {
            // Nothing valid behind it: it may as well have been torn.
            let cut: Vec<_> = recovery.findings.cut.iter().map(|cut| (cut.position as usize, cut.offset)).collect();
            assert_eq!(cut, [(place.start, hit)], "byte {at}");
            assert_eq!(read(&log), (whole, vec![]), "byte {at}");
        } else {
            let [damaged] = recovery.findings.quarantined.as_slice() else { panic!("byte {at}: {recovery:?}") };
            let range = damaged.range;
            assert_eq!(range.position as usize..(range.position + range.bytes) as usize, place, "byte {at}");
            assert_eq!((range.from..range.until, &damaged.segment), (hit..hit + 1, &written.name), "byte {at}");
            assert_eq!(read(&log), (whole, vec![(hit, hit + 1)]), "byte {at}");
        }
        // The next start knows it still, without looking again.
        drop(log);
        let (log, again) = open(scratch.path());
        assert_eq!(again.findings.quarantined, recovery.findings.quarantined, "byte {at}");
        assert_eq!(read(&log).0.len() as u64, RECORDS - 1, "byte {at}");
    }
}

#[test]
fn a_bit_flipped_in_the_header_costs_nothing() {
    let written = Written::new();
    for at in 0..HEADER {
        let mut bytes = written.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let (_scratch, log, recovery) = written.recovered(&bytes);
        assert_eq!(recovery.findings.headers, [written.name.as_str()], "byte {at}");
        assert_eq!(read(&log), ((0..RECORDS).collect(), vec![]), "byte {at}");
    }
}

#[test]
fn two_records_damaged_apart_are_two_gaps_and_together_one() {
    let written = Written::new();
    let damaged = |which: &[usize]| {
        let mut bytes = written.bytes.clone();
        which.iter().for_each(|record| bytes[written.records[*record].start + 3] ^= 0x10);
        read(&written.recovered(&bytes).1)
    };
    assert_eq!(damaged(&[1, 3]), (vec![0, 2, 4, 5], vec![(1, 2), (3, 4)]));
    assert_eq!(damaged(&[2, 3]), (vec![0, 1, 4, 5], vec![(2, 4)]));
    assert_eq!(damaged(&[0]), (vec![1, 2, 3, 4, 5], vec![(0, 1)]));
}
