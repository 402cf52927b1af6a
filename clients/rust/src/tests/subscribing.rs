//! How a subscription goes on when its connection breaks.

use serde_json::{Value, json};

use super::fake::{Delivered, NOT_LOGGED, ack, all_delivered, control, delivered, grant, greeting, refusal};
use crate::error::{Error, Failure};
use crate::subscribing::{Start, Subscribing, Subscription};
use crate::types::{Class, Delivery, Event, Gap, Position};
use crate::wire::Decoder;

struct Core(Subscribing);

impl Core {
    fn new(request: Subscription) -> Self {
        Self(Subscribing::new(request).unwrap())
    }

    fn begin(request: Subscription) -> Self {
        let mut core = Self::new(request);
        core.connect();
        core
    }

    /// What was asked, which is answered so.
    fn connect_and(&mut self, answer: &[u8]) -> Result<Value, Failure> {
        self.0.connection_made()?;
        let frames = Decoder::default().feed(&self.0.take_output())?;
        let [hello, asked] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!((hello.topic.as_str(), asked.topic.as_str()), ("$esc/hello", "$esc/subscribe"));
        self.0.receive(&greeting())?;
        self.0.receive(answer)?;
        Ok(serde_json::from_slice(&asked.payload).unwrap())
    }

    fn connect(&mut self) -> Value {
        self.connect_and(&grant()).unwrap()
    }

    /// Over a new connection; returns where it begins.
    fn reconnect(&mut self) -> Value {
        self.0.connection_lost();
        self.connect()["start"].clone()
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.0.receive(bytes).unwrap();
    }

    fn deliveries(&mut self) -> Vec<Delivery> {
        std::iter::from_fn(|| self.0.next_delivery()).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        let event = |delivery| if let Delivery::Event(event) = delivery { Some(event) } else { None };
        self.deliveries().into_iter().filter_map(event).collect()
    }

    fn offsets(&mut self) -> Vec<u64> {
        self.events().iter().filter_map(|event| event.offset).collect()
    }

    /// Offsets of the done frames in the output.
    fn done(&mut self) -> Vec<u64> {
        let frames = Decoder::default().feed(&self.0.take_output()).unwrap();
        let last = |frame: &crate::wire::Frame| u64::from_be_bytes(frame.payload[4..12].try_into().unwrap());
        frames.iter().map(last).collect()
    }
}

fn subscription() -> Subscription {
    Subscription::new("a/#")
}

fn from_earliest() -> Subscription {
    subscription().start(Start::Earliest)
}

fn at(stream: &str, epoch: u32, offset: u64) -> Value {
    json!({"epoch": epoch, "offset": offset, "stream": stream})
}

fn gap(stream: &str, from: u64, to: u64) -> Vec<u8> {
    let payload = json!({"sub": 1, "stream": stream, "epoch": 1, "from": from, "to": to, "count": to - from});
    control("$esc/gap", &payload)
}

#[test]
fn what_is_asked_is_what_was_given() {
    let mut core = Core::new(subscription());
    assert_eq!(core.connect(), json!({"sub": 1, "filter": "a/#", "start": "live"}));
    assert!(core.0.is_granted());
    let full = subscription()
        .classes(&[Class::Batch, Class::Realtime])
        .start(Start::Time(5))
        .group("g")
        .by_topic()
        .max_in_flight(3)
        .ack_wait_ms(100)
        .max_deliveries(2)
        .disconnect_when_slow();
    let expected = json!({
        "sub": 1, "filter": "a/#", "classes": ["batch", "realtime"], "start": {"time_ns": 5}, "group": "g", "key": "topic",
        "max_in_flight": 3, "ack_wait_ms": 100, "max_deliveries": 2, "slow": "disconnect",
    });
    assert_eq!(Core::new(full).connect(), expected);
}

