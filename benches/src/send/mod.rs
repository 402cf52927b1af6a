//! The kinds of load, one file each. All run on the calling thread and hand back what they sent.
//!
//! Invariant: a datagram counts as sent when, and only when, the kernel has taken it; what was stamped and then not taken
//! is in no counter, and can only be the last of its flow.

mod afxdp;
mod tcp;
mod testrun;
mod udp;

use std::fmt;

pub use afxdp::afxdp;
pub use tcp::{TcpFlows, tcp};
pub use testrun::testrun;
pub use udp::{UdpFlow, gso, udp};

use crate::mix::{Stamper, Tally};
use crate::report::FlowOutcome;

/// An error with all its causes: some libraries keep the errno, which is what one needs, in the last of them.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Says what was being done when an error came.
fn during(what: impl fmt::Display) -> impl FnOnce(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

fn flow_outcome(name: String, stamper: &Stamper, tally: Tally, completed: Option<u64>) -> FlowOutcome {
    FlowOutcome { name, producer: stamper.producer(), next_sequence: stamper.sequence(), tally, completed }
}
