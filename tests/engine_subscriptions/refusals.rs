//! What cannot be served is refused by its code, and the connection goes on.

use eventstream::frame::Priority;
use eventstream_tests::client::connect;
use eventstream_tests::data_folder::DataFolder;
use eventstream_tests::engine_process::Setup;
use eventstream_tests::subscriber::Subscriber;

use super::publish;

#[test]
fn without_a_log_there_is_only_what_is_live() {
    let config = "subscriptions: {per_connection: 2}\n";
    let engine = Setup::default().config(config).start();
    let mut subscriber = Subscriber::connect(engine.tcp_port());
    for (payload, code) in [
        (r#"{"sub":1}"#, "bad_request"),
        (r#"{"sub":1,"filter":"a","colour":"red"}"#, "bad_request"),
        (r#"{"sub":1,"filter":"a#"}"#, "bad_filter"),
        (r#"{"sub":1,"filter":"a","start":"earliest"}"#, "no_log"),
        (r#"{"sub":1,"filter":"a","classes":["realtime"],"start":"latest"}"#, "realtime_not_logged"),
    ] {
        assert_eq!(subscriber.refused(payload), code, "{payload}");
    }
    subscriber.subscribe(r#"{"sub":1,"filter":"a"}"#);
    assert_eq!(subscriber.refused(r#"{"sub":1,"filter":"b"}"#), "sub_in_use");
    subscriber.subscribe(r#"{"sub":2,"filter":"a"}"#);
    assert_eq!(subscriber.refused(r#"{"sub":3,"filter":"a"}"#), "too_many_subscriptions");
    publish(&mut connect(engine.tcp_port()), Priority::High, "a", 4..5);
    assert!(subscriber.events(2).iter().all(|event| event.number() == 4));
    drop(subscriber);
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(
        ended.report["counters"]["subscription_requests_refused"].as_u64(),
        Some(7),
        "{:#}",
        ended.report["counters"]
    );
}

#[test]
fn who_asks_and_reads_no_answer_is_disconnected() {
    let engine = Setup::default().config("subscriptions: {backlog_bytes: 65536}\n").start();
    let mut subscriber = Subscriber::connect(engine.tcp_port());
    subscriber.subscribe(r#"{"sub":1,"filter":"a"}"#);
    // Far more than the answers that sockets hold.
    let asked = (0..1_000_000).take_while(|_| subscriber.try_ask("$esc/count", r#"{"sub":1}"#)).count();
    assert!(asked < 1_000_000);
    drop(subscriber);
    let ended = engine.drain();
    ended.assert_balanced();
    assert_eq!(ended.report["counters"]["subscribers_disconnected"].as_u64(), Some(1));
}

#[test]
fn positions_that_have_never_been_are_refused_with_the_first_valid_one() {
    let folder = DataFolder::new();
    let engine = Setup::default().config(&folder.storage("fsync: always")).start();
    let mut subscriber = Subscriber::connect(engine.tcp_port());
    for (start, code) in [
        (r#"{"epoch":1,"offset":1}"#, "truncated"),
        (r#"{"epoch":2,"offset":0}"#, "truncated"),
        (r#"{"epoch":1,"offset":0,"stream":"orders"}"#, "no_such_stream"),
    ] {
        assert_eq!(subscriber.refused(&format!(r#"{{"sub":1,"filter":"a","start":{start}}}"#)), code, "{start}");
    }
    drop(subscriber);
    engine.drain().assert_balanced();
}
