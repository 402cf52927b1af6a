//! The files of a stream's directory: begun, closed, removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::super::disk::{Disk, DiskFile};
use super::super::error::StorageError;
use super::super::format::{SegmentHeader, SegmentName};
use super::index::Index;
use super::options::LogOptions;
use super::prewrite::{self, Prewriter};

/// A file of a segment's size that is kept for when the disk is full.
const RESERVE: &str = "reserve";

/// How long a start may wait for the first of them.
const PREPARE_MAX: Duration = Duration::from_secs(2);

pub(super) struct Files {
    pub disk: Arc<dyn Disk>,
    pub directory: PathBuf,
    pub segment_bytes: u64,
    pub keeps_reserve: bool,
    pub prewriter: Option<Prewriter>,
}

impl Files {
    pub fn new(disk: Arc<dyn Disk>, directory: &Path, options: &LogOptions) -> Self {
        let segment_bytes = options.segment_bytes;
        let prewriter = options.prewrites.then(|| Prewriter::new(disk.clone(), directory, segment_bytes));
        if prewriter.is_none() {
            prewrite::clean_up(&*disk, directory, None);
        }
        let (directory, keeps_reserve) = (directory.to_owned(), options.keeps_reserve);
        Self { disk, directory, segment_bytes, keeps_reserve, prewriter }
    }

    pub fn path(&self, name: &SegmentName) -> PathBuf {
        self.directory.join(name.segment_file())
    }

    /// Makes a segment with its header. Name and header are on disk afterwards, under any policy: by them the next start knows
    /// which epochs there have been.
    pub fn begin(&mut self, header: &SegmentHeader) -> Result<Box<dyn DiskFile>, StorageError> {
        let path = self.path(&header.name);
        let prewritten = self.prewriter.as_ref().and_then(|prewriter| prewriter.take(&path));
        let begun = prewritten.map_or_else(|| self.create(&path), Ok).and_then(|file| {
            file.pwrite_all(&header.encode(), 0).map_err(StorageError::at(&path, "write"))?;
            file.fdatasync().map_err(StorageError::at(&path, "sync"))?;
            self.sync_directory()?;
            Ok(file)
        });
        self.prepare();
        // What is left of it would only be a file to be explained.
        begun.inspect_err(|_| drop(self.disk.remove(&path)))
    }

    /// Sees to it that the next segment will be there, where that is asked for.
    pub fn prepare(&mut self) {
        if let Some(prewriter) = &mut self.prewriter {
            prewriter.prepare();
        }
    }

    /// Waits for it, within reason: otherwise a new stream's first segment is one that takes longer to sync.
    pub fn await_prepared(&mut self) {
        if let Some(prewriter) = &mut self.prewriter {
            prewriter.wait(PREPARE_MAX);
        }
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, StorageError> {
        let created = self.disk.create(path).and_then(|file| match file.preallocate(self.segment_bytes) {
            Err(error) if is_full(&error) && self.keeps_reserve => Err(error),
            // Without room set aside a segment is written all the same, if a little slower.
            _ => Ok(file),
        });
        match created {
            Err(error) if is_full(&error) && self.keeps_reserve => {
                let reserve = self.directory.join(RESERVE);
                self.disk.rename(&reserve, path).map_err(|_| StorageError::new(path, "make", error))?;
                self.disk.open(path).map_err(StorageError::at(path, "open"))
            }
            created => created.map_err(StorageError::at(path, "make")),
        }
    }

    /// Puts the file for a full disk in its place, if it is not there.
    pub fn reserve(&self) -> Result<(), StorageError> {
        let path = self.directory.join(RESERVE);
        if !self.keeps_reserve || self.disk.open_to_read(&path).is_ok() {
            return Ok(());
        }
        let made = self.disk.create(&path).and_then(|file| {
            match file.preallocate(self.segment_bytes) {
                // Where room cannot be set aside, it is taken by writing.
                Err(error) if !is_full(&error) => file.write_zeros(0, self.segment_bytes)?,
                set_aside => set_aside?,
            }
            file.fdatasync()
        });
        made.map_err(|error| {
            let _ = self.disk.remove(&path);
            StorageError::new(&path, "set aside", error)
        })?;
        self.sync_directory()
    }

    /// Says that all records of a closed segment are durable: to be called after they are.
    pub fn write_index(&self, index: &Index) -> Result<(), StorageError> {
        let path = self.directory.join(index.header.name.index_file());
        // One that is there and says otherwise does not verify, or is of an earlier end.
        let _ = self.disk.remove(&path);
        let written = self.disk.create(&path).and_then(|file| {
            file.pwrite_all(&index.encode(), 0)?;
            file.fdatasync()
        });
        written.map_err(StorageError::at(&path, "write"))
    }

    /// Removes a segment, its index first: an index without a segment is of no use, a segment without an index is.
    pub fn remove(&self, name: &SegmentName) -> Result<(), StorageError> {
        let _ = self.disk.remove(&self.directory.join(name.index_file()));
        let path = self.path(name);
        match self.disk.remove(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StorageError::new(&path, "remove", error))
            }
            _ => Ok(()),
        }
    }

    pub fn sync_directory(&self) -> Result<(), StorageError> {
        self.disk.sync_directory(&self.directory).map_err(StorageError::at(&self.directory, "sync"))
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT))
}
