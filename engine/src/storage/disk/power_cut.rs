//! What a power cut leaves of files: all that a sync has covered, and of the rest whatever had reached the disk by then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::journal::{self, Change, Entry};

/// A disk writes whole sectors; of a page some may be new and others old.
const SECTOR: u64 = 512;

/// Takes the files under `directory` back to what they could be after a power cut, by the journal of the
/// [`FaultyDisk`](super::FaultyDisk) they were written through. The seed decides what of the changes that no sync has
/// covered is kept: everything, nothing, the first part, or a random choice of sectors. A file whose name was not synced
/// may be gone; removing and renaming are taken as done. Nobody may have the files open.
///
/// Gives the paths that it changed.
pub fn power_cut(journal: &Path, directory: &Path, seed: u64) -> io::Result<Vec<PathBuf>> {
    let mut random = Random(seed);
    let mut changed = Vec::new();
    for (path, file) in files(&journal::read(journal)?) {
        if !path.starts_with(directory) || !path.exists() {
            continue;
        }
        if !file.name_is_synced && random.below(4) == 0 {
            std::fs::remove_file(&path)?;
            changed.push(path);
        } else if !file.uncovered.is_empty() {
            undo(&path, &file.uncovered, &mut random)?;
            changed.push(path);
        }
    }
    Ok(changed)
}

#[derive(Default)]
struct FileState<'a> {
    name_is_synced: bool,
    uncovered: Vec<Uncovered<'a>>,
}

struct Uncovered<'a> {
    number: u64,
    change: &'a Change,
    /// A sync has failed since: none will cover it.
    is_forgotten: bool,
}

fn files(entries: &[Entry]) -> BTreeMap<PathBuf, FileState<'_>> {
    let mut files: BTreeMap<PathBuf, FileState<'_>> = BTreeMap::new();
    // What was there before the journal was begun is durable, name and all.
    let existing = || FileState { name_is_synced: true, uncovered: Vec::new() };
    for (number, Entry { path, change }) in (0..).zip(entries) {
        match change {
            Change::Created => {
                files.insert(path.clone(), FileState::default());
            }
            Change::Removed => {
                files.remove(path);
            }
            Change::Renamed(to) => {
                let file = files.remove(path).unwrap_or_else(existing);
                files.insert(to.clone(), file);
            }
            Change::Changed { .. } => {
                let file = files.entry(path.clone()).or_insert_with(existing);
                file.uncovered.push(Uncovered { number, change, is_forgotten: false });
            }
            Change::Synced { covers } => {
                let file = files.entry(path.clone()).or_insert_with(existing);
                file.uncovered.retain(|uncovered| uncovered.is_forgotten || uncovered.number >= *covers);
            }
            Change::SyncFailed { covers } => {
                let file = files.entry(path.clone()).or_insert_with(existing);
                let touched = file.uncovered.iter_mut().filter(|uncovered| uncovered.number < *covers);
                touched.for_each(|uncovered| uncovered.is_forgotten = true);
            }
            Change::DirectorySynced => {
                let inside = files.iter_mut().filter(|(file, _)| file.parent() == Some(path));
                inside.for_each(|(_, file)| file.name_is_synced = true);
            }
        }
    }
    files
}

/// How much of what was not covered reached the disk.
#[derive(Clone, Copy)]
enum Kept {
    All,
    Nothing,
    /// The changes before this one; of it a part, of later ones nothing.
    Until(usize),
    Sectors,
}

