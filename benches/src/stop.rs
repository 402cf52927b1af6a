//! Ending early: SIGINT and SIGTERM set a flag that every kind of load looks at between batches.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::Timespec;

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn request(_signal: libc::c_int) {
    // Relaxed, here and below: nothing but the flag itself passes between the two.
    STOP.store(true, Ordering::Relaxed);
}

/// Makes SIGINT and SIGTERM set the flag. Blocking calls end with `EINTR`: a load generator waiting for a peer that does
/// not read has to report as well.
pub fn on_signals() -> io::Result<()> {
    // SAFETY: all zeros is a valid `sigaction`: no flags, in particular no SA_RESTART, and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = request as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: `action` outlives the call, and its handler only stores to an atomic, which is async-signal-safe.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A wait is cut short after so long, to see whether a signal came between the look at the flag and the wait.
pub const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Whether a signal asked for the end.
#[inline]
pub fn is_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}
