//! What a stream's directory holds: looked at without changing anything.
//!
//! Segments are taken from the newest to the oldest, as each ends where the next one begins, whatever stands behind. One with an
//! index is taken at its word, others are gone through. What is found wrong at the end of the last is a torn tail, left by a
//! crash while it was written; what is found before a record that is right is damage.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::disk::{Disk, DiskFile};
use super::super::error::StorageError;
use super::super::format::{HEADER_BYTES, RecordView, SegmentHeader, SegmentName};
use super::index::{Index, Quarantined};
use super::scan::{Scan, Step, Window};
use super::view::{Segment, View};

/// A part at the end of a segment that a crash left half written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Cut {
    pub segment: String,
    pub position: u64,
    pub bytes: u64,
    /// The first offset that may have been there.
    pub offset: u64,
}

/// Damage, with the segment it is in.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damaged {
    pub segment: String,
    #[serde(flatten)]
    pub range: Quarantined,
}

/// Offsets that are in no segment: from `from` on, before `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    pub from: u64,
    pub until: u64,
}

/// What is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Findings {
    pub cut: Vec<Cut>,
    pub quarantined: Vec<Damaged>,
    pub missing: Vec<Missing>,
    /// Segments whose header is damaged; what it said is in their names.
    pub headers: Vec<String>,
    /// Files of segments that came to nothing: without a whole header and without a record.
    pub discarded: Vec<String>,
    /// Files of segments that later ones have replaced.
    pub superseded: Vec<String>,
}

impl Findings {
    /// Records that had been written are not there any more.
    pub fn is_damage(&self) -> bool {
        !(self.quarantined.is_empty() && self.missing.is_empty() && self.headers.is_empty())
    }
}

/// How many of each kind are named in one line of a log; `eventstream log info` names all.
const NAMED: usize = 3;

/// What was found, in a line that does not grow with the damage.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = false;
        let mut list = |what: &str, count: usize, named: Vec<String>| {
            if count == 0 {
                return Ok(());
            }
            let separator = if std::mem::replace(&mut said, true) { "; " } else { "" };
            let more = if count > named.len() { format!(" and {} more", count - named.len()) } else { String::new() };
            write!(f, "{separator}{count} {what}: {}{more}", named.join(", "))
        };
        fn few<T: fmt::Debug>(of: &[T]) -> Vec<String> {
            of.iter().take(NAMED).map(|found| format!("{found:?}")).collect()
        }
        list("cut", self.cut.len(), few(&self.cut))?;
        list("quarantined", self.quarantined.len(), few(&self.quarantined))?;
        list("missing", self.missing.len(), few(&self.missing))?;
        list("headers damaged", self.headers.len(), few(&self.headers))?;
        list("discarded", self.discarded.len(), few(&self.discarded))?;
        list("superseded", self.superseded.len(), few(&self.superseded))?;
        if said { Ok(()) } else { f.write_str("nothing") }
    }
}

/// How much is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Segments with an index are not gone through.
    Indexes,
    /// Every record of every segment is verified.
    Nothing,
}

#[derive(Debug)]
pub struct Surveyed {
    pub index: Index,
    /// There is a file that says so.
    pub has_index_file: bool,
}

#[derive(Debug, Default)]
pub struct Survey {
    /// Oldest first.
    pub segments: Vec<Surveyed>,
    pub findings: Findings,
    /// The highest number that any file has, also one of no use.
    pub last_number: Option<u64>,
}

impl Survey {
    pub fn of(disk: &dyn Disk, directory: &Path, stream: &str, trust: Trust) -> Result<Self, StorageError> {
        let files = disk.list(directory).map_err(StorageError::at(directory, "list"))?;
        let mut names: Vec<SegmentName> =
            files.iter().filter_map(|file| SegmentName::of_file(file, SegmentName::SEGMENT)).collect();
        names.sort_by_key(|name| name.number);
        let mut this = Self { last_number: names.last().map(|name| name.number), ..Self::default() };
        let mut next_base = None;
        for name in names.into_iter().rev() {
            let look = Look { disk, directory, stream, name, trust };
            if next_base.is_some_and(|next| next <= name.base_offset) {
                this.findings.superseded.push(name.segment_file());
            } else if let Some(surveyed) = look.segment(next_base, &mut this.findings)? {
                this.segments.push(surveyed);
                next_base = Some(name.base_offset);
            } else {
                this.findings.discarded.push(name.segment_file());
            }
        }
        this.segments.reverse();
        let Findings { cut, quarantined, missing, headers, discarded, superseded } = &mut this.findings;
        cut.reverse();
        quarantined.sort_by_key(|damaged| damaged.range.from);
        missing.reverse();
        [headers, discarded, superseded].into_iter().for_each(|files| files.reverse());
        Ok(this)
    }

    /// The last segment was closed in order, and nothing was begun after it.
    pub fn ended_cleanly(&self) -> bool {
        let last = self.segments.last().is_none_or(|last| last.has_index_file);
        last && self.findings.discarded.is_empty()
    }

    pub fn next_offset(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.index.next_offset)
    }

    pub fn epoch(&self) -> Option<u32> {
        self.segments.last().map(|last| last.index.header.epoch)
    }

    /// To read what is there, without a writer.
    pub fn into_view(self, disk: Arc<dyn Disk>, directory: PathBuf, stream: &str) -> (View, Findings) {
        let (epoch, end) = (self.epoch().unwrap_or_default(), self.next_offset());
        let segments = self.segments.into_iter().map(|surveyed| Arc::new(Segment::closed(surveyed.index))).collect();
        (View::new((disk, directory, stream.to_owned()), epoch, segments, end), self.findings)
    }
}

