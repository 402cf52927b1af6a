//! Who owns which testbed, across processes and their deaths.
//!
//! Every testbed has a file whose lock its owner holds as long as it lives: the kernel lets go of the lock when the owner
//! is gone, however it went, so there is no process number to be mistaken for another's. The file's text says what has to
//! be removed. One more lock serialises building and removing among processes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, Result};

pub const FOLDER: &str = "/run/eventstream/testbeds";

/// The right to build or remove testbeds, until dropped.
#[derive(Debug)]
pub struct Turn {
    folder: PathBuf,
    _lock: File,
}

/// A testbed's file. Held: the testbed is in use.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    file: File,
}

impl Turn {
    pub fn wait_for(folder: &Path) -> Result<Self> {
        let text = |error| Error::of_io(&folder.display().to_string(), &error);
        fs::create_dir_all(folder).map_err(text)?;
        let lock = open(&folder.join("lock")).map_err(text)?;
        lock.lock().map_err(text)?;
        Ok(Turn { folder: folder.to_path_buf(), _lock: lock })
    }

    /// Takes a name nobody has. `None`: it is taken, by a living owner or by what a dead one left.
    pub fn claim(&self, name: &str) -> Result<Option<Record>> {
        let path = self.folder.join(format!("{name}.json"));
        if path.exists() {
            return Ok(None);
        }
        let text = |error| Error::of_io(&path.display().to_string(), &error);
        let file = open(&path).map_err(text)?;
        file.try_lock().map_err(|error| Error::failed(format!("{}: {error}", path.display())))?;
        Ok(Some(Record { path, file }))
    }

    /// The records whose owners are gone, now ours.
    pub fn leftovers(&self) -> Result<Vec<(Record, Value)>> {
        let mut found = Vec::new();
        for path in files(&self.folder) {
            let Ok(mut file) = open(&path) else { continue };
            match file.try_lock() {
                Ok(()) => {
                    let content = read(&mut file);
                    found.push((Record { path, file }, content));
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(Error::of_io(&path.display().to_string(), &error));
                }
            }
        }
        Ok(found)
    }
}

impl Record {
    pub fn write(&mut self, content: &Value) -> Result<()> {
        write!(self.file, "{content}")
            .and_then(|()| self.file.flush())
            .map_err(|error| Error::of_io(&self.path.display().to_string(), &error))
    }

    /// Forgets the testbed; to be called when all of it is gone.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// What living owners have written.
pub fn living(folder: &Path) -> Vec<Value> {
    let mut found = Vec::new();
    for path in files(folder) {
        // A shared lock is refused exactly while an owner holds its exclusive one, and two onlookers do not disturb
        // each other.
        if let Ok(mut file) = File::open(&path)
            && matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
        {
            found.push(read(&mut file));
        }
    }
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    paths.sort();
    paths
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// An owner that died between creating and writing its record has left an empty one, which reads as null.
fn read(file: &mut File) -> Value {
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("esc-record-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn a_name_is_claimed_once_and_its_owner_is_seen_alive() {
        let folder = folder("claim");
        let turn = Turn::wait_for(&folder).unwrap();
        let mut record = turn.claim("a").unwrap().unwrap();
        record.write(&json!({"iface": "x"})).unwrap();
        assert!(turn.claim("a").unwrap().is_none());
        assert!(turn.leftovers().unwrap().is_empty());
        assert_eq!(living(&folder), vec![json!({"iface": "x"})]);
        record.remove();
        assert!(living(&folder).is_empty());
        assert!(turn.claim("a").unwrap().is_some());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_record_whose_owner_is_gone_is_left_over() {
        let folder = folder("gone");
        let turn = Turn::wait_for(&folder).unwrap();
        let mut record = turn.claim("a").unwrap().unwrap();
        record.write(&json!(1)).unwrap();
        drop(record);
        drop(turn.claim("b").unwrap());
        assert!(living(&folder).is_empty());
        assert!(turn.claim("a").unwrap().is_none());
        let contents: Vec<Value> = turn.leftovers().unwrap().into_iter().map(|(_, content)| content).collect();
        assert_eq!(contents, vec![json!(1), Value::Null]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
