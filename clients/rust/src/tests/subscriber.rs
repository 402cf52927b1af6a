//! Subscriptions and publishers over real sockets, against an engine that does what the test says.

use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;

use super::fake::{self, FakeEngine, NOT_LOGGED, PATIENCE, Peer, Script, all_delivered, delivered};
use crate::{Delivery, Error, Event, Message, Options, Publisher, Start, Subscriber, Subscription};

fn script(work: impl FnOnce(&mut Peer) + Send + 'static) -> Script {
    Box::new(work)
}

/// Where nobody listens.
fn nobody() -> String {
    FakeEngine::start(Vec::new()).address
}

fn take(subscriber: &mut Subscriber, count: usize) -> Vec<Delivery> {
    (0..count).map(|_| subscriber.next_within(PATIENCE).unwrap().expect("a delivery in time")).collect()
}

fn events(deliveries: &[Delivery]) -> Vec<&Event> {
    deliveries
        .iter()
        .filter_map(|delivery| if let Delivery::Event(event) = delivery { Some(event) } else { None })
        .collect()
}

fn offsets(deliveries: &[Delivery]) -> Vec<Option<u64>> {
    events(deliveries).iter().map(|event| event.offset).collect()
}

#[test]
fn a_logged_one_goes_on_where_it_was() {
    let first = script(|peer| {
        assert_eq!(peer.grant()["start"], "earliest");
        peer.send(&all_delivered([0, 1]));
        peer.send(&delivered(2)[..40]);
    });
    let second = script(|peer| {
        assert_eq!(peer.grant()["start"], json!({"epoch": 1, "offset": 2, "stream": "default"}));
        peer.send(&all_delivered([1, 2]));
        peer.wait_for_end();
    });
    let engine = FakeEngine::start(vec![first, second]);
    let mut subscriber = Subscriber::new(&engine.address, Subscription::new("a/#").start(Start::Earliest)).unwrap();
    assert_eq!(offsets(&take(&mut subscriber, 3)), [Some(0), Some(1), Some(2)]);
    assert_eq!(subscriber.next_within(Duration::from_millis(10)), Ok(None));
    drop(subscriber);
    engine.end();
}

#[test]
fn a_live_one_says_that_it_was_away() {
    let once = || {
        script(|peer| {
            peer.grant();
            peer.send(&delivered(NOT_LOGGED));
        })
    };
    let engine = FakeEngine::start(vec![once(), once()]);
    let mut subscriber = Subscriber::new(&engine.address, Subscription::new("a/#")).unwrap();
    let taken = take(&mut subscriber, 3);
    assert_eq!(taken[1], Delivery::Reconnected { is_truncated: false });
    assert_eq!(offsets(&taken), [None, None]);
    engine.end();
}

#[test]
fn done_reaches_the_engine_while_nobody_reads() {
    let engine = FakeEngine::start(vec![script(|peer| {
        assert_eq!(peer.grant()["durable"], "d");
        peer.send(&all_delivered(0..3));
        assert_eq!(peer.done(), [0, 1, 2]);
        peer.send(&delivered(3));
        assert_eq!(peer.done(), [3]);
        peer.wait_for_end();
    })]);
    let mut subscriber = Subscriber::new(&engine.address, Subscription::new("a/#").durable("d")).unwrap();
    let three = take(&mut subscriber, 3);
    subscriber.done(&events(&three)).unwrap();
    let last = take(&mut subscriber, 1);
    let handle = subscriber.handle();
    std::thread::spawn(move || handle.done(&events(&last))).join().unwrap().unwrap();
    drop(subscriber);
    engine.end();
}

#[test]
fn closing_it_ends_an_iteration_in_another_thread() {
    let engine = FakeEngine::start(vec![script(|peer| {
        peer.grant();
        peer.send(&delivered(0));
        peer.wait_for_end();
    })]);
    let subscriber = Subscriber::new(&engine.address, Subscription::new("a/#")).unwrap();
    let handle = subscriber.handle();
    let (sender, taken) = mpsc::channel();
    let reading =
        std::thread::spawn(move || subscriber.map(Result::unwrap).for_each(|delivery| sender.send(delivery).unwrap()));
    let first = taken.recv_timeout(PATIENCE).unwrap();
    handle.close();
    reading.join().unwrap();
    assert_eq!((offsets(&[first]), taken.try_iter().count()), (vec![Some(0)], 0));
    engine.end();
}

#[test]
fn refusals_and_strangers_are_errors_at_once() {
    let refuse = script(|peer| {
        peer.asked();
        peer.send(&fake::refusal("no_log"));
        peer.wait_for_end();
    });
    let engine = FakeEngine::start(vec![refuse, script(|peer| peer.send(b"HTTP/1.1 400 Bad Request\r\n"))]);
    let subscribe = || Subscriber::new(&engine.address, Subscription::new("a").start(Start::Earliest)).unwrap_err();
    assert!(subscribe().to_string().contains("storage.directory"));
    assert!(matches!(subscribe(), Error::Protocol(_)));
    engine.end();
}

#[test]
fn without_an_engine_they_give_up() {
    let patience = Some(Duration::from_millis(200));
    let refused = Subscriber::with_patience(&nobody(), Subscription::new("a"), patience).unwrap_err();
    assert!(matches!(refused, Error::Unreachable(_)), "{refused:?}");
    let options = Options { give_up_after: patience, ..Options::default() };
    let publisher = Publisher::with_options(&nobody(), options).unwrap();
    for _ in 0..2 {
        let told = publisher.publish(Message::new("t", "x")).unwrap().wait_for(PATIENCE).unwrap();
        assert!(matches!(told, Err(Error::Unreachable(_))), "{told:?}");
    }
}

#[test]
fn closing_a_publisher_fails_what_waits() {
    let options = Options { give_up_after: None, max_outstanding: 1 };
    let publisher = Publisher::with_options(&nobody(), options).unwrap();
    let receipt = publisher.publish(Message::new("t", "x")).unwrap();
    assert_eq!((receipt.wait_for(Duration::from_millis(100)), publisher.outstanding()), (None, 1));
    drop(publisher);
    assert_eq!(receipt.wait(), Err(Error::Closed));
    // In the middle of a connection on which nothing comes, too.
    let engine = FakeEngine::start(vec![script(Peer::wait_for_end)]);
    let publisher = Publisher::new(&engine.address).unwrap();
    let receipt = publisher.publish(Message::new("t", &vec![0; 8 << 20])).unwrap();
    assert_eq!(receipt.wait_for(Duration::from_millis(100)), None);
    drop(publisher);
    assert_eq!(receipt.wait(), Err(Error::Closed));
    engine.end();
}
