//! EventStreamCore: an event streaming engine for UDP floods and ordinary TCP clients.
//!
//! The modules stand in the order of the data path:
//!
//! ```text
//!  NIC queue ─ XDP steer ─► rx ring ─┐  nic, ingest::xdp
//!  UDP socket ─ recvmmsg ────────────┼─► parse in place ─► MPSC ─► dispatcher ─► SPSC ─► worker
//!  TCP socket ─ epoll ───────────────┘   frame             queue    dispatch      queue   worker, dedup
//!                 ▲                                                                         │
//!                 └─────────────── frames go back to their pools (memory) ◄─────────────────┤
//!                                             event log, dead letter queue (storage) ◄──────┘
//!                 out of the log, or live from the worker, to subscribers: subscribe
//!  back to who asked over TCP, from whoever ends an event: acks
//!  beside it: control, metrics, admin;  built and placed by: config, topology, engine;  stepped by: runtime
//! ```
//!
//! As a library: an engine of one's own, with a handler for each worker, and events out of it in the same process.
//!
//! ```
//! use std::io::Write;
//!
//! use eventstream::config::Config;
//! use eventstream::engine::Engine;
//! use eventstream::frame::{FrameHeader, Priority, encode};
//! use eventstream::subscribe::{Item, Subscription};
//! use eventstream::worker::{EventView, Handler, Outcome};
//!
//! struct Thermometer;
//!
//! impl Handler for Thermometer {
//!     fn handle(&mut self, event: &EventView<'_>, _end_of_batch: bool) -> Outcome {
//!         if event.payload().is_empty() { Outcome::Reject("empty payload") } else { Outcome::Done }
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::parse("listen: {udp_port: 0, tcp_port: 0}\nadmin: {enabled: false}", "example")?;
//! let engine = Engine::builder().config(config).handlers(|_class, _worker| Thermometer).start()?;
//! let mut events = engine.control().subscribe(Subscription::to("sensor/#"))?;
//!
//! let mut frame = Vec::new();
//! encode(&mut frame, &FrameHeader::new(Priority::High), b"sensor/temp", b"23.5");
//! let mut client = std::net::TcpStream::connect(("127.0.0.1", engine.control().ports().tcp.unwrap()))?;
//! client.write_all(&frame)?;
//!
//! let Some(Ok(Item::Event(event))) = events.next() else { panic!("the engine has ended") };
//! assert_eq!((event.topic.as_str(), event.payload.as_slice()), ("sensor/temp", &b"23.5"[..]));
//! assert!(engine.drain().ledger.balanced);
//! # Ok(())
//! # }
//! ```
//!
//! A stage may use memory, frame, queue, runtime and metrics, never a later stage. Unsafe code stands only in the modules
//! that allow it here.
#![deny(unsafe_code)]

pub mod acks;
pub mod admin;
pub mod config;
pub mod control;
#[allow(unsafe_code)]
pub mod dedup;
pub mod dispatch;
pub mod engine;
pub mod fault;
mod fold;
pub mod frame;
pub mod ingest;
#[allow(unsafe_code)]
pub mod memory;
pub mod metrics;
#[allow(unsafe_code)]
pub mod nic;
#[allow(unsafe_code)]
pub mod queue;
#[allow(unsafe_code)]
pub mod runtime;
pub mod storage;
pub mod subscribe;
mod sync;
pub mod topology;
pub mod worker;
