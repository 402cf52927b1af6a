//! Clients of EventStreamCore: publish events and learn what became of each, subscribe to them.
//!
//! ```no_run
//! use eventstream_client::{Delivery, Message, Publisher, Start, Subscriber, Subscription};
//!
//! let publisher = Publisher::new("127.0.0.1:8081")?;
//! let receipt = publisher.publish(Message::new("sensor/temp", "23.5"))?;
//! println!("{:?}", receipt.wait()?.status);
//!
//! for delivery in Subscriber::new("127.0.0.1:8081", Subscription::new("sensor/#").start(Start::Earliest))? {
//!     if let Delivery::Event(event) = delivery? {
//!         println!("{} {:?}", event.topic, event.payload);
//!     }
//! }
//! # Ok::<(), eventstream_client::Error>(())
//! ```
//!
//! The modules, from the bytes up; each uses only those above it:
//!
//! ```text
//! error        what can go wrong, and what to do about it
//! types        what is handed out: events, notices, acknowledgements
//! wire         bytes to frames and back: the only place that knows the layout
//! reconnect    when to try again, and when no more; connections
//! message      what is published, and its id
//! receipt      what becomes of it, once it is known
//! publishing   what is unacknowledged, and what has to be sent: no sockets, no clock
//! subscribing  where a subscription is, and how it goes on: no sockets, no clock
//! publisher    the first over a thread of its own
//! subscriber   the second over the thread that reads
//! udp          frames packed into datagrams
//! ```
#![forbid(unsafe_code)]

mod error;
mod message;
mod publisher;
mod publishing;
mod receipt;
mod reconnect;
mod subscriber;
mod subscribing;
mod types;
mod udp;
pub mod wire;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use message::Message;
pub use publisher::{Options, Publisher};
pub use receipt::Receipt;
pub use subscriber::{Handle, Subscriber};
pub use subscribing::{Start, Subscription};
pub use types::{Acknowledgement, Class, Delivery, Event, Gap, Position, Priority, Status};
pub use udp::{UdpOptions, UdpPublisher};
