//! Publishes over TCP.
//!
//! One thread makes the connection when there is something to publish, and writes; a second one reads as long as there is a
//! connection. Callers hand frames over under a lock that nobody holds while waiting for a socket.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::{Error, Failure};
use crate::message::{EventIds, Message};
use crate::publishing::Publishing;
use crate::receipt::{Receipt, Settler};
use crate::reconnect::{Attempts, connect, random};
use crate::wire::FLAG_ACK;

pub(crate) const READ_BYTES: usize = 1 << 16;

/// How a publisher behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Events that may be unacknowledged; [`Publisher::publish`] waits for room.
    pub max_outstanding: usize,
    /// Without an engine for so long, what waits fails with [`Error::Unreachable`]. None: never.
    pub give_up_after: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_outstanding: 1024, give_up_after: Some(Duration::from_secs(30)) }
    }
}

/// Publishes events, each acknowledged. May be shared by any number of threads.
///
/// A connection that breaks is made again, and what is unacknowledged is sent again under the same ids: where the engine
/// deduplicates, it is processed once. Dropped, it ends at once: [`flush`](Self::flush) first.
///
/// ```no_run
/// use eventstream_client::{Message, Publisher, Status};
///
/// let publisher = Publisher::new("127.0.0.1:8081")?;
/// let receipts: Vec<_> = (0..1000)
///     .map(|number: u32| publisher.publish(Message::new("orders/new", &number.to_be_bytes())))
///     .collect::<Result<_, _>>()?;
/// for receipt in receipts {
///     assert_eq!(receipt.wait()?.status, Status::Durable);
/// }
/// # Ok::<(), eventstream_client::Error>(())
/// ```
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    address: String,
    options: Options,
    state: Mutex<State>,
    /// There is something to send, or the end.
    has_work: Condvar,
    /// Something was settled.
    has_room: Condvar,
}

#[derive(Debug)]
struct State {
    publishing: Publishing,
    ids: EventIds,
    is_closed: bool,
    /// The connection of now, to be broken by whoever closes.
    stream: Option<Arc<TcpStream>>,
    /// What the connection of now has ended by.
    failure: Option<Failure>,
}

impl Publisher {
    /// To an address such as `127.0.0.1:8081`. Connects when there is something to publish.
    pub fn new(address: &str) -> Result<Self, Error> {
        Self::with_options(address, Options::default())
    }

