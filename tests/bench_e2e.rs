//! The end-to-end benchmark, in small: every contestant receives on a real link, and what they say becomes rows. How fast
//! anything is, is of no interest here.

use eventstream_tests::{binaries, skipped, veth};
use xtask::Error;
use xtask::bench::e2e::{Extent, Programs, case, measure};
use xtask::run::allowed_cpus;
use xtask::signals::Stop;

#[test]
fn every_way_in_is_measured_beside_the_engine() {
    const TEST: &str = "every_way_in_is_measured_beside_the_engine";
    let _turn = veth::turn();
    if allowed_cpus().len() < 2 {
        skipped(TEST, "generator and receiver need a CPU each");
        return;
    }
    let programs = Programs {
        eventstream: binaries::engine().to_path_buf(),
        blast: binaries::blast().to_path_buf(),
        walk: binaries::walk().to_path_buf(),
    };
    let cases = &case::select("xdp_23ev")[..1];
    let extent = Extent { rounds: 1, seconds: 0.2 };
    let (rows, failures) = match measure(&programs, cases, extent, &Stop::default()) {
        Ok(measured) => measured,
        Err(Error::NotPermitted(reason)) => {
            skipped(TEST, &reason);
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert!(failures.is_empty(), "{failures:#?}");
    let of = |metric: &str| rows.iter().filter(|row| row.metric == metric).collect::<Vec<_>>();
    for metric in ["throughput", "delivered", "busy", "CPU"] {
        assert_eq!(of(metric).len(), cases[0].contestants.len() - 1, "{metric}");
    }
    for row in &rows {
        let figures = [row.ours.median, row.theirs.median, row.ratio.median];
        assert!(figures.iter().all(|figure| figure.is_finite() && *figure > 0.0), "{row:?}");
    }
    assert!(of("delivered").iter().all(|row| row.ours.median <= 100.0 && row.theirs.median <= 100.0));
}
