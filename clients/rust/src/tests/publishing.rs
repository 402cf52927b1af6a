//! What is unacknowledged goes out again under the same id, and everything is settled once.

use std::time::Duration;

use serde_json::json;

use super::fake::{self, ack};
use crate::error::Error;
use crate::message::{EventIds, Message};
use crate::publishing::Publishing;
use crate::receipt::{Receipt, Settler};
use crate::types::{Acknowledgement, Priority, Status};
use crate::wire::{FLAG_ACK, encode_hello};

struct Core {
    state: Publishing,
    ids: EventIds,
}

struct Published {
    receipt: Receipt,
    frame: Vec<u8>,
}

impl Published {
    fn outcome(&self) -> Option<Result<Acknowledgement, Error>> {
        self.receipt.wait_for(Duration::ZERO)
    }

    fn status(&self) -> Option<Status> {
        self.outcome().map(|outcome| outcome.unwrap().status)
    }
}

impl Core {
    fn new() -> Self {
        Self { state: Publishing::default(), ids: EventIds::new() }
    }

    fn publish(&mut self, payload: &[u8]) -> Published {
        let mut frame = Vec::new();
        let message = Message::new("t", payload).priority(Priority::Low);
        let id = message.encode(&mut frame, &mut self.ids, FLAG_ACK).unwrap();
        let (settler, receipt) = Settler::new(id);
        self.state.publish(id, frame.clone(), settler);
        Published { receipt, frame }
    }

    fn output(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        self.state.take_output(&mut output);
        output
    }

    /// Greeted; returns what else was sent.
    fn connect(&mut self) -> Vec<u8> {
        self.state.connection_made().unwrap();
        let output = self.output();
        self.state.receive(&fake::greeting()).unwrap();
        output.strip_prefix(&hello()[..]).expect("a greeting first").to_vec()
    }
}

fn hello() -> Vec<u8> {
    let mut hello = Vec::new();
    encode_hello(&mut hello).unwrap();
    hello
}

fn frames<'a>(published: impl IntoIterator<Item = &'a Published>) -> Vec<u8> {
    published.into_iter().flat_map(|one| one.frame.clone()).collect()
}

#[test]
fn ids_are_of_one_producer_and_count() {
    let mut core = Core::new();
    let (first, second) = (core.publish(b"").receipt.id(), core.publish(b"").receipt.id());
    assert_eq!((&first[..8], &first[8..], second[15]), (&second[..8], &[0; 8][..], 1));
    assert_ne!(first[..8], EventIds::new().next()[..8]);
}

#[test]
fn each_is_sent_once_on_a_connection_and_settled_by_its_ordinal() {
    let mut core = Core::new();
    let first = core.publish(b"1");
    assert_eq!(core.connect(), first.frame);
    let second = core.publish(b"2");
    assert_eq!(core.output(), second.frame);
    assert!(!core.state.has_output());
    core.state.receive(&ack(&[(3, 0, 1, second.receipt.id())])).unwrap();
    assert_eq!((first.outcome(), second.status()), (None, Some(Status::Processed)));
    core.state.receive(&ack(&[(0x81, 0, 0, first.receipt.id())])).unwrap();
    let told = first.receipt.wait().unwrap();
    assert_eq!((told.status, told.is_duplicate, core.state.outstanding()), (Status::Durable, true, 0));
}

#[test]
fn a_new_connection_gets_what_is_unacknowledged_in_order() {
    let mut core = Core::new();
    let mut published: Vec<_> = (0..4).map(|number| core.publish(&[number])).collect();
    core.connect();
    let acknowledged = published.remove(2);
    core.state.receive(&ack(&[(1, 0, 2, acknowledged.receipt.id())])).unwrap();
    core.state.connection_lost();
    published.push(core.publish(b"while away"));
    assert_eq!(core.connect(), frames(&published));
    // Ordinals are counted anew.
    let answers: Vec<_> = (0..).zip(&published).map(|(ordinal, one)| (1, 0, ordinal, one.receipt.id())).collect();
    core.state.receive(&ack(&answers)).unwrap();
    assert!(published.iter().all(|one| one.status() == Some(Status::Durable)));
}

