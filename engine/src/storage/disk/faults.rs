//! What a [`FaultyDisk`](super::FaultyDisk) is to do wrong, changeable while it is in use.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use rustix::io::Errno;

/// The faults that are to be committed from now on.
#[derive(Debug, Default)]
pub struct Faults {
    failing_syncs: AtomicU32,
    write_errno: AtomicI32,
    is_full: AtomicBool,
    slow_us: AtomicU64,
    zeros: AtomicU64,
    /// Only files whose paths have this in them.
    only: Mutex<String>,
    /// A file that says what is to go wrong, read before each write and sync; for another process to switch faults.
    control: Option<PathBuf>,
    /// What the file said last: a word such as `sync=1` counts once, not once a look.
    last: Mutex<String>,
}

impl Faults {
    /// Words, separated by commas or white space: `journal=FILE`, `control=FILE`, `sync=N` (so many syncs fail, then they
    /// succeed again), `write=EIO` or `write=ENOSPC` (every write fails), `full` (only what was set aside can be written),
    /// `slow_ms=N` (each write and sync takes so much longer), `only=TEXT` (nothing of it where the path has no such text in it).
    /// Gives the journal's path with the faults.
    pub(super) fn told(text: &str) -> Result<(PathBuf, Self), String> {
        let mut faults = Self::default();
        let mut journal = None;
        for word in words(text) {
            match word.split_once('=') {
                Some(("journal", path)) => journal = Some(PathBuf::from(path)),
                Some(("control", path)) => faults.control = Some(PathBuf::from(path)),
                _ => faults.take(word)?,
            }
        }
        Ok((journal.ok_or("EVENTSTREAM_DISK_FAULT names no journal=FILE")?, faults))
    }

    fn take(&self, word: &str) -> Result<(), String> {
        let number = |text: &str| text.parse::<u32>().map_err(|error| format!("disk fault `{word}`: {error}"));
        match word.split_once('=') {
            Some(("sync", count)) => self.fail_syncs(number(count)?),
            Some(("write", "EIO")) => self.fail_writes(Some(Errno::IO)),
            Some(("write", "ENOSPC")) => self.fail_writes(Some(Errno::NOSPC)),
            Some(("only", text)) => self.only.lock().expect("no holder panics").push_str(text),
            Some(("slow_ms", count)) => self.slow(Duration::from_millis(number(count)?.into())),
            None if word == "full" => self.fill(true),
            _ => return Err(format!("disk fault `{word}` is none that is known")),
        }
        Ok(())
    }

    /// So many syncs fail from now on.
    pub fn fail_syncs(&self, count: u32) {
        self.failing_syncs.store(count, SeqCst);
    }

    /// Every write fails from now on, or none any more.
    pub fn fail_writes(&self, errno: Option<Errno>) {
        self.write_errno.store(errno.map_or(0, Errno::raw_os_error), SeqCst);
    }

    /// From now on only what was set aside before can be written.
    pub fn fill(&self, full: bool) {
        self.is_full.store(full, SeqCst);
    }

    pub fn slow(&self, delay: Duration) {
        self.slow_us.store(delay.as_micros() as u64, SeqCst);
    }

    /// Takes what the control file says, if that has changed. A file that is not there says that nothing goes wrong.
    fn look(&self) {
        let Some(path) = &self.control else { return };
        let text = read(path);
        let mut last = self.last.lock().expect("no holder panics");
        if *last == text {
            return;
        }
        self.fail_syncs(0);
        self.fail_writes(None);
        self.fill(false);
        self.slow(Duration::ZERO);
        self.only.lock().expect("no holder panics").clear();
        for word in words(&text) {
            // A test that misspells a fault must not pass for want of it.
            self.take(word).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        *last = text;
    }

    /// Takes a look, and says whether what is to go wrong does so there.
    fn hits(&self, path: &Path) -> bool {
        self.look();
        path.to_string_lossy().contains(&**self.only.lock().expect("no holder panics"))
    }

    /// Before a write that ends at `end` of a file with `allocated` bytes set aside.
    pub(super) fn before_write(&self, path: &Path, end: u64, allocated: u64) -> io::Result<()> {
        if !self.hits(path) {
            return Ok(());
        }
        self.wait();
        match self.write_errno.load(SeqCst) {
            0 if self.is_full.load(SeqCst) && end > allocated => Err(Errno::NOSPC.into()),
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Before room is set aside, or a file is made.
    pub(super) fn before_growing(&self, path: &Path) -> io::Result<()> {
        if !self.hits(path) {
            return Ok(());
        }
        match self.write_errno.load(SeqCst) {
            0 if self.is_full.load(SeqCst) => Err(Errno::NOSPC.into()),
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Bytes of files that were written full of zeros ahead of time.
    pub fn zeros_written(&self) -> u64 {
        self.zeros.load(SeqCst)
    }

    /// Before zeros are written: no fault that is meant for what is kept hits them.
    pub(super) fn before_zeros(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.before_growing(path)?;
        self.zeros.fetch_add(bytes, SeqCst);
        Ok(())
    }

    pub(super) fn before_sync(&self, path: &Path) -> io::Result<()> {
        if !self.hits(path) {
            return Ok(());
        }
        self.wait();
        let taken = self.failing_syncs.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        taken.map_or(Ok(()), |_| Err(Errno::IO.into()))
    }

    fn wait(&self) {
        let delay = self.slow_us.load(SeqCst);
        if delay > 0 {
            std::thread::sleep(Duration::from_micros(delay));
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\n', '\t']).filter(|word| !word.is_empty())
}
