//! Positions on disk: one file with a line for each name, written whole beside the one before, which it then replaces.
//!
//! ```text
//!   subscriptions/positions       a checksum and a JSON object to a line; the first says how many follow
//!   subscriptions/positions.new   while it is written
//!   subscriptions/damaged-N       what was there when a line could not be read
//! ```
//!
//! - **Thread**: the sender's, which may wait for the disk. One file rather than one for each name: a second's changes cost one
//!   `fdatasync`, however many names there are.
//! - **Invariant**: after a crash the file is that of some moment, whole. What it says is undone may have been done since, and comes
//!   again; nothing that it says is done was not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::storage::StorageError;
use crate::storage::directory::DataDirectory;
use crate::storage::disk::Disk;

const FILE: &str = "positions";
const NEW: &str = "positions.new";

/// Whether a name is for one at a time, or for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NameKind {
    Durable,
    Group,
}

impl NameKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Group => "group",
        }
    }
}

/// A name with its definition and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    pub kind: NameKind,
    pub name: String,
    pub filter: String,
    pub classes: [bool; 3],
    pub stream: String,
    pub by_topic: bool,
    /// Of the stream when this was written.
    pub epoch: u32,
    /// Everything before is done, but for
    pub next: u64,
    /// these, with how often each was delivered.
    pub undone: Vec<(u64, u8)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    names: usize,
}

const FORMAT: u32 = 1;

pub struct Store {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// It is held for as long as this is written.
    _directory: Option<Arc<DataDirectory>>,
}

/// Appends a line.
pub fn encode(out: &mut Vec<u8>, value: &impl Serialize) {
    // Plain structs of numbers and text always serialize.
    let json = serde_json::to_vec(value).unwrap_or_default();
    out.extend_from_slice(format!("{:08x} ", crc32c::crc32c(&json)).as_bytes());
    out.extend_from_slice(&json);
    out.push(b'\n');
}

fn decode<'de, T: Deserialize<'de>>(line: &'de [u8]) -> Option<T> {
    let (checksum, json) = line.split_at_checked(9)?;
    let checksum = checksum.strip_suffix(b" ").and_then(|hex| std::str::from_utf8(hex).ok())?;
    (u32::from_str_radix(checksum, 16).ok()? == crc32c::crc32c(json)).then_some(())?;
    serde_json::from_slice(json).ok()
}

impl Store {
    /// Opens the folder, and reads what is kept there. What cannot be read is said, and kept aside.
    pub fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        directory: Option<Arc<DataDirectory>>,
    ) -> Result<(Self, Vec<Saved>), StorageError> {
        disk.create_directory(folder).map_err(StorageError::at(folder, "make"))?;
        let names = disk.list(folder).map_err(StorageError::at(folder, "list"))?;
        let this = Self { disk, folder: folder.to_owned(), _directory: directory };
        if !names.iter().any(|name| name == FILE) {
            return Ok((this, Vec::new()));
        }
        let bytes = this.read()?;
        let (saved, is_whole) = parse(&bytes);
        if !is_whole {
            let number = (1u32..).find(|number| !names.contains(&format!("damaged-{number}"))).unwrap_or_default();
            let aside = folder.join(format!("damaged-{number}"));
            tracing::error!(
                kept = saved.len(), file = %aside.display(),
                "positions of subscriptions are damaged: those that could be read go on, others begin anew; the file is kept aside"
            );
            let path = folder.join(FILE);
            this.disk.rename(&path, &aside).map_err(StorageError::at(&path, "rename"))?;
            let mut lines = Vec::new();
            saved.iter().for_each(|saved| encode(&mut lines, saved));
            this.write(saved.len(), [&lines[..]])?;
        }
        Ok((this, saved))
    }

    fn read(&self) -> Result<Vec<u8>, StorageError> {
        let path = self.folder.join(FILE);
        let read = || {
            let file = self.disk.open_to_read(&path)?;
            let mut bytes = vec![0; file.length()? as usize];
            let count = file.pread(&mut bytes, 0)?;
            bytes.truncate(count);
            Ok(bytes)
        };
        read().map_err(StorageError::at(&path, "read"))
    }

    /// Replaces everything that is kept by these lines, of so many names. When it comes back, they are on disk.
    pub fn write<'l>(&self, names: usize, lines: impl IntoIterator<Item = &'l [u8]>) -> Result<(), StorageError> {
        let (path, new) = (self.folder.join(FILE), self.folder.join(NEW));
        let mut bytes = Vec::new();
        encode(&mut bytes, &Head { format: FORMAT, names });
        lines.into_iter().for_each(|line| bytes.extend_from_slice(line));
        let written = || {
            match self.disk.remove(&new) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let file = self.disk.create(&new)?;
            file.pwrite_all(&bytes, 0)?;
            file.fdatasync()?;
            self.disk.rename(&new, &path)?;
            self.disk.sync_directory(&self.folder)
        };
        written().map_err(StorageError::at(&path, "write"))
    }
}

