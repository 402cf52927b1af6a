//! What a person sees: a line a second, and the ledger as a table at the end.

use std::fmt::Write;

use crate::metrics::{ByReason, Report, RunnerReport, Rx};

/// Prints what happened between two reports.
#[derive(Debug, Default)]
pub struct StatusLine {
    last: Option<(f64, Totals)>,
    loads: Loads,
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    datagrams: u64,
    events: u64,
    bytes: u64,
    drops: u64,
}

/// Busy and elapsed time of each runner.
type Loads = Vec<(u64, u64)>;

/// The share of its time that the busiest runner was busy between two looks, in percent.
fn busiest(now: &Loads, before: &Loads) -> u64 {
    let share = |(index, (busy, elapsed)): (usize, &(u64, u64))| {
        let (busy_before, elapsed_before) = before.get(index).copied().unwrap_or_default();
        busy.saturating_sub(busy_before) * 100 / elapsed.saturating_sub(elapsed_before).max(1)
    };
    now.iter().enumerate().map(share).max().unwrap_or(0).min(100)
}

fn total(reasons: &ByReason) -> u64 {
    reasons.values().sum()
}

/// `1234567` as `1.23M`.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2}G", v / 1e9),
        v if v >= 1e6 => format!("{:.2}M", v / 1e6),
        v if v >= 1e4 => format!("{:.1}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

fn micros(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1e3)
}

impl StatusLine {
    /// The line for this report; rates are since the last one.
    pub fn next(&mut self, report: &Report) -> String {
        let ledger = &report.ledger;
        let kernel = &ledger.datagrams.kernel;
        let now = Totals {
            datagrams: ledger.datagrams.consumed + ledger.datagrams.socket_received,
            events: ledger.events.processed.total() + ledger.events.duplicate,
            bytes: report.counters.get("bytes_received").copied().unwrap_or(0),
            drops: kernel.rx_dropped
                + kernel.rx_ring_full
                + kernel.redirect_failed
                + ledger.datagrams.socket_dropped
                + total(&ledger.events.lost),
        };
        let (then, before) = self.last.replace((report.seconds, now)).unwrap_or_default();
        let seconds = (report.seconds - then).max(1e-3);
        let rate = |now: u64, before: u64| short(now.saturating_sub(before) as f64 / seconds);
        let queued: u64 = report.depths.values().sum();
        let pool = &report.frames;
        let latency = &report.latency_ns.rx_to_handler;
        let loads = report.runners.iter().map(|runner| (runner.busy_ns, runner.elapsed_ns)).collect();
        let busy = busiest(&loads, &self.loads);
        self.loads = loads;
        format!(
            "{:>5.0}s {:<9} {:>7} dgram/s {:>7} events/s {:>6.2} Gbit/s  queued {:>6}  frames {:>3}% free  drops {:>7}/s  dead {:>6}  busy {:>3}%  rx→handler p50 {} p99 {} µs",
            report.seconds,
            report.state,
            rate(now.datagrams, before.datagrams),
            rate(now.events, before.events),
            now.bytes.saturating_sub(before.bytes) as f64 * 8.0 / 1e9 / seconds,
            queued,
            (pool.free + pool.kernel) * 100 / pool.slots.max(1),
            rate(now.drops, before.drops),
            short(total(&ledger.events.dead_lettered) as f64),
            busy,
            micros(latency.p50),
            micros(latency.p99),
        )
    }
}

