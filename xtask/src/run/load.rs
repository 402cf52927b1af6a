//! The load generator as child processes: its command line, and what it says it has sent.

use std::io::Read;
use std::ops::AddAssign;
use std::path::{Path as FilePath, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::phase::{Kind, Load, Path, Rate};
use crate::process;
use crate::signals::Stop;
use crate::testbed::Link;
use crate::{Error, Result};

/// A generator loads its programs before its seconds begin, and counts what it sent after they end.
const OVERTIME: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the engine can be reached.
#[derive(Clone, Debug)]
pub struct Target {
    pub link: Option<Link>,
    pub udp_port: u16,
    pub tcp_port: u16,
}

/// What a load has sent, by its own count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sent {
    pub datagrams: u64,
    /// All events, duplicates included.
    pub events: u64,
    pub duplicates: u64,
    pub malformed_datagrams: u64,
    pub link_dropped: u64,
    pub seconds: f64,
    pub events_per_s: f64,
}

impl AddAssign for Sent {
    /// Of loads side by side: their counts add up, the time is the longest one's.
    fn add_assign(&mut self, other: Self) {
        self.datagrams += other.datagrams;
        self.events += other.events;
        self.duplicates += other.duplicates;
        self.malformed_datagrams += other.malformed_datagrams;
        self.link_dropped += other.link_dropped;
        self.seconds = self.seconds.max(other.seconds);
        self.events_per_s += other.events_per_s;
    }
}

impl Sent {
    /// The generator's last line.
    fn of_output(kind: Kind, output: &str) -> Result<Self> {
        let line = output.lines().rev().find(|line| line.trim_start().starts_with('{'));
        let value: Value = line
            .and_then(|line| serde_json::from_str(line).ok())
            .or_else(|| serde_json::from_str(output.trim()).ok())
            .ok_or_else(|| Error::failed(format!("load `{}` did not say what it sent", kind.name())))?;
        let count = |key: &str| value[key].as_u64().unwrap_or(0);
        // A stream has no datagrams, whatever its generator counts by that name.
        let datagrams = |key: &str| if kind == Kind::Tcp { 0 } else { count(key) };
        Ok(Sent {
            datagrams: datagrams("sent_datagrams"),
            events: count("sent_events"),
            duplicates: count("sent_duplicates"),
            malformed_datagrams: datagrams("sent_malformed_datagrams"),
            link_dropped: datagrams("link_dropped"),
            seconds: value["seconds"].as_f64().unwrap_or(0.0),
            events_per_s: value["rate_events_per_s"].as_f64().unwrap_or(0.0),
        })
    }

    pub fn to_json(self) -> Value {
        json!({
            "sent_datagrams": self.datagrams, "sent_events": self.events, "sent_duplicates": self.duplicates,
            "sent_malformed_datagrams": self.malformed_datagrams, "link_dropped": self.link_dropped,
        })
    }
}

/// One load's place in a run.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub seconds: f64,
    /// Events a second; `None` is as many as it can.
    pub rate: Option<f64>,
    /// Becomes part of every event id: different for every load of every run, as ids must be.
    pub producer: u64,
    pub cpu: usize,
}

impl Slot {
    pub fn rate_of(load: &Load, measured: f64) -> Option<f64> {
        match load.rate {
            Rate::Max => None,
            Rate::EventsPerS(rate) => Some(rate as f64),
            Rate::OfMeasured(share) => Some((measured * share).max(1.0)),
        }
    }
}

/// The generator's arguments for one load. Each kind has those that mean something to it, and refuses the others.
pub fn arguments(load: &Load, target: &Target, slot: &Slot) -> Vec<String> {
    let mut list: Vec<String> = vec![load.kind.name().into(), "--json".into(), "--quiet".into(), "--ids".into()];
    let mut add = |key: &str, value: String| list.extend([format!("--{key}"), value]);
    let writes_packets = matches!(load.kind, Kind::TestRun | Kind::AfXdp);
    match (&target.link, load.path) {
        (Some(link), Path::Link) => {
            add("iface", link.peer.clone());
            add("dst", link.engine_ip.to_string());
            add("src", link.peer_ip.to_string());
            if writes_packets {
                add("dst-mac", link.engine_mac.clone());
                add("src-mac", link.peer_mac.clone());
            }
        }
        _ => add("dst", "127.0.0.1".into()),
    }
    let port = if load.kind == Kind::Tcp { target.tcp_port } else { target.udp_port };
    add("port", port.to_string());
    if load.kind == Kind::AfXdp {
        add("queues", load.queues.into());
    }
    if load.kind != Kind::TestRun {
        add("rate", slot.rate.map_or_else(|| "max".into(), |rate| format!("{rate:.0}")));
    }
    if let Some(tick) = load.tick_ms {
        add("tick", tick.to_string());
    }
    add("seconds", slot.seconds.to_string());
    add("events-per-datagram", load.events_per_datagram.to_string());
    add("frame-bytes", "64".into());
    add("topics", "1000".into());
    add("priorities", "0-4".into());
    add("producer", slot.producer.to_string());
    add("duplicates", load.duplicates.to_string());
    add("cpu", slot.cpu.to_string());
    list
}

/// A load that runs.
#[derive(Debug)]
pub struct Running {
    kind: Kind,
    child: Child,
    output: Option<JoinHandle<String>>,
    deadline: Instant,
}

impl Running {
    pub fn start(blast: &FilePath, load: &Load, target: &Target, slot: &Slot) -> Result<Self> {
        let mut command = command(blast, target, load.path);
        command.args(arguments(load, target, slot));
        Self::start_command(command, load.kind, slot.seconds)
    }

