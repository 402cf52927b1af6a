//! Events over UDP: packed into datagrams, never acknowledged.
//!
//! Invariant: a datagram has whole frames in the order of publishing, at most `datagram_bytes` of them unless a single one is
//! larger. The ids count, so that whoever reads them can tell what was lost.

use std::net::{SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::message::{EventIds, Message};

/// What an Ethernet packet of 1500 bytes holds beside the headers of IPv6 and UDP.
const DATAGRAM_BYTES: usize = 1452;
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// When a datagram is sent.
#[derive(Clone, Debug)]
pub struct UdpOptions {
    /// When the next frame would make it larger than this,
    pub datagram_bytes: usize,
    /// or so long after its first frame.
    pub linger: Duration,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self { datagram_bytes: DATAGRAM_BYTES, linger: Duration::from_millis(5) }
    }
}

/// Packs events into datagrams. May be shared by any number of threads.
///
/// ```
/// use std::net::UdpSocket;
///
/// use eventstream_client::{Message, UdpPublisher};
///
/// let engine = UdpSocket::bind("127.0.0.1:0").unwrap();
/// let publisher = UdpPublisher::new(&engine.local_addr().unwrap().to_string())?;
/// for _ in 0..3 {
///     publisher.publish(Message::new("sensor/temp", "23.5"))?;
/// }
/// publisher.flush()?;
/// let mut datagram = [0; 1500];
/// // Four bytes of length, three of header, id, time, topic and payload, three times.
/// assert_eq!(engine.recv(&mut datagram).unwrap(), 3 * (4 + 3 + 16 + 8 + 11 + 4));
/// # Ok::<(), eventstream_client::Error>(())
/// ```
#[derive(Debug)]
pub struct UdpPublisher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    socket: UdpSocket,
    address: SocketAddr,
    options: UdpOptions,
    packed: Mutex<Packed>,
    changed: Condvar,
}

#[derive(Debug)]
struct Packed {
    frames: Vec<u8>,
    frame: Vec<u8>,
    ids: EventIds,
    due: Option<Instant>,
    /// Of a datagram that was sent by time: for the next caller.
    failure: Option<Error>,
    is_closed: bool,
}

impl UdpPublisher {
    /// To an address such as `127.0.0.1:8082`.
    pub fn new(address: &str) -> Result<Self, Error> {
        Self::with_options(address, UdpOptions::default())
    }

    pub fn with_options(address: &str, options: UdpOptions) -> Result<Self, Error> {
        if !(1..=DATAGRAM_BYTES_MAX).contains(&options.datagram_bytes) {
            return Err(Error::Usage(format!("datagram_bytes is 1 to {DATAGRAM_BYTES_MAX}")));
        }
        let told = |error: std::io::Error| Error::Socket(format!("{address}: {error}"));
        let found = address.to_socket_addrs().map_err(told)?.next();
        let found = found.ok_or_else(|| Error::Socket(format!("{address}: the name has no address")))?;
        // Not connected: a connected socket reports that nobody listened instead of sending the next datagram.
        let any = if found.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let packed = Packed {
            frames: Vec::with_capacity(options.datagram_bytes),
            frame: Vec::new(),
            ids: EventIds::new(),
            due: None,
            failure: None,
            is_closed: false,
        };
        let shared = Arc::new(Shared {
            socket: UdpSocket::bind(any).map_err(told)?,
            address: found,
            options,
            packed: Mutex::new(packed),
            changed: Condvar::new(),
        });
        let thread = thread::Builder::new().name("eventstream-udp".into());
        let started = thread.spawn({
            let shared = shared.clone();
            move || shared.run()
        });
        Ok(Self { shared, thread: Some(started.map_err(told)?) })
    }

    /// Packs an event. What the kernel or the network drops, nobody reports.
    pub fn publish(&self, message: Message<'_>) -> Result<(), Error> {
        let mut packed = self.shared.lock();
        packed.failure.take().map_or(Ok(()), Err)?;
        let Packed { frame, ids, .. } = &mut *packed;
        frame.clear();
        message.encode(frame, ids, 0)?;
        let frame_bytes = frame.len();
        if frame_bytes > DATAGRAM_BYTES_MAX {
            let message = format!("no datagram holds a frame of {frame_bytes} bytes: publish it over TCP");
            return Err(Error::Usage(message));
        }
        if packed.frames.len() + frame_bytes > self.shared.options.datagram_bytes {
            self.shared.send(&mut packed)?;
        }
        let Packed { frames, frame, due, .. } = &mut *packed;
        frames.extend_from_slice(frame);
        if due.is_none() {
            *due = Some(Instant::now() + self.shared.options.linger);
            self.shared.changed.notify_one();
        }
        Ok(())
    }

    /// Sends what is packed.
    pub fn flush(&self) -> Result<(), Error> {
        let mut packed = self.shared.lock();
        packed.failure.take().map_or(Ok(()), Err)?;
        self.shared.send(&mut packed)
    }
}

impl Drop for UdpPublisher {
    /// Sends what is packed.
    fn drop(&mut self) {
        let _ = self.flush();
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Packed> {
        self.packed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, packed: &mut Packed) -> Result<(), Error> {
        packed.due = None;
        if packed.frames.is_empty() {
            return Ok(());
        }
        let sent = self.socket.send_to(&packed.frames, self.address);
        packed.frames.clear();
        sent.map(|_| ()).map_err(|error| Error::Socket(format!("{}: {error}", self.address)))
    }

    fn run(&self) {
        let mut packed = self.lock();
        while !packed.is_closed {
            let now = Instant::now();
            if packed.due.is_some_and(|due| due <= now) {
                packed.failure = self.send(&mut packed).err();
            }
            packed = match packed.due {
                None => self.changed.wait(packed).unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    let waited = self.changed.wait_timeout(packed, due.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}