/// One segment that is looked at.
struct Look<'l> {
    disk: &'l dyn Disk,
    directory: &'l Path,
    stream: &'l str,
    name: SegmentName,
    trust: Trust,
}

impl Look<'_> {
    /// `None` when there is nothing in it, not even a header.
    fn segment(&self, next_base: Option<u64>, findings: &mut Findings) -> Result<Option<Surveyed>, StorageError> {
        let path = self.directory.join(self.name.segment_file());
        let file = self.disk.open_to_read(&path).map_err(StorageError::at(&path, "open"))?;
        let length = file.length().map_err(StorageError::at(&path, "read"))?;
        let indexed = self.index_file().filter(|index| index.end <= length);
        let has_index_file = indexed.is_some();
        if self.trust == Trust::Indexes
            && let Some(index) = indexed
        {
            let known = index.quarantined.iter();
            findings
                .quarantined
                .extend(known.map(|range| Damaged { segment: self.name.segment_file(), range: *range }));
            self.tell_missing(index.next_offset, next_base, findings);
            return Ok(Some(Surveyed { index, has_index_file }));
        }
        let mut bytes = [0; HEADER_BYTES];
        file.pread(&mut bytes, 0).map_err(StorageError::at(&path, "read"))?;
        if SegmentHeader::is_of_another_version(&bytes) {
            return Err(StorageError::invalid(&path, "read", "it is of a format that this version does not know"));
        }
        let header = SegmentHeader::decode(&bytes).filter(|header| header.name == self.name);
        let is_header_damaged = header.is_none();
        let header = header.or_else(|| indexed.as_ref().map(|index| index.header.clone()));
        // A closed segment ends where its index says; what is behind was never a part of it.
        let end = indexed.as_ref().map_or(length, |index| index.end);
        let (index, tail) = self.go_through(&*file, header, (end, next_base), &path, findings)?;
        findings.cut.extend(tail.filter(|_| indexed.is_none() && next_base.is_none()));
        if is_header_damaged {
            if index.records == 0 && !has_index_file {
                return Ok(None);
            }
            findings.headers.push(self.name.segment_file());
        }
        // What an index says was there, and is not any more.
        let expected = indexed.map_or(index.next_offset, |index| index.next_offset);
        if index.next_offset < expected {
            findings.missing.push(Missing { from: index.next_offset, until: expected });
        } else {
            self.tell_missing(index.next_offset, next_base, findings);
        }
        Ok(Some(Surveyed { index, has_index_file }))
    }

    fn tell_missing(&self, next_offset: u64, next_base: Option<u64>, findings: &mut Findings) {
        if let Some(base) = next_base.filter(|base| *base > next_offset) {
            findings.missing.push(Missing { from: next_offset, until: base });
        }
    }

    fn index_file(&self) -> Option<Index> {
        let file = self.disk.open_to_read(&self.directory.join(self.name.index_file())).ok()?;
        let mut bytes = vec![0; usize::try_from(file.length().ok()?).ok()?];
        let read = file.pread(&mut bytes, 0).ok()?;
        Index::decode(&bytes[..read]).filter(|index| index.header.name == self.name)
    }

    /// Everything up to `end`, or the first offset of the next segment, and what is no record behind the last.
    fn go_through(
        &self,
        file: &dyn DiskFile,
        header: Option<SegmentHeader>,
        (end, next_base): (u64, Option<u64>),
        path: &Path,
        findings: &mut Findings,
    ) -> Result<(Index, Option<Cut>), StorageError> {
        let segment = self.name.segment_file();
        let epoch = header.as_ref().map(|header| header.epoch);
        let header = header.unwrap_or_else(|| SegmentHeader {
            name: self.name,
            epoch: 0,
            created_ns: 0,
            stream: self.stream.to_owned(),
        });
        let mut index = Index::new(header, 0);
        let limit_offset = next_base.unwrap_or(u64::MAX);
        let mut scan = Scan { file, salt: self.name.salt, epoch, end, limit_offset };
        let mut window = Window::default();
        let (mut position, mut offset) = (HEADER_BYTES as u64, self.name.base_offset);
        loop {
            match scan.step(&mut window, position, offset).map_err(StorageError::at(path, "read"))? {
                Step::Record { bytes, .. } => {
                    if let Some(record) = RecordView::parse(window.peek(position, bytes)) {
                        index.header.epoch = record.epoch;
                        index.add(&record, position, bytes);
                    }
                    position += bytes as u64;
                    offset += 1;
                }
                Step::Damage { bytes, next_offset } => {
                    let range = Quarantined { position, bytes, from: offset, until: next_offset };
                    index.quarantined.push(range);
                    findings.quarantined.push(Damaged { segment: segment.clone(), range });
                    position += bytes;
                    offset = next_offset;
                }
                Step::Tail { written } => {
                    let cut = (written > 0).then_some(Cut { segment, position, bytes: written, offset });
                    return Ok((index, cut));
                }
                Step::End => return Ok((index, None)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_said_in_a_line_that_does_not_grow() {
        assert_eq!(Findings::default().to_string(), "nothing");
        let discarded = (1..=5).map(|number| format!("{number}.segment")).collect();
        let findings = Findings { discarded, headers: vec!["h".to_owned()], ..Findings::default() };
        let said = findings.to_string();
        assert_eq!(said, r#"1 headers damaged: "h"; 5 discarded: "1.segment", "2.segment", "3.segment" and 2 more"#);
    }
}
