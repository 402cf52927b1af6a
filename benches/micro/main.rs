//! Micro benchmarks of the lock-free core, each beside the best crates for the same job, in the same run.
//!
//! ```text
//!   spsc · mpsc ─► transfer   descriptors through a queue, between pinned threads
//!   pool                      slots acquired and released, on one thread and across two
//!   dedup ─► ids, maps        ids claimed in a full table, with expiry
//!        └──────┴──► case     contestants measured in turns, handed to criterion, compared
//! ```
//!
//! `cargo xtask bench micro` runs them and makes the table. Run as a test, every case is passed through once with few
//! operations, and only what comes out is checked.

mod baselines;
mod case;
mod dedup;
mod descriptor;
mod ids;
mod machine;
mod maps;
mod mpsc;
mod pool;
mod spsc;
mod transfer;
mod vyukov;

use std::process::ExitCode;
use std::time::Duration;

use criterion::{Criterion, SamplingMode};
use xtask::bench::row::{self, Row};

use crate::case::{Case, Scale};

/// Where the rows go, as JSON; set by `cargo xtask bench`.
const RESULTS: &str = "EVENTSTREAM_BENCH_RESULTS";
/// Set to anything: fewer and shorter rounds, and a smaller table of ids.
const QUICK: &str = "EVENTSTREAM_BENCH_QUICK";
/// Only cases whose names contain this.
const ONLY: &str = "EVENTSTREAM_BENCH_ONLY";

fn main() -> ExitCode {
    let scale = Scale::of_process(QUICK);
    if let Err(lack) = machine::has_memory(dedup::bytes_needed(scale)) {
        eprintln!("micro: {lack}");
        return ExitCode::from(2);
    }
    let mut criterion = Criterion::default()
        .sample_size(scale.samples())
        .warm_up_time(case::WARM_UP)
        .measurement_time(Duration::from_secs(1))
        .nresamples(2_000)
        .configure_from_args();
    let mut rows = Vec::new();
    let cases = [spsc::cases, mpsc::cases, pool::cases, dedup::cases];
    let mut count = 0;
    let only = std::env::var(ONLY).unwrap_or_default();
    for case in cases.iter().flat_map(|cases| cases(scale)).filter(|case| case.name.contains(&only)) {
        count += 1;
        rows.extend(measure(&mut criterion, &case));
    }
    criterion.final_summary();
    if scale == Scale::Test {
        // In the words of other test programs, for who counts them.
        println!("\ntest result: ok. {count} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
    }
    match std::env::var_os(RESULTS).map(|path| std::fs::write(&path, row::to_json(&rows)).map_err(|e| (path, e))) {
        Some(Err((path, error))) => {
            eprintln!("micro: {}: {error}", path.display());
            ExitCode::from(1)
        }
        _ if count == 0 => {
            eprintln!("micro: no case is called anything with `{only}`");
            ExitCode::from(2)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Lets criterion take its samples of every contestant, and compares what the rounds took.
fn measure(criterion: &mut Criterion, case: &Case) -> Vec<Row> {
    let turns = case.turns();
    let mut group = criterion.benchmark_group(case.name);
    group.sampling_mode(SamplingMode::Flat).throughput(criterion::Throughput::Elements(case::OPERATIONS));
    for (index, contestant) in case.contestants.iter().enumerate() {
        let sample = |iterations| turns.borrow_mut().sample(index, iterations);
        group.bench_function(*contestant, |bencher| bencher.iter_custom(sample));
    }
    group.finish();
    case.rows(&turns.borrow())
}
