//! How a stream is written and kept.

use std::time::Duration;

use crate::runtime::clock::Nanos;

/// When what is written is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// At once, for all that was written together.
    Always,
    /// So long after the first record that is not durable yet, at the latest.
    Every(Nanos),
    /// When the kernel sees fit. What a crash of the machine takes with it is not known.
    Never,
}

#[derive(Clone, Debug)]
pub struct LogOptions {
    pub stream: String,
    pub fsync: Fsync,
    /// A segment is closed before it becomes larger.
    pub segment_bytes: u64,
    /// The oldest segments go when all together are larger.
    pub retention_bytes: u64,
    /// Segments go when their last record is older. `None`: never for their age.
    pub retention_age: Option<Duration>,
    /// Memory for records that are not durable yet; up to twice as much is taken.
    pub buffer_bytes: usize,
    /// Keeps room for one segment set aside, for when the disk is full.
    pub keeps_reserve: bool,
    /// Writes each segment's blocks once before it is needed: a sync of those that were only set aside takes longer.
    pub prewrites: bool,
    /// The process that wrote last did not end in order: records may be gone without a trace.
    pub after_crash: bool,
}

impl LogOptions {
    pub fn new(stream: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            fsync: Fsync::Every(5_000_000),
            segment_bytes: 128 << 20,
            retention_bytes: u64::MAX,
            retention_age: None,
            buffer_bytes: 32 << 20,
            keeps_reserve: false,
            prewrites: false,
            after_crash: false,
        }
    }
}
