//! Subscribes over TCP.
//!
//! A subscription has a connection of its own, read by the thread that takes what it delivers: nothing is read ahead for a
//! subscriber that is slow, and the engine sees that. A [`Handle`] is for other threads.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Failure};
use crate::publisher::{Options, READ_BYTES};
use crate::reconnect::{Attempts, connect, random};
use crate::subscribing::{Subscribing, Subscription};
use crate::types::{Delivery, Event};

/// Iterate over it for what it delivers. It goes on over broken connections, and ends when it is closed, or after an error.
///
/// ```no_run
/// use eventstream_client::{Delivery, Subscriber, Subscription};
///
/// let mut subscriber = Subscriber::new("127.0.0.1:8081", Subscription::new("orders/#").durable("billing"))?;
/// while let Some(delivery) = subscriber.next() {
///     if let Delivery::Event(event) = delivery? {
///         println!("{}: {} bytes", event.topic, event.payload.len());
///         subscriber.done(&[&event])?;
///     }
/// }
/// # Ok::<(), eventstream_client::Error>(())
/// ```
#[derive(Debug)]
pub struct Subscriber {
    address: String,
    handle: Handle,
    /// Read by this thread only.
    stream: Option<Arc<TcpStream>>,
    attempts: Attempts,
    retry_at: Instant,
    buffer: Vec<u8>,
}

/// What other threads may do with a subscription.
#[derive(Clone, Debug)]
pub struct Handle(Arc<(Mutex<Shared>, Condvar)>);

#[derive(Debug)]
struct Shared {
    state: Subscribing,
    stream: Option<Arc<TcpStream>>,
    is_closed: bool,
}

impl Subscriber {
    /// Returns when the engine has granted it. After 30 seconds without an engine it gives up, now or later.
    pub fn new(address: &str, subscription: Subscription) -> Result<Self, Error> {
        Self::with_patience(address, subscription, Options::default().give_up_after)
    }

    /// Gives up after so long without an engine, or never.
    pub fn with_patience(
        address: &str,
        subscription: Subscription,
        give_up_after: Option<Duration>,
    ) -> Result<Self, Error> {
        let shared = Shared { state: Subscribing::new(subscription)?, stream: None, is_closed: false };
        let mut subscriber = Self {
            address: address.to_owned(),
            handle: Handle(Arc::new((Mutex::new(shared), Condvar::new()))),
            stream: None,
            attempts: Attempts::new(give_up_after),
            retry_at: Instant::now(),
            buffer: vec![0; READ_BYTES],
        };
        while !subscriber.handle.lock().state.is_granted() {
            subscriber.step(None)?;
        }
        Ok(subscriber)
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// These need not be delivered again. Of a durable or group subscription.
    pub fn done(&self, events: &[&Event]) -> Result<(), Error> {
        self.handle.done(events)
    }

    /// The next delivery; none when there is none for so long, or the subscription is closed.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<Delivery>, Error> {
        self.next_until(Some(Instant::now() + patience))
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Result<Option<Delivery>, Error> {
        loop {
            {
                let mut shared = self.handle.lock();
                if shared.is_closed {
                    return Ok(None);
                }
                if let Some(delivery) = shared.state.next_delivery() {
                    return Ok(Some(delivery));
                }
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            if let Err(error) = self.step(left) {
                self.handle.close();
                return Err(error);
            }
        }
    }

    /// Waits for something to happen to the connection, or makes one.
    fn step(&mut self, patience: Option<Duration>) -> Result<(), Error> {
        let stepped = match self.stream.clone() {
            Some(stream) => self.receive(&stream, patience),
            None => self.connect(patience),
        };
        match stepped {
            Ok(()) => Ok(()),
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::Broken(reason)) => self.lost(reason),
        }
    }

    fn connect(&mut self, patience: Option<Duration>) -> Result<(), Failure> {
        let now = Instant::now();
        self.attempts.begin(now);
        let wait = self.retry_at.saturating_duration_since(now);
        if !wait.is_zero() {
            self.handle.sleep(patience.map_or(wait, |patience| patience.min(wait)));
            return Ok(());
        }
        let stream = Arc::new(connect(&self.address)?);
        self.stream = Some(stream.clone());
        let mut shared = self.handle.lock();
        if shared.is_closed {
            return Ok(());
        }
        shared.stream = Some(stream);
        shared.state.connection_made()?;
        shared.send();
        Ok(())
    }

    fn receive(&mut self, mut stream: &TcpStream, patience: Option<Duration>) -> Result<(), Failure> {
        stream.set_read_timeout(patience)?;
        let count = match stream.read(&mut self.buffer) {
            Ok(0) => return Err(Failure::Broken("the engine has ended the connection".into())),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut shared = self.handle.lock();
        shared.state.receive(&self.buffer[..count])?;
        shared.send();
        if shared.state.is_granted() {
            self.attempts.succeeded();
        }
        Ok(())
    }

    fn lost(&mut self, reason: String) -> Result<(), Error> {
        self.stream = None;
        let mut shared = self.handle.lock();
        shared.stream = None;
        shared.state.connection_lost();
        if shared.is_closed {
            return Ok(());
        }
        let now = Instant::now();
        let delay = self.attempts.next_delay(now, random()).ok_or(Error::Unreachable(reason))?;
        self.retry_at = now + delay;
        Ok(())
    }
}

impl Iterator for Subscriber {
    type Item = Result<Delivery, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(None).transpose()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.handle.close();
    }
}

impl Handle {
    /// These need not be delivered again. Of a durable or group subscription.
    pub fn done(&self, events: &[&Event]) -> Result<(), Error> {
        let mut shared = self.lock();
        shared.state.done(events)?;
        shared.send();
        Ok(())
    }

    /// Ends the subscription, and an iteration in another thread. A durable one keeps its position.
    pub fn close(&self) {
        let mut shared = self.lock();
        shared.is_closed = true;
        if let Some(stream) = shared.stream.take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.0.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep(&self, duration: Duration) {
        let _ = self.0.1.wait_timeout_while(self.lock(), duration, |shared| !shared.is_closed);
    }
}

impl Shared {
    /// Under the lock: what is sent are requests and done records, of which no more are under way than the socket holds.
    fn send(&mut self) {
        let output = self.state.take_output();
        if let Some(stream) = &self.stream {
            // Who reads learns of a broken connection, and why it broke.
            let _ = (&**stream).write_all(&output);
        }
    }
}
