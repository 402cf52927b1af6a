//! Whose turn it is to write to a connection: its reader answers requests, the sender delivers events, and no frame may be
//! cut in two by another.
//!
//! A turn is tried for, never waited for. It is kept for as long as a frame is written in part.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const FREE: u8 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Writer {
    Reader = 1,
    Sender = 2,
}

/// Shared by the two who write.
#[derive(Clone, Debug, Default)]
pub struct Turn(Arc<AtomicU8>);

impl Turn {
    /// Whether it is this one's turn now.
    pub fn take(&self, writer: Writer) -> bool {
        // Acquire: paired with the Release in `give_back`; on failure nothing is read that the other wrote.
        let taken = self.0.compare_exchange(FREE, writer as u8, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok() || taken == Err(writer as u8)
    }

    /// To be called when the last frame was written whole.
    pub fn give_back(&self, writer: Writer) {
        // Release: what was written to the socket comes before what the other writes.
        let _ = self.0.compare_exchange(writer as u8, FREE, Ordering::Release, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_until_it_is_given_back() {
        let turn = Turn::default();
        assert!(turn.take(Writer::Reader) && turn.take(Writer::Reader) && !turn.take(Writer::Sender));
        turn.give_back(Writer::Sender);
        assert!(!turn.take(Writer::Sender));
        turn.give_back(Writer::Reader);
        assert!(turn.take(Writer::Sender) && !turn.take(Writer::Reader));
    }
}
