//! The power is cut while events become dead letters, and somebody waits for each of them.

use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::publisher::{DEAD_LETTERED, DUPLICATE, Publisher};
use eventstream_tests::random::Random;

use super::kills::{FOLDER, OtherHalf};
use super::*;

const ROUNDS: u64 = 5;
const PUBLISHERS: u64 = 2;

/// An engine that rejects everything, until it is killed.
fn reject_until_killed(folder: &Path) {
    let engine = start(folder, all);
    println!("port {}", engine.control().ports().tcp.unwrap());
    loop {
        std::thread::park();
    }
}

/// Whoever is told that an event is in the dead letter queue does not send it again: it has to be there from then on.
#[test]
fn what_is_told_to_be_a_dead_letter_survives_every_power_cut() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return reject_until_killed(Path::new(&folder));
    }
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let (mut folder, mut random) = (DataFolder::new(), Random::new(seed));
    let mut publishers: Vec<_> = (1..=PUBLISHERS).map(|number| Publisher::new(number, 1, &["t/0", "t/1"])).collect();
    let mut changed_files = 0;
    for _ in 0..ROUNDS {
        let disk = folder.next_run();
        let test = "cuts::what_is_told_to_be_a_dead_letter_survives_every_power_cut";
        let mut rejecting = OtherHalf::start(test, &folder.path(), Some(&disk));
        let (port, stop) = (rejecting.hear("port ", 1) as u16, AtomicBool::new(false));
        std::thread::scope(|scope| {
            publishers.iter_mut().for_each(|publisher| {
                scope.spawn(|| publisher.publish(port, &stop));
            });
            std::thread::sleep(Duration::from_micros(10_000 + random.below(30_000) as u64));
            rejecting.kill();
        });
        changed_files += folder.power_cut(random.draw());
        let on_disk = OnDisk::of(&folder.path());
        for id in publishers.iter().flat_map(|publisher| publisher.acknowledged().ids()) {
            assert_eq!(on_disk.found.get(&id), Some(&(0, 1)), "{id} was told to be in the dead letter queue");
        }
    }
    let engine = start(&folder.path(), all);
    let (port, stop) = (engine.control().ports().tcp.unwrap(), AtomicBool::new(true));
    publishers.iter_mut().for_each(|publisher| assert!(publisher.publish(port, &stop)));
    end(engine);
    let told = |status| publishers.iter().filter_map(|publisher| publisher.statuses().get(&status)).sum::<u64>();
    let all: u64 = publishers.iter().flat_map(|publisher| publisher.statuses().values()).sum();
    assert_eq!(told(DEAD_LETTERED) + told(DUPLICATE | DEAD_LETTERED), all);
    assert!(told(DEAD_LETTERED) > ROUNDS * 100 && told(DUPLICATE | DEAD_LETTERED) > 0, "{all}");
    assert!(changed_files > 0, "power cuts that change nothing");
}
