//! The same commands asked of a running engine, which has its data directory.

use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::dlq::{OfEngine, Which, not_held};
use super::json::Row;
use super::{Verdict, printed, time};
use crate::admin::{self, Listing, Request};
use crate::storage::ReplayStatus;
use crate::storage::format::LetterQueue;

fn no_letters(_: Value) -> Result<(), String> {
    Ok(())
}

/// How often it is looked how far a replay is.
const LOOK_EVERY: Duration = Duration::from_millis(100);

fn which(of: &OfEngine, which: &Which) -> admin::Which {
    let queue = of.queue.map(|queue| LetterQueue::from(queue).as_str().to_owned());
    let Which { reason, topic, since, until } = which;
    admin::Which {
        queue,
        reason: reason.as_ref().map(ToString::to_string),
        topic: topic.as_ref().map(ToString::to_string),
        since_ns: *since,
        until_ns: *until,
    }
}

/// Puts a request, and hears the letters that it is answered with.
pub(super) type Hear<'h> = &'h mut dyn FnMut(Value) -> Result<(), String>;

pub(super) fn list(
    of: &OfEngine,
    matching: &Which,
    json: bool,
    limit: Option<usize>,
    ask: impl Fn(&Request, Option<&Path>, Hear<'_>) -> Result<Value, String>,
) -> Result<Verdict, String> {
    let mut out = BufWriter::new(std::io::stdout());
    let listing = Listing { which: which(of, matching), limit: limit.map(|limit| limit as u64), whole: json };
    ask(&Request::DlqList(listing), of.config.as_deref(), &mut |letter| {
        if json {
            return printed(writeln!(out, "{letter}"));
        }
        let row: Row = serde_json::from_value(letter).map_err(|error| error.to_string())?;
        printed(writeln!(out, "{row}"))
    })?;
    printed(out.flush())?;
    Ok(Verdict::Whole)
}

pub(super) fn show(
    config: Option<&Path>,
    queue: LetterQueue,
    offset: u64,
    ask: impl Fn(&Request, Option<&Path>, Hear<'_>) -> Result<Value, String>,
) -> Result<Verdict, String> {
    let request = Request::DlqShow { queue: queue.as_str().to_owned(), offset };
    let shown = ask(&request, config, &mut |letter| printed(writeln!(std::io::stdout(), "{letter}")))?;
    if shown == 1 { Ok(Verdict::Whole) } else { Err(not_held(offset)) }
}

pub(super) fn purge(
    of: &OfEngine,
    matching: &Which,
    ask: impl Fn(&Request, Option<&Path>, Hear<'_>) -> Result<Value, String>,
) -> Result<Verdict, String> {
    let purged = ask(&Request::DlqPurge(which(of, matching)), of.config.as_deref(), &mut no_letters)?;
    println!("{purged} letters purged");
    Ok(Verdict::Whole)
}

/// Begins it, and tells what has become of the letters when all have ended.
pub(super) fn replay(
    of: &OfEngine,
    matching: &Which,
    per_s: Option<u64>,
    ask: impl Fn(&Request, Option<&Path>, Hear<'_>) -> Result<Value, String>,
) -> Result<Verdict, String> {
    let config = of.config.as_deref();
    ask(&Request::DlqReplay(admin::Replay { which: which(of, matching), per_s }), config, &mut no_letters)?;
    let status = loop {
        let status = ask(&Request::DlqReplayStatus, config, &mut no_letters)?;
        let status: ReplayStatus = serde_json::from_value(status).map_err(|error| error.to_string())?;
        if !status.running {
            break status;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let ReplayStatus { replayed, processed, duplicate, dead_lettered, kept, .. } = status;
    println!(
        "{replayed} letters replayed: {processed} processed, {duplicate} duplicates, {dead_lettered} failed again; {kept} kept"
    );
    Ok(Verdict::Whole)
}

pub(super) fn stats(
    of: &OfEngine,
    matching: &Which,
    json: bool,
    ask: impl Fn(&Request, Option<&Path>, Hear<'_>) -> Result<Value, String>,
) -> Result<Verdict, String> {
    let answer = ask(&Request::DlqStats(which(of, matching)), of.config.as_deref(), &mut no_letters)?;
    let mut out = std::io::stdout().lock();
    if json {
        printed(writeln!(out, "{answer:#}"))?;
        return Ok(Verdict::Whole);
    }
    for held in answer.as_array().into_iter().flatten() {
        let text = |key: &str| held[key].as_str().unwrap_or_default();
        let number = |key: &str| held[key].as_u64().unwrap_or_default();
        let (queue, reason, letters, bytes) =
            (text("queue"), text("reason"), number("letters"), number("payload_bytes"));
        let (oldest, newest) = (time::shown(number("oldest_ns")), time::shown(number("newest_ns")));
        printed(writeln!(out, "{queue:<6} {reason:<18} {letters:>10}  {bytes:>12} bytes  {oldest} to {newest}"))?;
    }
    Ok(Verdict::Whole)
}
