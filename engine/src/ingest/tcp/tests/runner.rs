//! The backend under a real runner that sleeps when it can: no wake-up is missed.

use super::*;
use crate::control::StateCell;
use crate::ingest::{DrainStatus, IngestAgent};
use crate::runtime::clock::Clock;

use crate::runtime::waker::Waker;
use crate::runtime::{IdleStrategy, RunnerHandle, RunnerSpec, Shutdown};

struct Running {
    handle: RunnerHandle,
    shutdown: Shutdown,
    state: StateCell,
    drain: DrainStatus,
    events: mpsc::Consumer<Event>,
    releaser: Releaser,
    feedback: Arc<Feedback>,
    progress: Progress,
    port: u16,
}

fn start() -> Running {
    let mut setup = Setup::default();
    setup.options.credits.limit = 256;
    let feedback = setup.options.credits.feedback.clone();
    let (backend, intake, events, frames, _acks) = setup.parts();
    let (state, shutdown, waker) = (StateCell::new(State::Running), Shutdown::default(), Waker::new().unwrap());
    let port = backend.local_port();
    let agent = IngestAgent::new("tcp-0".into(), backend, intake, state.clone());
    let drain = agent.drain_status();
    let spec = RunnerSpec {
        name: "tcp-test".into(),
        cpu: None,
        idle: IdleStrategy::Backoff,
        agents: vec![Box::new(agent)],
        waker,
        clock: Clock::calibrated(),
        shutdown: shutdown.clone(),
    };
    let handle = spec.spawn().unwrap();
    Running {
        handle,
        shutdown,
        state,
        drain,
        events,
        releaser: Releaser::new(frames),
        feedback,
        progress: Progress::default(),
        port,
    }
}

impl Running {
    fn take(&mut self, count: usize) {
        let end = Instant::now() + Duration::from_secs(20);
        let mut taken = 0;
        while taken < count {
            assert!(Instant::now() < end, "{taken} of {count}");
            let Some(event) = self.events.take() else {
                std::thread::yield_now();
                continue;
            };
            self.events.release();
            self.releaser.release(event);
            self.releaser.flush();
            (self.progress.dispatched, self.progress.settled) =
                (self.progress.dispatched + 1, self.progress.settled + 1);
            self.feedback.tell(self.progress);
            taken += 1;
        }
    }
}

#[test]
fn a_sleeping_runner_is_woken_by_each_frame() {
    let mut running = start();
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, running.port)).unwrap();
    client.set_nodelay(true).unwrap();
    let start = Instant::now();
    for number in 0..50 {
        // Long enough for the runner to fall asleep.
        std::thread::sleep(Duration::from_millis(2));
        let stream = numbered(number..number + 1);
        client.write_all(&stream[..9]).unwrap();
        client.write_all(&stream[9..]).unwrap();
        running.take(1);
    }
    // A missed wake-up would cost what the runner sleeps at most: 100 ms each.
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    running.shutdown.request();
    running.handle.wake();
    assert!(running.handle.join());
}

#[test]
fn many_senders_pause_resume_and_drain() {
    let mut running = start();
    let senders: Vec<_> = (0..8)
        .map(|_| {
            let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, running.port)).unwrap();
            std::thread::spawn(move || {
                for batch in 0..50 {
                    client.write_all(&numbered(batch * 100..batch * 100 + 100)).unwrap();
                }
                client
            })
        })
        .collect();
    running.take(5000);
    running.state.set(State::Paused);
    running.handle.wake();
    std::thread::sleep(Duration::from_millis(20));
    running.state.set(State::Running);
    running.handle.wake();
    running.take(35_000);
    let clients: Vec<_> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
    running.state.set(State::Draining);
    running.handle.wake();
    let end = Instant::now() + Duration::from_secs(10);
    while !running.drain.is_drained() {
        assert!(Instant::now() < end, "the drain does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(clients);
    assert!(running.events.take().is_none());
    running.shutdown.request();
    running.handle.wake();
    assert!(running.handle.join());
}

/// Needs a build that counts; in any other it shows no more than that the stream arrives.
#[test]
fn a_warm_stream_allocates_nothing() {
    use crate::memory::{data_path_allocations, on_data_path};
    if data_path_allocations().is_none() {
        return;
    }
    let mut bench = Setup { slots: 16, ..Setup::default() }.start();
    let mut client = bench.connect();
    let stream = [frame("$esc/hello", br#"{"version":1}"#), numbered(0..500), frame("t", &[1; 9000])].concat();
    let mut watched = 0;
    for round in 0..50 {
        client.write_all(&stream).unwrap();
        let before = data_path_allocations().unwrap_or_default();
        while bench.count(Counter::TCP_FRAMES_ACCEPTED) < 501 * (round + 1) {
            let cycle = Cycle { now: bench.now, busy: false };
            bench.now += 1000;
            on_data_path(|| bench.backend.receive(&mut bench.intake, State::Running, &cycle));
            bench.take();
        }
        watched += data_path_allocations().unwrap_or_default() - before;
    }
    assert_eq!(watched, 0);
    bench.check();
}
