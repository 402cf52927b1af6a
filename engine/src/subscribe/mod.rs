//! Getting events out: subscriptions over TCP, live and from the log.
//!
//! ```text
//!  worker ─ interest? ─► outlet ─┐
//!                                ├─► sender ─► matcher ─► groups render ─► sockets
//!  event log ─────────► readers ─┘      ▲
//!  positions on disk ◄─► kept names ────┤
//!  TCP reader ─ requests ─ link ────────┘
//! ```
//!
//! - **Threads**: one sender, beside the data threads. A worker looks at a word a burst while nobody subscribes; where somebody does,
//!   it asks [`interest`] and copies what may be wanted.
//! - **Live**: events of classes that are in no log come from the workers that ended them. **Logged**: events come out of the log, once
//!   they are durable, in the order of their offsets.
//! - **Overload**: nobody waits for a subscriber: see [`sender`].
#![forbid(unsafe_code)]

mod client;
mod frames;
mod groups;
mod interest;
pub mod kept;
mod link;
mod local;
mod matcher;
mod outlet;
mod reading;
pub mod request;
mod sender;
mod turn;

pub use frames::Refusal;
pub use interest::Interest;
pub use kept::{KeptSpec, Listed, NameKind, Store};
pub use link::{Message, NameCommand, NameControl, SubscriptionLink, link};
pub(crate) use local::subscribe;
pub use local::{Delivered, Events, Item, Subscription};
pub use outlet::{Outlet, OutletEnd, outlet, outlet_bytes};
pub use reading::Streams;
pub use sender::{Sender, SenderLimits, SenderSpec};
pub use turn::{Turn, Writer};
