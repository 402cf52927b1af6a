//! Both halves of the protocol against the bytes of its description, and their threads against an engine that does what a
//! test says.

mod fake;
mod publishing;
mod reconnect;
mod subscriber;
mod subscribing;
mod udp;
mod wire;
