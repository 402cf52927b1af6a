//! What a run says at its end.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;

use crate::mix::{PRIORITY_COUNT, Tally};

/// One run. Printed as one JSON object, whose keys stay.
///
/// *Sent* means handed over to the kernel, which may still drop it: see `link_dropped`, and the receiver's own counters.
/// On a veth link of one's own, packets sent are packets that arrived plus `link_dropped`, exactly. After a `failure` of
/// AF_XDP, what was handed over and never completed is among the sent as well: see the flows.
/// Well-formed and malformed datagrams are told apart because a receiver refuses a malformed datagram whole, with all its
/// events.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub kind: &'static str,
    /// From the first datagram until the last was handed over.
    pub seconds: f64,
    /// All datagrams, malformed ones included. For TCP, which has none, groups of `events_per_datagram` frames.
    pub sent_datagrams: u64,
    /// Events in well-formed datagrams, duplicates included.
    pub sent_events: u64,
    /// Those of `sent_events` that repeat an earlier event of the same producer.
    pub sent_duplicates: u64,
    pub sent_malformed_datagrams: u64,
    /// Events in malformed datagrams; none of them is in `sent_events`.
    pub events_in_malformed: u64,
    /// `sent_events` by priority, 0 to 4.
    pub sent_by_priority: [u64; PRIORITY_COUNT],
    /// Packets the sender's interface dropped while the run lasted; `null` when no interface was named, or it is gone. The interface
    /// counts everybody's packets: others must not send on it meanwhile.
    pub link_dropped: Option<u64>,
    pub rate_datagrams_per_s: f64,
    pub rate_events_per_s: f64,
    pub bytes_per_datagram: usize,
    /// Datagrams a paced run was to send and did not, because the sender could not keep up.
    pub behind_datagrams: u64,
    /// What each flow (queue, connection or CPU) sent.
    pub flows: Vec<Flow>,
    /// A signal ended the run.
    pub interrupted: bool,
    /// What ended the run before its time.
    pub failure: Option<String>,
}

/// One producer's part.
#[derive(Clone, Debug, Serialize)]
pub struct Flow {
    /// Which queue, connection or CPU.
    pub name: String,
    pub producer: u64,
    /// The sequences sent are 0 to one below this, each at least once.
    pub next_sequence: u64,
    #[serde(flatten)]
    pub counts: FlowCounts,
}

/// A flow's counters, defined as those of the [`Report`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FlowCounts {
    pub sent_datagrams: u64,
    pub sent_events: u64,
    pub sent_duplicates: u64,
    /// Datagrams whose buffer the kernel has given back; `null` where it does not say.
    pub completed_datagrams: Option<u64>,
}

/// What a kind of load hands back.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub flows: Vec<FlowOutcome>,
    pub failure: Option<String>,
}

#[derive(Clone, Debug)]
pub struct FlowOutcome {
    pub name: String,
    pub producer: u64,
    pub next_sequence: u64,
    pub tally: Tally,
    pub completed: Option<u64>,
}

/// Circumstances of a run that its outcome does not know.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    pub kind: &'static str,
    pub elapsed: Duration,
    pub bytes_per_datagram: usize,
    pub behind_datagrams: u64,
    pub link_dropped: Option<u64>,
    pub interrupted: bool,
}

impl Report {
    pub fn new(outcome: Outcome, circumstances: Circumstances) -> Self {
        let mut sum = Tally::default();
        for flow in &outcome.flows {
            sum += flow.tally;
        }
        let seconds = circumstances.elapsed.as_secs_f64();
        Self {
            kind: circumstances.kind,
            seconds,
            sent_datagrams: sum.datagrams,
            sent_events: sum.events,
            sent_duplicates: sum.duplicates,
            sent_malformed_datagrams: sum.malformed_datagrams,
            events_in_malformed: sum.events_in_malformed,
            sent_by_priority: sum.priorities,
            link_dropped: circumstances.link_dropped,
            rate_datagrams_per_s: sum.datagrams as f64 / seconds,
            rate_events_per_s: sum.events as f64 / seconds,
            bytes_per_datagram: circumstances.bytes_per_datagram,
            behind_datagrams: circumstances.behind_datagrams,
            flows: outcome.flows.into_iter().map(Flow::from).collect(),
            interrupted: circumstances.interrupted,
            failure: outcome.failure,
        }
    }
}

impl From<FlowOutcome> for Flow {
    fn from(flow: FlowOutcome) -> Self {
        Self {
            name: flow.name,
            producer: flow.producer,
            next_sequence: flow.next_sequence,
            counts: FlowCounts {
                sent_datagrams: flow.tally.datagrams,
                sent_events: flow.tally.events,
                sent_duplicates: flow.tally.duplicates,
                completed_datagrams: flow.completed,
            },
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        let gigabits = self.rate_datagrams_per_s * self.bytes_per_datagram as f64 * 8.0 / 1e9;
        writeln!(
            text,
            "{}: {} datagrams in {:.2} s, {:.0} a second ({:.0} events a second, {gigabits:.2} Gbit/s of payload)",
            self.kind, self.sent_datagrams, self.seconds, self.rate_datagrams_per_s, self.rate_events_per_s
        )?;
        writeln!(
            text,
            "  {} events, {} of them duplicates, by priority {:?}; {} malformed datagrams with {} events",
            self.sent_events,
            self.sent_duplicates,
            self.sent_by_priority,
            self.sent_malformed_datagrams,
            self.events_in_malformed
        )?;
        match self.link_dropped {
            Some(dropped) => writeln!(text, "  {dropped} dropped by the link")?,
            None => writeln!(text, "  drops of the link unknown")?,
        }
        if self.behind_datagrams > 0 {
            writeln!(text, "  {} datagrams short of the rate asked for", self.behind_datagrams)?;
        }
        if let Some(failure) = &self.failure {
            writeln!(text, "  ended early: {failure}")?;
        }
        formatter.write_str(text.trim_end())
    }
}
