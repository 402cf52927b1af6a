//! The load generator as a child process. Dropped, it is killed.

use std::io::Read as _;
use std::process::{Child, Stdio};

use serde_json::Value;
use xtask::process;
use xtask::testbed::Link;

use crate::client::PATIENCE;

/// Load that is being sent.
pub struct Blast {
    child: Child,
    arguments: String,
}

/// What was sent, as the sender counted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub datagrams: u64,
    pub events: u64,
    pub duplicates: u64,
    pub link_dropped: u64,
}

impl Blast {
    /// Whole packets, written at the senders' end of the link: `afxdp` or `testrun`.
    pub fn packets(link: &Link, port: u16, arguments: &str) -> Self {
        let addresses = format!(
            "--iface {} --dst {} --src {} --dst-mac {} --src-mac {} --port {port}",
            link.peer, link.engine_ip, link.peer_ip, link.engine_mac, link.peer_mac
        );
        Self::start(link.command(crate::binaries::blast()), &format!("{arguments} {addresses}"))
    }

    /// Datagrams of a socket at the senders' end of the link.
    pub fn datagrams(link: &Link, port: u16, arguments: &str) -> Self {
        let addresses = format!("--iface {} --dst {} --port {port}", link.peer, link.engine_ip);
        Self::start(link.command(crate::binaries::blast()), &format!("udp {arguments} {addresses}"))
    }

    /// Datagrams or streams over loopback.
    pub fn local(port: u16, arguments: &str) -> Self {
        let command = process::bound_to_us(crate::binaries::blast());
        Self::start(command, &format!("{arguments} --dst 127.0.0.1 --port {port}"))
    }

    fn start(mut command: std::process::Command, arguments: &str) -> Self {
        command.args(arguments.split_whitespace()).args(["--json", "--quiet"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the generator starts");
        Self { child, arguments: arguments.to_owned() }
    }

    /// Ends the load early; what it has sent until then it still counts.
    pub fn stop(mut self) -> Sent {
        process::terminate(&mut self.child, PATIENCE).expect("a child of ours");
        self.finish()
    }

    /// Waits for the load's own end.
    pub fn finish(mut self) -> Sent {
        // One line each way: neither pipe can fill up before the other is read.
        let mut output = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut output).expect("text");
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        let status = self.child.wait().expect("a child of ours");
        let report: Value = serde_json::from_str(&output)
            .unwrap_or_else(|error| panic!("blast {}: {status}, {error}: {output}{said}", self.arguments));
        let count = |key: &str| report[key].as_u64().unwrap_or(0);
        assert!(report["failure"].is_null(), "blast {}: {report}", self.arguments);
        Sent {
            datagrams: count("sent_datagrams"),
            events: count("sent_events"),
            duplicates: count("sent_duplicates"),
            link_dropped: count("link_dropped"),
        }
    }
}

impl Drop for Blast {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