#[test]
fn contradictions_are_refused_here() {
    let long = "x".repeat(65);
    for wrong in [
        subscription().durable("no space"),
        subscription().group(&long),
        subscription().durable(""),
        subscription().by_topic(),
        subscription().durable(".hidden"),
        subscription().durable("d").by_topic(),
        subscription().durable("d").ack_wait_ms(100),
        subscription().max_deliveries(3),
        subscription().max_in_flight(3),
    ] {
        assert!(matches!(Subscribing::new(wrong), Err(Error::Usage(_))));
    }
}

#[test]
fn a_refusal_has_the_engines_code_and_position() {
    let start = Start::At(Position { stream: "default".into(), epoch: 3, offset: 9 });
    let mut core = Core::new(subscription().start(start));
    let truncated = json!({"code": "truncated", "message": "why", "first_valid": {"epoch": 2, "offset": 8}});
    let refused = core.connect_and(&control("$esc/error", &truncated)).unwrap_err();
    let Failure::Final(error) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("first_valid"), "{error}");
    assert!(matches!(error, Error::SubscriptionRefused { first_valid: Some((2, 8)), .. }), "{error:?}");
    for code in ["durable_in_use", "no_log", "unheard_of"] {
        let refused = core.connect_and(&refusal(code));
        assert!(matches!(refused, Err(Failure::Final(Error::SubscriptionRefused { .. }))), "{refused:?}");
    }
}

#[test]
fn a_live_one_goes_on_live_and_says_so() {
    let mut core = Core::begin(subscription());
    let unlogged = Delivered { offset: NOT_LOGGED, epoch: 0, topic: b"a/b" }.bytes();
    core.receive(&[unlogged, control("$esc/dropped", &json!({"sub": 1, "count": 4}))].concat());
    assert_eq!(core.reconnect(), "live");
    core.receive(&delivered(7));
    let all = core.deliveries();
    let [Delivery::Event(first), dropped, notice, Delivery::Event(second)] = &all[..] else { panic!("{all:?}") };
    assert_eq!((first.offset, second.offset), (None, Some(7)));
    assert_eq!((dropped, notice), (&Delivery::Dropped(4), &Delivery::Reconnected { is_truncated: false }));
    assert!(matches!(core.0.done(&[first]), Err(Error::Usage(_))));
}

#[test]
fn errors_afterwards_end_the_connection_or_the_subscription() {
    let slow = control("$esc/error", &json!({"code": "slow_subscriber", "message": "slow", "fatal": true}));
    assert!(matches!(Core::begin(subscription()).0.receive(&slow), Err(Failure::Broken(_))));
    let dropped = control("$esc/dropped", &json!({"sub": 1}));
    for wrong in [refusal("no_such_sub"), grant(), dropped, ack(&[(1, 0, 0, [0; 16])])] {
        let ended = Core::begin(subscription()).0.receive(&wrong);
        assert!(matches!(ended, Err(Failure::Final(Error::Protocol(_)))), "{ended:?}");
    }
}

#[test]
fn a_logged_one_goes_on_behind_the_last_event() {
    let position = Start::At(Position { stream: "default".into(), epoch: 1, offset: 4 });
    for start in [Start::Earliest, Start::Latest, Start::Time(1), position] {
        let mut core = Core::begin(subscription().start(start));
        core.receive(&all_delivered([4, 6]));
        assert_eq!(core.reconnect(), at("default", 1, 7));
        // Whatever comes twice is handed out once.
        core.receive(&all_delivered([6, 7]));
        core.receive(&Delivered { offset: 9, epoch: 2, topic: b"a/b" }.bytes());
        assert_eq!(core.offsets(), [4, 6, 7, 9]);
        assert_eq!(core.reconnect(), at("default", 2, 10));
        assert_eq!(core.deliveries(), []);
    }
}

#[test]
fn before_the_first_event_it_begins_where_it_was_to_begin() {
    let mut core = Core::begin(subscription().start(Start::Latest));
    assert_eq!((core.reconnect(), core.deliveries()), (json!("latest"), vec![]));
}

