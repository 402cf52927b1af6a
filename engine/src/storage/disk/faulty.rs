//! A disk that fails as told, and keeps a journal of what is durable on it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use super::faults::Faults;
use super::journal::{Change, Journal};
use super::{Disk, DiskFile, RealDisk};

/// The real disk with faults. After the process has ended, however it did,
/// [`power_cut`](super::power_cut()) takes the files back to what a sync has covered and a random part of the rest.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    journal: Journal,
    faults: Faults,
    /// Bytes set aside in each file, which a full disk still takes.
    allocated: Mutex<HashMap<PathBuf, Arc<AtomicU64>>>,
}

struct FaultyFile {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    shared: Arc<Shared>,
    allocated: Arc<AtomicU64>,
}

impl FaultyDisk {
    /// Nothing goes wrong until [`faults`](Self::faults) says so. The journal is of one run of one test.
    pub fn new(journal: &Path) -> io::Result<Self> {
        Self::with(journal, Faults::default())
    }

    /// As the environment of a process under test tells it.
    pub fn told(text: &str) -> Result<Self, String> {
        let (journal, faults) = Faults::told(text)?;
        Self::with(&journal, faults).map_err(|error| format!("{}: {error}", journal.display()))
    }

    fn with(journal: &Path, faults: Faults) -> io::Result<Self> {
        let journal = Journal::create(journal)?;
        Ok(Self { shared: Arc::new(Shared { journal, faults, allocated: Mutex::default() }) })
    }

    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    fn wrap(&self, path: &Path, file: Box<dyn DiskFile>) -> io::Result<Box<dyn DiskFile>> {
        let length = file.length()?;
        let mut known = self.shared.allocated.lock().expect("no holder panics");
        let allocated = known.entry(path.to_owned()).or_insert_with(|| Arc::new(AtomicU64::new(length))).clone();
        Ok(Box::new(FaultyFile { path: path.to_owned(), file, shared: self.shared.clone(), allocated }))
    }
}

impl Disk for FaultyDisk {
    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        RealDisk.create_directory(directory)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(directory)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.shared.faults.before_growing(path)?;
        self.shared.journal.add(path, &Change::Created);
        self.wrap(path, RealDisk.create(path)?)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.wrap(path, RealDisk.open(path)?)
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open_to_read(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.shared.journal.add(path, &Change::Removed);
        self.shared.allocated.lock().expect("no holder panics").remove(path);
        RealDisk.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.journal.add(from, &Change::Renamed(to.to_owned()));
        let mut known = self.shared.allocated.lock().expect("no holder panics");
        if let Some(allocated) = known.remove(from) {
            known.insert(to.to_owned(), allocated);
        }
        RealDisk.rename(from, to)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.shared.faults.before_sync(directory)?;
        RealDisk.sync_directory(directory)?;
        self.shared.journal.add(directory, &Change::DirectorySynced);
        Ok(())
    }
}

impl FaultyFile {
    /// Tells the journal what stands where `bytes` bytes are about to be changed.
    fn journal(&self, position: u64, bytes: u64, new_length: u64) -> io::Result<()> {
        let old_length = self.file.length()?;
        let kept = bytes.min(old_length.saturating_sub(position));
        let mut old = vec![0; kept as usize];
        self.file.pread(&mut old, position)?;
        // What was set aside and never written is long and all zeros.
        let significant = old.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        old.truncate(significant);
        let change = Change::Changed { position, bytes, old, old_length, new_length };
        self.shared.journal.add(&self.path, &change);
        Ok(())
    }
}

impl DiskFile for FaultyFile {
    fn pwrite_all(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let end = position + bytes.len() as u64;
        self.shared.faults.before_write(&self.path, end, self.allocated.load(SeqCst))?;
        self.journal(position, bytes.len() as u64, end.max(self.file.length()?))?;
        self.file.pwrite_all(bytes, position)?;
        self.allocated.fetch_max(end, SeqCst);
        Ok(())
    }

    fn pread(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.pread(buffer, position)
    }

    fn fdatasync(&self) -> io::Result<()> {
        let covers = self.shared.journal.count();
        if let Err(error) = self.shared.faults.before_sync(&self.path) {
            self.shared.journal.add(&self.path, &Change::SyncFailed { covers });
            return Err(error);
        }
        self.file.fdatasync()?;
        self.shared.journal.add(&self.path, &Change::Synced { covers });
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let old_length = self.file.length()?;
        self.journal(length.min(old_length), old_length.saturating_sub(length), length)?;
        self.file.truncate(length)?;
        self.allocated.fetch_min(length, SeqCst);
        Ok(())
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        self.shared.faults.before_growing(&self.path)?;
        let old_length = self.file.length()?;
        self.journal(old_length, 0, length.max(old_length))?;
        self.file.preallocate(length)?;
        self.allocated.fetch_max(length, SeqCst);
        Ok(())
    }

    /// Changes nothing that a power cut could take back.
    fn write_zeros(&self, position: u64, bytes: u64) -> io::Result<()> {
        self.shared.faults.before_zeros(&self.path, bytes)?;
        self.file.write_zeros(position, bytes)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}
