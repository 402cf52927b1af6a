//! What the log promises, on a disk that does as it is told and on one that does not.

mod failing;
mod model;
mod power;
mod prewriting;
mod reading;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::disk::{Disk, FaultyDisk};
use super::super::error::StorageError;
use super::super::format::Record;
use super::super::scratch::{Scratch, frame};
use super::super::topics::TopicFilter;
use super::*;
use crate::frame::Class;

/// A folder for a stream, and a disk with a journal beside it.
struct Place {
    scratch: Scratch,
    disk: FaultyDisk,
}

impl Place {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let disk = FaultyDisk::new(&scratch.path().join("journal")).unwrap();
        Self { scratch, disk }
    }

    fn directory(&self) -> PathBuf {
        self.scratch.path().join("stream")
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }

    fn open(&self, options: &LogOptions) -> (EventLog, Recovery) {
        EventLog::open(self.disk(), &self.directory(), options.clone()).unwrap()
    }

    fn files(&self, ending: &str) -> Vec<PathBuf> {
        files(&self.directory(), ending)
    }
}

fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
    files.sort();
    files
}

/// Bytes of the records that [`put`] makes.
const RECORD: u64 = 48;

/// Small segments and buffers, so that little fills them.
fn options(fsync: Fsync) -> LogOptions {
    LogOptions { fsync, segment_bytes: 4096, buffer_bytes: 2048, ..LogOptions::new("test") }
}

fn append(log: &mut EventLog, time_ns: u64, topic: &str, payload: &[u8]) -> Result<u64, Refused> {
    log.append(&Record::event(time_ns, Class::Transactional, &frame(topic, payload)))
}

/// Appends a record that says its number, and makes it durable.
fn put(log: &mut EventLog, number: u64) -> u64 {
    let offset = append(log, number, "t", &number.to_be_bytes()).unwrap();
    log.write(number).unwrap();
    log.sync(number).unwrap();
    offset
}

fn put_all(log: &mut EventLog, numbers: std::ops::Range<u64>) {
    for number in numbers {
        assert_eq!(put(log, number), number);
    }
}

/// What a reader gave: a record's offset and payload, or a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Record(u64, Vec<u8>),
    Gap(u64, u64),
}

fn drain(reader: &mut Reader) -> Vec<Seen> {
    let mut seen = Vec::new();
    while let Some(item) = reader.read().unwrap() {
        seen.push(match item {
            Item::Record(record) => Seen::Record(record.offset, record.event().payload().to_vec()),
            Item::Gap(gap) => Seen::Gap(gap.from, gap.until),
        });
    }
    seen
}

fn all(view: &Arc<View>) -> Vec<Seen> {
    drain(&mut view.reader(Start::Earliest, None).unwrap())
}

fn numbered(numbers: impl IntoIterator<Item = u64>) -> Vec<Seen> {
    numbers.into_iter().map(|number| Seen::Record(number, number.to_be_bytes().to_vec())).collect()
}

#[test]
fn offsets_go_on_after_an_end_in_order_and_a_crash_begins_an_epoch() {
    let place = Place::new("epochs");
    let (mut log, recovery) = place.open(&options(Fsync::Always));
    assert_eq!((recovery.clean, recovery.epoch, recovery.next_offset), (true, 1, 0));
    put_all(&mut log, 0..5);
    log.close(9).unwrap();
    let (mut log, recovery) = place.open(&options(Fsync::Always));
    assert_eq!((recovery.clean, recovery.epoch, recovery.next_offset), (true, 1, 5));
    put_all(&mut log, 5..8);
    drop(log);
    let (mut log, recovery) = place.open(&options(Fsync::Always));
    assert_eq!((recovery.clean, recovery.epoch, recovery.next_offset), (false, 2, 8));
    assert_eq!(put(&mut log, 8), 8);
    assert_eq!(all(&log.view()), numbered(0..9));
    // Before anything is written a log can end and begin, and keeps its epoch.
    log.close(9).unwrap();
    drop(place.open(&options(Fsync::Always)).0.close(9));
    let (log, recovery) = place.open(&options(Fsync::Always));
    assert_eq!((recovery.clean, recovery.epoch, recovery.next_offset), (true, 2, 9));
    assert_eq!(all(&log.view()), numbered(0..9));
    // What the run file knows counts as well.
    let (_, recovery) = place.open(&LogOptions { after_crash: true, ..options(Fsync::Always) });
    assert_eq!((recovery.clean, recovery.epoch), (false, 3));
}

#[test]
fn a_position_that_was_cut_is_told_from_one_that_was_not() {
    let place = Place::new("truncated");
    let (mut log, _) = place.open(&options(Fsync::Never));
    put_all(&mut log, 0..10);
    drop(log);
    // The last records never reached the disk.
    let segment = place.files(".segment").pop().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(segment).unwrap();
    file.set_len(128 + RECORD * 6 + 10).unwrap();
    let (mut log, recovery) = place.open(&options(Fsync::Never));
    assert_eq!((recovery.next_offset, recovery.findings.cut.len()), (6, 1), "{recovery:?}");
    assert_eq!(put(&mut log, 6), 6);
    let view = log.view();
    let from = |epoch, offset| view.reader(Start::At(Position { epoch, offset }), None);
    assert_eq!(drain(&mut from(1, 4).unwrap()), numbered(4..7));
    assert_eq!(drain(&mut from(1, 6).unwrap()), numbered(6..7));
    let first_valid = Position { epoch: 2, offset: 6 };
    assert_eq!(from(1, 7).err(), Some(Truncated { first_valid }));
    assert_eq!(drain(&mut from(2, 7).unwrap()), []);
    assert_eq!(from(2, 8).err(), Some(Truncated { first_valid: Position { epoch: 2, offset: 7 } }));
    assert_eq!(from(3, 0).err(), Some(Truncated { first_valid: Position { epoch: 2, offset: 7 } }));
}

