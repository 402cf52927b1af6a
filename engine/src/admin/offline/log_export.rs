//! `eventstream log export` and its inverse, `import`.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;

use super::json::Line;
use super::{Verdict, locked, printed, time};
use crate::config::FRAME_BYTES_MAX;
use crate::frame::{Class, LENGTH_BYTES, Limits, Parser, Priority, StreamStep, Transport};
use crate::runtime::clock::{kernel_now, unix_now};
use crate::storage::directory::{DataDirectory, Owner};
use crate::storage::format::Record;
use crate::storage::log::{EventLog, Fsync, Gap, Item, LogOptions, Position, Refused, Start, Survey, Trust};
use crate::storage::topics::TopicFilter;
use crate::storage::{DEFAULT_STREAM, disk};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A JSON object to a line, the payload in base64.
    Json,
    /// The frames as they were on the wire, one behind the other: what a TCP client would send.
    Frames,
}

#[derive(clap::Args)]
pub struct Export {
    /// The data directory.
    #[arg(long)]
    directory: PathBuf,
    #[arg(long, default_value = DEFAULT_STREAM)]
    stream: String,
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
    /// Begin with this offset.
    #[arg(long)]
    from: Option<u64>,
    /// The epoch that the offset is of; without it, that of whatever has the offset now.
    #[arg(long, requires = "from")]
    epoch: Option<u32>,
    /// Begin with the first record that is not older: 2026-11-24T10:30:00Z, or seconds since 1970.
    #[arg(long, value_parser = time::parse, conflicts_with = "from")]
    since: Option<u64>,
    /// Only topics that match, such as orders/+/new or orders/#.
    #[arg(long, value_parser = TopicFilter::parse)]
    topic: Option<TopicFilter>,
    /// End after so many records.
    #[arg(long)]
    limit: Option<u64>,
}

impl Export {
    pub(super) fn run(&self) -> Result<Verdict, String> {
        let directory = locked(&self.directory, "log export")?;
        let folder = directory.stream(&self.stream);
        if !folder.is_dir() {
            return Err(format!("{}: there is no stream {}", self.directory.display(), self.stream));
        }
        let disk = disk::for_process()?;
        let survey = Survey::of(&*disk, &folder, &self.stream, Trust::Indexes).map_err(|error| error.to_string())?;
        let (view, _) = survey.into_view(disk, folder, &self.stream);
        let view = Arc::new(view);
        let start = match (self.from, self.since) {
            (Some(offset), _) => Start::At(Position { epoch: self.epoch.unwrap_or(view.epoch), offset }),
            (None, Some(time_ns)) => Start::Time(time_ns),
            (None, None) => Start::Earliest,
        };
        let mut reader = view.reader(start, self.topic.clone()).map_err(|truncated| {
            let Position { epoch, offset } = truncated.first_valid;
            format!("truncated: there is no such record; the first valid offset is {offset} in epoch {epoch}")
        })?;
        let mut out = BufWriter::new(std::io::stdout().lock());
        let (mut written, mut gaps) = (0, 0);
        while self.limit.is_none_or(|limit| written < limit) {
            match reader.read().map_err(|error| error.to_string())? {
                None => break,
                Some(Item::Gap(gap)) => {
                    gaps += 1;
                    self.tell_gap(gap, &mut out)?;
                }
                Some(Item::Record(record)) => {
                    written += 1;
                    printed(match self.format {
                        Format::Frames => out.write_all(record.frame),
                        Format::Json => {
                            let text = serde_json::to_string(&Line::of(&record)).map_err(|error| error.to_string())?;
                            writeln!(out, "{text}")
                        }
                    })?;
                }
            }
        }
        printed(out.flush())?;
        Ok(Verdict::of(gaps > 0))
    }

    fn tell_gap(&self, Gap { from, until }: Gap, out: &mut impl Write) -> Result<(), String> {
        eprintln!("eventstream: offsets {from} up to, not including, {until} cannot be read");
        match self.format {
            Format::Frames => Ok(()),
            Format::Json => printed(writeln!(out, "{}", serde_json::json!({"gap": {"from": from, "until": until}}))),
        }
    }
}

#[derive(clap::Args)]
pub struct Import {
    /// The data directory; made where it is not there.
    #[arg(long)]
    directory: PathBuf,
    #[arg(long, default_value = DEFAULT_STREAM)]
    stream: String,
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
    /// Of frames, which do not say it: the class they had. Without it, that of their priority.
    #[arg(long, value_parser = parse_class)]
    class: Option<Class>,
    /// Make each record durable before the next is read, and say so.
    #[arg(long)]
    sync_each: bool,
    /// What to read; `-` or nothing is standard input.
    file: Option<PathBuf>,
}

/// Records are made durable when so much of them is in memory.
const BATCH_BYTES: usize = 4 << 20;
const READ_BYTES: usize = 1 << 20;

