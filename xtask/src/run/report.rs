//! The engine's report against what the load says it has sent.
//!
//! The engine knows what reached it; only the senders and the link know the rest. Both together attribute every datagram:
//! what was sent equals what the link dropped, what the kernel dropped on the way to the engine, and what it validated.

use serde_json::{Value, json};

use super::load::Sent;

/// Counters of the ledger at one moment, summed over queues and reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    pub program_runs: u64,
    pub refused: u64,
    pub socket_received: u64,
    pub socket_dropped: u64,
    pub truncated: u64,
    pub rx_dropped: u64,
    pub rx_ring_full: u64,
    pub redirect_failed: u64,
    pub parsed: u64,
    pub malformed: u64,
    pub accepted: u64,
    pub processed: u64,
    pub duplicate: u64,
    pub dead_lettered: u64,
    pub lost: u64,
    pub in_flight: u64,
    pub bits: f64,
    /// Of all runners: the time they have run, and how much of it went into rounds that found work.
    pub elapsed_ns: u64,
    pub busy_ns: u64,
}

/// Adds up every number below a value: a counter, or counters by reason, class or queue.
fn sum(value: &Value) -> u64 {
    match value {
        Value::Number(number) => number.as_u64().unwrap_or(0),
        Value::Object(map) => map.values().map(sum).sum(),
        Value::Array(list) => list.iter().map(sum).sum(),
        _ => 0,
    }
}

impl Totals {
    pub fn of(report: &Value) -> Self {
        let ledger = &report["ledger"];
        let datagrams = &ledger["datagrams"];
        let kernel = &datagrams["kernel"];
        let events = &ledger["events"];
        let runners = |key: &str| {
            let runners = report["runners"].as_array();
            runners.map_or(0, |runners| runners.iter().map(|runner| sum(&runner[key])).sum())
        };
        Totals {
            program_runs: sum(&datagrams["program_runs"]),
            refused: sum(&datagrams["refused"]),
            socket_received: sum(&datagrams["socket_received"]),
            socket_dropped: sum(&datagrams["socket_dropped"]),
            truncated: sum(&datagrams["truncated"]),
            rx_dropped: sum(&kernel["rx_dropped"]),
            rx_ring_full: sum(&kernel["rx_ring_full"]),
            redirect_failed: sum(&kernel["redirect_failed"]),
            parsed: sum(&datagrams["parsed"]),
            malformed: sum(&datagrams["malformed"]),
            accepted: sum(&events["accepted"]),
            processed: sum(&events["processed"]),
            duplicate: sum(&events["duplicate"]),
            dead_lettered: sum(&events["dead_lettered"]),
            lost: sum(&events["lost"]),
            in_flight: sum(&events["in_flight"]),
            // The engine's rates are means over its run so far.
            bits: report["rates"]["bits_per_s"].as_f64().unwrap_or(0.0) * report["seconds"].as_f64().unwrap_or(0.0),
            elapsed_ns: runners("elapsed_ns"),
            busy_ns: runners("busy_ns"),
        }
    }

    pub fn since(&self, earlier: &Totals) -> Totals {
        let less = |now: u64, before: u64| now.saturating_sub(before);
        Totals {
            program_runs: less(self.program_runs, earlier.program_runs),
            refused: less(self.refused, earlier.refused),
            socket_received: less(self.socket_received, earlier.socket_received),
            socket_dropped: less(self.socket_dropped, earlier.socket_dropped),
            truncated: less(self.truncated, earlier.truncated),
            rx_dropped: less(self.rx_dropped, earlier.rx_dropped),
            rx_ring_full: less(self.rx_ring_full, earlier.rx_ring_full),
            redirect_failed: less(self.redirect_failed, earlier.redirect_failed),
            parsed: less(self.parsed, earlier.parsed),
            malformed: less(self.malformed, earlier.malformed),
            accepted: less(self.accepted, earlier.accepted),
            processed: less(self.processed, earlier.processed),
            duplicate: less(self.duplicate, earlier.duplicate),
            dead_lettered: less(self.dead_lettered, earlier.dead_lettered),
            lost: less(self.lost, earlier.lost),
            // A level and no count: what is still there now.
            in_flight: self.in_flight,
            bits: (self.bits - earlier.bits).max(0.0),
            elapsed_ns: less(self.elapsed_ns, earlier.elapsed_ns),
            busy_ns: less(self.busy_ns, earlier.busy_ns),
        }
    }

    /// The share of the runners' time in which they found work.
    fn busy_share(&self) -> f64 {
        self.busy_ns as f64 / self.elapsed_ns.max(1) as f64
    }

    /// What an event took of that time.
    fn busy_ns_per_event(&self) -> f64 {
        self.busy_ns as f64 / self.accepted.max(1) as f64
    }

