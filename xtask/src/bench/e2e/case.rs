//! What is measured, as a table: which load, and who receives it.

use super::{Extent, FULL};
use crate::run::phase::Kind;

/// How the engine is given its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Xdp,
    Recvmmsg,
    Gro,
    Tcp,
}

/// Others' servers, measured where they are installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Nats,
    Redis,
}

/// Who receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    Engine(Backend),
    /// A receiver without a pipeline, by the name that the program `walk` has for it.
    Walk(&'static str),
    Server(Server),
    /// Nobody: a file that is written as fast as the disk takes it.
    Disk(Writes),
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// In megabytes, synced every few milliseconds.
    Megabytes,
    /// So many records at a time, which are synced before the next.
    Synced(u32),
}

/// What an engine does with the events of a stream, beside handling them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// They are realtime.
    Nothing,
    /// They are transactional, and there is no event log.
    Claims,
    /// The same, with an event log that is synced every few milliseconds.
    Log,
    /// With one that is synced for whatever was written together.
    Synced,
}

#[derive(Clone, Copy, Debug)]
pub struct Contestant {
    pub name: &'static str,
    pub receiver: Receiver,
    /// Of datagrams; a stream has one.
    pub topics: u32,
    /// Whether the engine's configuration has them. What it has not goes by its priority, whatever the number of topics.
    pub has_entries: bool,
    /// Of a stream.
    pub connections: u32,
    pub keeps: Keeps,
    /// So many messages without an acknowledgement; zero: none is asked for.
    pub outstanding: u32,
    /// Of a stream: so many connections get each message. Then nobody is bound to a CPU: the load, who sends and who receives
    /// share what there is, but for `bound` ones.
    pub subscribers: u32,
    /// So many more subscribe, and read nothing.
    pub stopped: u32,
    pub bound: bool,
}

/// How something is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Over the link as fast as it goes. With ids, one event in a hundred is a duplicate.
    Datagrams { kind: Kind, ids: bool },
    /// Over the link at so many events a second, each with the time at which it was to be sent.
    Timed { events_per_s: u64 },
    /// Over TCP, this much a write; `None`: as fast as it is taken in.
    Stream { write_bytes: u32, payload_bytes: u32, events_per_s: Option<f64> },
}

/// The first contestant is ours, and is held against each of the others.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub load: Load,
    /// Zero for a stream, which has no datagrams.
    pub events_per_datagram: u32,
    pub contestants: &'static [Contestant],
    /// Rounds at least: disks swing.
    pub rounds_min: usize,
}

const fn contestant(name: &'static str, receiver: Receiver, topics: u32) -> Contestant {
    let (has_entries, connections, keeps, outstanding) = (false, 0, Keeps::Nothing, 0);
    let (subscribers, stopped, bound) = (0, 0, true);
    Contestant { name, receiver, topics, has_entries, connections, keeps, outstanding, subscribers, stopped, bound }
}

const fn over_tcp(name: &'static str, receiver: Receiver, connections: u32) -> Contestant {
    Contestant { connections, topics: 1, ..contestant(name, receiver, 1) }
}

const fn keeping(name: &'static str, keeps: Keeps) -> Contestant {
    Contestant { keeps, ..over_tcp(name, Receiver::Engine(Backend::Tcp), 1) }
}

/// Each event goes to so many, who look at all of them.
const fn fan(subscribers: u32) -> [Contestant; 3] {
    let nats = Receiver::Server(Server::Nats);
    let ours = Receiver::Engine(Backend::Tcp);
    [
        Contestant { subscribers, bound: false, ..over_tcp("engine", ours, 1) },
        Contestant { subscribers, bound: false, ..over_tcp("NATS", nats, 1) },
        Contestant { subscribers, ..over_tcp("NATS, one CPU", nats, 1) },
    ]
}

const fn configured(name: &'static str, topics: u32) -> Contestant {
    Contestant { has_entries: true, ..contestant(name, Receiver::Engine(Backend::Xdp), topics) }
}

