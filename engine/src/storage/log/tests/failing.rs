//! A disk that fails, and works again.

use rustix::io::Errno;

use super::*;

#[test]
fn after_a_failed_sync_the_segment_is_left_at_its_last_durable_record() {
    let place = Place::new("fsync");
    let (mut log, _) = place.open(&options(Fsync::Always));
    put_all(&mut log, 0..3);
    let first = log.view().segments()[0].clone();
    for number in 3..6u64 {
        append(&mut log, number, "t", &number.to_be_bytes()).unwrap();
    }
    log.write(3).unwrap();
    place.disk.faults().fail_syncs(1);
    assert!(log.sync(3).is_err());
    assert_eq!((log.writable(), log.durable_offset(), log.next_offset()), (false, 3, 6));
    assert_eq!(all(&log.view()), numbered(0..3));
    // At once, to another segment, with the offsets they had.
    assert_eq!(log.due(3), Some(3));
    log.write(3).unwrap();
    log.sync(3).unwrap();
    assert_eq!((log.writable(), log.durable_offset()), (true, 6));
    let segments = log.view().segments();
    assert_eq!((segments.len(), segments[1].base_offset(), first.next_offset()), (2, 3, 3));
    assert_eq!(all(&log.view()), numbered(0..6));
    let counts = log.counts();
    assert_eq!((counts.failures, counts.segments_abandoned), (1, 1));
    log.close(4).unwrap();
    let (log, recovery) = place.open(&options(Fsync::Always));
    assert!(recovery.clean && recovery.findings == Findings::default(), "{recovery:?}");
    assert_eq!(all(&log.view()), numbered(0..6));
}

#[test]
fn while_nothing_can_be_written_records_wait_and_then_all_are_there() {
    for errno in [Errno::NOSPC, Errno::IO] {
        for fsync in [Fsync::Always, Fsync::Every(10), Fsync::Never] {
            let place = Place::new("enospc");
            let (mut log, _) = place.open(&options(fsync));
            put_all(&mut log, 0..3);
            place.disk.faults().fail_writes(Some(errno));
            let mut next = 3u64;
            while append(&mut log, next, "t", &next.to_be_bytes()).is_ok() {
                next += 1;
            }
            assert_eq!(append(&mut log, 0, "t", b""), Err(Refused::Full));
            // The pauses double, up to a second; in between nothing is tried.
            let (mut now, mut tries) = (0, Vec::new());
            while now < 20_000_000_000 {
                if log.write(now).is_err() {
                    tries.push(now);
                }
                assert!(!log.writable());
                now = log.due(now).unwrap().max(now + 1_000_000);
            }
            let pauses: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(pauses.is_sorted() && pauses.last() <= Some(&1_001_000_000) && tries.len() < 40, "{pauses:?}");
            place.disk.faults().fail_writes(None);
            log.write(now + 1_000_000_000).unwrap();
            log.sync(now + 1_000_000_000).unwrap();
            assert!(log.writable());
            assert_eq!(put(&mut log, next), next);
            assert_eq!(all(&log.view()), numbered(0..=next));
            // What was begun in vain is gone.
            assert_eq!(place.files(".segment").len(), log.view().segments().len());
            log.close(0).unwrap();
            let (log, _) = place.open(&options(fsync));
            assert_eq!(all(&log.view()), numbered(0..=next));
        }
    }
}

#[test]
fn a_full_disk_has_room_for_the_segment_that_was_set_aside() {
    let place = Place::new("reserve");
    let (mut log, _) = place.open(&LogOptions { keeps_reserve: true, ..options(Fsync::Always) });
    put(&mut log, 0);
    place.disk.faults().fill(true);
    let mut number = 1;
    // The rest of the segment that is written, and a whole one.
    let refused = loop {
        append(&mut log, number, "t", &number.to_be_bytes()).unwrap();
        if let Err(error) = log.write(number).and_then(|()| log.sync(number)) {
            break error;
        }
        number += 1;
    };
    assert!(refused.to_string().contains("No space left"), "{refused}");
    assert_eq!(number, 2 * ((4096 - 128) / RECORD));
    assert_eq!((log.view().segments().len(), log.durable_offset()), (2, number));
    place.disk.faults().fill(false);
    log.write(2_000_000_000).unwrap();
    log.sync(2_000_000_000).unwrap();
    assert_eq!(all(&log.view()), numbered(0..=number));
    assert!(!place.directory().join("reserve").exists());
    log.retain(0, 0, |_| {}).unwrap();
    assert_eq!(place.directory().join("reserve").metadata().unwrap().len(), 4096);
}

#[test]
fn a_slow_disk_is_only_slow() {
    let place = Place::new("slow");
    let (mut log, _) = place.open(&options(Fsync::Every(5)));
    place.disk.faults().slow(std::time::Duration::from_millis(2));
    let started = std::time::Instant::now();
    put_all(&mut log, 0..5);
    assert!(started.elapsed() >= std::time::Duration::from_millis(20));
    assert_eq!(all(&log.view()), numbered(0..5));
}

/// Waits for a sync that was begun.
fn end(log: &mut EventLog, now: u64) -> Result<(), StorageError> {
    let before = log.durable_offset();
    while log.durable_offset() == before {
        log.end_sync(now)?;
        std::thread::yield_now();
    }
    Ok(())
}

#[test]
fn a_sync_beside_the_writing_covers_what_was_written_when_it_began() {
    let place = Place::new("beside");
    let (mut log, _) = place.open(&options(Fsync::Every(10)));
    log.sync_beside(None).unwrap();
    for number in 0..6u64 {
        append(&mut log, number, "t", &number.to_be_bytes()).unwrap();
        log.write(100 + number).unwrap();
        if number == 2 {
            assert_eq!(log.due(102), Some(110));
            log.begin_sync(110).unwrap();
        }
    }
    assert_eq!(log.due(110), None, "one at a time");
    end(&mut log, 111).unwrap();
    assert_eq!((log.durable_offset(), log.due(111)), (3, Some(113)));
    assert_eq!(all(&log.view()), numbered(0..3));
    log.begin_sync(113).unwrap();
    end(&mut log, 114).unwrap();
    assert_eq!(all(&log.view()), numbered(0..6));
}

#[test]
fn when_it_fails_what_was_written_meanwhile_goes_to_the_next_segment_as_well() {
    let place = Place::new("beside-failed");
    let (mut log, _) = place.open(&options(Fsync::Every(10)));
    log.sync_beside(None).unwrap();
    put_all(&mut log, 0..2);
    place.disk.faults().fail_syncs(1);
    for number in 2..6u64 {
        append(&mut log, number, "t", &number.to_be_bytes()).unwrap();
        log.write(number).unwrap();
        if number == 3 {
            log.begin_sync(number).unwrap();
        }
    }
    assert!(end(&mut log, 7).is_err());
    assert_eq!((log.writable(), log.durable_offset(), log.counts().segments_abandoned), (false, 2, 1));
    log.write(8).unwrap();
    // One that a segment's end, or that of the log, has to wait for is taken account of as any other.
    log.begin_sync(8).unwrap();
    log.close(9).unwrap();
    let (log, recovery) = place.open(&options(Fsync::Every(10)));
    assert!(recovery.clean && recovery.findings == Findings::default(), "{recovery:?}");
    assert_eq!(all(&log.view()), numbered(0..6));
}
