//! The dead letters of a running engine, told to whoever asks on the control socket, one to a line.
//!
//! - **Threads**: one that may block reads the letters, from the files and by a snapshot of which are held; the socket's task
//!   writes what it has read. The log writer is asked for the snapshot and for nothing else.
//! - **Overload**: no more is read than the asker takes; in between are a few pieces of bounded size.
//! - **Lines**: `{"letter": …}` for each, `{}` as a sign of life while none matches, and the answer at the end.

use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

use super::control_socket::Which;
use super::offline::json::{Row, whole};
use crate::engine::Control;
use crate::storage::LetterControl;
use crate::storage::format::{LetterQueue, RecordView};
use crate::storage::letters::LetterFilter;

/// A piece is sent when it has so many bytes.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that wait for the asker.
const PIECES: usize = 4;
/// After so many bytes of letters there is a sign of life: reading them takes no second.
const SILENT_BYTES: usize = 16 << 20;

/// Which letters, and how much of them.
pub(super) struct Wanted {
    queue: Option<LetterQueue>,
    filter: LetterFilter,
    /// The one with this offset.
    offset: Option<u64>,
    limit: u64,
    /// With payloads.
    whole: bool,
}

impl Wanted {
    pub(super) fn list(which: &Which, limit: Option<u64>, whole: bool) -> Result<Self, String> {
        let (queue, filter) = which.parse()?;
        Ok(Self { queue, filter, offset: None, limit: limit.unwrap_or(u64::MAX), whole })
    }

    pub(super) fn one(queue: &str, offset: u64) -> Result<Self, String> {
        let (queue, filter) = Which { queue: Some(queue.to_owned()), ..Which::default() }.parse()?;
        Ok(Self { queue, filter, offset: Some(offset), limit: 1, whole: true })
    }
}

/// Writes the letters to the asker. Returns how many there were.
pub(super) async fn tell(wanted: Wanted, control: &Control, write: &mut OwnedWriteHalf) -> Result<u64, String> {
    let letters = control.dead_letters().ok_or(super::control_socket::IN_MEMORY)?.clone();
    let (sender, mut pieces) = mpsc::channel(PIECES);
    let reading = tokio::task::spawn_blocking(move || read(&wanted, &letters, sender));
    while let Some(piece) = pieces.recv().await {
        if write.write_all(&piece).await.is_err() {
            break;
        }
    }
    // Whoever has gone wants no more of them.
    drop(pieces);
    reading.await.map_err(|error| error.to_string())?
}

fn read(wanted: &Wanted, letters: &LetterControl, pieces: mpsc::Sender<Vec<u8>>) -> Result<u64, String> {
    let mut lines = Lines { pieces, piece: Vec::new(), silent_bytes: 0 };
    let mut told = 0;
    for (queue, held) in letters.held()? {
        if wanted.queue.is_some_and(|wanted| wanted != queue) {
            continue;
        }
        let mut reader = held.reader_from(wanted.offset.unwrap_or(0)).map_err(|error| error.to_string())?;
        while told < wanted.limit
            && let Some(letter) = reader.read().map_err(|error| error.to_string())?
            && wanted.offset.is_none_or(|offset| offset == letter.offset)
        {
            let matches = wanted.filter.matches(&letter);
            told += u64::from(matches);
            if !lines.look_at(matches.then_some(wanted.whole), queue, &letter)? {
                return Ok(told);
            }
        }
    }
    lines.send();
    Ok(told)
}

/// Makes pieces of letters.
struct Lines {
    pieces: mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
    silent_bytes: usize,
}

impl Lines {
    /// `told`: whether it is, and if so, whole. False: nobody listens any more.
    fn look_at(&mut self, told: Option<bool>, queue: LetterQueue, letter: &RecordView<'_>) -> Result<bool, String> {
        self.silent_bytes += letter.frame.len();
        if let Some(is_whole) = told {
            let letter = if is_whole { whole(queue, letter) } else { serde_json::to_value(Row::of(queue, letter)) };
            let line = letter.map(|letter| serde_json::json!({ "letter": letter }));
            self.line(&line.map_err(|error| error.to_string())?);
        } else if self.silent_bytes >= SILENT_BYTES && self.piece.is_empty() {
            self.line(&serde_json::json!({}));
        }
        if self.piece.len() < PIECE_BYTES && self.silent_bytes < SILENT_BYTES {
            return Ok(true);
        }
        Ok(self.send())
    }

    fn line(&mut self, value: &serde_json::Value) {
        self.piece.extend_from_slice(value.to_string().as_bytes());
        self.piece.push(b'\n');
    }

    fn send(&mut self) -> bool {
        self.silent_bytes = 0;
        self.pieces.blocking_send(std::mem::take(&mut self.piece)).is_ok()
    }
}