/// The closing table: every datagram and event in one row.
pub fn ledger_table(report: &Report) -> String {
    let mut table = Table::default();
    let (d, t, e) = (&report.ledger.datagrams, &report.ledger.tcp_frames, &report.ledger.events);
    table.head("datagrams seen by the XDP program", d.program_runs);
    table.row("steered into AF_XDP", d.steered);
    table.rows("passed to the kernel: ", d.passed_reasons.iter().map(|(k, v)| (k.as_str(), *v)));
    table.row("refused (paused or draining)", d.refused);
    table.row("filtered (bad checksum)", d.filtered);
    table.head("of those steered", d.steered);
    table.row("consumed", d.consumed);
    table.row("lost in the kernel: rx_dropped", d.kernel.rx_dropped);
    table.row("lost in the kernel: rx_ring_full", d.kernel.rx_ring_full);
    table.row("lost in the kernel: redirect_failed", d.kernel.redirect_failed);
    table.note("fill ring empty, in explanation", d.kernel.fill_ring_empty);
    table.head("datagrams from the kernel socket", d.socket_received);
    table.note("dropped there by the kernel", d.socket_dropped);
    table.note("of these, while paused or draining", d.socket_refused);
    table.note("truncated", d.truncated);
    table.head("datagrams taken in", d.consumed + d.socket_received);
    table.row("parsed", d.parsed);
    table.rows("malformed: ", d.malformed.iter().map(|(k, v)| (*k, *v)));
    table.head("TCP frames", t.found);
    table.row("accepted", t.accepted);
    table.row("control", t.control);
    table.rows("malformed: ", t.malformed.iter().map(|(k, v)| (*k, *v)));
    table.head("events accepted", e.accepted);
    table.row("processed realtime", e.processed.realtime);
    table.row("processed transactional", e.processed.transactional);
    table.row("processed batch", e.processed.batch);
    table.row("duplicate", e.duplicate);
    table.note("ids forgotten before their window", report.dedup.map_or(0, |dedup| dedup.evicted_early));
    table.rows("dead-lettered: ", e.dead_lettered.iter().map(|(k, v)| (*k, *v)));
    table.rows("lost: ", e.lost.iter().map(|(k, v)| (*k, *v)));
    table.row("in flight", e.in_flight);
    table.note("links whose worker stands still", report.stalled_links);
    let acks = &report.ledger.acks;
    if acks.asked > 0 {
        table.head("acknowledgements asked for", acks.asked);
        table.row("sent", acks.sent);
        table.row("undeliverable", acks.undeliverable);
        table.row("outstanding", acks.outstanding);
    }
    let subscriptions = &report.ledger.subscriptions;
    if subscriptions.matched + subscriptions.overflowed > 0 {
        table.head("events for subscriptions", subscriptions.matched + subscriptions.redelivered);
        table.row("delivered", subscriptions.delivered);
        table.rows("dropped: ", subscriptions.dropped.iter().map(|(k, v)| (*k, *v)));
        table.row("waiting", subscriptions.waiting);
        table.note("left out, as the sender had no room", subscriptions.overflowed);
    }
    table.head("dead letters held", report.ledger.dlq.held);
    table.note("evicted to make room", report.ledger.dlq.evicted);
    let mut out = table.0;
    let _ = writeln!(out, "balanced: {}", report.ledger.balanced);
    for imbalance in &report.ledger.imbalances {
        let _ = writeln!(out, "  {imbalance}");
    }
    out
}

/// The closing table of times: how long events waited, and what they cost.
pub fn time_table(report: &Report) -> String {
    let latency = &report.latency_ns;
    let mut out = format!("{:<44}{:>10}{:>10}{:>10}{:>10}\n", "time in µs", "p50", "p99", "p99.9", "max");
    for (name, span) in latency.named() {
        let mut name = name.replace("_to_", " to ");
        if name == "rx to handler" && latency.rx_is == Rx::Consumed {
            name += " (rx = consumed: no stamps)";
        }
        let [p50, p99, p999, max] = [span.p50, span.p99, span.p999, span.max].map(micros);
        let _ = writeln!(out, "  {name:<42}{p50:>10}{p99:>10}{p999:>10}{max:>10}");
    }
    for RunnerReport { name, busy_share, busy_ns_per_event, .. } in &report.runners {
        let what = format!("runner {name} busy");
        let _ = writeln!(out, "{what:<44}{:>9.1}%{busy_ns_per_event:>10.1} ns an event", busy_share * 100.0);
    }
    out
}

/// Rows of zero are left out, heads and what is under them are not.
#[derive(Default)]
struct Table(String);

impl Table {
    fn head(&mut self, what: &str, count: u64) {
        let _ = writeln!(self.0, "{what:<44}{count:>18}");
    }

    fn row(&mut self, what: &str, count: u64) {
        if count > 0 {
            let _ = writeln!(self.0, "  {what:<42}{count:>18}");
        }
    }

    fn rows<'a>(&mut self, prefix: &str, reasons: impl Iterator<Item = (&'a str, u64)>) {
        reasons.for_each(|(reason, count)| self.row(&format!("{prefix}{reason}"), count));
    }

    /// Said beside the equations, part of none.
    fn note(&mut self, what: &str, count: u64) {
        self.row(&format!("({what})"), count);
    }
}
