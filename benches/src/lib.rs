//! Load generators and what the benchmarks share.
//!
//! ```text
//!   options ─► guard ─► mix (what)  ┐
//!                       pace (when) ├─► send: testrun · afxdp · gso · udp · tcp ─► report
//!                       link (where)┘
//! ```
//!
//! [`mix::Stamper`] is the part tests use by themselves: it fills datagrams with events whose topic, priority and id
//! follow from their sequence, and says what it stamped.
//!
//! Two stand by themselves: [`receive`], receivers without a pipeline, as baselines; and [`publish`], the same messages over
//! TCP to different servers.
//!
//! Unsafe code stands only where a system call is made: `send`, `link`, `stop`.

pub mod guard;
pub mod link;
pub mod mix;
pub mod options;
pub mod output;
pub mod pace;
pub mod packet;
pub mod publish;
pub mod receive;
pub mod report;
pub mod run;
pub mod send;
pub mod stop;
