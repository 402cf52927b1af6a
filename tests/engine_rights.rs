//! Without any rights of the administrator's the engine serves the interface it was asked for by the kernel's socket,
//! and says why.

use eventstream_tests::blast::Blast;
use eventstream_tests::engine_process::Setup;
use eventstream_tests::skipped;
use eventstream_tests::veth::Veth;

#[test]
fn without_capabilities_the_interface_is_served_by_the_socket() {
    const TEST: &str = "without_capabilities_the_interface_is_served_by_the_socket";
    let Some(link) = Veth::create(TEST) else { return };
    let stripped = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    if xtask::process::find_program(stripped[0]).is_none() {
        return skipped(TEST, "there is no setpriv here");
    }
    let engine = Setup::default().interface(&link.iface).wrapped_by(&stripped).start();
    let status = engine.status();
    let queues = status["queues"].as_array().unwrap();
    assert_eq!(queues.len(), 2, "{queues:?}");
    for queue in queues {
        assert_eq!((&queue["iface"], &queue["mode"]), (&link.iface.as_str().into(), &"socket".into()));
        assert!(queue["reason"].as_str().unwrap().contains("EPERM"), "{queue}");
    }
    // Slow: without the right to a larger one, the socket's buffer is what the system grants everybody.
    let sent = Blast::datagrams(&link, engine.udp_port(), "--rate 50k --seconds 1").finish();
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.report["queues"], status["queues"]);
    let datagrams = ended.count("/datagrams/socket_received") + ended.count("/datagrams/socket_dropped");
    assert_eq!(sent.datagrams, datagrams + sent.link_dropped);
    assert_eq!(ended.count("/datagrams/program_runs"), 0);
    assert_eq!((ended.count("/events/accepted"), ended.processed()), (sent.events, sent.events));
}
