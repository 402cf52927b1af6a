//! What the tests here share: a folder of a test's own, gone with it, and frames to put in there.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::frame::{FrameHeader, Priority, encode};

/// A frame with its length field.
pub fn frame(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(&mut frame, &FrameHeader::new(Priority::Low), topic.as_bytes(), payload);
    frame
}

pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("eventstream-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("a new folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