const IN_KERNEL: &[Contestant] = &[
    contestant("engine, AF_XDP", Receiver::Engine(Backend::Xdp), 1_000),
    contestant("AF_XDP walk", Receiver::Walk("xdp"), 1_000),
    contestant("AF_XDP bare", Receiver::Walk("bare"), 1_000),
    contestant("engine, recvmmsg", Receiver::Engine(Backend::Recvmmsg), 1_000),
    contestant("recvmmsg walk", Receiver::Walk("recvmmsg"), 1_000),
];

/// The kernel joins datagrams only if they have a checksum; those made in the kernel have none, a socket's have.
const FROM_SOCKET: &[Contestant] = &[
    contestant("engine, AF_XDP", Receiver::Engine(Backend::Xdp), 1_000),
    contestant("AF_XDP walk", Receiver::Walk("xdp"), 1_000),
    contestant("engine, recvmmsg", Receiver::Engine(Backend::Recvmmsg), 1_000),
    contestant("engine, UDP_GRO", Receiver::Engine(Backend::Gro), 1_000),
    contestant("recvmmsg walk", Receiver::Walk("recvmmsg"), 1_000),
    contestant("UDP_GRO walk", Receiver::Walk("gro"), 1_000),
];

const TOPICS: &[Contestant] =
    &[configured("100 k topics", 100_000), configured("1 topic", 1), configured("1 k topics", 1_000)];

const SERVERS: &[Contestant] = &[
    over_tcp("engine, TCP", Receiver::Engine(Backend::Tcp), 1),
    over_tcp("NATS", Receiver::Server(Server::Nats), 1),
    over_tcp("Redis", Receiver::Server(Server::Redis), 1),
];

const CONNECTIONS: &[Contestant] = &[
    over_tcp("10 k connections", Receiver::Engine(Backend::Tcp), 10_000),
    over_tcp("1 connection", Receiver::Engine(Backend::Tcp), 1),
    over_tcp("100 connections", Receiver::Engine(Backend::Tcp), 100),
];

const FAN_1: [Contestant; 3] = fan(1);
const FAN_10: [Contestant; 3] = fan(10);
const FAN_100: [Contestant; 3] = fan(100);

/// What one who reads nothing costs ten others.
const STOPPED: [Contestant; 2] =
    [Contestant { name: "one stopped", stopped: 1, ..FAN_10[0] }, Contestant { name: "all read", ..FAN_10[0] }];

const KEEPING: &[Contestant] = &[
    keeping("engine, logging", Keeps::Log),
    keeping("engine, no log", Keeps::Claims),
    over_tcp("pwrite, fdatasync", Receiver::Disk(Writes::Megabytes), 1),
];

/// Of what is outstanding a half is with the disk, while the other half is acknowledged and sent anew.
const SYNCED: &[Contestant] = &[
    Contestant { outstanding: 1_024, ..keeping("1,024 outstanding", Keeps::Synced) },
    Contestant { outstanding: 1, ..keeping("1 outstanding", Keeps::Synced) },
    over_tcp("pwrite 512, fdatasync", Receiver::Disk(Writes::Synced(512)), 1),
    over_tcp("pwrite 1, fdatasync", Receiver::Disk(Writes::Synced(1)), 1),
];

const SPINNING: &[Contestant] = &[
    contestant("engine, AF_XDP", Receiver::Engine(Backend::Xdp), 1_000),
    contestant("recv()", Receiver::Walk("recv-spin"), 1_000),
    contestant("AF_XDP loop", Receiver::Walk("xdp-spin"), 1_000),
];

