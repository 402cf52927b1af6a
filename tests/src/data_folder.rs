//! The data directory of an engine under test: it outlives the engine, its disk fails as told, and what is in it can be read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use eventstream::frame::Class;
use eventstream::storage::disk::RealDisk;
use eventstream::storage::log::{Findings, Item, Start, Survey, Trust};

use crate::publisher::payload_of;

/// A folder with the data directory and what belongs to it. Dropped, it goes.
pub struct DataFolder {
    root: PathBuf,
    runs: u32,
    faults: u32,
}

/// A record in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    pub offset: u64,
    pub id: u64,
    pub class: Class,
}

impl DataFolder {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("esc-data-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&root).expect("a temporary folder");
        Self { root, runs: 0, faults: 0 }
    }

    /// Of the data directory, which the engine makes.
    pub fn path(&self) -> PathBuf {
        self.root.join("data")
    }

    /// The section of a configuration that names it, with what it says otherwise, such as `fsync: always`.
    pub fn storage(&self, more: &str) -> String {
        format!("storage: {{directory: {}, {more}}}\n", self.path().display())
    }

    /// What tells the next engine about its disk: it keeps a journal of its own, and fails when [`fault`](Self::fault) says
    /// so, which is not yet.
    pub fn next_run(&mut self) -> String {
        self.runs += 1;
        let _ = fs::remove_file(self.control());
        format!("journal={},control={}", self.journal().display(), self.control().display())
    }

    /// Cuts the power after the last run: what it wrote and no sync has covered is kept as the seed says. Returns how many
    /// files that changed.
    #[cfg(feature = "fault-injection")]
    pub fn power_cut(&self, seed: u64) -> usize {
        if !self.journal().exists() {
            return 0; // it had not come so far as to write anything
        }
        let changed = eventstream::storage::disk::power_cut(&self.journal(), &self.path(), seed);
        changed.expect("the journal can be read").len()
    }

    fn journal(&self) -> PathBuf {
        self.root.join(format!("journal-{}", self.runs))
    }

    fn control(&self) -> PathBuf {
        self.root.join("control")
    }

    /// The disk does from now on what the words say, and nothing that others have said before.
    pub fn fault(&mut self, words: &str) {
        // The same words again are a new order: no two files are the same. None is seen half written.
        self.faults += 1;
        let (new, order) = (self.root.join("control.new"), "\n".repeat(self.faults as usize));
        fs::write(&new, format!("{words}{order}")).expect("the folder is ours");
        fs::rename(new, self.control()).expect("the folder is ours");
    }

    /// Every record of the stream `default`, verified, in order, and what was found wrong.
    pub fn read(&self) -> (Vec<Logged>, Findings) {
        read(&self.path().join("log/default"), Trust::Nothing)
    }

    /// The same for those who believe what indexes say.
    pub fn read_by_indexes(&self) -> Vec<Logged> {
        read(&self.path().join("log/default"), Trust::Indexes).0
    }
}

fn read(directory: &Path, trust: Trust) -> (Vec<Logged>, Findings) {
    let disk = Arc::new(RealDisk);
    let survey = Survey::of(&*disk, directory, "default", trust).expect("the log can be read");
    let (view, findings) = survey.into_view(disk, directory.to_owned(), "default");
    let mut reader = Arc::new(view).reader(Start::Earliest, None).expect("a beginning");
    let mut records = Vec::new();
    while let Some(item) = reader.read().expect("the log can be read") {
        let Item::Record(record) = item else { continue };
        let id = u128::from_be_bytes(record.event().id().expect("all events have ids")) as u64;
        assert_eq!(record.event().payload(), payload_of(id), "event {id}");
        records.push(Logged { offset: record.offset, id, class: record.class });
    }
    (records, findings)
}

impl Default for DataFolder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}
