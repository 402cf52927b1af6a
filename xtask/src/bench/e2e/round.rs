//! One measurement: a receiver of its own, a load for some seconds, and what became of its datagrams.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::case::{Backend, Case, Contestant, Keeps, Load as Way, Receiver, Writes};
use super::child::Process;
use super::engine::{Engine, Latency, Taken, free_udp_port};
use super::stream::Stream;
use super::{Cpus, Programs};
use crate::blast::merged;
use crate::process::{self, bound_to_us};
use crate::run::load::{self, Running, Sent, Slot, Target};
use crate::run::phase::{Kind, Load, Path, Rate};
use crate::signals::Stop;
use crate::testbed::Link;
use crate::{Error, Result};

/// For what is in a ring or a socket's buffer when the generator ends.
pub const SETTLE: Duration = Duration::from_millis(50);

/// What a message has beside its payload: length, header, and the topic `load/000000`.
const MESSAGE_BYTES: u32 = 4 + 3 + 11;

/// The figures of a measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// Million events a second of the generator's time. `None` where that was the generator's choice.
    pub throughput: Option<f64>,
    /// Per cent of the datagrams sent, the others were dropped; of a stream, of its events.
    pub delivered: f64,
    /// The receiver's share of the generator's time, in per cent, in which it found something to do.
    pub busy: f64,
    /// Nanoseconds of that an event.
    pub cpu: f64,
    /// Where events have a sent time, or acknowledgements are waited for.
    pub latency: Option<Latency>,
    /// How many records of a log were synced together, where each is waited for.
    pub together: Option<f64>,
}

/// What figures are made of.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// How long the load lasted.
    pub seconds: f64,
    pub is_paced: bool,
    /// Datagrams, or of a stream events, and how many of them arrived.
    pub sent: u64,
    pub arrived: u64,
    /// Worked on.
    pub events: u64,
    pub busy_seconds: f64,
    pub latency: Option<Latency>,
    pub together: Option<f64>,
}

/// Where the measurements of a run are made.
#[derive(Debug)]
pub struct Place<'a> {
    pub programs: &'a Programs,
    pub link: &'a Link,
    pub cpus: Cpus,
    /// For configurations, reports and control sockets.
    pub folder: PathBuf,
    pub stop: &'a Stop,
}