/// 23 events of 64 bytes fill a datagram of an ordinary MTU.
pub const CASES: &[Case] = &[
    in_kernel("xdp_23ev", 23, false, IN_KERNEL),
    in_kernel("xdp_23ev_ids", 23, true, IN_KERNEL),
    in_kernel("xdp_1ev", 1, false, IN_KERNEL),
    in_kernel("topics_23ev", 23, false, TOPICS),
    Case { load: Load::Datagrams { kind: Kind::Gso, ids: false }, ..in_kernel("gso_23ev", 23, false, FROM_SOCKET) },
    stream("tcp_1conn", Load::Stream { write_bytes: 64 << 10, payload_bytes: 44, events_per_s: None }, SERVERS),
    // At a pace that the engine keeps with ease, so that it reads every write by itself and no two at once.
    stream("tcp_10k", Load::Stream { write_bytes: 16 << 10, payload_bytes: 44, events_per_s: Some(2e6) }, CONNECTIONS),
    fanned("fan_1", &FAN_1),
    fanned("fan_10", &FAN_10),
    fanned("fan_100", &FAN_100),
    Case { rounds_min: 9, ..fanned("fan_stopped", &STOPPED) },
    logged("log_64b", 46, KEEPING),
    logged("log_1k", 1_006, KEEPING),
    logged("log_always", 46, SYNCED),
    timed("latency_10k", 10_000, 1),
    timed("latency_100k", 100_000, 1),
    // One event a datagram would be more packets than one CPU can send.
    timed("latency_1m", 1_000_000, 23),
];

const fn in_kernel(
    name: &'static str,
    events_per_datagram: u32,
    ids: bool,
    contestants: &'static [Contestant],
) -> Case {
    let load = Load::Datagrams { kind: Kind::TestRun, ids };
    Case { name, load, events_per_datagram, contestants, rounds_min: 0 }
}

const fn stream(name: &'static str, load: Load, contestants: &'static [Contestant]) -> Case {
    Case { name, load, events_per_datagram: 0, contestants, rounds_min: 0 }
}

/// Messages of 64 bytes.
const fn fanned(name: &'static str, contestants: &'static [Contestant]) -> Case {
    stream(name, Load::Stream { write_bytes: 64 << 10, payload_bytes: 46, events_per_s: None }, contestants)
}

/// The frame of a message is 18 bytes more than its payload.
const fn logged(name: &'static str, payload_bytes: u32, contestants: &'static [Contestant]) -> Case {
    let load = Load::Stream { write_bytes: 64 << 10, payload_bytes, events_per_s: None };
    Case { rounds_min: 7, ..stream(name, load, contestants) }
}

const fn timed(name: &'static str, events_per_s: u64, events_per_datagram: u32) -> Case {
    Case { name, load: Load::Timed { events_per_s }, events_per_datagram, contestants: SPINNING, rounds_min: 0 }
}

impl Case {
    /// How much of it is measured: where little is asked for, little is.
    pub fn extent(&self, asked: Extent) -> Extent {
        let rounds = if asked.rounds < FULL.rounds { asked.rounds } else { asked.rounds.max(self.rounds_min) };
        Extent { rounds, ..asked }
    }
}

/// The cases with this in their names.
pub fn select(only: &str) -> Vec<&'static Case> {
    CASES.iter().filter(|case| case.name.contains(only)).collect()
}

#[cfg(test)]
pub fn by_name(name: &str) -> &'static Case {
    CASES.iter().find(|case| case.name == name).expect("a case by this name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_holds_the_engine_against_others() {
        for case in CASES {
            let is_stream = matches!(case.load, Load::Stream { .. });
            let expected = if is_stream { Backend::Tcp } else { Backend::Xdp };
            assert_eq!(case.contestants[0].receiver, Receiver::Engine(expected), "{}", case.name);
            assert_eq!(case.events_per_datagram == 0, is_stream, "{}", case.name);
            for contestant in case.contestants {
                assert_eq!(contestant.connections > 0, is_stream, "{}: {}", case.name, contestant.name);
            }
            let mut names: Vec<_> = case.contestants.iter().map(|contestant| contestant.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), case.contestants.len(), "{}", case.name);
            assert!(names.len() > 1, "{}", case.name);
        }
    }

    #[test]
    fn cases_are_selected_by_a_part_of_their_names() {
        assert_eq!(select("").len(), CASES.len());
        assert_eq!(select("xdp_23ev").iter().map(|case| case.name).collect::<Vec<_>>(), ["xdp_23ev", "xdp_23ev_ids"]);
        assert!(select("none").is_empty());
    }
}
