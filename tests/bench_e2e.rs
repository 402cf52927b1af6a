//! The end-to-end benchmark, in small: every contestant receives on a real link or over TCP, and what they say becomes rows.
//! How fast anything is, is of no interest here.

use eventstream_tests::{binaries, skipped, veth};
use xtask::Error;
use xtask::bench::e2e::{Extent, Programs, case, measure};
use xtask::bench::row::Row;
use xtask::run::allowed_cpus;
use xtask::signals::Stop;

/// One round of the case; `None` if that cannot be had here.
fn rows(test: &str, name: &str) -> Option<(Vec<Row>, usize)> {
    let _turn = veth::turn();
    if allowed_cpus().len() < 2 {
        skipped(test, "generator and receiver need a CPU each");
        return None;
    }
    let programs = Programs {
        eventstream: binaries::engine().to_path_buf(),
        blast: binaries::blast().to_path_buf(),
        walk: binaries::walk().to_path_buf(),
        publish: binaries::publish().to_path_buf(),
    };
    let cases = &case::select(name)[..1];
    let extent = Extent { rounds: 1, seconds: 0.2 };
    let (rows, failures) = match measure(&programs, cases, extent, &Stop::default()) {
        Ok(measured) => measured,
        Err(Error::NotPermitted(reason)) => {
            skipped(test, &reason);
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    assert!(failures.is_empty(), "{failures:#?}");
    for row in &rows {
        let against = row.against.map(|against| [against.theirs.median, against.ratio.median]);
        let figures = against.iter().flatten().chain([&row.ours.median]).copied().collect::<Vec<_>>();
        assert!(figures.iter().all(|figure| figure.is_finite() && *figure > 0.0), "{row:?}");
    }
    Some((rows, cases[0].contestants.len() - 1))
}

#[test]
fn every_way_in_is_measured_beside_the_engine() {
    let Some((rows, others)) = rows("every_way_in_is_measured_beside_the_engine", "xdp_23ev") else { return };
    let of = |metric: &str| rows.iter().filter(|row| row.metric == metric).collect::<Vec<_>>();
    for metric in ["throughput", "delivered", "busy", "CPU"] {
        assert_eq!(of(metric).len(), others, "{metric}");
    }
    let theirs = |row: &Row| row.against.expect("it is ours").theirs.median;
    assert!(of("delivered").iter().all(|row| row.ours.median <= 100.0 && theirs(row) <= 100.0));
}

#[test]
fn servers_that_are_installed_are_measured_over_tcp() {
    let Some((rows, others)) = rows("servers_that_are_installed_are_measured_over_tcp", "tcp_1conn") else { return };
    assert_eq!(rows.len(), 4 * others);
    for row in &rows {
        let program = format!("{}-server", row.baseline.to_lowercase());
        assert_eq!(row.against.is_some(), xtask::process::find_program(&program).is_some(), "{row:?}");
    }
}

#[test]
fn however_many_connections_there_are_the_pace_is_the_same() {
    let Some((rows, others)) = rows("however_many_connections_there_are_the_pace_is_the_same", "tcp_10k") else {
        return;
    };
    assert_eq!(rows.len(), 3 * others, "no throughput, which is the load's choice");
}

#[test]
fn how_old_events_are_is_measured_at_a_pace() {
    let Some((rows, others)) = rows("how_old_events_are_is_measured_at_a_pace", "latency_10k") else { return };
    for metric in ["delivered", "busy", "CPU", "p50", "p99"] {
        assert_eq!(rows.iter().filter(|row| row.metric == metric).count(), others, "{metric}");
    }
}
