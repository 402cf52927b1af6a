//! Nothing is lost at a pace the machine can keep, and at one it cannot keep every loss has a place in a counter.

use eventstream_tests::blast::{Blast, Sent};
use eventstream_tests::engine_process::{Ended, Engine, Setup, sum};
use eventstream_tests::skipped;
use eventstream_tests::veth::{self, Veth};

/// A tenth of what one busy CPU takes in a build for debugging, and a queue holds half a second of it.
const PACE: &str = "--rate 100k --seconds 4";
/// One event in a hundred is sent twice, in the class that deduplicates.
const REPEATED: &str = "--ids --duplicates 0.01 --priorities 1-2";

/// An engine with AF_XDP on both queues; `None`, said, where that cannot be had.
fn start(test: &str, link: &Veth) -> Option<Engine> {
    let engine = Setup::default().interface(&link.iface).start();
    let modes = engine.modes();
    if let Some((_, reason)) = modes.iter().find(|(mode, reason)| mode == "socket" && reason.contains("EPERM")) {
        skipped(test, reason);
        return None;
    }
    assert!(modes.len() == 2 && modes.iter().all(|(mode, _)| mode == "xdp-native-copy"), "{modes:?}");
    Some(engine)
}

/// Every event that was sent has been handled, or was known as a duplicate, and that as often as duplicates were sent.
fn assert_nothing_lost(ended: &Ended, sent: Sent, duplicates: u64) {
    ended.assert_balanced();
    let ledger = &ended.report["ledger"];
    assert!(sent.events > 0 && sent.link_dropped == 0, "{sent:?}");
    for path in ["/events/dead_lettered", "/events/lost", "/datagrams/malformed", "/tcp_frames/malformed"] {
        assert_eq!(sum(&ended.report, path), 0, "{path}: {ledger:#}");
    }
    for path in ["kernel/rx_dropped", "kernel/rx_ring_full", "kernel/redirect_failed", "socket_dropped", "truncated"] {
        assert_eq!(ended.count(&format!("/datagrams/{path}")), 0, "{path}: {ledger:#}");
    }
    assert_eq!(ended.count("/events/accepted"), sent.events);
    assert_eq!((ended.processed(), ended.count("/events/duplicate")), (sent.events - duplicates, duplicates));
}

#[test]
fn paced_packets_on_both_queues_are_all_handled() {
    const TEST: &str = "paced_packets_on_both_queues_are_all_handled";
    let Some(link) = Veth::create(TEST) else { return };
    let Some(engine) = start(TEST, &link) else { return };
    let arguments = format!("afxdp {PACE} {REPEATED} --queues 0:95,1:5");
    let sent = Blast::packets(&link, engine.udp_port(), &arguments).finish();
    let ended = engine.drain();
    assert_nothing_lost(&ended, sent, sent.duplicates);
    assert!(sent.duplicates > 0);
    let counts =
        ["program_runs", "steered", "consumed", "parsed"].map(|name| ended.count(&format!("/datagrams/{name}")));
    assert_eq!(counts, [sent.datagrams; 4]);
}

#[test]
fn paced_datagrams_through_the_kernels_socket_are_all_handled() {
    let _turn = veth::turn();
    let engine = Setup::default().start();
    let sent = Blast::local(engine.udp_port(), &format!("udp {PACE} {REPEATED}")).finish();
    let ended = engine.drain();
    assert_nothing_lost(&ended, sent, sent.duplicates);
    assert!(sent.duplicates > 0);
    assert_eq!(ended.count("/datagrams/socket_received"), sent.datagrams);
}

#[test]
fn paced_events_of_all_classes_are_all_handled() {
    let _turn = veth::turn();
    let engine = Setup::default().start();
    let datagrams = Blast::local(engine.udp_port(), &format!("udp {PACE}"));
    let streams = Blast::local(engine.tcp_port(), "tcp --rate 100k --seconds 4 --connections 4");
    let (datagrams, streams) = (datagrams.finish(), streams.finish());
    let ended = engine.drain();
    let events = datagrams.events + streams.events;
    assert_nothing_lost(&ended, Sent { events, ..datagrams }, 0);
    for class in ["realtime", "transactional", "batch"] {
        assert!(ended.count(&format!("/events/processed/{class}")) > 0, "{class}");
    }
}

#[test]
fn every_loss_at_the_highest_rate_is_attributed() {
    const TEST: &str = "every_loss_at_the_highest_rate_is_attributed";
    let Some(link) = Veth::create(TEST) else { return };
    let Some(engine) = start(TEST, &link) else { return };
    let before = link.counters().unwrap();
    let sent = Blast::packets(&link, engine.udp_port(), "testrun --ids --seconds 2").finish();
    let ended = engine.drain();
    ended.assert_balanced();
    let failed = ["rx_dropped", "rx_ring_full", "redirect_failed"];
    let failed = failed.iter().map(|name| ended.count(&format!("/datagrams/kernel/{name}"))).sum();
    let dropped = link.counters().unwrap().dropped_since(&before, failed);
    assert!(failed + dropped > 0, "not the highest rate: {sent:?}");
    assert_eq!(sent.datagrams, ended.count("/datagrams/program_runs") + dropped, "{:#}", ended.report["ledger"]);
    assert_eq!(ended.count("/datagrams/steered"), ended.count("/datagrams/program_runs"));
    assert_eq!(ended.count("/datagrams/steered"), ended.count("/datagrams/consumed") + failed);
    assert_eq!(ended.count("/datagrams/consumed") * 23, ended.count("/events/accepted"));
    let without_handler = sum(&ended.report, "/events/dead_lettered") + sum(&ended.report, "/events/lost");
    let handled = ended.processed() + ended.count("/events/duplicate");
    assert_eq!(ended.count("/events/accepted"), handled + without_handler);
}
