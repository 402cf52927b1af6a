//! The least that can be done to keep something: write it to a file, and sync that now and then.
//!
//! What is written comes from nowhere and is made of nothing, so this is what the disk gives, and no log can do more.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

use super::ages::Ages;
use super::{Report, Seen};
use crate::stop;

/// The engine's defaults: what is synced together, and what is set aside at a time.
const SYNC_INTERVAL: Duration = Duration::from_millis(5);
const SEGMENT_BYTES: u64 = 128 << 20;
/// Of a write; the log writer's are of this order when it is busy.
const WRITE_BYTES: usize = 1 << 20;

/// Writes records of so many bytes until it is told to stop, and syncs them now and then, or whenever `together` of them are
/// written. The file is made anew, and goes at the end.
pub fn keep(path: &Path, record_bytes: u32, together: Option<u32>, ready: impl FnOnce()) -> Result<Report, String> {
    let fail = |error: io::Error| format!("--file {}: {error}", path.display());
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).map_err(fail)?;
    let mut ages = Ages::new()?;
    let written = match together {
        Some(records) => write_each(&file, record_bytes as usize * records as usize, &mut ages, ready),
        None => write(&file, ready),
    };
    let (bytes, seconds) = written.and_then(|written| std::fs::remove_file(path).map(|()| written)).map_err(fail)?;
    let events = bytes / u64::from(record_bytes.max(1));
    let seen = Seen { events, ..Seen::default() };
    let latency_ns = together.map(|_| ages.latency());
    Ok(Report { seconds, busy_seconds: seconds, dropped: 0, seen, latency_ns })
}

/// Into a file that has been written before, so that its blocks are on disk and a sync has nothing to do but these bytes.
fn write_each(file: &File, bytes: usize, ages: &mut Ages, ready: impl FnOnce()) -> io::Result<(u64, f64)> {
    let records = vec![0x5a; bytes];
    let zeros = vec![0; WRITE_BYTES];
    for position in (0..SEGMENT_BYTES).step_by(WRITE_BYTES) {
        file.write_all_at(&zeros, position)?;
    }
    file.sync_all()?;
    ready();
    let rounds = (SEGMENT_BYTES / bytes.max(1) as u64).max(1);
    let (began, mut written) = (Instant::now(), 0);
    while !stop::is_requested() {
        let before = Instant::now();
        file.write_all_at(&records, written % rounds * bytes as u64)?;
        file.sync_data()?;
        ages.note(before.elapsed());
        written += 1;
    }
    Ok((written * bytes as u64, began.elapsed().as_secs_f64()))
}

fn write(file: &File, ready: impl FnOnce()) -> io::Result<(u64, f64)> {
    let chunk = vec![0x5a; WRITE_BYTES];
    ready();
    let (began, mut synced, mut position) = (Instant::now(), Instant::now(), 0);
    while !stop::is_requested() {
        if position % SEGMENT_BYTES == 0 {
            fallocate(file, FallocateFlags::empty(), position, SEGMENT_BYTES)?;
        }
        file.write_all_at(&chunk, position)?;
        position += WRITE_BYTES as u64;
        if synced.elapsed() >= SYNC_INTERVAL {
            file.sync_data()?;
            synced = Instant::now();
        }
    }
    file.sync_data()?;
    Ok((position, began.elapsed().as_secs_f64()))
}
