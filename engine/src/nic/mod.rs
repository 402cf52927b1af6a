//! The kernel boundary: AF_XDP sockets and their memory, the steering program, and what the host says of itself.
//!
//! ```text
//!            control thread                                    ingest agent, one a queue
//!   ┌───────────────────────────────────┐            ┌────────────────────────────────────────┐
//!   │ Interface   facts, asked once     │   open()   │ XskQueue<XskRings>                     │
//!   │ SteerProgram  maps, switch, counts├───────────►│   fill ring ◄── free slots of FramePool│
//!   │ NetWatch    addresses, link       │            │   rx ring   ──► slots with a packet    │
//!   └───────────────────────────────────┘            └────────────────────────────────────────┘
//! ```
//!
//! [`open`](open::open) builds everything in the one order that loses nothing: UMEM, sockets, fill ring, socket map,
//! and only then the program. The way back is the reverse: the program is detached before a socket is closed, or
//! packets would be steered into nothing.
//!
//! Beside it stands [`UdpSocket`], the kernel's own way in for what is not steered.
//!
//! Unsafe code that deals with the kernel stands in this folder; what it hands out is safe to use wrongly.

mod addresses;
mod attach;
mod device;
mod error;
mod interface;
mod napi;
mod netlink;
mod open;
mod options;
mod program;
mod queue;
mod rings;
mod stamps;
mod udp_socket;
mod umem;
mod xsk;

pub use addresses::{NetEvent, NetWatch};
pub use device::{Device, Interrupt};
pub use error::{NicError, describe, errno_name};
pub use interface::{Attached, Hook, Interface};
pub use napi::{NapiThread, NapiThreads};
pub use open::{NicSetup, QueueMode, XskReady, open};
pub use options::{Attach, ChecksumPolicy, Mode, Require, XdpOptions};
pub use program::{AddressChange, QueueVerdicts, SteerProgram, Switch};
pub use queue::{BURST, Batch, Receipt, Received, XskQueue};
#[cfg(test)]
pub(crate) use rings::fake;
pub use rings::{Descriptor, Rings, XskStatistics};
pub use stamps::StampReader;
#[cfg(test)]
pub(crate) use udp_socket::send_in_segments;
pub use udp_socket::{Gro, Message, Messages, UdpSocket, UdpSocketOptions};
pub use xsk::XskRings;
