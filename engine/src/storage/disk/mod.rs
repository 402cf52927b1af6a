//! The few things that storage asks of a file system, behind a trait so that tests can make each of them fail.
//!
//! - **Threads**: whoever holds a [`DiskFile`]; every call blocks until the kernel has answered.
//! - **Errors**: a write or a sync that failed says nothing about what is on disk. The kernel forgets the failure once it
//!   has told it, and marks the pages clean: a later `fdatasync` of the same file that succeeds does not cover them. So whoever
//!   gets an error here must give the file up, not try again.
//! - **Invariant**: what an `fdatasync` that succeeded covers is on disk, together with the file's length. The file's name is
//!   there only after [`Disk::sync_directory`].

#[cfg(any(test, feature = "fault-injection"))]
mod faults;
#[cfg(any(test, feature = "fault-injection"))]
mod faulty;
#[cfg(any(test, feature = "fault-injection"))]
mod journal;
#[cfg(any(test, feature = "fault-injection"))]
mod power_cut;
mod real;

#[cfg(any(test, feature = "fault-injection"))]
pub use faults::Faults;
#[cfg(any(test, feature = "fault-injection"))]
pub use faulty::FaultyDisk;
#[cfg(any(test, feature = "fault-injection"))]
pub use power_cut::power_cut;
pub use real::RealDisk;

use std::io;
use std::path::Path;
use std::sync::Arc;

/// Files in directories.
pub trait Disk: Send + Sync {
    /// Makes a directory and those above it; one that is there is as good.
    fn create_directory(&self, directory: &Path) -> io::Result<()>;
    /// Names of the files in a directory, in no order.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Makes a file that is not there yet.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that is there, to read and write it.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that is there, only to read it.
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Within one directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names of a directory's files durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// An open file. Positions are explicit: there is no cursor that two users could fight over.
pub trait DiskFile: Send + Sync {
    /// Writes all or fails; how much of it was written then is unknown.
    fn pwrite_all(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Reads until `buffer` is full or the file ends.
    fn pread(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    fn fdatasync(&self) -> io::Result<()>;
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Sets room aside and makes the file as long; the new part reads as zeros.
    fn preallocate(&self, length: u64) -> io::Result<()>;
    /// Writes zeros where there are none but zeros, and comes back when they are on disk.
    fn write_zeros(&self, position: u64, bytes: u64) -> io::Result<()>;
    fn length(&self) -> io::Result<u64>;
}

/// The disk that the process works on: the real one, unless a build for tests was told to make it fail.
pub fn for_process() -> Result<Arc<dyn Disk>, String> {
    #[cfg(feature = "fault-injection")]
    if let Some(told) = std::env::var_os("EVENTSTREAM_DISK_FAULT") {
        let told = told.into_string().map_err(|_| "EVENTSTREAM_DISK_FAULT is not UTF-8".to_owned())?;
        return Ok(Arc::new(FaultyDisk::told(&told)?));
    }
    Ok(Arc::new(RealDisk))
}