/// What lines say, and whether all of them could be read.
fn parse(bytes: &[u8]) -> (Vec<Saved>, bool) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let head = lines.next().and_then(decode::<Head>).filter(|head| head.format == FORMAT);
    let mut is_whole = bytes.ends_with(b"\n");
    let mut saved = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        match decode::<Saved>(line).filter(|saved| saved.undone.iter().all(|(offset, _)| *offset < saved.next)) {
            Some(one) => saved.push(one),
            None => is_whole = false,
        }
    }
    is_whole &= head.is_some_and(|head| head.names == saved.len());
    (saved, is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::{FaultyDisk, RealDisk};

    fn saved(name: &str, next: u64) -> Saved {
        Saved {
            kind: NameKind::Group,
            name: name.into(),
            filter: "a/#".into(),
            classes: [false, true, true],
            stream: "default".into(),
            by_topic: true,
            epoch: 3,
            next,
            undone: vec![(1, 2), (5, 0)],
        }
    }

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("eventstream-positions-{name}-{}", std::process::id()))
    }

    fn lines(all: &[Saved]) -> Vec<u8> {
        let mut bytes = Vec::new();
        all.iter().for_each(|one| encode(&mut bytes, one));
        bytes
    }

    #[test]
    fn what_was_written_is_read_and_a_damaged_line_costs_one_name() {
        let folder = folder("damage");
        let open = || Store::open(Arc::new(RealDisk), &folder, None).unwrap();
        let (store, none) = open();
        assert_eq!(none, []);
        let all = [saved("one", 9), saved("two", 10), saved("three", 11)];
        store.write(3, [&lines(&all)[..]]).unwrap();
        assert_eq!(open().1, all);
        let path = folder.join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            let (kept, is_whole) = parse(&bytes);
            assert!(!is_whole && !kept.is_empty(), "byte {at}: {kept:?}");
            assert!(kept.iter().all(|one| all.contains(one)), "byte {at}: {kept:?}");
            assert!(!parse(&whole[..at]).1, "cut at {at}");
        }
        let mut bytes = whole.clone();
        let last = bytes.len() - 5;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(open().1, all[..2]);
        assert_eq!(std::fs::read(folder.join("damaged-1")).unwrap(), bytes);
        // It was put in order.
        assert_eq!(open().1, all[..2]);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there() {
        let folder = folder("faults");
        std::fs::create_dir_all(&folder).unwrap();
        let disk = Arc::new(FaultyDisk::new(&folder.join("journal")).unwrap());
        let (store, _) = Store::open(disk.clone(), &folder, None).unwrap();
        let (old, new) = ([saved("old", 9)], [saved("new", 9)]);
        store.write(1, [&lines(&old)[..]]).unwrap();
        disk.faults().fail_syncs(1);
        assert!(store.write(1, [&lines(&new)[..]]).is_err());
        assert_eq!(Store::open(Arc::new(RealDisk), &folder, None).unwrap().1, old);
        store.write(1, [&lines(&new)[..]]).unwrap();
        assert_eq!(Store::open(Arc::new(RealDisk), &folder, None).unwrap().1, new);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
