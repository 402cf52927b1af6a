//! HTTP for machines: `/metrics` for Prometheus, `/report` with the live ledger, `/health`.

use std::fmt::Write;
use std::net::SocketAddr;

use axum::extract::State as Extract;
use axum::routing::get;
use axum::{Json, Router};

use crate::engine::Control;
use crate::metrics::Report;

/// Binds and serves until the task is dropped. Returns the bound address.
pub async fn serve(address: SocketAddr, control: Control) -> Result<SocketAddr, String> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| format!("admin: {address} cannot be bound: {error}"))?;
    let bound = listener.local_addr().map_err(|error| format!("admin: {error}"))?;
    let router = Router::new()
        .route("/metrics", get(|Extract(control): Extract<Control>| async move { prometheus(&control.report()) }))
        .route("/report", get(|Extract(control): Extract<Control>| async move { Json(control.report()) }))
        .route("/health", get(|Extract(control): Extract<Control>| async move { control.state().name() }))
        .with_state(control);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "admin interface ended");
        }
    });
    Ok(bound)
}

/// The report in Prometheus' text format. Only here do counters get their `_total`.
pub fn prometheus(report: &Report) -> String {
    let mut out = String::new();
    let mut counter = |name: &str, labels: &str, value: u64| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "eventstream_{name}_total{labels} {value}");
    };
    let datagrams = &report.ledger.datagrams;
    counter("datagrams_program_runs", "", datagrams.program_runs);
    counter("datagrams_steered", "", datagrams.steered);
    counter("datagrams_refused", "", datagrams.refused);
    counter("datagrams_filtered", "", datagrams.filtered);
    for (reason, count) in &datagrams.passed_reasons {
        counter("datagrams_passed", &format!("{{reason=\"{reason}\"}}"), *count);
    }
    let families = [
        ("datagrams_malformed", &datagrams.malformed),
        ("tcp_frames_malformed", &report.ledger.tcp_frames.malformed),
        ("events_dead_lettered", &report.ledger.events.dead_lettered),
        ("events_lost", &report.ledger.events.lost),
    ];
    for (name, reasons) in families {
        for (reason, count) in reasons {
            counter(name, &format!("{{reason=\"{reason}\"}}"), *count);
        }
    }
    for (name, value) in &report.counters {
        counter(name, "", *value);
    }
    if let Some(dedup) = &report.dedup {
        counter("dedup_ids_evicted_early", "", dedup.evicted_early);
        counter("dedup_events_unremembered", "", dedup.unremembered);
    }
    counter("state_transitions", "", report.state_transitions);
    for runner in &report.runners {
        let labels = format!("{{runner=\"{}\"}}", runner.name);
        counter("runner_busy_ns", &labels, runner.busy_ns);
        counter("runner_elapsed_ns", &labels, runner.elapsed_ns);
    }
    let mut gauge = |name: &str, labels: &str, value: u64| {
        let _ = writeln!(out, "eventstream_{name}{labels} {value}");
    };
    gauge("events_in_flight", "", report.ledger.events.in_flight);
    gauge("acks_outstanding", "", report.ledger.acks.outstanding);
    gauge("dead_letters_held", "", report.ledger.dlq.held);
    gauge("links_stalled", "", report.stalled_links);
    if let Some(dedup) = &report.dedup {
        gauge("dedup_effective_window_ns", "", dedup.effective_window_ns);
        gauge("dedup_ids_occupied", "", dedup.occupied);
    }
    for (link, depth) in &report.depths {
        gauge("queue_depth", &format!("{{link=\"{link}\"}}"), *depth);
    }
    for pool in &report.frames.pools {
        let owner = &pool.owner;
        gauge("frames", &format!("{{pool=\"{owner}\",where=\"free\"}}"), pool.free);
        gauge("frames", &format!("{{pool=\"{owner}\",where=\"kernel\"}}"), pool.kernel);
        gauge("frames", &format!("{{pool=\"{owner}\",where=\"in_flight\"}}"), pool.in_flight);
    }
    for (span, latency) in report.latency_ns.named() {
        let quantiles = [("0.5", latency.p50), ("0.99", latency.p99), ("0.999", latency.p999), ("1", latency.max)];
        for (quantile, value) in quantiles {
            gauge(&format!("{span}_ns"), &format!("{{quantile=\"{quantile}\"}}"), value);
        }
    }
    gauge("rx_is", &format!("{{from=\"{}\"}}", report.latency_ns.rx_is.as_str()), 1);
    let _ = writeln!(out, "eventstream_busy_ns_per_event {:.1}", report.busy_ns_per_event);
    out
}
