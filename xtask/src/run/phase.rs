//! What the demonstration sends, when and from where, as a table.
//!
//! A phase lasts its share of the time and runs its loads side by side. Its rates and losses are differences of the
//! engine's live ledger, so a phase needs nothing from the engine but that.

/// What of the machine the senders reach the engine through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The veth link, from the senders' namespace.
    Link,
    /// Loopback, from the engine's own namespace.
    Loopback,
}

/// The kinds of load the generator knows, by its names for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Frames made and transmitted inside the kernel: the highest rate there is, and no way to pace it.
    TestRun,
    AfXdp,
    Gso,
    Udp,
    Tcp,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::TestRun => "testrun",
            Kind::AfXdp => "afxdp",
            Kind::Gso => "gso",
            Kind::Udp => "udp",
            Kind::Tcp => "tcp",
        }
    }

    pub fn of_name(name: &str) -> Option<Self> {
        [Kind::TestRun, Kind::AfXdp, Kind::Gso, Kind::Udp, Kind::Tcp].into_iter().find(|kind| kind.name() == name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    Max,
    EventsPerS(u64),
    /// A share of the rate that the first load of the last phase marked `measures` reached.
    OfMeasured(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    pub kind: Kind,
    pub path: Path,
    /// Transmit queues, with each one's share where there are several; only AF_XDP chooses.
    pub queues: &'static str,
    pub rate: Rate,
    pub events_per_datagram: u32,
    pub duplicates: f64,
    /// Sends what is due once in so many milliseconds, and sleeps in between.
    pub tick_ms: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    pub name: &'static str,
    /// Of the run's seconds.
    pub share: f64,
    /// What this phase's first load reaches is what later phases take their shares of.
    pub measures: bool,
    pub loads: &'static [Load],
}

/// 23 events of 64 bytes fill a datagram of an ordinary MTU; one event in a hundred is a duplicate.
const fn bulk(kind: Kind, path: Path, queues: &'static str, rate: Rate) -> Load {
    Load { kind, path, queues, rate, events_per_datagram: 23, duplicates: 0.01, tick_ms: None }
}

/// What anybody's own client would do, while the bulk goes by. One that waited for each event's time with the core in use
/// would take half of it from the bulk.
const fn ordinary(kind: Kind, path: Path) -> Load {
    let rate = Rate::EventsPerS(5_000);
    Load { kind, path, queues: "0", rate, events_per_datagram: 1, duplicates: 0.0, tick_ms: Some(2) }
}

/// The TCP client uses loopback although the link would carry it: what the link drops under the ceiling's flood is then
/// only ever a datagram of the load, and sent datagrams equal those that arrived plus those the link dropped.
const ORDINARY_TCP: Load = ordinary(Kind::Tcp, Path::Loopback);

/// On XDP: the most the engine takes, then a pace at which nothing may be lost. Before the pace can be set it has to be
/// known what the sender can do; that is measured in a short phase, which is in the report like any other.
pub const XDP: &[Phase] = &[
    Phase {
        name: "ceiling",
        share: 0.4,
        measures: false,
        loads: &[bulk(Kind::TestRun, Path::Link, "0", Rate::Max), ordinary(Kind::Udp, Path::Link), ORDINARY_TCP],
    },
    Phase { name: "calibration", share: 0.1, measures: true, loads: &[bulk(Kind::AfXdp, Path::Link, "0", Rate::Max)] },
    Phase {
        name: "paced",
        share: 0.5,
        measures: false,
        loads: &[
            bulk(Kind::AfXdp, Path::Link, "0:90,1:10", Rate::OfMeasured(0.5)),
            ordinary(Kind::Udp, Path::Link),
            ORDINARY_TCP,
        ],
    },
];

/// Without XDP the kernel's sockets are the ceiling.
pub const SOCKETS_ON_LINK: &[Phase] = &[
    Phase {
        name: "ceiling",
        share: 0.5,
        measures: true,
        loads: &[bulk(Kind::Udp, Path::Link, "0", Rate::Max), ORDINARY_TCP],
    },
    Phase {
        name: "paced",
        share: 0.5,
        measures: false,
        loads: &[
            bulk(Kind::Udp, Path::Link, "0", Rate::OfMeasured(0.5)),
            ordinary(Kind::Udp, Path::Link),
            ORDINARY_TCP,
        ],
    },
];

pub const SOCKETS_ON_LOOPBACK: &[Phase] = &[
    Phase {
        name: "ceiling",
        share: 0.5,
        measures: true,
        loads: &[bulk(Kind::Udp, Path::Loopback, "0", Rate::Max), ORDINARY_TCP],
    },
    Phase {
        name: "paced",
        share: 0.5,
        measures: false,
        loads: &[
            bulk(Kind::Udp, Path::Loopback, "0", Rate::OfMeasured(0.5)),
            ordinary(Kind::Udp, Path::Loopback),
            ORDINARY_TCP,
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_demonstration_fills_its_time_and_measures_before_it_paces() {
        for phases in [XDP, SOCKETS_ON_LINK, SOCKETS_ON_LOOPBACK] {
            let share: f64 = phases.iter().map(|phase| phase.share).sum();
            assert!((share - 1.0).abs() < 1e-9);
            let mut measured = false;
            for phase in phases {
                let relative = phase.loads.iter().any(|load| matches!(load.rate, Rate::OfMeasured(_)));
                assert!(!relative || measured, "{}", phase.name);
                measured |= phase.measures;
            }
        }
    }

    #[test]
    fn the_paced_phase_is_half_the_rate_and_uses_both_queues() {
        let paced = XDP.iter().find(|phase| phase.name == "paced").unwrap();
        let bulk: Vec<&Load> = paced.loads.iter().filter(|load| load.kind == Kind::AfXdp).collect();
        assert_eq!(bulk.len(), 1);
        assert_eq!((bulk[0].rate, bulk[0].queues), (Rate::OfMeasured(0.5), "0:90,1:10"));
    }

    #[test]
    fn kinds_are_found_by_their_names() {
        assert_eq!(Kind::of_name("afxdp"), Some(Kind::AfXdp));
        assert_eq!(Kind::of_name("pigeon"), None);
    }
}
