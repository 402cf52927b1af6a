//! Syncs of the segment that is written, beside its writing: while the disk works, more is copied for it.
//!
//! - **Thread**: one of a log, which is in the kernel for as long as a sync takes, and asleep otherwise.
//! - **In**: a file that is written, one at a time. **Out**: what the sync of it came to, once.
//! - **Overload**: none; whoever begins a sync waits for its end before the next.
//! - **Invariant**: a file is never synced twice at a time. The kernel tells an error to one of them, and the other would take what
//!   is lost for durable.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use super::super::disk::DiskFile;
use crate::metrics::Histogram;
use crate::runtime::waker::Waker;

/// Syncs a file, and records what that took if it was done.
pub(super) fn timed(file: &dyn DiskFile, took_ns: &Histogram) -> io::Result<()> {
    let began = Instant::now();
    file.fdatasync()?;
    took_ns.record(began.elapsed().as_nanos() as u64, 1);
    Ok(())
}

pub(super) struct Syncer {
    /// `None` from the end on.
    work: Option<Sender<Arc<dyn DiskFile>>>,
    done: Receiver<io::Result<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Wakes who waits whenever a sync has ended. In the histogram nobody else records while one is under way.
    pub fn new(waker: Option<Waker>, took_ns: Histogram) -> io::Result<Self> {
        let (work, files) = channel::<Arc<dyn DiskFile>>();
        let (ended, done) = channel();
        let sync = move || {
            for file in files {
                // Without a receiver the log is gone.
                if ended.send(timed(&*file, &took_ns)).is_err() {
                    return;
                }
                waker.iter().for_each(Waker::wake);
            }
        };
        let thread = std::thread::Builder::new().name("sync".to_owned()).spawn(sync)?;
        Ok(Self { work: Some(work), done, thread: Some(thread) })
    }

    /// Begins to sync a file; none is being synced. False if the thread is gone.
    pub fn begin(&self, file: Arc<dyn DiskFile>) -> bool {
        self.work.as_ref().is_some_and(|work| work.send(file).is_ok())
    }

    /// What the sync that is under way has come to; `None` if it has not ended.
    pub fn ended(&self) -> Option<io::Result<()>> {
        match self.done.try_recv() {
            Ok(ended) => Some(ended),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(ErrorKind::BrokenPipe.into())),
        }
    }

    /// The same, once it has ended.
    pub fn wait(&self) -> io::Result<()> {
        self.done.recv().unwrap_or_else(|_| Err(ErrorKind::BrokenPipe.into()))
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
