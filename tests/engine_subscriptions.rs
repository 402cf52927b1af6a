//! Events come out as they are asked for: by topic and class, live and from the log, to all who asked, whether others read or
//! not; and the ledger says of each what became of it.

#[path = "engine_subscriptions/live.rs"]
mod live;
#[path = "engine_subscriptions/logged.rs"]
mod logged;
#[path = "engine_subscriptions/refusals.rs"]
mod refusals;
#[path = "engine_subscriptions/slow.rs"]
mod slow;

use std::io::Write as _;
use std::net::TcpStream;

use eventstream::frame::Priority;
use eventstream_tests::client::event;

/// Publishes events whose payloads begin with these numbers.
fn publish(stream: &mut TcpStream, priority: Priority, topic: &str, numbers: std::ops::Range<u64>) {
    let mut bytes = Vec::new();
    for number in numbers {
        bytes.extend(event(priority, topic, &number.to_be_bytes()));
        if bytes.len() > 1 << 16 {
            stream.write_all(&bytes).expect("the engine reads");
            bytes.clear();
        }
    }
    stream.write_all(&bytes).expect("the engine reads");
}