impl Import {
    pub(super) fn run(&self) -> Result<Verdict, String> {
        let owner = Owner::this("eventstream log import", "");
        let directory = DataDirectory::lock_or_make(&self.directory, owner).map_err(|error| error.to_string())?;
        let named = self.stream.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !named || self.stream.is_empty() {
            return Err(format!("`{}` is no name of a stream", self.stream));
        }
        let input: Box<dyn Read> = match self.file.as_deref().filter(|file| *file != Path::new("-")) {
            None => Box::new(std::io::stdin()),
            Some(file) => Box::new(std::fs::File::open(file).map_err(|error| format!("{}: {error}", file.display()))?),
        };
        let options = LogOptions { fsync: Fsync::Always, ..LogOptions::new(&*self.stream) };
        let (log, recovery) = EventLog::open(disk::for_process()?, &directory.stream(&self.stream), options)
            .map_err(|error| error.to_string())?;
        if recovery.findings.is_damage() {
            eprintln!("eventstream: the stream is damaged; `eventstream log verify` says where");
        }
        let first = log.next_offset();
        let mut sink = Sink { log, sync_each: self.sync_each };
        let read = match self.format {
            Format::Json => read_lines(input, &mut sink),
            Format::Frames => read_frames(input, self.class, &mut sink),
        };
        // What was taken before a mistake is kept, and said.
        let closed = sink.log.close(kernel_now()).map_err(|error| error.to_string());
        let count = sink.log.durable_offset() - first;
        println!("{count} records imported, offsets {first} up to, not including, {}", first + count);
        read.and(closed).map(|()| Verdict::Whole)
    }
}

struct Sink {
    log: EventLog,
    sync_each: bool,
}

impl Sink {
    fn take(&mut self, record: &Record<'_>) -> Result<(), String> {
        let offset = match self.log.append(record) {
            Err(Refused::Full) => {
                self.flush()?;
                self.log.append(record)
            }
            taken => taken,
        };
        let offset = offset.map_err(|_| "a record is larger than a segment".to_owned())?;
        if self.sync_each {
            self.flush()?;
            printed(writeln!(std::io::stdout(), "durable {offset}"))?;
        } else if self.log.pending_bytes() > BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        let now = kernel_now();
        self.log.write(now).and_then(|()| self.log.sync(now)).map_err(|error| error.to_string())
    }
}

fn read_lines(input: Box<dyn Read>, sink: &mut Sink) -> Result<(), String> {
    for (number, text) in (1..).zip(BufReader::new(input).lines()) {
        let at = |error: String| format!("line {number}: {error}");
        let text = text.map_err(|error| at(error.to_string()))?;
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| at(error.to_string()))?;
        // What an export could not read.
        if value.get("gap").is_some() {
            continue;
        }
        let line: Line = serde_json::from_value(value).map_err(|error| at(error.to_string()))?;
        let frame = line.frame().map_err(at)?;
        let record = line.record(&frame, unix_now()).map_err(at)?;
        sink.take(&record)?;
    }
    Ok(())
}

fn read_frames(mut input: Box<dyn Read>, class: Option<Class>, sink: &mut Sink) -> Result<(), String> {
    let limits = Limits { frame_bytes: FRAME_BYTES_MAX, topic_bytes: u16::MAX };
    let parser = Parser::new(limits, Transport::Tcp, Priority::Critical, 0);
    let (mut bytes, mut passed) = (Vec::new(), 0u64);
    loop {
        let mut rest = bytes.as_slice();
        loop {
            let at = || passed + (bytes.len() - rest.len()) as u64;
            match parser.stream(rest) {
                Err(wrong) => {
                    return Err(format!("byte {}: no frame: {}", at() + wrong.at_byte as u64, wrong.reason.name()));
                }
                Ok(StreamStep::Control(_)) => return Err(format!("byte {}: a frame of the protocol's own", at())),
                Ok(StreamStep::Incomplete(_)) => break,
                Ok(StreamStep::Frame(frame)) => {
                    let (whole, after) = rest.split_at(LENGTH_BYTES + frame.length as usize);
                    let class = class.unwrap_or_else(|| frame.shape.priority().class());
                    sink.take(&Record::event(unix_now(), class, whole))?;
                    rest = after;
                }
            }
        }
        let kept = rest.len();
        passed += (bytes.len() - kept) as u64;
        bytes.drain(..bytes.len() - kept);
        bytes.resize(kept + READ_BYTES, 0);
        let count = input.read(&mut bytes[kept..]).map_err(|error| error.to_string())?;
        bytes.truncate(kept + count);
        if count == 0 {
            return if kept == 0 { Ok(()) } else { Err(format!("byte {passed}: the last frame is not whole")) };
        }
    }
}

fn parse_class(name: &str) -> Result<Class, String> {
    let class = Class::ALL.into_iter().find(|class| class.as_str() == name);
    class.ok_or_else(|| "realtime, transactional or batch".to_owned())
}
