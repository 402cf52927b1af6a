//! What can go wrong at the kernel boundary, said with the errno's name: that is what people search for.

use std::error::Error;
use std::fmt;
use std::io;

use super::options::{Mode, Require};

/// Why there is no NIC to work with. What only costs a better mode is no error but a
/// [`QueueMode`](super::QueueMode)'s reason.
#[derive(Debug)]
pub enum NicError {
    Interface {
        name: String,
        error: io::Error,
    },
    /// A queue was asked for that the interface does not have.
    Queue {
        interface: String,
        queue: u32,
        queue_count: u32,
    },
    /// The policy asks for more than a queue could have.
    Require {
        require: Require,
        interface: String,
        queue: u32,
        mode: Mode,
        reason: String,
    },
    /// The host's addresses cannot be followed.
    Watch(io::Error),
}

impl fmt::Display for NicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface { name, error } => write!(f, "interface {name}: {}", describe(error)),
            Self::Queue { interface, queue, queue_count } => {
                write!(f, "interface {interface} has no receive queue {queue}, only {queue_count} from 0 on")
            }
            Self::Require { require, interface, queue, mode, reason } => {
                let require = require.name();
                write!(
                    f,
                    "{interface} queue {queue}: {require} is required, {} is what can be had: {reason}",
                    mode.name()
                )
            }
            Self::Watch(error) => write!(f, "the host's addresses cannot be followed: {}", describe(error)),
        }
    }
}

impl Error for NicError {}

/// An error with all its sources and, where one comes from the kernel, the errno's name. Some libraries' messages leave
/// the errno to the source.
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        let text = match code {
            Some(code) => named(code),
            None => error.to_string(),
        };
        // Transparent wrappers repeat their source.
        if parts.last() != Some(&text) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

/// An errno as its name and the C library's words.
fn named(code: i32) -> String {
    let text = io::Error::from_raw_os_error(code).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    format!("{} ({text})", errno_name(code))
}

/// The symbol of an errno.
pub fn errno_name(code: i32) -> &'static str {
    match code {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::E2BIG => "E2BIG",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::EMFILE => "EMFILE",
        libc::ENFILE => "ENFILE",
        libc::ENOSPC => "ENOSPC",
        libc::ERANGE => "ERANGE",
        libc::ENOSYS => "ENOSYS",
        libc::EBADMSG => "EBADMSG",
        libc::ENOPROTOOPT => "ENOPROTOOPT",
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
        libc::ESOCKTNOSUPPORT => "ESOCKTNOSUPPORT",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EADDRINUSE => "EADDRINUSE",
        libc::ENETDOWN => "ENETDOWN",
        libc::ENOBUFS => "ENOBUFS",
        libc::ETIMEDOUT => "ETIMEDOUT",
        524 => "ENOTSUPP", // the kernel's own, which drivers let through
        _ => "errno",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Wrapper(io::Error);

    impl fmt::Display for Wrapper {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bind")
        }
    }

    impl Error for Wrapper {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn the_errno_is_named_wherever_it_hides() {
        let error = Wrapper(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        assert_eq!(describe(&error), "bind: EOPNOTSUPP (Operation not supported)");
        assert_eq!(describe(&io::Error::other("no errno")), "no errno");
    }
}
