//! Durable subscriptions and groups: nothing that was acknowledged is missed, whoever is killed, and what is done does not come again.

#[path = "engine_durables/groups.rs"]
mod groups;
#[path = "engine_durables/kills.rs"]
mod kills;
#[path = "engine_durables/names.rs"]
mod names;

use std::io::Write as _;

use eventstream::frame::Priority;
use eventstream_tests::acks::{Reader, asking};
use eventstream_tests::client::connect;
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::{Engine, Setup};

/// Segments are as small as they may be: two of the longest frames fit.
const LIMITS: &str = "limits: {frame_bytes: 262144}\n";

fn start(folder: &DataFolder, more: &str) -> Engine {
    let storage = folder.storage("segment_bytes: 1048576, retention_bytes: 1073741824");
    Setup::default().config(&(storage + LIMITS + more)).start()
}

/// Publishes one event for each payload, and waits until all are durable.
fn publish(engine: &Engine, topic: &str, payloads: &[&[u8]]) {
    publish_as(engine, None, topic, payloads);
}

/// The same under an id.
fn publish_as(engine: &Engine, id: Option<u64>, topic: &str, payloads: &[&[u8]]) {
    let mut stream = connect(engine.tcp_port());
    let mut reader = Reader::new(&stream);
    for payload in payloads {
        stream.write_all(&asking(Priority::Medium, id, topic, payload)).expect("the engine reads");
    }
    reader.read(payloads.len());
}
