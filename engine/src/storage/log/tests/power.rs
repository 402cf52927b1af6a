//! Power cuts: what was told to be durable is there afterwards.

use super::super::super::disk::power_cut;
use super::*;

/// Writes in bursts with faults in between, cuts the power, and opens what is left. Gives the offset below which all was
/// durable, the next offset afterwards, and the offsets that are missing below it.
fn after_cut(seed: u64, fsync: Fsync) -> (u64, u64, Vec<u64>) {
    let place = Place::new("power");
    let (mut log, _) = place.open(&LogOptions { prewrites: seed.is_multiple_of(2), ..options(fsync) });
    let mut number = 0u64;
    for burst in 0..12u64 {
        for _ in 0..(seed * 7 + burst * 5) % 9 + 1 {
            append(&mut log, number, "t", &number.to_be_bytes()).unwrap();
            number += 1;
        }
        if burst % 5 == seed % 5 {
            place.disk.faults().fail_syncs(1);
        }
        let _ = log.write(burst * 1_000_000_000);
        // Some cuts come before the last burst is synced.
        if burst < 11 || !seed.is_multiple_of(3) {
            let _ = log.sync(burst * 1_000_000_000);
        }
    }
    let durable = log.durable_offset();
    drop(log);
    power_cut(&place.scratch.path().join("journal"), &place.directory(), seed).unwrap();
    let disk = Arc::new(super::super::super::disk::RealDisk);
    let (log, recovery) = EventLog::open(disk, &place.directory(), options(fsync)).unwrap();
    // Where the cut came between two segments, nothing has begun that could have been lost.
    assert_eq!(log.epoch(), 1 + u32::from(!recovery.clean));
    let mut found = Vec::new();
    for seen in all(&log.view()) {
        if let Seen::Record(offset, payload) = seen {
            assert_eq!(payload, offset.to_be_bytes());
            found.push(offset);
        }
    }
    let missing = (0..durable).filter(|offset| !found.contains(offset)).collect();
    (durable, log.next_offset(), missing)
}

#[test]
fn with_always_and_at_intervals_no_durable_record_is_ever_missing() {
    for fsync in [Fsync::Always, Fsync::Every(1)] {
        for seed in 0..150 {
            let (durable, next, missing) = after_cut(seed, fsync);
            assert!(missing.is_empty() && next >= durable && durable > 0, "seed {seed}: {missing:?} of {durable}");
        }
    }
}

/// The same cuts under `never` cost records: the test above can fail.
#[test]
fn with_never_some_are() {
    let lossy = (0..60).filter(|seed| !after_cut(*seed, Fsync::Never).2.is_empty()).count();
    assert!(lossy > 5, "{lossy}");
}
