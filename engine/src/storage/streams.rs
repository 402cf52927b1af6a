//! The streams of the event log: each with topics, offsets and a policy of its own, and one for the rest.

use std::sync::Arc;

use super::directory::DataDirectory;
use super::disk::Disk;
use super::error::StorageError;
use super::format::{Prefix, RECORD_BYTES_MIN, topic_of};
use super::log::{EventLog, Fsync, LogOptions, Recovery};
use super::topics::TopicFilter;
use crate::config::{FsyncPolicy, Storage, StreamPolicy};

/// The stream of topics that no other takes.
pub const DEFAULT_STREAM: &str = "default";

/// All streams, open to be written.
pub struct Streams {
    /// In the order of the configuration, the one for the rest last.
    logs: Vec<EventLog>,
    filters: Vec<Vec<TopicFilter>>,
}

impl Streams {
    /// Opens every stream and tells what each recovered. `after_crash`: the last run did not end in order.
    pub fn open(
        disk: &Arc<dyn Disk>,
        directory: &DataDirectory,
        config: &Storage,
        after_crash: bool,
    ) -> Result<(Self, Vec<Recovery>), StorageError> {
        let mut this = Self { logs: Vec::new(), filters: Vec::new() };
        let mut recovered = Vec::new();
        let named = config.streams.iter().map(|stream| (&*stream.name, stream.topics.clone(), &stream.policy));
        for (name, topics, policy) in named.chain([(DEFAULT_STREAM, Vec::new(), &config.policy)]) {
            let options = LogOptions { after_crash, ..log_options(name, config, policy) };
            let (log, recovery) = EventLog::open(disk.clone(), &directory.stream(name), options)?;
            this.logs.push(log);
            this.filters.push(topics);
            recovered.push(recovery);
        }
        Ok((this, recovered))
    }

    /// The stream a topic belongs to: the first that has a filter for it.
    pub fn of_topic(&self, topic: &[u8]) -> usize {
        let named = self.filters.iter().position(|filters| filters.iter().any(|filter| filter.matches(topic)));
        named.unwrap_or(self.logs.len() - 1)
    }

    /// The stream of the first of some records, and where those end that follow it and are of the same.
    pub(super) fn of_first(&self, records: &[u8]) -> (usize, usize) {
        if self.logs.len() == 1 {
            return (0, records.len());
        }
        let (mut end, mut first) = (0, None);
        while let Some(prefix) = Prefix::parse(&records[end..]) {
            let topic = topic_of(&records[end + RECORD_BYTES_MIN..end + prefix.bytes]);
            let (same_topic, same_stream) = *first.get_or_insert_with(|| (topic, self.of_topic(topic)));
            if topic != same_topic && self.of_topic(topic) != same_stream {
                break;
            }
            end += prefix.bytes;
        }
        (first.map_or(0, |(_, stream)| stream), end)
    }

    pub fn logs(&self) -> &[EventLog] {
        &self.logs
    }

    pub fn logs_mut(&mut self) -> &mut [EventLog] {
        &mut self.logs
    }
}

pub(super) fn fsync(policy: &StreamPolicy) -> Fsync {
    match policy.fsync {
        FsyncPolicy::Always => Fsync::Always,
        FsyncPolicy::Every => Fsync::Every(policy.fsync_every.as_nanos() as u64),
        FsyncPolicy::Never => Fsync::Never,
    }
}

/// A stream's options as configured.
pub fn log_options(name: &str, config: &Storage, policy: &StreamPolicy) -> LogOptions {
    LogOptions {
        fsync: fsync(policy),
        segment_bytes: config.segment_bytes,
        retention_bytes: policy.retention_bytes,
        retention_age: policy.retention_age,
        buffer_bytes: config.buffer_bytes as usize,
        prewrites: policy.fsync == FsyncPolicy::Always,
        ..LogOptions::new(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::Owner;
    use super::super::disk::RealDisk;
    use super::super::format::Record;
    use super::super::scratch::{Scratch, frame};
    use super::*;
    use crate::config::Config;
    use crate::frame::Class;

    #[test]
    fn each_stream_has_offsets_and_a_folder_of_its_own() {
        let scratch = Scratch::new("streams");
        let text = "storage: {streams: [{name: orders, topics: ['orders/#', 'pay/+'], fsync: always}, {name: all-pay, topics: ['pay/#']}]}";
        let config = Config::parse(text, "c.yaml").unwrap();
        let directory = DataDirectory::lock_or_make(scratch.path(), Owner::this("test", "")).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let (mut streams, _) = Streams::open(&disk, &directory, &config.storage, false).unwrap();
        for (topic, stream, offset) in
            [("orders/1", 0, 0), ("pay/1", 0, 1), ("pay/1/2", 1, 0), ("else", 2, 0), ("$sys/x", 2, 1), ("orders", 0, 2)]
        {
            assert_eq!(streams.of_topic(topic.as_bytes()), stream, "{topic}");
            let frame = frame(topic, b"");
            let record = Record::event(1, Class::Transactional, &frame);
            assert_eq!(streams.logs_mut()[stream].append(&record), Ok(offset), "{topic}");
        }
        streams.logs_mut().iter_mut().for_each(|log| log.close(0).unwrap());
        assert_eq!(directory.streams().unwrap(), ["all-pay", "default", "orders"]);
        assert_eq!(streams.logs()[0].durable_offset(), 3);
    }
}
