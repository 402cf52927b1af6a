//! Ten times what the handlers can do: what is critical gets through, TCP waits, the rest is shed and counted, and the
//! state neither flaps nor stays.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use eventstream::config::Config;
use eventstream::control::State;
use eventstream::engine::{Control, Engine};
use eventstream::frame::{FrameHeader, Priority, encode};
use eventstream::metrics::Report;
use eventstream::runtime::clock::kernel_now;
use eventstream::worker::Outcome;
use eventstream_tests::blast::{Blast, Sent};
use eventstream_tests::pipeline::FnHandler;
use eventstream_tests::veth::{self, Veth};
use hdrhistogram::Histogram;

/// What a handler takes for an event: on one data thread together 100,000 events a second.
const HANDLER: Duration = Duration::from_micros(10);
/// Events a second: of what may be shed, of what is critical, and over TCP.
const ORDINARY: &str = "890k";
const CRITICAL: &str = "10k";
const STREAMED: &str = "100k";
const DWELL: Duration = Duration::from_secs(1);
/// Older than that nothing here gets.
const AGE_MAX_NS: u64 = 60_000_000_000;
/// Without progress for so long something is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longer by hand: `OVERLOAD_SECONDS=30`.
fn seconds() -> u64 {
    std::env::var("OVERLOAD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// What the handlers saw.
#[derive(Default)]
struct Seen {
    critical: AtomicU64,
    streamed: AtomicU64,
    /// From the arrival of a critical event to its handler, in nanoseconds.
    critical_ages: Mutex<Option<Histogram<u64>>>,
}

impl Seen {
    fn handler(self: &Arc<Self>) -> FnHandler {
        let seen = self.clone();
        FnHandler::new(move |event, _| {
            let began = Instant::now();
            if event.connection().is_some() {
                seen.streamed.fetch_add(1, Ordering::Relaxed);
            } else if event.priority() == Priority::Critical {
                seen.critical.fetch_add(1, Ordering::Relaxed);
                let age = kernel_now().saturating_sub(event.arrival_ns());
                let mut ages = seen.critical_ages.lock().unwrap_or_else(PoisonError::into_inner);
                ages.get_or_insert_with(|| Histogram::new_with_max(AGE_MAX_NS, 3).unwrap()).saturating_record(age);
            }
            while began.elapsed() < HANDLER {
                std::hint::spin_loop();
            }
            Outcome::Done
        })
    }

    /// 99th percentile of what came since the last call.
    fn critical_p99(&self) -> Duration {
        let ages = self.critical_ages.lock().unwrap_or_else(PoisonError::into_inner).take();
        Duration::from_nanos(ages.expect("critical events").value_at_quantile(0.99))
    }
}

fn start(more: &str, seen: &Arc<Seen>) -> Engine {
    let text = format!("listen: {{udp_port: 0, tcp_port: 0}}\nadmin: {{enabled: false}}\n{more}");
    let config = Config::parse(&text, "test").unwrap_or_else(|errors| panic!("{errors}"));
    let seen = seen.clone();
    Engine::builder().config(config).handlers(move |_, _| seen.handler()).start().unwrap()
}

/// How long it took.
fn wait_for(control: &Control, what: &str, done: impl Fn(&Report) -> bool) -> Duration {
    let began = Instant::now();
    loop {
        let report = control.report();
        if done(&report) {
            return began.elapsed();
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}; {}, {:#?}", report.state, report.depths);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_critical_gets_through_and_the_state_holds_still() {
    const TEST: &str = "what_is_critical_gets_through_and_the_state_holds_still";
    let Some(link) = Veth::create(TEST) else { return };
    let seen = Arc::new(Seen::default());
    let engine = start(&format!("xdp: {{interface: {}}}\n", link.iface), &seen);
    let control = engine.control();
    let (udp, tcp) = (control.ports().udp, control.ports().tcp.unwrap_or(0));
    let critical = |seconds| {
        let arguments = "--priorities 4 --events-per-datagram 1 --cpu 0 --queues 1 --producer 7";
        Blast::packets(&link, udp, &format!("afxdp {arguments} --rate {CRITICAL} --seconds {seconds}"))
    };
    let unloaded = critical(3).finish();
    wait_for(&control, "the unloaded critical events", |report| {
        report.ledger.events.processed.total() == unloaded.events
    });
    let unloaded_p99 = seen.critical_p99();

    let seconds = seconds();
    let ordinary = format!("afxdp --priorities 0-3 --cpu 0 --queues 0 --rate {ORDINARY} --seconds {seconds}");
    let streamed =
        format!("tcp --priorities 0-3 --cpu 0 --connections 4 --rate {STREAMED} --tick 1 --seconds {seconds}");
    let loads = [Blast::packets(&link, udp, &ordinary), Blast::local(tcp, &streamed), critical(seconds)];
    std::thread::sleep(Duration::from_secs(5));
    let settled = control.report();
    let [ordinary, streamed, loaded] = loads.map(Blast::finish);
    let during = control.report();
    let calm = wait_for(&control, "RUNNING", |report| report.state == State::Running.name());
    let loaded_p99 = seen.critical_p99();
    let report = engine.drain();
    let late = during.state_transitions - settled.state_transitions;
    println!(
        "{} transitions, {late} of them after 5 s, {} under load; RUNNING {calm:?} after it; critical p99 {unloaded_p99:?} \
         unloaded, {loaded_p99:?} loaded; {:?}",
        report.state_transitions, during.state, report.ledger.events
    );
    check(&report, &seen, &ordinary, &streamed, &[unloaded, loaded]);
    assert_ne!(during.state, State::Running.name(), "not an overload");
    assert!(late <= 2, "{late} transitions under a constant load");
}

/// What the kernel dropped because the machine gave the engine's thread no time is in its counters, and nowhere else is anything
/// missing.
fn check(report: &Report, seen: &Seen, ordinary: &Sent, streamed: &Sent, critical: &[Sent]) {
    let (ledger, events) = (&report.ledger, &report.ledger.events);
    assert!(ledger.balanced, "{:#?}", ledger.imbalances);
    let sum = |of: fn(&Sent) -> u64| critical.iter().map(of).sum::<u64>();
    let datagrams = ordinary.datagrams + sum(|sent| sent.datagrams);
    let dropped = ordinary.link_dropped + sum(|sent| sent.link_dropped);
    let missed = ledger.datagrams.kernel.rx_dropped + ledger.datagrams.kernel.rx_ring_full + dropped;
    assert_eq!(ledger.datagrams.consumed + missed, datagrams, "{:#?}", ledger.datagrams);
    if missed == 0 {
        assert_eq!(events.accepted, ordinary.events + streamed.events + sum(|sent| sent.events));
    }
    // One critical event a datagram.
    let handled = seen.critical.load(Ordering::Relaxed);
    let sent = sum(|sent| sent.events);
    assert!((sent.saturating_sub(missed)..=sent).contains(&handled), "critical: {handled} of {sent}: {events:#?}");
    assert_eq!(seen.streamed.load(Ordering::Relaxed), streamed.events, "over TCP: {events:#?}");
    let shed = events.accepted - events.processed.total();
    assert!(shed > ordinary.events / 4, "not an overload: {events:#?}");
}

/// Sends bursts at twice what the handlers can do, and a tenth of it between, until `until`.
fn swing(to: SocketAddr, until: Instant) -> u64 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut datagram = Vec::new();
    for number in 0..20 {
        let priority = [Priority::Batch, Priority::Low, Priority::Medium, Priority::High][number % 4];
        encode(&mut datagram, &FrameHeader::new(priority), b"swing", &[0; 32]);
    }
    let (began, mut sent) = (Instant::now(), 0_u32);
    let mut due = 0.0;
    while Instant::now() < until {
        let is_high = began.elapsed().as_millis() % 600 < 200;
        due += if is_high { 200.0 } else { 10.0 };
        while f64::from(sent) < due {
            socket.send_to(&datagram, to).unwrap();
            sent += 20;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    u64::from(sent)
}

#[test]
fn hysteresis_halves_the_transitions_of_a_swinging_load() {
    let _turn = veth::turn();
    let transitions = |control: &str| {
        let seen = Arc::new(Seen::default());
        let engine = start(control, &seen);
        let to = SocketAddr::from(([127, 0, 0, 1], engine.control().ports().udp));
        let sent = swing(to, Instant::now() + Duration::from_secs(6));
        wait_for(&engine.control(), "RUNNING", |report| report.state == State::Running.name());
        let report = engine.drain();
        assert!(report.ledger.balanced, "{:#?}", report.ledger.imbalances);
        assert_eq!(report.ledger.events.accepted, sent);
        report.state_transitions
    };
    let inputs = |leave: u32| {
        format!(
            "dropping: {{queue_depth_percent: off, pool_used_percent: off, loss_per_million: off, \
             worker_latency_ms: {{enter: 10, leave: {leave}}}}}\n  \
             emergency: {{queue_depth_percent: off, pool_used_percent: off, worker_latency_ms: off, loss_per_million: off}}"
        )
    };
    let dwell_ms = DWELL.as_millis();
    let with = transitions(&format!("control:\n  evaluate_ms: 10\n  dwell_ms: {dwell_ms}\n  {}\n", inputs(5)));
    let without =
        transitions(&format!("control:\n  evaluate_ms: 10\n  dwell_ms: 0\n  readmit_percent: 0\n  {}\n", inputs(9)));
    println!("{with} transitions with hysteresis, {without} without");
    assert!(without >= 10, "{without}: the load does not swing around the threshold");
    assert!(2 * with < without, "{with} transitions with hysteresis, {without} without");
}
