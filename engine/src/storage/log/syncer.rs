//! Syncs of the segment that is written, beside its writing: while the disk works, more is copied for it.
//!
//! - **Thread**: one of a log, which is in the kernel for as long as a sync takes, and asleep otherwise.
//! - **In**: a file that is written, one at a time. **Out**: what the sync of it came to, once.
//! - **Invariant**: a file is never synced twice at a time. The kernel tells an error to one of them, and the other would take what
//!   is lost for durable.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::super::disk::DiskFile;
use crate::runtime::waker::Waker;

pub(super) struct Syncer {
    /// `None` from the end on.
    work: Option<Sender<Arc<dyn DiskFile>>>,
    done: Receiver<io::Result<()>>,
    thread: Option<JoinHandle<()>>,
    is_busy: bool,
}

impl Syncer {
    /// Wakes who waits whenever a sync has ended.
    pub fn new(waker: Option<Waker>) -> io::Result<Self> {
        let (work, files) = channel::<Arc<dyn DiskFile>>();
        let (ended, done) = channel();
        let sync = move || {
            for file in files {
                // Without a receiver the log is gone.
                if ended.send(file.fdatasync()).is_err() {
                    return;
                }
                waker.iter().for_each(Waker::wake);
            }
        };
        let thread = std::thread::Builder::new().name("sync".to_owned()).spawn(sync)?;
        Ok(Self { work: Some(work), done, thread: Some(thread), is_busy: false })
    }

    /// Begins to sync a file; none is being synced. False if the thread is gone.
    pub fn begin(&mut self, file: Arc<dyn DiskFile>) -> bool {
        debug_assert!(!self.is_busy, "one at a time");
        self.is_busy = self.work.as_ref().is_some_and(|work| work.send(file).is_ok());
        self.is_busy
    }

    /// What a sync came to that has ended since it was last asked for.
    pub fn ended(&mut self) -> Option<io::Result<()>> {
        let ended = self.done.try_recv().ok()?;
        self.is_busy = false;
        Some(ended)
    }

    /// The same of one that is under way, once it has ended.
    pub fn wait(&mut self) -> Option<io::Result<()>> {
        if !std::mem::take(&mut self.is_busy) {
            return None;
        }
        self.done.recv().ok()
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
