//! `eventstream dlq`: the dead letters of a data directory, or of a running engine.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use super::json::{NamedReason, Row, parse_reason, whole};
use super::{Verdict, dlq_running as running, locked, printed, time};
use crate::admin::Request;
use crate::config::FRAME_BYTES_MAX;
use crate::runtime::clock::{kernel_now, unix_now};
use crate::storage::disk;
use crate::storage::format::{LetterQueue, RecordView, reason_of_letter};
use crate::storage::letters::{HeldLetters, LetterFilter, LetterOptions, Letters};
use crate::storage::log::{Fsync, Position, Refused};
use crate::storage::topics::TopicFilter;

#[derive(Subcommand)]
pub enum DlqCommand {
    /// Lists the letters that are held, oldest first.
    List {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        which: Which,
        /// A JSON object to a line, with the payload in base64.
        #[arg(long)]
        json: bool,
        /// End after so many.
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Shows one letter whole, as JSON.
    Show {
        /// The data directory, when no engine has it. Without one a running engine is asked.
        #[arg(long, conflicts_with = "config")]
        directory: Option<PathBuf>,
        /// The configuration of a running engine, if it has one.
        #[arg(long)]
        config: Option<PathBuf>,
        queue: Queue,
        offset: u64,
    },
    /// Throws letters away: those that match, or with --all every one.
    Purge {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        which: Which,
        #[arg(long)]
        all: bool,
    },
    /// Lets a running engine take letters in again, and waits until they have ended.
    Replay {
        #[command(flatten)]
        of: OfEngine,
        #[command(flatten)]
        which: Which,
        /// So many a second at most.
        #[arg(long)]
        rate: Option<u64>,
    },
    /// Counts what is held, by queue and reason.
    Stats {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        which: Which,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Queue {
    Failed,
    Shed,
}

impl From<Queue> for LetterQueue {
    fn from(queue: Queue) -> Self {
        match queue {
            Queue::Failed => Self::Failed,
            Queue::Shed => Self::Shed,
        }
    }
}

#[derive(clap::Args)]
pub struct OfEngine {
    /// The configuration of a running engine, if it has one.
    #[arg(long)]
    pub(super) config: Option<PathBuf>,
    /// Only those that failed, or only those that were shed.
    #[arg(long)]
    pub(super) queue: Option<Queue>,
}

#[derive(clap::Args)]
pub struct Of {
    /// The data directory, `storage.directory` of the configuration, when no engine has it. Without one a running engine
    /// is asked.
    #[arg(long, conflicts_with = "config")]
    directory: Option<PathBuf>,
    /// The configuration of a running engine, if it has one.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Only those that failed, or only those that were shed.
    #[arg(long)]
    queue: Option<Queue>,
}

/// Which letters; all of these hold.
#[derive(clap::Args)]
pub struct Which {
    /// Such as rejected, shed_dropping, or consumer:GROUP.
    #[arg(long, value_parser = parse_reason)]
    pub(super) reason: Option<NamedReason>,
    /// Topics that match, such as orders/+/new or orders/#.
    #[arg(long, value_parser = TopicFilter::parse)]
    pub(super) topic: Option<TopicFilter>,
    /// Dead-lettered then or later: 2026-11-24T10:30:00Z, or seconds since 1970.
    #[arg(long, value_parser = time::parse)]
    pub(super) since: Option<u64>,
    /// Dead-lettered before then.
    #[arg(long, value_parser = time::parse)]
    pub(super) until: Option<u64>,
}

impl Which {
    fn filter(&self) -> LetterFilter {
        let Self { reason, topic, since, until } = self;
        LetterFilter {
            reason: reason.as_ref().map(|named| named.reason),
            consumer: reason.as_ref().and_then(|named| named.consumer.clone()),
            topic: topic.clone(),
            since_ns: *since,
            until_ns: *until,
        }
    }

    const fn is_everything(&self) -> bool {
        self.reason.is_none() && self.topic.is_none() && self.since.is_none() && self.until.is_none()
    }
}

impl DlqCommand {
    /// `ask` puts a request to the engine of a configuration.
    pub fn run(
        &self,
        ask: impl Fn(&Request, Option<&Path>, running::Hear<'_>) -> Result<Value, String>,
    ) -> Result<Verdict, String> {
        match self {
            Self::List { of, which, json, limit } => match of.engine() {
                Some(engine) => running::list(&engine, which, *json, *limit, ask),
                None => list(of, which, *json, limit.unwrap_or(usize::MAX)),
            },
            Self::Show { directory, config, queue, offset } => {
                let of = Of { directory: directory.clone(), config: config.clone(), queue: Some(*queue) };
                match of.engine() {
                    Some(engine) => running::show(engine.config.as_deref(), (*queue).into(), *offset, ask),
                    None => show(&of, *offset),
                }
            }
            Self::Purge { of, which, all } => {
                if which.is_everything() && !all {
                    return Err("purge needs --reason, --topic, --since or --until, or --all".to_owned());
                }
                match of.engine() {
                    Some(engine) => running::purge(&engine, which, ask),
                    None => purge(of, which),
                }
            }
            Self::Replay { of, which, rate } => running::replay(of, which, *rate, ask),
            Self::Stats { of, which, json } => match of.engine() {
                Some(engine) => running::stats(&engine, which, *json, ask),
                None => stats(of, which, *json),
            },
        }
    }
}

impl Of {
    /// Unless it is about a data directory.
    fn engine(&self) -> Option<OfEngine> {
        self.directory.is_none().then(|| OfEngine { config: self.config.clone(), queue: self.queue })
    }
}

/// Calls `visit` with each queue that there is and its folder.
fn each(of: &Of, command: &str, mut visit: impl FnMut(LetterQueue, &Path) -> Result<(), String>) -> Result<(), String> {
    let directory = of.directory.as_deref().ok_or_else(|| format!("{command} needs --directory"))?;
    let directory = locked(directory, command)?;
    let wanted = of.queue.map(LetterQueue::from);
    for queue in LetterQueue::ALL.into_iter().filter(|queue| wanted.is_none_or(|wanted| wanted == *queue)) {
        let folder = directory.letters(queue);
        if folder.is_dir() {
            visit(queue, &folder)?;
        }
    }
    Ok(())
}

fn held(queue: LetterQueue, folder: &Path) -> Result<HeldLetters, String> {
    let (letters, findings) =
        HeldLetters::of(disk::for_process()?, folder, queue).map_err(|error| error.to_string())?;
    if findings.is_damage() {
        eprintln!("eventstream: {}: letters are damaged or missing", folder.display());
    }
    Ok(letters)
}

/// Calls `visit` with each letter that matches, until it has had enough.
fn matching(
    letters: &HeldLetters,
    filter: &LetterFilter,
    mut visit: impl FnMut(&RecordView<'_>) -> Result<bool, String>,
) -> Result<(), String> {
    let mut reader = letters.reader().map_err(|error| error.to_string())?;
    while let Some(letter) = reader.read().map_err(|error| error.to_string())? {
        if filter.matches(&letter) && !visit(&letter)? {
            break;
        }
    }
    Ok(())
}

fn list(of: &Of, which: &Which, json: bool, limit: usize) -> Result<Verdict, String> {
    let mut out = BufWriter::new(std::io::stdout());
    let mut left = limit;
    let filter = which.filter();
    each(of, "dlq list", |queue, folder| {
        matching(&held(queue, folder)?, &filter, |letter| {
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            printed(if json {
                print_json(queue, letter, &mut out)
            } else {
                writeln!(out, "{}", Row::of(queue, letter))
            })?;
            Ok(true)
        })
    })?;
    printed(out.flush())?;
    Ok(Verdict::Whole)
}

fn print_json(queue: LetterQueue, letter: &RecordView<'_>, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{}", whole(queue, letter)?)
}

fn show(of: &Of, offset: u64) -> Result<Verdict, String> {
    let mut found = false;
    each(of, "dlq show", |queue, folder| {
        let held = held(queue, folder)?;
        let mut reader = held.reader_from(offset).map_err(|error| error.to_string())?;
        let letter = reader.read().map_err(|error| error.to_string())?.filter(|letter| letter.offset == offset);
        found = letter.is_some();
        letter.map_or(Ok(()), |letter| printed(print_json(queue, &letter, &mut std::io::stdout())))
    })?;
    if found { Ok(Verdict::Whole) } else { Err(not_held(offset)) }
}

pub(super) fn not_held(offset: u64) -> String {
    format!("no letter with offset {offset} is held in that queue")
}

fn purge(of: &Of, which: &Which) -> Result<Verdict, String> {
    let filter = which.filter();
    let mut purged = 0u64;
    each(of, "dlq purge", |queue, folder| {
        let mut letters = open(queue, folder)?;
        let mut positions = Vec::new();
        matching(letters.letters(), &filter, |letter| {
            positions.push(Position { epoch: letter.epoch, offset: letter.offset });
            Ok(true)
        })?;
        for position in positions {
            let mut removed = letters.remove(position, false, unix_now());
            if removed == Err(Refused::Full) {
                flush(&mut letters)?;
                removed = letters.remove(position, false, unix_now());
            }
            purged += u64::from(removed.map_err(|_| "a removal has no room".to_owned())?);
        }
        letters.close(kernel_now()).map_err(|error| error.to_string())
    })?;
    println!("{purged} letters purged");
    Ok(Verdict::Whole)
}

/// Room for what a purge writes: removals, of which the largest letter is many times as large.
const PURGE_BYTES: u64 = 128 << 20;

fn open(queue: LetterQueue, folder: &Path) -> Result<Letters, String> {
    let options = LetterOptions {
        fsync: Fsync::Always,
        bytes: PURGE_BYTES,
        buffer_bytes: 4 << 20,
        frame_bytes: FRAME_BYTES_MAX.into(),
        after_crash: false,
    };
    let opened = Letters::open(disk::for_process()?, folder, queue, &options);
    opened.map(|(letters, _)| letters).map_err(|error| error.to_string())
}

fn flush(letters: &mut Letters) -> Result<(), String> {
    let now = kernel_now();
    letters.write(now).and_then(|()| letters.sync(now)).map_err(|error| error.to_string())
}

/// What is held for one reason.
#[derive(Default, serde::Serialize)]
struct Held {
    letters: u64,
    payload_bytes: u64,
    oldest_ns: u64,
    newest_ns: u64,
}

fn stats(of: &Of, which: &Which, json: bool) -> Result<Verdict, String> {
    let filter = which.filter();
    let mut all: BTreeMap<&str, BTreeMap<String, Held>> = BTreeMap::new();
    each(of, "dlq stats", |queue, folder| {
        let by_reason = all.entry(queue.as_str()).or_default();
        matching(&held(queue, folder)?, &filter, |letter| {
            let held = by_reason.entry(reason_of_letter(letter).into_owned()).or_default();
            if held.letters == 0 {
                held.oldest_ns = letter.time_ns;
            }
            held.letters += 1;
            held.payload_bytes += letter.event().payload().len() as u64;
            held.newest_ns = held.newest_ns.max(letter.time_ns);
            Ok(true)
        })
    })?;
    let mut out = std::io::stdout().lock();
    if json {
        printed(writeln!(out, "{}", serde_json::to_string_pretty(&all).map_err(|error| error.to_string())?))?;
        return Ok(Verdict::Whole);
    }
    for (queue, by_reason) in &all {
        let count: u64 = by_reason.values().map(|held| held.letters).sum();
        printed(writeln!(out, "{queue}: {count} letters held"))?;
        for (reason, held) in by_reason {
            let (oldest, newest) = (time::shown(held.oldest_ns), time::shown(held.newest_ns));
            let (letters, bytes) = (held.letters, held.payload_bytes);
            printed(writeln!(out, "  {reason:<18} {letters:>10}  {bytes:>12} bytes  {oldest} to {newest}"))?;
        }
    }
    Ok(Verdict::Whole)
}
