//! The data directory: who has it, and how the last run with it ended.
//!
//! ```text
//!   lock            held by flock for as long as its owner lives; says who that is
//!   run             which run wrote here last, and whether it ended in order
//!   log/STREAM/     segments of each stream of the event log
//!   dlq/QUEUE/      segments of the dead letters, failed and shed
//!   subscriptions/  where durable subscriptions and groups are
//! ```

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::StorageError;
use super::format::LetterQueue;
use crate::runtime::clock::unix_now;

/// Who holds a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// As people know it: the engine, or a command.
    pub program: String,
    pub pid: u32,
    /// Nanoseconds since the UNIX epoch.
    pub started_ns: u64,
    pub run_id: String,
}

impl Owner {
    /// This process.
    pub fn this(program: impl Into<String>, run_id: impl Into<String>) -> Self {
        Self { program: program.into(), pid: std::process::id(), started_ns: unix_now(), run_id: run_id.into() }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = unix_now().saturating_sub(self.started_ns) / 1_000_000_000;
        write!(f, "{}, pid {}, since {seconds} s", self.program, self.pid)?;
        if self.run_id.is_empty() { Ok(()) } else { write!(f, ", run {}", self.run_id) }
    }
}

/// How the run before this one ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastEnd {
    /// There was none.
    None,
    Clean {
        run_id: String,
    },
    /// It was killed, or the machine was.
    Unclean {
        run_id: String,
    },
}

impl LastEnd {
    pub const fn is_crash(&self) -> bool {
        matches!(self, Self::Unclean { .. })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Run {
    run_id: String,
    started_ns: u64,
    ended_in_order: bool,
}

/// A data directory that this process has, until it is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    owner: Owner,
    /// The lock goes with it.
    _lock: File,
}

impl DataDirectory {
    /// Takes a directory, and makes it where it is not there.
    pub fn lock_or_make(path: &Path, owner: Owner) -> Result<Self, StorageError> {
        std::fs::create_dir_all(path).map_err(StorageError::at(path, "make"))?;
        Self::lock_at(path, owner, true)
    }

    /// Takes a directory that is one already.
    pub fn lock(path: &Path, owner: Owner) -> Result<Self, StorageError> {
        Self::lock_at(path, owner, false)
    }

    fn lock_at(path: &Path, owner: Owner, make: bool) -> Result<Self, StorageError> {
        let lock_path = path.join("lock");
        let opened = OpenOptions::new().read(true).write(true).create(make).truncate(false).open(&lock_path);
        let mut lock = opened.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                StorageError::invalid(path, "use", "it is no data directory: it has no lock file")
            }
            _ => StorageError::new(&lock_path, "open", error),
        })?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let holder =
                    lock.read_to_string(&mut text).ok().and_then(|_| serde_json::from_str::<Owner>(&text).ok());
                let holder = holder.map_or_else(|| "another process".to_owned(), |owner| owner.to_string());
                return Err(StorageError::new(path, "lock", std::io::Error::other(format!("in use by {holder}"))));
            }
            Err(error) => return Err(StorageError::new(&lock_path, "lock", error.into())),
        }
        let text = serde_json::to_string(&owner).unwrap_or_default();
        let told = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(text.as_bytes()));
        // On a full disk the lock holds all the same; it only does not say for whom.
        let _ = told;
        Ok(Self { path: path.to_owned(), owner, _lock: lock })
    }

    /// Notes that a run begins, and tells how the one before ended.
    pub fn begin_run(&self) -> Result<LastEnd, StorageError> {
        let path = self.path.join("run");
        let last = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => LastEnd::None,
            Err(error) => return Err(StorageError::new(&path, "read", error)),
            Ok(text) => match serde_json::from_str::<Run>(&text) {
                Ok(Run { run_id, ended_in_order: true, .. }) => LastEnd::Clean { run_id },
                Ok(Run { run_id, .. }) => LastEnd::Unclean { run_id },
                Err(_) => LastEnd::Unclean { run_id: "unknown".to_owned() },
            },
        };
        self.write_run(false)?;
        Ok(last)
    }

    /// Notes that it ended in order: to be called when all logs are closed.
    pub fn end_run(&self) -> Result<(), StorageError> {
        self.write_run(true)
    }

    fn write_run(&self, ended_in_order: bool) -> Result<(), StorageError> {
        let path = self.path.join("run");
        let run = Run { run_id: self.owner.run_id.clone(), started_ns: self.owner.started_ns, ended_in_order };
        let text = serde_json::to_string(&run).unwrap_or_default();
        let written = || {
            let new = self.path.join("run.new");
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        written().map_err(StorageError::at(&path, "write"))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn stream(&self, name: &str) -> PathBuf {
        self.path.join("log").join(name)
    }

    pub fn subscriptions(&self) -> PathBuf {
        self.path.join("subscriptions")
    }

    pub fn letters(&self, queue: LetterQueue) -> PathBuf {
        self.path.join("dlq").join(queue.as_str())
    }

    /// Names of the streams that have a folder, in order.
    pub fn streams(&self) -> Result<Vec<String>, StorageError> {
        let folder = self.path.join("log");
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(StorageError::at(&folder, "list"))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(StorageError::at(&folder, "list"))?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            names.extend(entry.file_name().into_string().ok().filter(|_| is_folder));
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    #[test]
    fn one_has_it_and_others_are_told_who() {
        let scratch = Scratch::new("lock");
        let path = scratch.path().join("data");
        let refused = DataDirectory::lock(&path, Owner::this("verify", "")).unwrap_err().to_string();
        assert!(refused.contains("no data directory"), "{refused}");
        let held = DataDirectory::lock_or_make(&path, Owner::this("engine", "run-7")).unwrap();
        let refused = DataDirectory::lock(&path, Owner::this("verify", "")).unwrap_err().to_string();
        let pid = std::process::id();
        assert!(refused.contains(&format!("in use by engine, pid {pid}, since")), "{refused}");
        assert!(refused.ends_with("run run-7"), "{refused}");
        drop(held);
        // What the file says of an owner that is gone holds nobody back.
        assert_eq!(DataDirectory::lock(&path, Owner::this("verify", "")).unwrap().streams().unwrap(), [""; 0]);
    }

    #[test]
    fn the_last_end_is_known() {
        let scratch = Scratch::new("run");
        let lock = |run: &str| DataDirectory::lock_or_make(scratch.path(), Owner::this("engine", run)).unwrap();
        let first = lock("1");
        assert_eq!(first.begin_run().unwrap(), LastEnd::None);
        drop(first);
        let second = lock("2");
        assert_eq!(second.begin_run().unwrap(), LastEnd::Unclean { run_id: "1".into() });
        second.end_run().unwrap();
        drop(second);
        let third = lock("3");
        assert_eq!(third.begin_run().unwrap(), LastEnd::Clean { run_id: "2".into() });
        std::fs::write(scratch.path().join("run"), "{").unwrap();
        assert!(third.begin_run().unwrap().is_crash());
    }
}
