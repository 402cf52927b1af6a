//! A veth link for one test at a time.
//!
//! The link goes when its test ends, however it ends: declare what uses it after it, so that it is dropped before.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

use xtask::testbed::{Options, Testbed};

/// Tests that flood a link, or count on a pace, share the CPUs with nobody of their own process.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Veth {
    testbed: Testbed,
    _turn: MutexGuard<'static, ()>,
}

impl Veth {
    /// A link of two queues; `None`, said, where the rights for it are missing.
    pub fn create(test: &str) -> Option<Self> {
        let turn = turn();
        // Without IPv6 the link carries not one packet that nobody sent.
        match Testbed::create(&Options { ipv6: false, ..Options::test() }) {
            Ok(testbed) => Some(Self { testbed, _turn: turn }),
            Err(error) => {
                crate::skipped(test, &error.to_string());
                None
            }
        }
    }
}

impl Deref for Veth {
    type Target = Testbed;

    fn deref(&self) -> &Testbed {
        &self.testbed
    }
}
