//! What can go wrong. Each message says what happened and what to do about it.

use std::fmt;

/// Whatever ends an operation of this crate. It is told to everybody who waits for the same thing, so it can be cloned.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The caller asked for something that cannot be.
    Usage(String),
    /// The client was closed. What is still unacknowledged may or may not have been taken in.
    Closed,
    /// No connection for as long as `give_up_after` allows, and why the last try failed.
    Unreachable(String),
    /// The other side does not speak this protocol, or not this version of it.
    Protocol(String),
    /// The engine refuses this event's frame as malformed. It was not taken in.
    PublishRefused { code: String, message: String },
    /// The engine does not grant a subscription. `first_valid` is the epoch and offset where a refused position would be
    /// valid, if the engine said so.
    SubscriptionRefused { code: String, message: String, first_valid: Option<(u32, u64)> },
    /// The connection of a subscription broke, and no single position says where it was.
    CannotResume,
    /// What a socket says.
    Socket(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) => f.write_str(what),
            Self::Closed => f.write_str("the client is closed; what it had not acknowledged may have been taken in"),
            Self::Unreachable(why) => write!(f, "no engine within `give_up_after`: {why}. Is the engine running?"),
            Self::Protocol(what) => write!(f, "{what}: this is no engine, or client and engine do not belong together"),
            Self::PublishRefused { code, message } => write!(
                f,
                "the engine refuses this event ({code}): {message}. Change the event, or the engine's `limits`; do not \
                 send it again as it is"
            ),
            Self::SubscriptionRefused { code, message, .. } => {
                write!(f, "subscription refused ({code}): {message}; {}", advice(code))
            }
            Self::CannotResume => f.write_str(
                "the subscription reads several streams, each with offsets of its own, and its connection broke: subscribe \
                 with a durable name, whose positions the engine keeps, or once for each stream with a position",
            ),
            Self::Socket(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}

fn advice(code: &str) -> &'static str {
    match code {
        "bad_filter" => "correct the filter: whole levels `+`, and `#` at the end",
        "bad_request" => "the engine does not know what this client asks: use versions that belong together",
        "durable_in_use" => "another connection has this durable name: close it, or use a group to share the work",
        "group_mismatch" => "the group has another filter or other classes: ask for the same, or use another name",
        "no_log" => {
            "the engine keeps no event log: set `storage.directory`, or subscribe live, without durable or group"
        }
        "no_such_stream" => "ask for a stream that is in the engine's `storage.streams`, or `default`",
        "realtime_not_logged" => "realtime events are live only: leave the class out, or subscribe live",
        "too_many_subscriptions" => "close subscriptions that are not needed",
        "truncated" => "the position is not in the log any more: go on from `first_valid`, or from the earliest",
        "unsupported" => "this engine does not serve subscriptions: use a newer one",
        _ => "see the engine's log",
    }
}

/// Why a connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Another one may be.
    Broken(String),
    /// No other one would be.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}