/// Undoes changes from the last to the first. A sector that is kept is kept as the last change left it.
fn undo(path: &Path, uncovered: &[Uncovered<'_>], random: &mut Random) -> io::Result<()> {
    let kept = match random.below(4) {
        0 => Kept::All,
        1 => Kept::Nothing,
        2 => Kept::Until(random.below(uncovered.len() as u64) as usize),
        _ => Kept::Sectors,
    };
    let file = File::options().read(true).write(true).open(path)?;
    let mut settled = BTreeSet::new();
    for (index, uncovered) in uncovered.iter().enumerate().rev() {
        let Change::Changed { position, bytes, old, old_length, new_length } = uncovered.change else { continue };
        let end = position + bytes;
        let mut undone = false;
        let mut start = *position;
        while start < end {
            let next = ((start / SECTOR + 1) * SECTOR).min(end);
            let keeps = match kept {
                Kept::All => true,
                Kept::Nothing => false,
                Kept::Until(last) => index < last || (index == last && random.below(2) == 0),
                Kept::Sectors => random.below(2) == 0,
            };
            if keeps {
                settled.insert(start / SECTOR);
            } else if !settled.contains(&(start / SECTOR)) {
                restore(&file, old, *position, start, next)?;
                undone = true;
            }
            start = next;
        }
        let shrank = new_length < old_length;
        let keeps_length = match kept {
            Kept::All => true,
            Kept::Nothing => false,
            Kept::Until(last) => index < last,
            Kept::Sectors => random.below(2) == 0,
        };
        // A length is undone only with all that it gave room for.
        let has_settled = settled.last().is_some_and(|last| (last + 1) * SECTOR > *old_length);
        let undo_length = if shrank { undone } else { !keeps_length && !has_settled };
        if undo_length {
            file.set_len(*old_length)?;
        }
    }
    Ok(())
}

/// Puts back what stood in `start..end` before a change at `position`; behind the old bytes there were zeros, or nothing.
fn restore(file: &File, old: &[u8], position: u64, start: u64, end: u64) -> io::Result<()> {
    let from = (start - position) as usize;
    let mut bytes = old.get(from..).unwrap_or_default().to_vec();
    bytes.resize((end - start) as usize, 0);
    file.write_all_at(&bytes, start)
}

/// SplitMix64: the same seed, the same cut.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Disk as _, FaultyDisk};
    use super::*;
    use crate::storage::scratch::Scratch;

    /// Writes 4 KiB that are synced, then 4 KiB that are not, and gives how much of each a cut leaves.
    fn after_cut(seed: u64, fails: bool) -> (bool, usize) {
        let scratch = Scratch::new("cut");
        let (journal, data) = (scratch.path().join("journal"), scratch.path().join("data"));
        std::fs::create_dir(&data).unwrap();
        let disk = FaultyDisk::new(&journal).unwrap();
        let file = disk.create(&data.join("a")).unwrap();
        disk.sync_directory(&data).unwrap();
        file.pwrite_all(&[1; 4096], 0).unwrap();
        file.fdatasync().unwrap();
        file.pwrite_all(&[2; 4096], 4096).unwrap();
        if fails {
            disk.faults().fail_syncs(1);
            assert!(file.fdatasync().is_err());
            file.fdatasync().unwrap();
        }
        drop((file, disk));
        power_cut(&journal, &data, seed).unwrap();
        let bytes = std::fs::read(data.join("a")).unwrap();
        (bytes[..4096] == [1; 4096], bytes[4096..].iter().filter(|byte| **byte == 2).count())
    }

    #[test]
    fn what_was_synced_stays_and_of_the_rest_anything_may() {
        for fails in [false, true] {
            let cuts: Vec<_> = (0..40).map(|seed| after_cut(seed, fails)).collect();
            assert!(cuts.iter().all(|(synced, _)| *synced));
            // A sync after a failed one covers nothing of what that one should have.
            let rest: BTreeSet<_> = cuts.iter().map(|(_, rest)| *rest).collect();
            assert!(rest.contains(&0) && rest.contains(&4096) && rest.len() > 3, "{rest:?}");
        }
    }

    #[test]
    fn a_name_that_was_not_synced_may_be_gone() {
        let left = |seed| {
            let scratch = Scratch::new("cut-name");
            let (journal, data) = (scratch.path().join("journal"), scratch.path().join("data"));
            std::fs::create_dir(&data).unwrap();
            let disk = FaultyDisk::new(&journal).unwrap();
            disk.create(&data.join("a")).unwrap().fdatasync().unwrap();
            power_cut(&journal, &data, seed).unwrap();
            data.join("a").exists()
        };
        let left: BTreeSet<_> = (0..40).map(left).collect();
        assert_eq!(left.len(), 2);
    }

    #[test]
    fn a_full_disk_takes_what_was_set_aside() {
        let scratch = Scratch::new("full");
        let disk = FaultyDisk::new(&scratch.path().join("journal")).unwrap();
        let file = disk.create(&scratch.path().join("a")).unwrap();
        file.preallocate(8192).unwrap();
        disk.faults().fill(true);
        file.pwrite_all(&[1; 8192], 0).unwrap();
        let refused = file.pwrite_all(&[1; 1], 8192).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::NOSPC.raw_os_error()));
        assert!(disk.create(&scratch.path().join("b")).is_err());
        disk.faults().fill(false);
        file.pwrite_all(&[1; 1], 8192).unwrap();
    }

    #[test]
    fn another_process_switches_faults_by_a_file() {
        let scratch = Scratch::new("control");
        let control = scratch.path().join("control");
        let told = format!("journal={}, control={}", scratch.path().join("journal").display(), control.display());
        let disk = FaultyDisk::told(&told).unwrap();
        let file = disk.create(&scratch.path().join("a")).unwrap();
        file.pwrite_all(b"a", 0).unwrap();
        std::fs::write(&control, "sync=1 write=EIO").unwrap();
        assert!(file.pwrite_all(b"a", 0).is_err());
        assert!(file.fdatasync().is_err());
        file.fdatasync().unwrap();
        std::fs::remove_file(&control).unwrap();
        file.pwrite_all(b"a", 0).unwrap();
        assert!(FaultyDisk::told("sync=1").is_err() && FaultyDisk::told("journal=/x,synk=1").is_err());
    }
}