    pub fn with_options(address: &str, options: Options) -> Result<Self, Error> {
        if options.max_outstanding == 0 {
            return Err(Error::Usage("max_outstanding is at least 1".into()));
        }
        let state = State {
            publishing: Publishing::default(),
            ids: EventIds::new(),
            is_closed: false,
            stream: None,
            failure: None,
        };
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            options,
            state: Mutex::new(state),
            has_work: Condvar::new(),
            has_room: Condvar::new(),
        });
        let thread = thread::Builder::new().name("eventstream-publisher".into());
        let started = thread.spawn({
            let shared = shared.clone();
            move || shared.run()
        });
        let thread = started.map_err(|error| Error::Socket(format!("no thread for a publisher: {error}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Hands an event over; waits only for room. The receipt says what becomes of it.
    pub fn publish(&self, message: Message<'_>) -> Result<Receipt, Error> {
        let limit = self.shared.options.max_outstanding;
        let mut state = self.shared.wait_for_room(|state| state.publishing.outstanding() >= limit)?;
        let mut frame = Vec::new();
        let id = message.encode(&mut frame, &mut state.ids, FLAG_ACK)?;
        let (settler, receipt) = Settler::new(id);
        state.publishing.publish(id, frame, settler);
        drop(state);
        self.shared.has_work.notify_one();
        Ok(receipt)
    }

    /// Waits until nothing is unacknowledged any more. What failed, the receipts say.
    pub fn flush(&self) -> Result<(), Error> {
        self.shared.wait_for_room(|state| state.publishing.outstanding() > 0).map(|_| ())
    }

    /// Events that are neither acknowledged nor failed.
    pub fn outstanding(&self) -> usize {
        self.shared.lock().publishing.outstanding()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let stream = {
            let mut state = self.shared.lock();
            state.is_closed = true;
            state.stream.take()
        };
        self.shared.has_work.notify_all();
        if let Some(stream) = stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_room(&self, is_full: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>, Error> {
        let waited = self.has_room.wait_while(self.lock(), |state| is_full(state) && !state.is_closed);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.is_closed { Err(Error::Closed) } else { Ok(state) }
    }

    fn run(&self) {
        let mut attempts = Attempts::new(self.options.give_up_after);
        while self.wait_for_work() {
            attempts.begin(Instant::now());
            match self.serve(&mut attempts) {
                Ok(()) => {}
                Err(Failure::Broken(reason)) => self.retry(&mut attempts, reason),
                Err(Failure::Final(error)) => {
                    self.fail(&error);
                    attempts.succeeded();
                }
            }
        }
        self.fail(&Error::Closed);
    }

    /// False: it is closed.
    fn wait_for_work(&self) -> bool {
        let is_idle = |state: &mut State| !state.is_closed && state.publishing.outstanding() == 0;
        let waited = self.has_work.wait_while(self.lock(), is_idle);
        !waited.unwrap_or_else(PoisonError::into_inner).is_closed
    }

    /// One connection, until it breaks or the publisher is closed.
    fn serve(&self, attempts: &mut Attempts) -> Result<(), Failure> {
        let stream = Arc::new(connect(&self.address)?);
        {
            let mut state = self.lock();
            state.publishing.connection_made()?;
            state.failure = None;
            state.stream = Some(stream.clone());
        }
        let served = thread::scope(|scope| {
            scope.spawn(|| self.read(&stream));
            let written = self.write(&stream);
            let _ = stream.shutdown(Shutdown::Both);
            written
        });
        let mut state = self.lock();
        if state.publishing.is_greeted() {
            attempts.succeeded();
        }
        let served = served.map_err(|failure| failure.or_ended_by(state.publishing.ended_by()));
        state.publishing.connection_lost();
        state.stream = None;
        served
    }

    fn write(&self, mut stream: &TcpStream) -> Result<(), Failure> {
        let mut output = Vec::new();
        let mut can_write = true;
        loop {
            let waits = |state: &mut State| {
                !state.is_closed && state.failure.is_none() && !(can_write && state.publishing.has_output())
            };
            let waited = self.has_work.wait_while(self.lock(), waits);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            if let Some(failure) = state.failure.take() {
                return Err(failure);
            }
            if state.is_closed {
                return Ok(());
            }
            state.publishing.take_output(&mut output);
            drop(state);
            // Who reads learns of a broken connection, and why it broke.
            can_write = stream.write_all(&output).is_ok();
        }
    }

    fn read(&self, stream: &TcpStream) {
        let failure = self.read_until_failure(stream);
        self.lock().failure = Some(failure);
        self.has_work.notify_all();
        // Who writes may wait for an engine that does not read.
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn read_until_failure(&self, mut stream: &TcpStream) -> Failure {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = match stream.read(&mut buffer) {
                Ok(0) => return Failure::Broken("the engine has ended the connection".into()),
                Ok(count) => count,
                Err(error) => return error.into(),
            };
            let received = self.lock().publishing.receive(&buffer[..count]);
            self.has_room.notify_all();
            if let Err(error) = received {
                return error.into();
            }
        }
    }

    fn retry(&self, attempts: &mut Attempts, reason: String) {
        let state = self.lock();
        if state.publishing.outstanding() == 0 {
            return attempts.succeeded();
        }
        if let Some(delay) = attempts.next_delay(Instant::now(), random()) {
            let _ = self.has_work.wait_timeout_while(state, delay, |state| !state.is_closed);
            return;
        }
        drop(state);
        self.fail(&Error::Unreachable(reason));
        attempts.succeeded();
    }

    fn fail(&self, error: &Error) {
        self.lock().publishing.fail_all(error);
        self.has_room.notify_all();
    }
}