#[test]
fn it_goes_on_in_the_stream_it_is_in_and_behind_a_gap() {
    let position = Start::At(Position { stream: "orders".into(), epoch: 1, offset: 0 });
    for request in [subscription().start(position), from_earliest().resume_stream("orders")] {
        let mut core = Core::begin(request);
        core.receive(&delivered(0));
        assert_eq!(core.reconnect(), at("orders", 1, 1));
    }
    let mut core = Core::begin(from_earliest());
    core.receive(&[delivered(2), gap("default", 3, 8)].concat());
    assert_eq!(core.reconnect(), at("default", 1, 8));
    let expected = Gap { stream: "default".into(), epoch: 1, start: 3, end: 8, count: 5 };
    assert_eq!(core.deliveries()[1..], [Delivery::Gap(expected)]);
}

#[test]
fn what_was_cut_off_the_log_is_told() {
    let mut core = Core::begin(from_earliest());
    core.receive(&delivered(5));
    core.0.connection_lost();
    let truncated = json!({"code": "truncated", "message": "cut", "first_valid": {"epoch": 2, "offset": 5}});
    core.connect_and(&control("$esc/error", &truncated)).unwrap();
    let again = Decoder::default().feed(&core.0.take_output()).unwrap();
    let asked: Value = serde_json::from_slice(&again[0].payload).unwrap();
    assert_eq!((&asked["start"], core.0.is_granted()), (&at("default", 2, 5), false));
    core.receive(&[grant(), Delivered { offset: 5, epoch: 2, topic: b"a/b" }.bytes()].concat());
    let all = core.deliveries();
    assert_eq!((all.len(), &all[1]), (3, &Delivery::Reconnected { is_truncated: true }));
}

#[test]
fn several_streams_have_no_position() {
    for second in [delivered(1), gap("orders", 5, 8)] {
        let mut core = Core::begin(from_earliest());
        core.receive(&[delivered(4), second, delivered(9)].concat());
        core.0.connection_lost();
        assert_eq!(core.0.connection_made(), Err(Error::CannotResume));
        assert_eq!(core.deliveries().len(), 3);
    }
}

#[test]
fn what_was_not_done_comes_again_and_what_was_done_does_not() {
    for request in [from_earliest().durable("d"), from_earliest().group("g")] {
        let mut core = Core::begin(request);
        core.receive(&all_delivered(0..4));
        let mut next = || core.0.next_delivery();
        let (Some(Delivery::Event(first)), Some(Delivery::Event(second))) = (next(), next()) else {
            panic!("no events")
        };
        core.0.done(&[&first]).unwrap();
        assert_eq!(core.done(), [0]);
        core.0.connection_lost();
        assert_eq!(core.deliveries(), []);
        core.0.done(&[&second]).unwrap();
        assert_eq!(core.0.take_output(), b"");
        assert_eq!(core.connect()["start"], "earliest");
        core.receive(&all_delivered(0..4));
        // What the engine had not heard of is told again.
        assert_eq!((core.done(), core.offsets()), (vec![0, 1], vec![2, 3]));
    }
}

#[test]
fn the_same_offset_of_another_topic_is_another_record() {
    let mut core = Core::begin(subscription().durable("d"));
    core.receive(&delivered(1));
    let first = core.events();
    core.0.done(&[&first[0]]).unwrap();
    core.receive(&Delivered { offset: 1, epoch: 1, topic: b"a/other" }.bytes());
    core.receive(&Delivered { offset: 1, epoch: 2, topic: b"a/b" }.bytes());
    assert_eq!(core.offsets(), [1, 1]);
}

#[test]
fn no_more_is_remembered_than_can_be_under_way() {
    let mut core = Core::begin(subscription().durable("d").max_in_flight(2));
    core.receive(&all_delivered(0..3));
    let events = core.events();
    core.0.done(&events.iter().collect::<Vec<_>>()).unwrap();
    core.receive(&all_delivered(0..3));
    assert_eq!(core.offsets(), [0]);
}

#[test]
fn the_connection_that_broke_may_still_have_its_name() {
    let mut core = Core::begin(subscription().durable("d"));
    core.0.connection_lost();
    assert!(matches!(core.connect_and(&refusal("durable_in_use")), Err(Failure::Broken(_))));
    core.reconnect();
    assert!(core.0.is_granted());
}