impl Place<'_> {
    pub fn measure(&self, case: &Case, contestant: &Contestant, seconds: f64, producer: u64) -> Result<Round> {
        match case.load {
            Way::Datagrams { kind, ids } => {
                let load = load_of(kind, ids, case.events_per_datagram);
                self.datagrams(&load, contestant, seconds, producer)
            }
            Way::Timed { events_per_s } => {
                let rate = Rate::EventsPerS(events_per_s);
                let load = Load { rate, ..load_of(Kind::AfXdp, false, case.events_per_datagram) };
                self.datagrams(&load, contestant, seconds, producer)
            }
            Way::Stream { write_bytes, payload_bytes, events_per_s } => {
                if let Receiver::Disk(writes) = contestant.receiver {
                    return self.disk(writes, payload_bytes, seconds);
                }
                self.stream(&Stream { write_bytes, payload_bytes, events_per_s }, contestant, seconds)
            }
        }
    }

    /// An engine on the receiver's CPU.
    pub(super) fn engine(&self, port: u16) -> Engine<'_> {
        let (program, iface, cpu) = (&self.programs.eventstream, &self.link.iface, self.cpus.receiver);
        let folder = &self.folder;
        let (admin, spins, topic_entries, keeps) = (None, false, 0, Keeps::Nothing);
        Engine { program, folder, iface, cpu, backend: Backend::Xdp, port, admin, spins, topic_entries, keeps }
    }

    fn datagrams(&self, load: &Load, contestant: &Contestant, seconds: f64, producer: u64) -> Result<Round> {
        let port = free_udp_port()?;
        let is_paced = load.rate != Rate::Max;
        let (command, engine) = match contestant.receiver {
            Receiver::Engine(backend) => {
                let topic_entries = if contestant.has_entries { contestant.topics } else { 0 };
                let engine = Engine { backend, spins: is_paced, topic_entries, ..self.engine(port) };
                (engine.command()?, Some(engine))
            }
            Receiver::Walk(way) => (self.walk(way, port), None),
            Receiver::Server(_) | Receiver::Disk(_) => return Err(Error::failed("it receives no datagrams")),
        };
        let receiver = Process::start(command, self.stop)?;
        let sent = self.load(load, contestant, port, seconds, producer)?;
        process::sleep(SETTLE, self.stop);
        let said = receiver.end()?;
        check_pace(load, &sent, seconds)?;
        let Taken { datagrams, events, busy_seconds, latency, .. } = match engine {
            Some(engine) => engine.taken()?,
            None => of_walk(&said, contestant, load.events_per_datagram)?,
        };
        if is_paced && latency.is_none() {
            return Err(Error::failed("it does not say how old events were"));
        }
        let (seconds, sent, together) = (sent.seconds, sent.datagrams, None);
        Round::new(&Facts { seconds, is_paced, sent, arrived: datagrams, events, busy_seconds, latency, together })
    }

    /// What the disk takes where the engine's log would be.
    fn disk(&self, writes: Writes, payload_bytes: u32, seconds: f64) -> Result<Round> {
        let mut command = bound_to_us(&self.programs.walk);
        let together = match writes {
            Writes::Megabytes => {
                command.arg("disk");
                None
            }
            Writes::Synced(records) => {
                command.args(["disk-each", "--records", &records.to_string()]);
                Some(f64::from(records))
            }
        };
        command.arg("--file").arg(self.folder.join("disk"));
        command.args(["--record-bytes", &record_bytes(payload_bytes).to_string()]);
        command.args(["--cpu", &self.cpus.generator.to_string()]);
        let writer = Process::start(command, self.stop)?;
        process::sleep(Duration::from_secs_f64(seconds), self.stop);
        let said = writer.end()?;
        // It has removed its file: that is not to be work in the next one's time.
        rustix::fs::sync();
        let report: Value =
            serde_json::from_str(said.last().map(String::as_str).unwrap_or_default()).unwrap_or_default();
        let (Some(events), Some(seconds)) = (report["events"].as_u64(), report["seconds"].as_f64()) else {
            return Err(Error::failed(format!("walk disk: it did not say what it wrote: {said:?}")));
        };
        let (is_paced, busy_seconds) = (false, seconds);
        let latency = Latency::of_json(&report["latency_ns"]);
        Round::new(&Facts { seconds, is_paced, sent: events, arrived: events, events, busy_seconds, latency, together })
    }

    fn walk(&self, way: &str, port: u16) -> Command {
        let mut command = bound_to_us(&self.programs.walk);
        command.arg(way).args(["--iface", &self.link.iface, "--cpu", &self.cpus.receiver.to_string()]);
        command.args(["--port", &port.to_string()]);
        command
    }

    fn load(&self, load: &Load, contestant: &Contestant, port: u16, seconds: f64, producer: u64) -> Result<Sent> {
        let target = Target { link: Some(self.link.clone()), udp_port: port, tcp_port: 0 };
        let mut command = load::command(&self.programs.blast, &target, Path::Link);
        let slot = Slot { seconds, rate: Slot::rate_of(load, 0.0), producer, cpu: self.cpus.generator };
        command.args(arguments(load, contestant, &target, &slot));
        let (sent, failure) = Running::start_command(command, load.kind, seconds)?.finish(self.stop)?;
        if self.stop.requested() {
            return Err(Error::failed("interrupted"));
        }
        failure.map_or(Ok(sent), Err)
    }
}

/// Of a record of the event log: 32 bytes before the frame, and a whole number of eights.
const fn record_bytes(payload_bytes: u32) -> u32 {
    (32 + MESSAGE_BYTES + payload_bytes).next_multiple_of(8)
}

fn load_of(kind: Kind, ids: bool, events_per_datagram: u32) -> Load {
    let duplicates = if ids { 0.01 } else { 0.0 };
    Load { kind, path: Path::Link, queues: "0", rate: Rate::Max, events_per_datagram, duplicates, tick_ms: None }
}