    pub fn start_command(mut command: Command, kind: Kind, seconds: f64) -> Result<Self> {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Error::of_io(&format!("load `{}`", kind.name()), &error))?;
        let mut stdout = child.stdout.take();
        // Read from the start: a generator that says more than a pipe holds would stop sending.
        let output = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stdout.as_mut().map(|pipe| pipe.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        });
        let deadline = Instant::now() + Duration::from_secs_f64(seconds) + OVERTIME;
        Ok(Running { kind, child, output: Some(output), deadline })
    }

    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }

    /// Whether it has had all its time and more.
    pub fn is_overdue(&self) -> bool {
        Instant::now() > self.deadline
    }

    /// Waits for the load's own end, or ends it when a stop is asked for: it counts what it has sent until then, and so
    /// does one that fails on its way.
    pub fn finish(mut self, stop: &Stop) -> Result<(Sent, Option<Error>)> {
        let status = match process::wait(&mut self.child, self.deadline, Some(stop))? {
            Some(status) => status,
            None => process::terminate(&mut self.child, PATIENCE)?,
        };
        let text = self.output.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        let failure = (!status.success()).then(|| Error::failed(format!("load `{}`: {status}", self.kind.name())));
        match (Sent::of_output(self.kind, &text), failure) {
            (Ok(sent), failure) => Ok((sent, failure)),
            // That it has not said anything says less than how it ended.
            (Err(_), Some(failure)) => Err(failure),
            (Err(error), None) => Err(error),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The generator, where the load has to come from.
pub fn command(blast: &FilePath, target: &Target, path: Path) -> Command {
    match (&target.link, path) {
        (Some(link), Path::Link) => link.command(PathBuf::from(blast)),
        _ => process::bound_to_us(blast),
    }
}

#[cfg(test)]
mod tests {
    use super::super::phase::XDP;
    use super::*;

    fn target(link: bool) -> Target {
        let link = link.then(|| Link {
            iface: "e0".into(),
            peer: "e1".into(),
            namespace: "n".into(),
            engine_mac: "02:00:00:00:00:01".into(),
            peer_mac: "02:00:00:00:00:02".into(),
            engine_ip: [198, 18, 0, 1].into(),
            peer_ip: [198, 18, 0, 2].into(),
            engine_ip6: std::net::Ipv6Addr::LOCALHOST,
            peer_ip6: std::net::Ipv6Addr::LOCALHOST,
        });
        Target { link, udp_port: 8082, tcp_port: 8081 }
    }

    fn slot() -> Slot {
        Slot { seconds: 2.5, rate: None, producer: 7, cpu: 0 }
    }

    #[test]
    fn a_load_over_the_link_names_both_ends() {
        let text = arguments(&XDP[0].loads[0], &target(true), &slot()).join(" ");
        assert_eq!(
            text,
            "testrun --json --quiet --ids --iface e1 --dst 198.18.0.1 --src 198.18.0.2 --dst-mac 02:00:00:00:00:01 \
             --src-mac 02:00:00:00:00:02 --port 8082 --seconds 2.5 --events-per-datagram 23 --frame-bytes 64 \
             --topics 1000 --priorities 0-4 --producer 7 --duplicates 0.01 --cpu 0"
        );
    }

    #[test]
    fn a_tcp_client_uses_loopback_and_its_port() {
        let tcp = XDP[0].loads.iter().find(|load| load.kind == Kind::Tcp).unwrap();
        let text = arguments(tcp, &target(true), &slot()).join(" ");
        assert!(text.contains("--dst 127.0.0.1") && text.contains("--port 8081") && !text.contains("iface"), "{text}");
    }

    #[test]
    fn rates_are_taken_from_what_was_measured() {
        let paced = XDP.last().unwrap();
        assert_eq!(Slot::rate_of(&paced.loads[0], 1000.0), Some(500.0));
        assert_eq!(Slot::rate_of(&XDP[0].loads[0], 1000.0), None);
    }

    #[test]
    fn what_was_sent_is_in_the_last_object_printed() {
        let text = "starting\n{\"kind\":\"udp\",\"seconds\":2.0,\"sent_datagrams\":10,\"sent_events\":230,\
                    \"sent_duplicates\":2,\"sent_malformed_datagrams\":1,\"link_dropped\":3,\"rate_events_per_s\":115.0}\n";
        let sent = Sent::of_output(Kind::Udp, text).unwrap();
        assert_eq!((sent.datagrams, sent.events, sent.duplicates, sent.link_dropped), (10, 230, 2, 3));
        assert_eq!(Sent::of_output(Kind::Tcp, text).unwrap().datagrams, 0);
        assert!(Sent::of_output(Kind::Udp, "no").is_err());
        assert_eq!(Sent::of_output(Kind::Udp, "{\n\"sent_events\": 5\n}\n").unwrap().events, 5);
    }

    #[test]
    fn a_load_is_ended_early_and_still_counted() {
        let mut command = process::bound_to_us("sh");
        command.args(["-c", "trap 'echo \"{\\\"sent_events\\\":4}\"; exit 0' TERM; while :; do sleep 0.02; done"]);
        let load = Running::start_command(command, Kind::Udp, 30.0).unwrap();
        thread::sleep(Duration::from_millis(200));
        let stop = Stop::default();
        stop.request();
        assert_eq!(load.finish(&stop).unwrap().0.events, 4);
    }

    #[test]
    fn a_load_that_fails_is_an_error_and_still_counted() {
        let mut command = process::bound_to_us("sh");
        command.args(["-c", "echo '{\"sent_events\":4}'; exit 3"]);
        let load = Running::start_command(command, Kind::Udp, 1.0).unwrap();
        let (sent, failure) = load.finish(&Stop::default()).unwrap();
        assert_eq!(sent.events, 4);
        assert!(failure.is_some());
    }
}
