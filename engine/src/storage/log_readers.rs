//! Who reads what has become durable, to be woken when there is more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crate::runtime::waker::Waker;

#[derive(Clone)]
pub struct LogReaders {
    waker: Waker,
    are_there: Arc<AtomicBool>,
}

impl LogReaders {
    /// None so far, on the thread that is woken by this.
    pub fn new(waker: Waker) -> Self {
        Self { waker, are_there: Arc::default() }
    }

    /// To be called by that thread before it looks how far it may read: only if there are any it is woken.
    pub fn set(&self, are_there: bool) {
        self.are_there.store(are_there, Ordering::Relaxed);
        // Paired with the one in `wake`: either the writer sees the reader, or the reader what was published before.
        fence(Ordering::SeqCst);
    }

    /// To be called after something has been published.
    pub(super) fn wake(&self) {
        // Paired with the one in `set`.
        fence(Ordering::SeqCst);
        if self.are_there.load(Ordering::Relaxed) {
            self.waker.wake();
        }
    }
}
