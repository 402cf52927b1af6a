//! A measurement over TCP on loopback: the same messages from the same program, to whichever server it is.
//!
//! What the server says it has taken in has to be what was sent: a stream loses nothing. Connecting and closing are not
//! within the time it was busy; the load waits for that to be looked at.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::case::{Contestant, Keeps, Receiver, Server};
use super::child::Process;
use super::engine::{Engine, Latency, free_tcp_port};
use super::round::{Facts, Place, Round, SETTLE};
use crate::process::{self, bound_to_us};
use crate::{Error, Result};

/// Beyond its seconds: a server that is slow may have much to read at the end.
const OVERTIME: Duration = Duration::from_secs(30);

/// What is written, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    pub write_bytes: u32,
    pub payload_bytes: u32,
    pub events_per_s: Option<f64>,
}

/// What the load says at its end.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sent {
    events: u64,
    seconds: f64,
    /// Of acknowledgements.
    latency: Option<Latency>,
}

impl Place<'_> {
    pub(super) fn stream(&self, stream: &Stream, contestant: &Contestant, seconds: f64) -> Result<Round> {
        let port = free_tcp_port()?;
        match contestant.receiver {
            Receiver::Engine(backend) => {
                let engine =
                    Engine { backend, admin: Some(free_tcp_port()?), keeps: contestant.keeps, ..self.engine(port) };
                let receiver = Process::start(engine.command()?, self.stop)?;
                // Who sends to subscribers waits without looking, too, and so counts with all it takes.
                let busy = || match contestant.subscribers {
                    0 => engine.busy_seconds(),
                    _ => receiver.cpu_seconds(),
                };
                let (sent, busy_seconds) = self.send(stream, contestant, seconds, port, busy)?;
                receiver.end()?;
                let taken = engine.taken()?;
                engine.clean_up();
                let together = taken.together.filter(|_| contestant.keeps == Keeps::Synced);
                round(stream, sent, taken.events, busy_seconds, together)
            }
            Receiver::Server(server) => {
                let monitor = free_tcp_port()?;
                let command =
                    server.command(contestant.bound.then_some(self.cpus.receiver), port, monitor, &self.folder)?;
                let receiver = Process::start_server(command, port, self.stop)?;
                // It waits without looking.
                let busy = || receiver.cpu_seconds();
                let (sent, busy_seconds) = self.send(stream, contestant, seconds, port, busy)?;
                round(stream, sent, server.messages(port, monitor)?, busy_seconds, None)
            }
            Receiver::Disk(_) => Err(Error::failed("a disk receives no streams")),
            Receiver::Walk(way) => Err(Error::failed(format!("walk {way} receives no streams"))),
        }
    }

    /// What was sent, and how long the receiver was busy meanwhile.
    fn send(
        &self,
        stream: &Stream,
        contestant: &Contestant,
        seconds: f64,
        port: u16,
        busy: impl Fn() -> Result<f64>,
    ) -> Result<(Sent, f64)> {
        let mut command = bound_to_us(&self.programs.publish);
        command.args(arguments(stream, contestant, seconds, port, self.cpus.generator)).stdin(Stdio::piped());
        let mut load = Process::start(command, self.stop)?;
        let before = busy()?;
        load.go_on()?;
        load.wait_for("SENT", Duration::from_secs_f64(seconds) + OVERTIME, self.stop)?;
        process::sleep(SETTLE, self.stop);
        let busy_seconds = busy()? - before;
        load.go_on()?;
        Ok((sent(&load.ended(self.stop)?)?, busy_seconds))
    }
}

fn arguments(stream: &Stream, contestant: &Contestant, seconds: f64, port: u16, cpu: usize) -> Vec<String> {
    let protocol = match contestant.receiver {
        Receiver::Server(server) => server.protocol(),
        Receiver::Engine(_) | Receiver::Walk(_) | Receiver::Disk(_) => "eventstream",
    };
    let mut list = vec![protocol.to_owned()];
    let mut add = |key: &str, value: String| list.extend([format!("--{key}"), value]);
    add("port", port.to_string());
    add("seconds", seconds.to_string());
    add("write-bytes", stream.write_bytes.to_string());
    add("payload-bytes", stream.payload_bytes.to_string());
    add("rate", stream.events_per_s.map_or_else(|| "max".into(), |rate| rate.to_string()));
    add("connections", contestant.connections.to_string());
    if contestant.outstanding > 0 {
        add("outstanding", contestant.outstanding.to_string());
    }
    if contestant.subscribers > 0 {
        add("subscribers", contestant.subscribers.to_string());
        add("stopped", contestant.stopped.to_string());
    } else {
        add("cpu", cpu.to_string());
    }
    list
}