    /// Datagrams the XDP program sent to a socket that had no room for them.
    pub fn redirects_failed(&self) -> u64 {
        self.rx_dropped + self.rx_ring_full + self.redirect_failed
    }

    /// Where datagrams can go that reach neither the parser nor the engine's own books of malformed ones.
    fn lost_datagrams(&self) -> [(&'static str, u64); 6] {
        [
            ("rx_dropped", self.rx_dropped),
            ("rx_ring_full", self.rx_ring_full),
            ("redirect_failed", self.redirect_failed),
            ("refused", self.refused),
            ("socket_dropped", self.socket_dropped),
            ("truncated", self.truncated),
        ]
    }
}

/// One phase of a run, measured.
#[derive(Clone, Debug)]
pub struct PhaseResult {
    pub name: String,
    pub sent: Sent,
    /// The engine's books over this phase.
    pub engine: Totals,
}

impl PhaseResult {
    /// Datagrams that were sent and are in no book. Negative: the engine has seen more than the load says it sent.
    pub fn unattributed_datagrams(&self) -> i64 {
        let known = self.sent.link_dropped
            + self.engine.parsed
            + self.engine.malformed
            + self.engine.lost_datagrams().iter().map(|(_, count)| count).sum::<u64>();
        difference(self.sent.datagrams, known)
    }

    /// Events that were sent and not accepted. Known only when every datagram arrived whole: what was in the others the
    /// engine cannot know.
    pub fn unattributed_events(&self) -> Option<i64> {
        let lost = self.sent.link_dropped + self.engine.lost_datagrams().iter().map(|(_, count)| count).sum::<u64>();
        (lost == 0 && self.engine.malformed == 0).then(|| difference(self.sent.events, self.engine.accepted))
    }

    pub fn to_json(&self) -> Value {
        let per_second = |count: f64| {
            if self.sent.seconds > 0.0 { count / self.sent.seconds } else { 0.0 }
        };
        let engine = &self.engine;
        let mut loss = json!({
            "link_dropped": self.sent.link_dropped, "dead_lettered": engine.dead_lettered, "lost": engine.lost,
        });
        for (place, count) in engine.lost_datagrams() {
            loss[place] = count.into();
        }
        json!({
            "name": self.name,
            "seconds": self.sent.seconds,
            "rates": {
                "datagrams_per_s": per_second(engine.parsed as f64),
                "events_per_s": per_second(engine.processed as f64),
                "bits_per_s": per_second(engine.bits),
            },
            "busy_share": engine.busy_share(),
            "busy_ns_per_event": engine.busy_ns_per_event(),
            "loss": loss,
            "load": self.sent.to_json(),
            "events": {
                "accepted": engine.accepted, "processed": engine.processed, "duplicate": engine.duplicate,
                "malformed_datagrams": engine.malformed,
            },
            "unattributed": {"datagrams": self.unattributed_datagrams(), "events": self.unattributed_events()},
        })
    }
}

fn difference(larger: u64, smaller: u64) -> i64 {
    larger as i64 - smaller as i64
}

/// Adds to the engine's report what only we know. Without load of ours there is nothing to say about what was sent.
pub fn merge(mut report: Value, load: Option<&Sent>, phases: &[PhaseResult]) -> Value {
    if let Some(load) = load {
        report["load"] = load.to_json();
        report["phases"] = phases.iter().map(PhaseResult::to_json).collect();
    }
    report
}

pub fn is_balanced(report: &Value) -> bool {
    report["ledger"]["balanced"] == Value::Bool(true)
}

/// What was sent and what became of it, a line a place, for every phase.
pub fn table(phases: &[PhaseResult]) -> String {
    let mut text = String::new();
    for phase in phases {
        let (sent, engine) = (&phase.sent, &phase.engine);
        let rate = if sent.seconds > 0.0 { engine.processed as f64 / sent.seconds / 1e6 } else { 0.0 };
        text.push_str(&format!(
            "\n{}: {:.1} s, {rate:.2} million events/s handled, busy {:.0}%, {:.1} ns an event\n",
            phase.name,
            sent.seconds,
            engine.busy_share() * 100.0,
            engine.busy_ns_per_event(),
        ));
        let mut line = |what: &str, count: i64, always: bool| {
            if always || count != 0 {
                text.push_str(&format!("  {what:<44} {:>16}\n", grouped(count)));
            }
        };
        line("datagrams sent", sent.datagrams as i64, true);
        line("  dropped by the link before the engine", sent.link_dropped as i64, false);
        for (place, count) in engine.lost_datagrams() {
            line(&format!("  {place}"), count as i64, false);
        }
        line("  malformed", engine.malformed as i64, false);
        line("  parsed", engine.parsed as i64, true);
        line("  not attributed", phase.unattributed_datagrams(), true);
        line("events sent, over TCP as well", sent.events as i64, true);
        line("  accepted", engine.accepted as i64, true);
        line("    handled", engine.processed as i64, true);
        line("    duplicate", engine.duplicate as i64, false);
        line("    dead-lettered", engine.dead_lettered as i64, false);
        line("    lost", engine.lost as i64, false);
        line("    still in flight", engine.in_flight as i64, false);
        match phase.unattributed_events() {
            Some(count) => line("  not attributed", count, true),
            None => text.push_str("  the rest were in the datagrams dropped before they could be counted\n"),
        }
    }
    text
}

/// 1234567 as 1,234,567.
fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(parsed: u64, accepted: u64, rx_dropped: u64, bits_per_s: f64, seconds: f64) -> Value {
        json!({
            "seconds": seconds,
            "rates": {"bits_per_s": bits_per_s},
            "runners": [{"elapsed_ns": parsed * 10, "busy_ns": parsed * 4}, {"elapsed_ns": parsed * 10, "busy_ns": parsed}],
            "ledger": {
                "balanced": true,
                "datagrams": {
                    "program_runs": parsed + rx_dropped, "parsed": parsed, "malformed": {"trailing": 1, "empty": 2},
                    "kernel": {"rx_dropped": rx_dropped, "fill_ring_empty": rx_dropped},
                },
                "events": {
                    "accepted": accepted, "processed": {"realtime": 2, "transactional": 3, "batch": 5},
                    "dead_lettered": {"link_full": 4}, "lost": {}, "duplicate": 6, "in_flight": 0,
                },
            },
        })
    }

