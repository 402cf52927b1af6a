//! The next segment's file, full of zeros on disk before it is needed.
//!
//! A file system that has only set room aside notes for each block, when it is first synced, that it is in use now: it commits its
//! journal, and a sync of new blocks takes so much longer. Where every burst is synced that is much of what an
//! acknowledgement waits for, and worth that each byte is written twice, once ahead of time.
//!
//! - **Thread**: one that comes and goes with each file, of lower priority than anything else.
//! - **Out**: a file named [`PREWRITTEN`], which the next segment is made of. One that is left over serves the next run.
//! - **Overload**: a segment that is needed sooner, or for which there was no room, is made in the ordinary way.
//! - **Invariant**: the file reads as zeros, whether they were written or not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::disk::{Disk, DiskFile};

const PREWRITTEN: &str = "prewritten";
/// The file before it is full.
const PREWRITING: &str = "prewriting";
/// What is written at a time: little waits behind it.
const CHUNK_BYTES: u64 = 1 << 20;
/// How often it is looked whether a file is done.
const LOOK: Duration = Duration::from_millis(2);
/// As `nice` has it: the least there is.
const NICENESS: i32 = 19;

pub(super) struct Prewriter {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    bytes: u64,
    work: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Prewriter {
    /// For files of so many bytes. What an earlier run has left stays if it is one.
    pub fn new(disk: Arc<dyn Disk>, directory: &Path, bytes: u64) -> Self {
        clean_up(&*disk, directory, Some(bytes));
        Self { disk, directory: directory.to_owned(), bytes, work: None, stop: Arc::default() }
    }

    /// Sees to it that there will be a file.
    pub fn prepare(&mut self) {
        let prewritten = self.directory.join(PREWRITTEN);
        let is_under_way = self.work.as_ref().is_some_and(|work| !work.is_finished());
        if is_under_way || self.disk.open_to_read(&prewritten).is_ok() {
            return;
        }
        let (disk, bytes, stop) = (self.disk.clone(), self.bytes, self.stop.clone());
        let prewriting = self.directory.join(PREWRITING);
        let work = move || {
            // Pid 0 means the calling thread to Linux, whatever POSIX says of processes (setpriority(2)).
            let _ = rustix::process::setpriority_process(None, NICENESS);
            let made = fill(&*disk, &prewriting, bytes, &stop).and_then(|()| disk.rename(&prewriting, &prewritten));
            if made.is_err() {
                let _ = disk.remove(&prewriting);
            }
        };
        // Without a thread segments are made in the ordinary way.
        self.work = std::thread::Builder::new().name("prewrite".to_owned()).spawn(work).ok();
    }

    /// Waits for the file that is under way, but no longer than this.
    pub fn wait(&self, longest: Duration) {
        let until = Instant::now() + longest;
        while self.work.as_ref().is_some_and(|work| !work.is_finished()) && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }

    /// Gives the file the name, if there is one. It is to be written with a header, and its directory to be synced.
    pub fn take(&self, name: &Path) -> Option<Box<dyn DiskFile>> {
        let prewritten = self.directory.join(PREWRITTEN);
        self.disk.open_to_read(&prewritten).ok()?;
        self.disk.rename(&prewritten, name).ok()?;
        self.disk.open(name).ok()
    }
}

#[cfg(test)]
impl Prewriter {
    /// Waits for the file that is under way.
    pub fn finish(&mut self) {
        self.work.take().map_or(Ok(()), JoinHandle::join).expect("the thread does not panic");
    }
}

impl Drop for Prewriter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(work) = self.work.take() {
            let _ = work.join();
        }
    }
}

/// Removes what an earlier run has left, but for a whole file of so many bytes.
pub(super) fn clean_up(disk: &dyn Disk, directory: &Path, bytes: Option<u64>) {
    let _ = disk.remove(&directory.join(PREWRITING));
    let prewritten = directory.join(PREWRITTEN);
    let length = disk.open_to_read(&prewritten).and_then(|file| file.length());
    if length.is_ok_and(|length| Some(length) != bytes) {
        let _ = disk.remove(&prewritten);
    }
}

fn fill(disk: &dyn Disk, path: &Path, bytes: u64, stop: &AtomicBool) -> std::io::Result<()> {
    let file = disk.create(path)?;
    file.preallocate(bytes)?;
    for position in (0..bytes).step_by(CHUNK_BYTES as usize) {
        if stop.load(Ordering::Relaxed) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        file.write_zeros(position, CHUNK_BYTES.min(bytes - position))?;
    }
    Ok(())
}
