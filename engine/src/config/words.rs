//! The closed vocabularies of the configuration: every value that is one of a few words.
//!
//! A word is written down once, in its enum; reading, printing and the list of allowed words in an error message all
//! come from that table.

use std::fmt;

use serde::{Serialize, Serializer};

pub use crate::frame::{Class, Priority};

/// A type whose values are written in the configuration as one of a few words.
pub(super) trait Word: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];

    fn from_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, value)| *value)
    }

    /// The allowed words as an error message and the documentation name them.
    fn allowed() -> String {
        let words: Vec<&str> = Self::WORDS.iter().map(|(word, _)| *word).collect();
        words.join(" | ")
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// The word that stands for this value in the configuration.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl Word for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant),)+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

impl Word for Class {
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::Realtime.as_str(), Self::Realtime),
        (Self::Transactional.as_str(), Self::Transactional),
        (Self::Batch.as_str(), Self::Batch),
    ];
}

impl Word for Priority {
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::Batch.as_str(), Self::Batch),
        (Self::Low.as_str(), Self::Low),
        (Self::Medium.as_str(), Self::Medium),
        (Self::High.as_str(), Self::High),
        (Self::Critical.as_str(), Self::Critical),
    ];
}

words! {
    /// Whether the retries of a topic's events may be overtaken by its later events.
    TopicOrder {
        /// A retried event is overtaken by its successors.
        Relaxed = "relaxed",
        /// A retry holds back the topic's later events, within the bound of the retry queue.
        Strict = "strict",
    }
}

words! {
    /// UDP_GRO on the kernel socket.
    Gro {
        /// Off: with it the kernel's count of dropped datagrams is a lower bound.
        Auto = "auto",
        On = "on",
        Off = "off",
    }
}

words! {
    /// When what is written to disk is made durable.
    FsyncPolicy {
        /// At once.
        Always = "always",
        /// At intervals.
        Every = "every",
        /// When the kernel sees fit.
        Never = "never",
    }
}

words! {
    /// The least an interface's queues must achieve for the engine to start.
    XdpRequire {
        /// Every fallback is acceptable, down to the kernel socket.
        Any = "any",
        Native = "native",
        Zerocopy = "zerocopy",
    }
}

words! {
    /// Where the XDP program may be attached.
    XdpMode {
        /// In the driver if it can, else in the generic hook, else not at all.
        Auto = "auto",
        Native = "native",
        Generic = "generic",
    }
}

words! {
    /// Whether the engine verifies the UDP checksum of steered datagrams itself.
    ChecksumPolicy {
        /// Verified except on veth, where the checksums of local senders are partial.
        Auto = "auto",
        Always = "always",
        Never = "never",
    }
}

words! {
    /// How agents are spread over threads.
    LayoutMode {
        /// Dedicated where there are CPUs enough, shared where not.
        Auto = "auto",
        /// As few threads as the CPUs given, agents folded onto them in data-path order.
        Shared = "shared",
        /// One agent a thread.
        Dedicated = "dedicated",
        /// As `layout.runners` says.
        Explicit = "explicit",
    }
}

words! {
    /// What a runner does when none of its agents had work.
    Idle {
        /// Spins where the runner has a CPU of its own, backs off where CPUs are shared.
        Auto = "auto",
        BusySpin = "busy_spin",
        Yield = "yield",
        /// Spin, then yield, then block until a descriptor or another runner wakes it.
        Backoff = "backoff",
    }
}

words! {
    /// The least severe message that is still logged.
    LogLevel {
        Error = "error",
        Warn = "warn",
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }
}
