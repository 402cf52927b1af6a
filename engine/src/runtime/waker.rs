//! Waking a blocked runner: an eventfd behind a flag, so that a running one costs its producers one load a batch.
//!
//! The consumer sets the flag, fences, looks at its inputs once more and only then blocks. A producer publishes, fences,
//! and reads the flag. Whichever comes second sees the other's write (Dekker), so no publication is slept through.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use crate::sync::{AtomicBool, Ordering, fence};

/// Whether the runner is about to block, or has; what the models check without a kernel.
#[derive(Default)]
pub(super) struct Parked(AtomicBool);

impl Parked {
    /// By the runner, before it looks at its inputs once more.
    #[inline]
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
        // SeqCst fence: paired with the one in `must_be_woken`.
        fence(Ordering::SeqCst);
    }

    #[inline]
    pub(super) fn clear(&self) {
        // Relaxed: at worst somebody wakes the runner for nothing.
        self.0.store(false, Ordering::Relaxed);
    }

    /// By a producer, after it has published. True for one of those that find the runner parked: who is told that
    /// another wakes it may rely on that, as the runner passes the fence in `set` once more before it blocks again.
    #[inline]
    pub(super) fn must_be_woken(&self) -> bool {
        // SeqCst fence: paired with the one in `set`; orders our publication before the read of the flag.
        fence(Ordering::SeqCst);
        // Relaxed: the fences order everything that matters.
        self.0.load(Ordering::Relaxed) && self.is_mine_to_wake()
    }

    /// Picks one of several that find the runner parked.
    #[cold]
    fn is_mine_to_wake(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

struct Shared {
    parked: Parked,
    descriptor: OwnedFd,
}

/// Held by a runner and by everyone who feeds its agents.
#[derive(Clone)]
pub struct Waker(Arc<Shared>);

impl Waker {
    pub fn new() -> io::Result<Self> {
        let descriptor = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self(Arc::new(Shared { parked: Parked::default(), descriptor })))
    }

    /// To be called after publishing. Enters the kernel only when the runner is about to block or has.
    #[inline]
    pub fn wake(&self) {
        if self.0.parked.must_be_woken() {
            self.wake_parked();
        }
    }

    #[cold]
    fn wake_parked(&self) {
        // A full counter (EAGAIN) means that a wake-up is pending already.
        let _ = rustix::io::write(&self.0.descriptor, &1u64.to_ne_bytes());
    }

    /// Announces that the runner will block; it must look at its inputs once more before it does.
    pub fn park(&self) {
        self.0.parked.set();
    }

    /// Back from blocking, or not blocking after all.
    pub fn unpark(&self) {
        self.0.parked.clear();
        let mut count = [0; 8];
        // EAGAIN: nobody had written.
        let _ = rustix::io::read(&self.0.descriptor, &mut count);
    }

    /// Readable once somebody has woken the runner.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.descriptor.as_fd()
    }
}
