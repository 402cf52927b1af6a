//! How what is written becomes durable, at once or beside the writing.

use super::super::error::StorageError;
use super::options::Fsync;
use super::pending::Unconfirmed;
use super::syncer::{Syncer, timed};
use super::writer::{Confirmed, EventLog};
use crate::metrics::Histogram;
use crate::runtime::clock::Nanos;
use crate::runtime::waker::Waker;

/// How far a segment is written.
#[derive(Clone, Copy)]
pub(super) struct Written {
    pending: Unconfirmed,
    confirmed: Confirmed,
}

impl EventLog {
    /// When to call [`sync`](Self::sync), or after a failure [`write`](Self::write), at the latest; `None`: not before
    /// something is appended, or while a sync is under way not before that has ended.
    pub fn due(&self, now: Nanos) -> Option<Nanos> {
        if self.syncing.is_some() {
            return None;
        }
        if self.failures > 0 && self.pending.has_unwritten() {
            return Some(self.retry_at.max(now));
        }
        self.sync_due.map(|due| due.max(now))
    }

    /// Has what is due at intervals synced by a thread of its own from now on, which wakes who calls [`end_sync`](Self::end_sync).
    /// What is always synced at once is better off without: to go to another thread and back takes longer than what could be
    /// written meanwhile.
    pub fn sync_beside(&mut self, waker: Option<Waker>) -> std::io::Result<()> {
        if let Fsync::Every(_) = self.options.fsync {
            self.syncer = Some(Syncer::new(waker, self.sync_took_ns.clone())?);
        }
        Ok(())
    }

    /// What is written waits for no interval.
    pub fn press(&mut self, now: Nanos) {
        self.sync_due = self.sync_due.map(|due| due.min(now));
    }

    /// What syncs take that are done, in nanoseconds. Only to be read.
    pub fn sync_took_ns(&self) -> Histogram {
        self.sync_took_ns.clone()
    }

    /// Makes durable what is written.
    pub fn sync(&mut self, now: Nanos) -> Result<(), StorageError> {
        self.sync_all().inspect_err(|_| self.give_up(now))
    }

    /// The same, but if it is done [beside](Self::sync_beside) the writing it is not done yet.
    pub fn begin_sync(&mut self, now: Nanos) -> Result<(), StorageError> {
        let (Some(syncer), Some(active), None) = (&self.syncer, &self.active, self.syncing) else {
            return self.sync(now);
        };
        if !self.pending.has_unconfirmed() {
            return Ok(());
        }
        if !syncer.begin(active.file.clone()) {
            return self.sync(now);
        }
        self.syncing = Some(Written { pending: self.pending.unconfirmed(), confirmed: Confirmed::of(&active.index) });
        self.sync_due = None;
        self.counts.syncs += 1;
        Ok(())
    }

    /// What has become of a sync that was begun, if it has ended.
    pub fn end_sync(&mut self, now: Nanos) -> Result<(), StorageError> {
        let under_way = self.syncer.as_ref().filter(|_| self.syncing.is_some());
        match under_way.and_then(Syncer::ended) {
            Some(ended) => self.synced(ended).inspect_err(|_| self.give_up(now)),
            None => Ok(()),
        }
    }

    /// Waits for a sync that is under way: what follows may sync the same file, or give it up.
    pub(super) fn await_sync(&mut self) -> Result<(), StorageError> {
        let under_way = self.syncer.as_ref().filter(|_| self.syncing.is_some());
        under_way.map(Syncer::wait).map_or(Ok(()), |ended| self.synced(ended))
    }

    fn synced(&mut self, ended: std::io::Result<()>) -> Result<(), StorageError> {
        let written = self.syncing.take();
        ended.map_err(|error| self.sync_error(error))?;
        if let Some(written) = written {
            self.confirm(written);
        }
        Ok(())
    }

    fn sync_error(&self, error: std::io::Error) -> StorageError {
        let directory = || self.files.directory.clone();
        let path = self.active.as_ref().map_or_else(directory, |active| self.files.path(&active.segment.header.name));
        StorageError::new(&path, "sync", error)
    }

    pub(super) fn sync_all(&mut self) -> Result<(), StorageError> {
        self.await_sync()?;
        let Some(active) = self.active.as_ref().filter(|_| self.pending.has_unconfirmed()) else { return Ok(()) };
        self.counts.syncs += 1;
        timed(&*active.file, &self.sync_took_ns).map_err(|error| self.sync_error(error))?;
        self.sync_due = None;
        self.confirm_all();
        Ok(())
    }

    pub(super) fn confirm_all(&mut self) {
        if let Some(active) = &self.active {
            self.confirm(Written { pending: self.pending.unconfirmed(), confirmed: Confirmed::of(&active.index) });
        }
    }

    /// Readers may see what was written.
    fn confirm(&mut self, written: Written) {
        self.pending.confirm(written.pending);
        self.failures = 0;
        if let Some(active) = &mut self.active {
            active.segment.publish(written.confirmed.end, written.confirmed.next_offset);
            active.confirmed = written.confirmed;
        }
        self.view.publish_end(written.confirmed.next_offset);
    }
}
