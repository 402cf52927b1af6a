//! What was acknowledged as durable is in the event log, once: though the engine is killed and the power cut, the disk full,
//! slow, or failing.

#[path = "engine_log/clock.rs"]
mod clock;
#[path = "engine_log/crashes.rs"]
mod crashes;
#[path = "engine_log/dead_disk.rs"]
mod dead_disk;
#[path = "engine_log/failures.rs"]
mod failures;
#[path = "engine_log/full_disk.rs"]
mod full_disk;
#[path = "engine_log/replays.rs"]
mod replays;
#[path = "engine_log/restart.rs"]
mod restart;

use std::collections::HashMap;
use std::io::Write as _;
use std::net::TcpStream;

use eventstream::frame::Priority;
use eventstream_tests::acks::{Reader, asking};
use eventstream_tests::client::connect;
use eventstream_tests::data_folder::{DataFolder, Logged};
use eventstream_tests::publisher::{PROCESSED, Publisher};

/// One of each logged class, and one whose events are handled in windows.
const TOPICS: [&str; 3] = ["log/transactional", "log/windows", "log/batch"];

/// All three are deduplicated; segments are small.
fn config(folder: &DataFolder, policy: &str) -> String {
    const REST: &str = "
limits: {frame_bytes: 65536}
topics:
  - {name: log/transactional, class: transactional}
  - {name: log/windows, class: batch, dedup: true, window: {max_events: 50, max_ms: 5}}
  - {name: log/batch, class: batch, dedup: true}
";
    folder.storage(&format!("segment_bytes: 1048576, {policy}")) + REST
}

/// How often each id is in the log.
fn times_logged(records: &[Logged]) -> HashMap<u64, u64> {
    let mut times = HashMap::new();
    records.iter().for_each(|record| *times.entry(record.id).or_default() += 1);
    times
}

/// Everything was acknowledged: the log has each event once, at offsets that grow, and nothing else.
fn assert_each_once(folder: &DataFolder, publishers: &[Publisher]) -> Vec<Logged> {
    let (records, findings) = folder.read();
    let times = times_logged(&records);
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{} of {} are there again: {:?}", twice.len(), times.len(), &twice[..twice.len().min(9)]);
    let ids: Vec<u64> = publishers.iter().flat_map(Publisher::ids).collect();
    let missing: Vec<_> = ids.iter().filter(|id| !times.contains_key(id)).collect();
    assert!(missing.is_empty(), "{} of {} are not there: {findings:#?}", missing.len(), ids.len());
    assert_eq!(times.len(), ids.len(), "events that nobody has sent");
    assert!(records.is_sorted_by(|a, b| a.offset < b.offset));
    assert_eq!(folder.read_by_indexes(), records);
    records
}

/// A client whose events are not logged.
struct Realtime {
    stream: TcpStream,
    reader: Reader,
}

impl Realtime {
    fn connect(port: u16) -> Self {
        let stream = connect(port);
        Self { reader: Reader::new(&stream), stream }
    }

    /// So many events, one after the other, each of them handled.
    fn is_served(&mut self, times: usize) {
        for _ in 0..times {
            self.stream.write_all(&asking(Priority::High, None, "realtime", b".")).unwrap();
            assert_eq!(self.reader.read(1).acks[0].status, PROCESSED);
        }
    }
}
