//! `cargo xtask bench e2e`: the engine beside what one would otherwise do, on a veth link of its own, and over TCP on
//! loopback.
//!
//! ```text
//!   case ─► round      one measurement, of datagrams over the link
//!            ├ stream  or of messages over TCP, to the engine or to others' servers (server)
//!            ├ engine  the engine as a receiver
//!            └ child   a program that takes part
//!   chart  rows as pictures
//! ```
//!
//! A round measures every contestant of a case once, in turns, each with a receiver of its own and the same load from
//! another CPU. What is compared are the figures within a round.

pub mod case;
mod chart;
mod child;
mod engine;
mod round;
mod server;
mod stream;

use std::fs;
use std::path::{Path, PathBuf};

use self::case::{Case, Contestant, Receiver};
use self::round::{Place, Round};
use super::row::{self, Better, Row};
use super::setting::Setting;
use super::{Arguments, section, table};
use crate::process::{cargo, target_directory, tool, visible, workspace_root};
use crate::run::{allowed_cpus, left_cpu, producer};
use crate::signals::Stop;
use crate::testbed::{Link, Options, Testbed};
use crate::{Error, Result, process, setup};

/// The programs a measurement needs.
#[derive(Clone, Debug)]
pub struct Programs {
    pub eventstream: PathBuf,
    pub blast: PathBuf,
    pub walk: PathBuf,
    pub publish: PathBuf,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub rounds: usize,
    pub seconds: f64,
}

/// Where the charts are, from the workspace's root.
const CHARTS: &str = "benches/charts";

const FULL: Extent = Extent { rounds: 5, seconds: 1.5 };
const QUICK: Extent = Extent { rounds: 2, seconds: 0.5 };

/// The generator's CPU does the receiver's softirqs as well; the receiver has its own to itself.
#[derive(Clone, Copy, Debug)]
pub struct Cpus {
    generator: usize,
    receiver: usize,
}

impl Cpus {
    /// The generator has the one that the engine would leave to who waits for the disk.
    fn chosen(programs: &Programs, folder: &Path) -> Result<Self> {
        let file = folder.join("topology.yaml");
        let config = format!("storage: {{directory: {}}}\n", folder.join("data").display());
        fs::write(&file, config).map_err(|error| Error::of_io(&file.to_string_lossy(), &error))?;
        let generator = left_cpu(&programs.eventstream, &file)?;
        match allowed_cpus().into_iter().find(|cpu| *cpu != generator) {
            Some(receiver) => Ok(Self { generator, receiver }),
            None => Err(Error::failed("generator and receiver need a CPU each, and there is only one")),
        }
    }
}

/// A figure of every measurement.
struct Metric {
    name: &'static str,
    unit: &'static str,
    better: Better,
    /// `None` where it means nothing.
    of: fn(&Round) -> Option<f64>,
}

const METRICS: &[Metric] = &[
    Metric { name: "throughput", unit: "M/s", better: Better::More, of: |round| round.throughput },
    Metric { name: "delivered", unit: "%", better: Better::More, of: |round| Some(round.delivered) },
    Metric { name: "busy", unit: "%", better: Better::Less, of: |round| Some(round.busy) },
    Metric { name: "CPU", unit: "ns/event", better: Better::Less, of: |round| Some(round.cpu) },
    Metric { name: "p50", unit: "µs", better: Better::Less, of: |round| Some(round.latency?.p50) },
    Metric { name: "p99", unit: "µs", better: Better::Less, of: |round| Some(round.latency?.p99) },
    Metric { name: "records a sync", unit: "", better: Better::More, of: |round| round.together },
];

pub fn run(arguments: &Arguments) -> Result<()> {
    let cases = case::select(arguments.only.as_deref().unwrap_or_default());
    if cases.is_empty() {
        let names: Vec<&str> = case::CASES.iter().map(|case| case.name).collect();
        return Err(Error::failed(format!("--only: no case has that in its name; there are {}", names.join(", "))));
    }
    setup::ensure(setup::Purpose::Run)?;
    let programs = build()?;
    // Taken before the run, whose own load it would otherwise show.
    let setting = Setting::of_machine().beside(others(&cases));
    let stop = Stop::on_signals()?;
    let (rows, failures) = measure(&programs, &cases, if arguments.quick { QUICK } else { FULL }, &stop)?;
    println!("\n{setting}\n{}", table::for_terminal(&rows));
    if let Some(path) = &arguments.json {
        fs::write(path, row::to_json(&rows)).map_err(|error| Error::of_io(&path.to_string_lossy(), &error))?;
    }
    if !failures.is_empty() {
        return Err(Error::failed(failures.join("; ")));
    }
    if arguments.readme {
        let charts = chart::write(&workspace_root().join(CHARTS), CHARTS, &rows)?;
        section::E2E.write(&setting, &rows, &charts)?;
    }
    Ok(())
}

/// Others' servers in these cases, with their versions.
fn others(cases: &[&Case]) -> Vec<String> {
    let mut others: Vec<String> =
        cases.iter().flat_map(|case| stream::servers(case.contestants)).map(|server| server.described()).collect();
    others.dedup();
    others
}