    fn phase(sent: Sent, engine: Totals) -> PhaseResult {
        PhaseResult { name: "paced".into(), sent, engine }
    }

    #[test]
    fn counters_by_reason_and_class_are_summed_and_explanations_left_out() {
        let totals = Totals::of(&ledger(100, 20, 7, 1000.0, 2.0));
        assert_eq!((totals.malformed, totals.processed, totals.dead_lettered), (3, 10, 4));
        assert_eq!(totals.lost_datagrams().iter().map(|(_, count)| count).sum::<u64>(), 7);
        assert_eq!(totals.bits, 2000.0);
        assert_eq!(Totals::of(&Value::Null), Totals::default());
    }

    #[test]
    fn a_phase_is_the_difference_of_two_moments() {
        let before = Totals::of(&ledger(100, 20, 7, 1000.0, 2.0));
        let after = Totals::of(&ledger(350, 90, 9, 2000.0, 4.0));
        let phase = after.since(&before);
        assert_eq!((phase.parsed, phase.accepted, phase.rx_dropped, phase.processed), (250, 70, 2, 0));
        assert_eq!(phase.bits, 6000.0);
        assert_eq!((phase.elapsed_ns, phase.busy_ns), (5000, 1250));
        assert_eq!((phase.busy_share(), phase.busy_ns_per_event()), (0.25, 1250.0 / 70.0));
    }

    #[test]
    fn every_datagram_is_attributed_or_said_to_be_missing() {
        let sent = Sent { datagrams: 100, link_dropped: 5, events: 230, seconds: 2.0, ..Sent::default() };
        let engine = Totals { parsed: 80, malformed: 5, rx_dropped: 9, processed: 46, ..Totals::default() };
        let result = phase(sent, engine);
        assert_eq!(result.unattributed_datagrams(), 1);
        assert_eq!(result.unattributed_events(), None);
        let json = result.to_json();
        assert_eq!(json["loss"]["link_dropped"], 5);
        assert_eq!(json["loss"]["rx_dropped"], 9);
        assert_eq!(json["rates"]["events_per_s"], 23.0);
        assert!(table(&[result]).contains("not attributed"));
    }

    #[test]
    fn a_phase_without_loss_accounts_for_its_events() {
        let sent = Sent { datagrams: 10, events: 230, seconds: 1.0, ..Sent::default() };
        let engine = Totals { parsed: 10, accepted: 230, processed: 228, duplicate: 2, ..Totals::default() };
        assert_eq!(phase(sent, engine).unattributed_events(), Some(0));
    }

    #[test]
    fn the_engines_report_is_kept_and_added_to() {
        let engine = ledger(1, 1, 0, 0.0, 1.0);
        let sent = Sent { datagrams: 3, events: 4, link_dropped: 2, ..Sent::default() };
        let merged = merge(engine.clone(), Some(&sent), &[phase(sent, Totals::default())]);
        assert_eq!(merged["ledger"], engine["ledger"]);
        assert_eq!(merged["load"]["sent_datagrams"], 3);
        assert_eq!(merged["load"]["link_dropped"], 2);
        assert_eq!(merged["phases"][0]["name"], "paced");
        assert!(is_balanced(&merged));
        assert_eq!(merge(engine.clone(), None, &[]), engine);
        assert!(!is_balanced(&Value::Null));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(-1234567), "-1,234,567");
    }
}
