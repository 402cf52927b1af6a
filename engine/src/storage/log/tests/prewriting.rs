//! Segments made of files that are there beforehand.

use std::os::unix::fs::MetadataExt as _;

use super::*;

fn prewriting() -> LogOptions {
    LogOptions { prewrites: true, ..options(Fsync::Always) }
}

fn inode(path: &Path) -> u64 {
    path.metadata().unwrap().ino()
}

fn finish(log: &mut EventLog) {
    log.files.prewriter.as_mut().expect("it prewrites").finish();
}

#[test]
fn each_segment_is_made_of_the_file_that_was_written_before() {
    let place = Place::new("prewritten");
    let (mut log, _) = place.open(&prewriting());
    let prewritten = place.directory().join("prewritten");
    let mut number = 0;
    for segment in 0..4 {
        if segment > 0 {
            finish(&mut log);
        }
        assert_eq!(prewritten.metadata().unwrap().len(), 4096);
        assert!(std::fs::read(&prewritten).unwrap().iter().all(|byte| *byte == 0));
        let written_before = inode(&prewritten);
        while place.files(".segment").len() == segment {
            number = put(&mut log, number) + 1;
        }
        assert_eq!(inode(&place.files(".segment")[segment]), written_before, "segment {segment}");
    }
    finish(&mut log);
    assert_eq!(all(&log.view()), numbered(0..number));
    assert_eq!(place.disk.faults().zeros_written(), 5 * 4096);
    log.close(0).unwrap();
    drop(log);
    // What is left over serves the next run.
    let left = inode(&prewritten);
    let (mut log, recovery) = place.open(&prewriting());
    assert!(recovery.clean && recovery.findings == Findings::default(), "{recovery:?}");
    put(&mut log, number);
    assert_eq!(inode(place.files(".segment").last().unwrap()), left);
    assert_eq!(all(&log.view()), numbered(0..=number));
}

#[test]
fn files_of_another_length_or_that_nobody_asked_for_go() {
    let place = Place::new("leftovers");
    let folder = place.directory();
    std::fs::create_dir(&folder).unwrap();
    let leave = || ["prewritten", "prewriting"].map(|name| std::fs::write(folder.join(name), b"0123456789").unwrap());
    leave();
    let (mut log, _) = place.open(&prewriting());
    finish(&mut log);
    assert_eq!(folder.join("prewritten").metadata().unwrap().len(), 4096);
    drop(log);
    leave();
    drop(place.open(&options(Fsync::Always)));
    assert!(!folder.join("prewritten").exists() && !folder.join("prewriting").exists());
}

#[test]
fn without_room_for_it_the_log_goes_on_in_the_ordinary_way() {
    let place = Place::new("no-room");
    let (mut log, _) = place.open(&prewriting());
    finish(&mut log);
    put(&mut log, 0);
    finish(&mut log);
    // The segment that was begun is full, the one that is there beforehand too, and there is no other.
    place.disk.faults().fill(true);
    let per_segment = (4096 - 128) / RECORD;
    put_all(&mut log, 1..2 * per_segment);
    finish(&mut log);
    assert!(!place.directory().join("prewritten").exists() && !place.directory().join("prewriting").exists());
    append(&mut log, 0, "t", &(2 * per_segment).to_be_bytes()).unwrap();
    log.write(0).unwrap_err();
    place.disk.faults().fill(false);
    log.write(2_000_000_000).unwrap();
    log.sync(2_000_000_000).unwrap();
    assert_eq!(all(&log.view()), numbered(0..=2 * per_segment));
    finish(&mut log);
    assert_eq!(place.directory().join("prewritten").metadata().unwrap().len(), 4096);
}
