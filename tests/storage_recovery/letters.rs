//! `eventstream dlq` on a data directory.

use std::path::Path;
use std::sync::Arc;

use eventstream::frame::Class;
use eventstream::metrics::DeadLetterReason;
use eventstream::storage::directory::{DataDirectory, Owner};
use eventstream::storage::disk::RealDisk;
use eventstream::storage::format::LetterQueue;
use eventstream::storage::letters::{Letter, LetterOptions, Letters};
use eventstream::storage::log::Fsync;

use crate::{Scratch, frame, run};

/// Three letters that failed and two that were shed, a second apart from 1000 s after 1970 on.
fn filled(path: &Path) {
    let directory = DataDirectory::lock_or_make(path, Owner::this("test", "")).unwrap();
    let options = LetterOptions {
        fsync: Fsync::Always,
        bytes: 1 << 20,
        buffer_bytes: 1 << 20,
        frame_bytes: 1 << 10,
        after_crash: false,
    };
    let letters = [
        (LetterQueue::Failed, DeadLetterReason::Rejected, "orders/1"),
        (LetterQueue::Failed, DeadLetterReason::RetriesExhausted, "orders/2"),
        (LetterQueue::Failed, DeadLetterReason::Rejected, "plant/temp"),
        (LetterQueue::Shed, DeadLetterReason::ShedDropping, "orders/3"),
        (LetterQueue::Shed, DeadLetterReason::LinkFull, "plant/temp"),
    ];
    for queue in LetterQueue::ALL {
        let (mut open, _) = Letters::open(Arc::new(RealDisk), &directory.letters(queue), queue, &options).unwrap();
        for (second, (_, reason, topic)) in (1000..).zip(letters).filter(|(_, letter)| letter.0 == queue) {
            let frame = frame(topic, b"payload");
            let letter = Letter { class: Class::Transactional, reason, arrival_ns: 5, frame: &frame };
            open.append(&letter, second * 1_000_000_000).unwrap();
        }
        open.close(0).unwrap();
    }
}

#[test]
fn letters_are_listed_shown_counted_and_purged_by_filters() {
    let scratch = Scratch::new("dlq");
    filled(scratch.path());
    let count = |words: &str| {
        let listed = run(words, scratch.path());
        assert_eq!((listed.code, listed.err.as_str()), (0, ""), "{words}");
        listed.out.lines().count()
    };
    let list = run("dlq list", scratch.path()).out;
    let first = list.lines().next().unwrap();
    for part in ["failed", "1970-01-01T00:16:40.000Z", "rejected", "transactional", "7 bytes", "orders/1"] {
        assert!(first.contains(part), "{first}");
    }
    for (words, expected) in [
        ("", 5),
        ("--queue shed", 2),
        ("--reason rejected", 2),
        ("--topic orders/#", 3),
        ("--topic orders/# --queue failed", 2),
        ("--since 1001 --until 1970-01-01T00:16:44Z", 3),
        ("--limit 4", 4),
        ("--reason handler_panic", 0),
    ] {
        assert_eq!(count(&format!("dlq list {words}")), expected, "{words}");
        assert_eq!(count(&format!("dlq list --json {words}")), expected, "{words}");
    }
    let shown = run("dlq show failed 1", scratch.path());
    let shown: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!((&shown["topic"], &shown["payload"]), (&"orders/2".into(), &"cGF5bG9hZA==".into()));
    assert_eq!((&shown["reason"], &shown["arrival_ns"]), (&"retries_exhausted".into(), &5.into()));
    assert_eq!(run("dlq show shed 7", scratch.path()).code, 2);

    assert_eq!(run("dlq purge", scratch.path()).code, 2, "everything has to be asked for");
    assert_eq!(run("dlq purge --topic orders/#", scratch.path()).out, "3 letters purged\n");
    assert_eq!(count("dlq list"), 2);
    assert_eq!(run("dlq show failed 1", scratch.path()).code, 2);
    let stats: serde_json::Value = serde_json::from_str(&run("dlq stats --json", scratch.path()).out).unwrap();
    assert_eq!(
        (&stats["failed"]["rejected"]["letters"], &stats["shed"]["link_full"]["letters"]),
        (&1.into(), &1.into())
    );
    assert_eq!(run("dlq purge --all", scratch.path()).out, "2 letters purged\n");
    assert_eq!(run("dlq purge --all", scratch.path()).out, "0 letters purged\n");
    assert!(run("dlq stats", scratch.path()).out.contains("failed: 0 letters held"));
    assert_eq!(run("log verify", scratch.path()).code, 0);
}