fn build() -> Result<Programs> {
    println!("Building the engine, the load generator and the receivers.");
    let mut command = cargo();
    command.args(["build", "--release", "--package", "eventstream", "--bin", "eventstream"]);
    command.args(["--package", "eventstream-benches", "--bin", "blast", "--bin", "walk", "--bin", "publish"]);
    visible(&mut command)?;
    let folder = target_directory()?.join("release");
    let program = |name: &str| folder.join(name);
    Ok(Programs {
        eventstream: program("eventstream"),
        blast: program("blast"),
        walk: program("walk"),
        publish: program("publish"),
    })
}

/// Rows of the cases that could be measured, and why the others could not.
pub fn measure(programs: &Programs, cases: &[&Case], extent: Extent, stop: &Stop) -> Result<(Vec<Row>, Vec<String>)> {
    let testbed = Testbed::create(&Options::bench())?;
    prepare(&testbed)?;
    let folder = Folder::create(&testbed)?;
    let cpus = Cpus::chosen(programs, &folder.0)?;
    let place = Place { programs, link: &testbed, cpus, folder: folder.0.clone(), stop };
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (number, case) in cases.iter().enumerate() {
        let extent = case.extent(extent);
        println!("{}: {} rounds of {}", case.name, extent.rounds, case.contestants.len());
        match rounds(&place, case, extent, number) {
            Ok(rounds) => rows.extend(compare(case, &rounds)),
            Err(error) => failures.push(format!("{}: {error}", case.name)),
        }
        if stop.requested() {
            break;
        }
    }
    Ok((rows, failures))
}

/// In-kernel frames are taken by a veth end only that polls: one with an XDP program or, for the kernel's sockets, GRO.
fn prepare(link: &Link) -> Result<()> {
    process::capture(tool("ethtool").args(["-K", &link.iface, "gro", "on"])).map(drop)
}

/// Whether it has to be left out, being another's and not installed.
fn is_absent(contestant: &Contestant) -> bool {
    matches!(contestant.receiver, Receiver::Server(server) if server.program().is_none())
}

/// The figures of each contestant, round by round; none of one that is absent.
fn rounds(place: &Place, case: &Case, extent: Extent, number: usize) -> Result<Vec<Vec<Round>>> {
    let count = case.contestants.len();
    let mut rounds = vec![Vec::new(); count];
    for turn in 0..extent.rounds {
        // Beginning with another one each time: who comes first after a pause may find another machine.
        for index in (0..count).map(|step| (turn + step) % count) {
            let contestant = &case.contestants[index];
            if is_absent(contestant) {
                continue;
            }
            let producer = producer(number, turn);
            let round = place
                .measure(case, contestant, extent.seconds, producer)
                .map_err(|error| Error::failed(format!("{}: {error}", contestant.name)))?;
            rounds[index].push(round);
        }
    }
    Ok(rounds)
}

fn compare(case: &Case, rounds: &[Vec<Round>]) -> Vec<Row> {
    let mut rows = Vec::new();
    for metric in METRICS {
        let values = |index: usize| rounds[index].iter().filter_map(metric.of).collect::<Vec<_>>();
        let ours = values(0);
        if ours.is_empty() {
            continue;
        }
        for (index, contestant) in case.contestants.iter().enumerate().skip(1) {
            let what = (case.name, metric.name, metric.unit);
            rows.push(Row::of_rounds(what, &ours, contestant.name, &values(index), metric.better));
        }
    }
    rows
}

/// Named by the testbed, so that what a killed run left is found and replaced by the next of that name.
struct Folder(PathBuf);

impl Folder {
    fn create(link: &Link) -> Result<Self> {
        let path = std::env::temp_dir().join(&link.namespace);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).map_err(|error| Error::of_io(&path.to_string_lossy(), &error))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(throughput: Option<f64>, cpu: f64) -> Round {
        Round { throughput, delivered: 50.0, busy: 100.0, cpu, latency: None, together: None }
    }

    #[test]
    fn less_is_better_for_what_costs() {
        let case = case::by_name("topics_23ev");
        let rounds = [(30.0, 20.0), (10.0, 60.0), (60.0, 10.0)].map(|(rate, cpu)| vec![round(Some(rate), cpu)]);
        let rows = compare(case, &rounds);
        assert_eq!(rows.len(), 4 * 2, "no latencies");
        let ratio = |metric: &str, baseline: &str| {
            let row = rows.iter().find(|row| row.metric == metric && row.baseline == baseline).unwrap();
            row.against.unwrap().ratio.median
        };
        assert_eq!((ratio("throughput", "1 topic"), ratio("CPU", "1 topic")), (3.0, 3.0));
        assert_eq!((ratio("throughput", "1 k topics"), ratio("CPU", "1 k topics")), (0.5, 0.5));
        assert_eq!(ratio("delivered", "1 topic"), 1.0);
    }

    #[test]
    fn what_is_absent_is_in_every_row_and_what_means_nothing_in_none() {
        let rows = compare(case::by_name("tcp_1conn"), &[vec![round(None, 20.0)], vec![], vec![round(None, 10.0)]]);
        assert_eq!(rows.len(), 3 * 2);
        assert!(rows.iter().all(|row| row.metric != "throughput"));
        assert!(rows.iter().all(|row| (row.baseline == "NATS") == row.against.is_none()), "{rows:?}");
    }
}