#[test]
fn an_answer_to_nothing_is_an_error_and_loses_no_other() {
    for wrong in 0..3 {
        let mut core = Core::new();
        let (first, second) = (core.publish(b""), core.publish(b""));
        core.connect();
        let good = (1, 0, 0, first.receipt.id());
        let bad = [(1, 0, 7, second.receipt.id()), good, (1, 0, 1, [b'x'; 16])][wrong];
        assert!(matches!(core.state.receive(&ack(&[good, bad])), Err(Error::Protocol(_))));
        assert_eq!((first.status(), second.outcome()), (Some(Status::Durable), None));
        assert_eq!(core.state.outstanding(), 1);
    }
}

#[test]
fn failing_all_settles_each_and_so_does_the_end() {
    let mut core = Core::new();
    let (first, second) = (core.publish(b""), core.publish(b""));
    core.connect();
    core.state.receive(&ack(&[(3, 0, 0, first.receipt.id())])).unwrap();
    let error = Error::Unreachable("far".into());
    core.state.fail_all(&error);
    assert_eq!((first.status(), second.outcome()), (Some(Status::Processed), Some(Err(error))));
    let last = core.publish(b"");
    drop(core);
    assert_eq!(last.outcome(), Some(Err(Error::Closed)));
}

#[test]
fn the_frame_that_is_malformed_fails_and_the_others_go_out_again() {
    for is_last_byte in [false, true] {
        let mut core = Core::new();
        let published: Vec<_> = (0..4).map(|number| core.publish(&vec![0; 10 * number])).collect();
        core.connect();
        let before = hello().len() + frames(&published[..2]).len();
        let at_byte = before + if is_last_byte { published[2].frame.len() - 1 } else { 0 };
        let error = json!({"code": "malformed", "message": "too long", "at_byte": at_byte, "fatal": true});
        core.state.receive(&fake::control("$esc/error", &error)).unwrap();
        assert!(matches!(published[2].outcome(), Some(Err(Error::PublishRefused { .. }))));
        // What came before is still answered; what is published now waits for the next connection.
        core.state.receive(&ack(&[(3, 0, 0, published[0].receipt.id())])).unwrap();
        let later = core.publish(b"later");
        assert!(!core.state.has_output());
        core.state.connection_lost();
        assert_eq!(core.connect(), frames([&published[1], &published[3], &later]));
    }
}

#[test]
fn a_malformed_stream_without_a_culprit_is_an_error() {
    let mut core = Core::new();
    core.publish(b"");
    core.connect();
    let error = json!({"code": "malformed", "message": "?", "at_byte": 1, "fatal": true});
    assert!(core.state.receive(&fake::control("$esc/error", &error)).is_err());
}

#[test]
fn other_ends_are_remembered_and_settle_nothing() {
    let mut core = Core::new();
    let published = core.publish(b"");
    core.connect();
    assert_eq!(core.state.ended_by(), None);
    let error = json!({"code": "acks_unread", "message": "read", "at_byte": 9, "fatal": true});
    core.state.receive(&fake::control("$esc/error", &error)).unwrap();
    assert!(core.state.ended_by().unwrap().contains("acks_unread"));
    assert_eq!(published.outcome(), None);
    core.state.connection_lost();
    assert_eq!(core.connect(), published.frame);
}

#[test]
fn an_engine_that_refuses_the_greeting_is_an_error() {
    let mut core = Core::new();
    core.state.connection_made().unwrap();
    let error = json!({"code": "malformed", "message": "version", "at_byte": 0, "fatal": true});
    assert!(core.state.receive(&fake::control("$esc/error", &error)).is_err());
}