/// The load's last line.
fn sent(said: &[String]) -> Result<Sent> {
    let last = said.last().map(String::as_str).unwrap_or_default();
    let report: Value = serde_json::from_str(last).unwrap_or_default();
    let (events, behind) = (report["sent_events"].as_u64(), report["behind_events"].as_u64());
    match (events, report["seconds"].as_f64(), behind) {
        (Some(events), Some(seconds), Some(0)) => {
            Ok(Sent { events, seconds, latency: Latency::of_json(&report["latency_ns"]) })
        }
        (Some(_), Some(_), Some(behind)) => {
            Err(Error::failed(format!("the pace could not be kept: {behind} events were due and not sent")))
        }
        _ => Err(Error::failed(format!("the load did not say what it sent: {last:?}"))),
    }
}

fn round(stream: &Stream, sent: Sent, taken: u64, busy_seconds: f64, together: Option<f64>) -> Result<Round> {
    if taken != sent.events {
        return Err(Error::failed(format!("{taken} events taken in of {} that were sent", sent.events)));
    }
    let is_paced = stream.events_per_s.is_some();
    let Sent { events, seconds, latency } = sent;
    Round::new(&Facts {
        seconds,
        is_paced,
        sent: events,
        arrived: taken,
        events: taken,
        busy_seconds,
        latency,
        together,
    })
}

/// Which of others' servers a case is about.
pub fn servers(contestants: &[Contestant]) -> impl Iterator<Item = Server> {
    contestants.iter().filter_map(|contestant| match contestant.receiver {
        Receiver::Server(server) => Some(server),
        Receiver::Engine(_) | Receiver::Walk(_) | Receiver::Disk(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::case::{Case, Load, by_name};
    use super::*;

    fn stream(case: &Case) -> Stream {
        let Load::Stream { write_bytes, payload_bytes, events_per_s } = case.load else {
            panic!("{} is no stream", case.name)
        };
        Stream { write_bytes, payload_bytes, events_per_s }
    }

    #[test]
    fn every_server_is_sent_the_same_in_its_own_protocol() {
        let case = by_name("tcp_1conn");
        let lists: Vec<_> =
            case.contestants.iter().map(|contestant| arguments(&stream(case), contestant, 1.5, 5, 0)).collect();
        assert_eq!(lists.iter().map(|list| list[0].as_str()).collect::<Vec<_>>(), ["eventstream", "nats", "redis"]);
        assert!(lists.windows(2).all(|pair| pair[0][1..] == pair[1][1..]), "{lists:?}");
    }

    #[test]
    fn however_many_connections_the_pace_and_the_writes_are_the_same() {
        let case = by_name("tcp_10k");
        let texts = case.contestants.iter().map(|one| arguments(&stream(case), one, 1.5, 5, 0).join(" "));
        let without = |text: String| {
            let (before, after) = text.split_once(" --connections ").expect("a number of connections");
            (before.to_owned(), after.split_once(' ').map(|(_, rest)| rest.to_owned()))
        };
        let rest: Vec<_> = texts.map(without).collect();
        assert!(rest[0].0.contains("--rate 2000000") && rest.iter().all(|one| *one == rest[0]), "{rest:?}");
    }

    #[test]
    fn a_load_that_fell_behind_or_lost_something_has_no_figures() {
        let line = |behind: u64| format!(r#"{{"seconds":2.0,"sent_events":1000000,"behind_events":{behind}}}"#);
        let all = sent(&[line(0)]).unwrap();
        assert_eq!(all, Sent { events: 1_000_000, seconds: 2.0, latency: None });
        assert!(sent(&[line(5)]).unwrap_err().to_string().contains('5'));
        assert!(sent(&[]).is_err());
        let stream = stream(by_name("tcp_1conn"));
        let figures = round(&stream, all, 1_000_000, 1.0, None).unwrap();
        assert_eq!((figures.throughput, figures.delivered, figures.cpu), (Some(0.5), 100.0, 1_000.0));
        let error = round(&stream, all, 999_999, 1.0, None).unwrap_err();
        assert!(error.to_string().contains("999999 events taken in of 1000000"), "{error}");
        assert!(
            round(&Stream { events_per_s: Some(5e5), ..stream }, all, 1_000_000, 1.0, None)
                .unwrap()
                .throughput
                .is_none()
        );
    }
}