#[test]
fn segments_are_closed_with_an_index_that_is_made_anew_when_missing() {
    let place = Place::new("index");
    let (mut log, _) = place.open(&options(Fsync::Always));
    put_all(&mut log, 0..200);
    let (segments, indexes) = (place.files(".segment"), place.files(".index"));
    assert!(segments.len() > 2 && indexes.len() == segments.len() - 1, "{segments:?} {indexes:?}");
    assert_eq!(all(&log.view()), numbered(0..200));
    log.close(200).unwrap();
    std::fs::remove_file(&indexes[0]).unwrap();
    std::fs::write(&indexes[1], b"esc-idx\nwhatever").unwrap();
    let (log, recovery) = place.open(&options(Fsync::Always));
    assert!(recovery.clean && recovery.findings == Findings::default(), "{recovery:?}");
    assert_eq!(all(&log.view()), numbered(0..200));
    // They are written by the next recovery.
    drop(log);
    let _ = place.open(&LogOptions { after_crash: true, ..options(Fsync::Always) });
    assert!(Index::decode(&std::fs::read(&indexes[0]).unwrap()).is_some());
    assert!(Index::decode(&std::fs::read(&indexes[1]).unwrap()).is_some());
}

#[test]
fn the_oldest_segments_go_by_bytes_and_by_age() {
    let place = Place::new("retention");
    let hour = 3_600_000_000_000;
    let by_bytes = LogOptions { retention_bytes: 9000, ..options(Fsync::Always) };
    let (mut log, _) = place.open(&by_bytes);
    put_all(&mut log, 0..300);
    let mut removed = 0;
    log.retain(0, 0, |segment| removed += segment.next_offset() - segment.base_offset()).unwrap();
    let bytes: u64 = place.files(".segment").iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(removed > 100 && bytes <= 9000 + 4096, "{removed} {bytes}");
    assert_eq!(log.view().earliest().offset, removed);
    assert_eq!(all(&log.view()), numbered(removed..300));
    // Who comes from before is told.
    let mut reader = log.view().reader(Start::At(Position { epoch: 1, offset: 3 }), None).unwrap();
    assert_eq!(drain(&mut reader)[0], Seen::Gap(3, removed));
    log.close(0).unwrap();

    let by_age = LogOptions { retention_age: Some(std::time::Duration::from_secs(3600)), ..options(Fsync::Always) };
    let (mut log, _) = place.open(&by_age);
    let kept = log.view().segments().len();
    log.retain(hour, 0, |_| panic!("young")).unwrap();
    append(&mut log, 3 * hour, "t", &300_u64.to_be_bytes()).unwrap();
    log.write(0).unwrap();
    log.sync(0).unwrap();
    let mut gone = 0;
    log.retain(2 * hour, 0, |_| gone += 1).unwrap();
    assert_eq!(gone, kept);
    assert_eq!(all(&log.view()), numbered(300..301));
    // The one that is written goes too when nothing comes in any more, once there is another.
    log.retain(5 * hour, 0, |_| panic!("the last one stays")).unwrap();
    assert_eq!(place.files(".index").len(), 1);
}

#[test]
fn what_is_larger_than_a_segment_or_a_buffer_is_refused() {
    let place = Place::new("large");
    let (mut log, _) = place.open(&options(Fsync::Always));
    assert_eq!(append(&mut log, 0, "t", &[0; 3000]), Err(Refused::TooLarge));
    assert_eq!(append(&mut log, 0, "t", &[0; 1900]), Ok(0));
    assert_eq!(append(&mut log, 0, "t", &[0; 1900]), Err(Refused::Full));
    log.write(0).unwrap();
    assert_eq!(append(&mut log, 0, "t", &[0; 1900]), Err(Refused::Full), "not durable yet");
    log.sync(0).unwrap();
    assert_eq!(append(&mut log, 0, "t", &[0; 1900]), Ok(1));
}

#[test]
fn syncs_are_due_as_the_policy_says() {
    let place = Place::new("due");
    for (number, fsync) in [Fsync::Always, Fsync::Every(50), Fsync::Never].into_iter().enumerate() {
        let directory = place.scratch.path().join(format!("due-{number}"));
        let (mut log, _) = EventLog::open(place.disk(), &directory, options(fsync)).unwrap();
        assert_eq!(log.due(100), None);
        append(&mut log, 0, "t", b"").unwrap();
        log.write(100).unwrap();
        append(&mut log, 0, "t", b"").unwrap();
        log.write(120).unwrap();
        let due = [Some(130), Some(150), None][number];
        assert_eq!((log.due(130), log.durable_offset()), (due, [0, 0, 2][number]));
        log.sync(130).unwrap();
        assert_eq!((log.due(130), log.durable_offset()), (None, 2));
    }
}

#[test]
fn an_interval_is_cut_short_when_much_waits_or_somebody_asks() {
    let place = Place::new("pressed");
    let (mut log, _) = EventLog::open(place.disk(), place.scratch.path(), options(Fsync::Every(50))).unwrap();
    log.press(90);
    assert_eq!(log.due(90), None, "nothing is written");
    append(&mut log, 0, "t", b"").unwrap();
    log.write(100).unwrap();
    assert_eq!(log.due(100), Some(150));
    log.press(120);
    assert_eq!(log.due(120), Some(120));
    log.sync(120).unwrap();
    // Two of these are more than half of the buffer.
    for (now, due) in [(200, 250), (210, 210)] {
        append(&mut log, 0, "t", &[0; 500]).unwrap();
        log.write(now).unwrap();
        assert_eq!(log.due(now), Some(due));
    }
}
