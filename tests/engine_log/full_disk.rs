//! A disk on which there is no room, until there is some.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use eventstream_tests::client::PATIENCE;
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::{Setup, sum};
use eventstream_tests::publisher::{Acknowledged, Publisher};
use eventstream_tests::skipped;
use xtask::process::capture;

use super::{Realtime, TOPICS, assert_each_once, config, times_logged};

const DISK_BYTES: usize = 48 << 20;
/// What the log has room for at first: less than is published.
const FREE_BYTES: usize = 6 << 20;
const EVENTS_EACH: u64 = 15_000;

/// A file system in memory at a folder. Dropped, it is taken away.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: PathBuf) -> Result<Self, String> {
        fs::create_dir_all(&path).expect("the folder is ours");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs"]).arg(&path);
        capture(&mut mount).map_err(|error| error.to_string())?;
        Ok(Self(path))
    }

    /// A file that leaves so little room.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        File::create(&path)
            .and_then(|mut file| file.write_all(&vec![1; DISK_BYTES - FREE_BYTES]))
            .expect("there is room");
        path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Even where somebody still has a file of it open.
        if let Err(error) = capture(Command::new("umount").arg("--lazy").arg(&self.0)) {
            eprintln!("{error}");
        }
    }
}

#[test]
fn on_a_full_disk_publishers_wait_and_go_on_when_there_is_room() {
    let folder = DataFolder::new();
    let mounted = match Mounted::at(folder.path()) {
        Ok(mounted) => mounted,
        Err(why) => return skipped("on_a_full_disk_publishers_wait_and_go_on_when_there_is_room", &why),
    };
    let ballast = mounted.fill();
    let config = config(&folder, "fsync: always");
    let engine = Setup::default().config(&config).start();
    let (port, never) = (engine.tcp_port(), AtomicBool::new(false));
    let mut publishers: Vec<_> = (1..5).map(|number| Publisher::new(number, 0, &TOPICS).limited(EVENTS_EACH)).collect();
    let acknowledged: Vec<Acknowledged> = publishers.iter().map(Publisher::acknowledged).collect();
    let engine = std::thread::scope(|scope| {
        let publish = |publisher| scope.spawn(|| Publisher::publish(publisher, port, &never));
        let publishing: Vec<_> = publishers.iter_mut().map(publish).collect();
        // Gone also when something below fails: publishers would wait for ever.
        let ballast = Removed(ballast);
        assert!(engine.heard("are not read until it works again", PATIENCE).is_some(), "{:?}", engine.log());
        let full = engine.wait_until("no room", |report| report["counters"]["log_failures"].as_u64() > Some(5));
        Realtime::connect(port).is_served(100);
        // What has been acknowledged by now is on disk by now.
        let told: Vec<u64> = acknowledged.iter().flat_map(Acknowledged::ids).collect();
        let times = times_logged(&folder.read().0);
        assert!(told.len() > 1000 && told.iter().all(|id| times.contains_key(id)), "{}", told.len());
        assert!((told.len() as u64) < 4 * EVENTS_EACH, "nobody had to wait");
        let after = engine.status();
        assert_eq!(after["counters"]["log_bytes_written"], full["counters"]["log_bytes_written"], "it stands still");
        drop(ballast);
        publishing.into_iter().for_each(|thread| assert!(thread.join().unwrap()));
        engine
    });
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(sum(&ended.report, "/events/lost") + sum(&ended.report, "/events/dead_lettered"), 0);
    assert_eq!(ended.processed(), ended.count("/events/accepted") - ended.count("/events/duplicate"));
    assert!(ended.log.iter().any(|line| line.contains("can be written again")), "{:#?}", ended.log);
    assert_each_once(&folder, &publishers);
    drop(mounted);
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