/// What is late is sent all the same and is in the latencies; what was never sent is not, and so may not be.
fn check_pace(load: &Load, sent: &Sent, seconds: f64) -> Result<()> {
    let Rate::EventsPerS(rate) = load.rate else { return Ok(()) };
    let due = rate as f64 * seconds;
    if (sent.events as f64) < 0.999 * due {
        return Err(Error::failed(format!("the pace could not be kept: {} of {due:.0} events were sent", sent.events)));
    }
    Ok(())
}

/// Without duplicates there need be no ids; at a pace it is of interest how old events are.
fn arguments(load: &Load, contestant: &Contestant, target: &Target, slot: &Slot) -> Vec<String> {
    let mut list = load::arguments(load, target, slot);
    if load.duplicates == 0.0 {
        list.retain(|argument| argument != "--ids");
    }
    if load.rate != Rate::Max {
        list.push("--timestamps".to_owned());
    }
    merged(list, &["--topics".to_owned(), contestant.topics.to_string()])
}

/// What a receiver without a pipeline says in its last line.
fn of_walk(said: &[String], contestant: &Contestant, events_per_datagram: u32) -> Result<Taken> {
    let name = contestant.name;
    let last = said.last().map(String::as_str).unwrap_or_default();
    let report: Value = serde_json::from_str(last).unwrap_or_default();
    let count = |key: &str| {
        report[key].as_u64().ok_or_else(|| Error::failed(format!("{name}: no `{key}` in what it said: {last:?}")))
    };
    if count("malformed")? > 0 {
        return Err(Error::failed(format!("{name}: {} malformed datagrams", count("malformed")?)));
    }
    let datagrams = count("datagrams")?;
    // Who does not look inside knows of no events.
    let looks_inside = contestant.receiver != Receiver::Walk("bare");
    let events = if looks_inside { count("events")? } else { datagrams * u64::from(events_per_datagram) };
    let busy_seconds = report["busy_seconds"].as_f64();
    let busy_seconds = busy_seconds.ok_or_else(|| Error::failed(format!("{name}: how long was it busy? {last:?}")))?;
    Ok(Taken { datagrams, events, busy_seconds, latency: Latency::of_json(&report["latency_ns"]), together: None })
}

