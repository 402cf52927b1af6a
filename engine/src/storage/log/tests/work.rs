//! How much is read to find out what is damaged: in proportion to the bytes there are, whatever is in them.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::super::disk::{DiskFile, RealDisk};
use super::super::super::format::{HEADER_BYTES, SegmentName};
use super::super::scan::{Scan, Step, Window};
use super::*;

/// A file of which is counted what is read.
struct Counting {
    file: Box<dyn DiskFile>,
    read: Arc<AtomicU64>,
}

impl DiskFile for Counting {
    fn pwrite_all(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.file.pwrite_all(bytes, position)
    }

    fn pread(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let read = self.file.pread(buffer, position)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.file.fdatasync()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        self.file.preallocate(length)
    }

    fn write_zeros(&self, position: u64, bytes: u64) -> io::Result<()> {
        self.file.write_zeros(position, bytes)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}

/// Goes through a segment as recovery and readers do. Returns records, damaged parts, and bytes read for each byte of it.
fn go_through(segment: &Path) -> (u64, u64, f64) {
    let read = Arc::new(AtomicU64::new(0));
    let file = Counting { file: RealDisk.open_to_read(segment).unwrap(), read: read.clone() };
    let name = SegmentName::of_file(segment.file_name().unwrap().to_str().unwrap(), SegmentName::SEGMENT).unwrap();
    let end = file.length().unwrap();
    let mut scan = Scan { file: &file, salt: name.salt, epoch: Some(1), end, limit_offset: u64::MAX };
    let (mut window, mut position, mut offset) = (Window::default(), HEADER_BYTES as u64, 0);
    let (mut records, mut damaged) = (0, 0);
    loop {
        match scan.step(&mut window, position, offset).unwrap() {
            Step::Record { bytes, .. } => {
                (position, offset, records) = (position + bytes as u64, offset + 1, records + 1);
            }
            Step::Damage { bytes, next_offset } => {
                (position, offset, damaged) = (position + bytes, next_offset, damaged + 1);
            }
            Step::Tail { .. } | Step::End => break,
        }
    }
    (records, damaged, read.load(Ordering::Relaxed) as f64 / end as f64)
}

/// A segment with records of these payloads, as a killed engine leaves it, and where it is.
fn written(place: &Place, segment_bytes: u64, payloads: impl Iterator<Item = Vec<u8>>) -> PathBuf {
    let options = LogOptions { segment_bytes, buffer_bytes: 4 << 20, ..options(Fsync::Always) };
    let (mut log, _) = place.open(&options);
    for payload in payloads {
        while append(&mut log, 1, "t", &payload).is_err() {
            log.write(0).unwrap();
            log.sync(0).unwrap();
        }
    }
    log.write(0).unwrap();
    log.sync(0).unwrap();
    place.files(".segment").remove(0)
}

fn flip(segment: &Path, positions: impl Iterator<Item = usize>) {
    let mut bytes = std::fs::read(segment).unwrap();
    positions.for_each(|position| bytes[position] ^= 0x40);
    std::fs::write(segment, bytes).unwrap();
}

#[test]
fn thousands_of_damaged_places_are_gone_through_once() {
    const RECORDS: usize = 60_000;
    let place = Place::new("damaged");
    let payloads = (0..RECORDS).map(|number| vec![number as u8; 40 + number % 300]);
    let segment = written(&place, 16 << 20, payloads);
    let bytes = std::fs::metadata(&segment).unwrap().len() as usize;
    // A prime, so that every part of a record is hit.
    let places = (HEADER_BYTES + 5..bytes * 8 / 10).step_by(2999);
    let hit = places.clone().count() as u64;
    flip(&segment, places);
    let (records, damaged, read) = go_through(&segment);
    println!("{records} records, {damaged} damaged places, {read:.2} bytes read for each that there is");
    assert!(damaged > hit * 9 / 10 && damaged <= hit && hit > 4000, "{damaged} of {hit}");
    assert_eq!(records + hit, RECORDS as u64, "no more is lost than was hit");
    assert!(read < 2.5, "{read}");
}

/// A payload that looks like the beginnings of long records does not make a checksum of each be worked out.
#[test]
fn nothing_in_a_payload_makes_it_take_longer() {
    const BYTES: usize = 1 << 20;
    // What a publisher may know: the epoch, and about which offset its event gets.
    let mut prefix = Vec::new();
    prefix.extend_from_slice(&(BYTES as u32 * 3 / 4).to_be_bytes());
    prefix.extend_from_slice(b"sum.");
    prefix.extend_from_slice(&1u64.to_be_bytes());
    prefix.extend_from_slice(&[7; 8]);
    prefix.extend_from_slice(&1u32.to_be_bytes());
    prefix.resize(32, 1);
    // With one of these in front the prefixes begin where records may.
    for aligned in 0..8 {
        let place = Place::new("crafted");
        let payload = [vec![0; aligned], prefix.repeat(BYTES / 32)].concat();
        let payloads = [payload, b"behind".to_vec()];
        let segment = written(&place, 4 << 20, payloads.into_iter());
        flip(&segment, std::iter::once(HEADER_BYTES + 40));
        let (records, damaged, read) = go_through(&segment);
        assert_eq!((records, damaged), (1, 1));
        assert!(read < 4.0, "{read}");
    }
}
