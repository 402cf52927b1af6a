//! Waking a blocked runner: an eventfd behind a flag, so that a running one costs its producers one load a batch.
//!
//! The consumer sets the flag, fences, looks at its inputs once more and only then blocks. A producer publishes, fences,
//! and reads the flag. Whichever comes second sees the other's write (Dekker), so no publication is slept through.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

struct Shared {
    parked: AtomicBool,
    descriptor: OwnedFd,
}

/// Held by a runner and by everyone who feeds its agents.
#[derive(Clone)]
pub struct Waker(Arc<Shared>);

impl Waker {
    pub fn new() -> io::Result<Self> {
        let descriptor = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self(Arc::new(Shared { parked: AtomicBool::new(false), descriptor })))
    }

    /// To be called after publishing. Enters the kernel only when the runner is about to block or has.
    #[inline]
    pub fn wake(&self) {
        // SeqCst fence: paired with the one in `park`; orders our publication before the read of the flag.
        fence(Ordering::SeqCst);
        if self.0.parked.load(Ordering::Relaxed) {
            self.wake_parked();
        }
    }

    #[cold]
    fn wake_parked(&self) {
        if self.0.parked.swap(false, Ordering::Relaxed) {
            // A full counter (EAGAIN) means that a wake-up is pending already.
            let _ = rustix::io::write(&self.0.descriptor, &1u64.to_ne_bytes());
        }
    }

    /// Announces that the runner will block; it must look at its inputs once more before it does.
    pub fn park(&self) {
        self.0.parked.store(true, Ordering::Relaxed);
        // SeqCst fence: paired with the one in `wake`.
        fence(Ordering::SeqCst);
    }

    /// Back from blocking, or not blocking after all.
    pub fn unpark(&self) {
        self.0.parked.store(false, Ordering::Relaxed);
        let mut count = [0; 8];
        // EAGAIN: nobody had written.
        let _ = rustix::io::read(&self.0.descriptor, &mut count);
    }

    /// Readable once somebody has woken the runner.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.descriptor.as_fd()
    }
}