impl Round {
    pub fn new(facts: &Facts) -> Result<Self> {
        let Facts { seconds, is_paced, sent, arrived, events, busy_seconds, latency, together } = *facts;
        if arrived == 0 || events == 0 || seconds <= 0.0 || busy_seconds <= 0.0 {
            return Err(Error::failed(format!(
                "nothing to measure: {sent} sent in {seconds:.3} s, {arrived} taken in, {events} events, \
                 {busy_seconds:.3} s busy"
            )));
        }
        if arrived > sent {
            return Err(Error::failed(format!("{arrived} have arrived of {sent} that were sent")));
        }
        Ok(Round {
            throughput: (!is_paced).then_some(events as f64 / seconds / 1e6),
            delivered: 100.0 * arrived as f64 / sent as f64,
            busy: 100.0 * busy_seconds / seconds,
            cpu: 1e9 * busy_seconds / events as f64,
            latency,
            together,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::case::by_name;
    use super::*;

    #[test]
    fn figures_follow_from_what_was_sent_and_taken() {
        let facts = Facts {
            seconds: 2.0,
            is_paced: false,
            sent: 4_000,
            arrived: 1_000,
            events: 4_000_000,
            busy_seconds: 1.0,
            latency: None,
            together: None,
        };
        let round = Round::new(&facts).unwrap();
        assert_eq!(
            round,
            Round { throughput: Some(2.0), delivered: 25.0, busy: 50.0, cpu: 250.0, latency: None, together: None }
        );
        assert_eq!(Round::new(&Facts { is_paced: true, ..facts }).unwrap().throughput, None);
        assert!(Round::new(&Facts { arrived: 0, events: 0, ..facts }).is_err());
        assert!(Round::new(&Facts { busy_seconds: 0.0, ..facts }).is_err());
        assert!(Round::new(&Facts { arrived: 4_001, ..facts }).is_err(), "more than was sent");
    }

    #[test]
    fn a_receivers_last_line_is_what_it_received() {
        let line =
            r#"{"seconds":1.5,"busy_seconds":0.5,"dropped":3,"datagrams":10,"events":230,"malformed":0,"hash":5}"#
                .to_owned();
        let said = ["warming up".to_owned(), line.clone()];
        let [_, walk, bare, ..] = by_name("xdp_23ev").contestants else { panic!("a walk and a bare one") };
        let expected = Taken { datagrams: 10, events: 230, busy_seconds: 0.5, latency: None, together: None };
        assert_eq!(of_walk(&said, walk, 23).unwrap(), expected);
        let without = [line.replace("230", "0")];
        assert_eq!(of_walk(&without, bare, 23).unwrap(), expected);
        let timed = [line.replace("}", r#","latency_ns":{"p50":4100,"p99":11500}}"#)];
        assert_eq!(of_walk(&timed, walk, 23).unwrap().latency, Some(Latency { p50: 4.1, p99: 11.5 }));
        let malformed = [line.replace(r#""malformed":0"#, r#""malformed":2"#)];
        assert!(of_walk(&malformed, walk, 23).unwrap_err().to_string().contains("2 malformed"));
        let error = of_walk(&[], walk, 23).unwrap_err();
        assert!(error.to_string().contains("AF_XDP walk"), "{error}");
    }

    #[test]
    fn a_pace_that_was_not_kept_is_an_error() {
        let sent = Sent { events: 14_990, ..Sent::default() };
        let at = |rate| Load { rate, ..load_of(Kind::AfXdp, false, 1) };
        assert!(check_pace(&at(Rate::EventsPerS(10_000)), &sent, 1.5).is_ok());
        let error = check_pace(&at(Rate::EventsPerS(20_000)), &sent, 1.5).unwrap_err();
        assert!(error.to_string().contains("14990 of 30000"), "{error}");
        assert!(check_pace(&at(Rate::Max), &sent, 1.5).is_ok());
    }

    #[test]
    fn at_a_pace_events_have_sent_times() {
        let target = Target { link: None, udp_port: 5, tcp_port: 0 };
        let load = Load { rate: Rate::EventsPerS(10_000), ..load_of(Kind::AfXdp, false, 1) };
        let slot = Slot { seconds: 1.0, rate: Slot::rate_of(&load, 0.0), producer: 7, cpu: 0 };
        let text = arguments(&load, &by_name("latency_10k").contestants[0], &target, &slot).join(" ");
        assert!(text.contains("--timestamps") && text.contains("--rate 10000") && !text.contains("--ids"), "{text}");
    }

    #[test]
    fn a_load_has_ids_and_topics_as_the_case_says() {
        let target = Target { link: None, udp_port: 5, tcp_port: 0 };
        let slot = Slot { seconds: 1.0, rate: None, producer: 7, cpu: 0 };
        let text = |name: &str, at: usize| {
            let case = by_name(name);
            let Way::Datagrams { kind, ids } = case.load else { panic!("{name} has no datagrams") };
            let load = load_of(kind, ids, case.events_per_datagram);
            arguments(&load, &case.contestants[at], &target, &slot).join(" ")
        };
        assert!(!text("xdp_1ev", 0).contains("--timestamps"));
        let plain = text("xdp_23ev", 0);
        assert!(!plain.contains("--ids") && plain.contains("--duplicates 0"), "{plain}");
        assert!(plain.contains("--events-per-datagram 23") && plain.ends_with("--topics 1000"), "{plain}");
        let ids = text("xdp_23ev_ids", 0);
        assert!(ids.contains("--ids") && ids.contains("--duplicates 0.01"), "{ids}");
        assert!(text("topics_23ev", 1).ends_with("--topics 1"));
        assert!(text("gso_23ev", 0).starts_with("gso "));
    }
}
