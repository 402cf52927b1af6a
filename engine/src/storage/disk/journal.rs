//! What a [`FaultyDisk`](super::FaultyDisk) has done, kept in a file that outlives the process: enough to undo what no sync
//! has covered.
//!
//! An entry is written before the change it tells of, so that there is no change without one; of a sync it is written
//! after, so that none is told that was not complete. Entries are read back up to the first that is not whole.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What was done to a file or a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Created,
    Removed,
    Renamed(PathBuf),
    /// The content changed from `position` on: what stood there, and the file's length before and after.
    Changed {
        position: u64,
        bytes: u64,
        old: Vec<u8>,
        old_length: u64,
        new_length: u64,
    },
    /// A sync that covers the file's changes among the first `covers` entries.
    Synced {
        covers: u64,
    },
    /// One that failed: what it would have covered, nothing covers any more.
    SyncFailed {
        covers: u64,
    },
    DirectorySynced,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub path: PathBuf,
    pub change: Change,
}

#[derive(Debug)]
pub(super) struct Journal {
    state: Mutex<(File, u64)>,
}

impl Journal {
    pub fn create(path: &Path) -> io::Result<Self> {
        let (entries, file) = match std::fs::metadata(path) {
            Ok(_) => (read(path)?.len() as u64, File::options().append(true).open(path)?),
            Err(_) => (0, File::create_new(path)?),
        };
        Ok(Self { state: Mutex::new((file, entries)) })
    }

    /// How many entries there are.
    pub fn count(&self) -> u64 {
        self.state.lock().expect("no holder panics").1
    }

    pub fn add(&self, path: &Path, change: &Change) {
        let mut bytes = Vec::new();
        let mut field = |field: &[u8]| {
            bytes.extend_from_slice(&(field.len() as u32).to_be_bytes());
            bytes.extend_from_slice(field);
        };
        let numbers = |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
        let text = |path: &Path| path.to_str().expect("a path in UTF-8").as_bytes().to_vec();
        field(&text(path));
        match change {
            Change::Created => field(b"C"),
            Change::Removed => field(b"R"),
            Change::Renamed(to) => {
                field(b"N");
                field(&text(to));
            }
            Change::Changed { position, bytes, old, old_length, new_length } => {
                field(b"W");
                field(&numbers(&[*position, *bytes, *old_length, *new_length]));
                field(old);
            }
            Change::Synced { covers } => {
                field(b"S");
                field(&numbers(&[*covers]));
            }
            Change::SyncFailed { covers } => {
                field(b"F");
                field(&numbers(&[*covers]));
            }
            Change::DirectorySynced => field(b"D"),
        }
        let mut state = self.state.lock().expect("no holder panics");
        let whole = [&(bytes.len() as u32).to_be_bytes(), bytes.as_slice()].concat();
        state.0.write_all(&whole).expect("the journal of a test can be written");
        state.1 += 1;
    }
}

/// All whole entries, in order.
pub(super) fn read(path: &Path) -> io::Result<Vec<Entry>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let mut rest = bytes.as_slice();
    let mut entries = Vec::new();
    while let Some(mut entry) = take(&mut rest) {
        entries.push(parse(&mut entry).ok_or(io::ErrorKind::InvalidData)?);
    }
    Ok(entries)
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let (field, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = after;
    Some(field)
}

fn parse(entry: &mut &[u8]) -> Option<Entry> {
    let path = |field: &[u8]| Some(PathBuf::from(std::str::from_utf8(field).ok()?));
    let number = |numbers: &[u8], index: usize| {
        numbers.get(index * 8..index * 8 + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)
    };
    let of = path(take(entry)?)?;
    let change = match take(entry)? {
        b"C" => Change::Created,
        b"R" => Change::Removed,
        b"N" => Change::Renamed(path(take(entry)?)?),
        b"W" => {
            let numbers = take(entry)?;
            let old = take(entry)?.to_vec();
            let [position, bytes, old_length, new_length] = [0, 1, 2, 3].map(|index| number(numbers, index));
            Change::Changed {
                position: position?,
                bytes: bytes?,
                old,
                old_length: old_length?,
                new_length: new_length?,
            }
        }
        b"S" => Change::Synced { covers: number(take(entry)?, 0)? },
        b"F" => Change::SyncFailed { covers: number(take(entry)?, 0)? },
        b"D" => Change::DirectorySynced,
        _ => return None,
    };
    Some(Entry { path: of, change })
}
