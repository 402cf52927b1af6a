//! `eventstream log`: the event log of a data directory.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::log_export::{Export, Import};
use super::{Verdict, locked, printed, time};
use crate::storage::directory::DataDirectory;
use crate::storage::disk;
use crate::storage::format::LetterQueue;
use crate::storage::log::{Findings, Survey, Trust};

#[derive(Subcommand)]
pub enum LogCommand {
    /// Says what each stream holds, and what was found wrong with it.
    Info {
        #[command(flatten)]
        of: Of,
        #[arg(long)]
        json: bool,
    },
    /// Reads every record and verifies it. Changes nothing. 1 when something is damaged or missing.
    Verify {
        #[command(flatten)]
        of: Of,
        #[arg(long)]
        json: bool,
    },
    /// Writes records to standard output. 1 when some could not be read.
    Export(Export),
    /// Appends records to a stream, as `export` has written them.
    Import(Import),
}

/// What a command is about.
#[derive(clap::Args)]
pub struct Of {
    /// The data directory, `storage.directory` of the configuration.
    #[arg(long)]
    directory: PathBuf,
    /// Only this stream.
    #[arg(long)]
    stream: Option<String>,
}

impl LogCommand {
    pub fn run(&self) -> Result<Verdict, String> {
        match self {
            Self::Info { of, json } => look(of, Trust::Indexes, *json, "log info"),
            Self::Verify { of, json } => look(of, Trust::Nothing, *json, "log verify"),
            Self::Export(export) => export.run(),
            Self::Import(import) => import.run(),
        }
    }
}

/// What is said of one stream, or of one queue of dead letters.
#[derive(serde::Serialize)]
struct Summary {
    name: String,
    epoch: u32,
    segments: usize,
    records: u64,
    bytes: u64,
    first_offset: u64,
    next_offset: u64,
    first_time_ns: u64,
    last_time_ns: u64,
    /// Closed in order; otherwise the next start puts in order what was left.
    closed: bool,
    #[serde(flatten)]
    findings: Findings,
}

impl Summary {
    fn of(name: String, folder: &Path, trust: Trust) -> Result<Self, String> {
        let disk = disk::for_process()?;
        let survey = Survey::of(&*disk, folder, &name, trust).map_err(|error| error.to_string())?;
        let (closed, epoch, next_offset) = (survey.ended_cleanly(), survey.epoch(), survey.next_offset());
        let indexes = || survey.segments.iter().map(|found| &found.index);
        let with_records = || indexes().filter(|index| index.records > 0);
        Ok(Self {
            name,
            epoch: epoch.unwrap_or_default(),
            segments: survey.segments.len(),
            records: indexes().map(|index| index.records).sum(),
            bytes: indexes().map(|index| index.end).sum(),
            first_offset: with_records().next().map_or(next_offset, |index| index.header.name.base_offset),
            next_offset,
            first_time_ns: with_records().next().map_or(0, |index| index.first_time_ns),
            last_time_ns: indexes().map(|index| index.last_time_ns).max().unwrap_or_default(),
            closed,
            findings: survey.findings,
        })
    }

    fn print(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        let Self { name, epoch, segments, records, bytes, first_offset, next_offset, .. } = self;
        writeln!(out, "{name}")?;
        writeln!(out, "  {records} records in {segments} segments, {bytes} bytes")?;
        writeln!(out, "  offsets {first_offset} up to, not including, {next_offset}; epoch {epoch}")?;
        writeln!(out, "  times {} to {}", time::shown(self.first_time_ns), time::shown(self.last_time_ns))?;
        if !self.closed {
            writeln!(out, "  not closed in order: the next start will put in order what was left")?;
        }
        let Findings { cut, quarantined, missing, headers, discarded, superseded } = &self.findings;
        for cut in cut {
            let (bytes, segment, position) = (cut.bytes, &cut.segment, cut.position);
            writeln!(out, "  torn tail: {bytes} bytes from {position} of {segment}, offset {} on", cut.offset)?;
        }
        for damaged in quarantined {
            let range = damaged.range;
            let (bytes, position, segment) = (range.bytes, range.position, &damaged.segment);
            writeln!(out, "  DAMAGE: {bytes} bytes at {position} of {segment}: {}", offsets(range.from, range.until))?;
        }
        for missing in missing {
            writeln!(out, "  MISSING: {}", offsets(missing.from, missing.until))?;
        }
        for file in headers {
            writeln!(out, "  DAMAGE: the header of {file}; its name says the same")?;
        }
        for file in discarded.iter().chain(superseded) {
            writeln!(out, "  of no use any more: {file}")?;
        }
        Ok(())
    }
}

fn offsets(from: u64, until: u64) -> String {
    match until.saturating_sub(from) {
        0 => "no record".to_owned(),
        1 => format!("offset {from}"),
        count => format!("offsets {from} to {} ({count} records)", until - 1),
    }
}

fn look(of: &Of, trust: Trust, json: bool, command: &str) -> Result<Verdict, String> {
    let directory = locked(&of.directory, command)?;
    let mut summaries = Vec::new();
    for (name, folder) in folders(&directory, of.stream.as_deref())? {
        summaries.push(Summary::of(name, &folder, trust)?);
    }
    let damaged = summaries.iter().any(|summary| summary.findings.is_damage());
    let mut out = std::io::stdout().lock();
    printed(if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&summaries).map_err(|error| error.to_string())?)
    } else if summaries.is_empty() {
        writeln!(out, "nothing has been written here yet")
    } else {
        summaries.iter().try_for_each(|summary| summary.print(&mut out))
    })?;
    Ok(Verdict::of(damaged))
}

/// All streams and the queues of dead letters, or the one that is asked for.
fn folders(directory: &DataDirectory, wanted: Option<&str>) -> Result<Vec<(String, PathBuf)>, String> {
    let streams = directory.streams().map_err(|error| error.to_string())?;
    if let Some(name) = wanted {
        return if streams.iter().any(|stream| stream == name) {
            Ok(vec![(name.to_owned(), directory.stream(name))])
        } else {
            Err(format!("{}: there is no stream {name}; there are: {}", directory.path().display(), streams.join(", ")))
        };
    }
    let letters = LetterQueue::ALL.map(|queue| (format!("dlq/{}", queue.as_str()), directory.letters(queue)));
    let streams = streams.into_iter().map(|name| (name.clone(), directory.stream(&name)));
    Ok(streams.chain(letters.into_iter().filter(|(_, folder)| folder.is_dir())).collect())
}
