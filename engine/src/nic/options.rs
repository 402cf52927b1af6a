//! What is wanted of an interface, and what a queue can get.

use std::net::IpAddr;
use std::path::PathBuf;

/// Names another steering object than the built-in one.
pub const OBJECT_VARIABLE: &str = "EVENTSTREAM_STEER_OBJECT";

/// The least every queue must get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Require {
    Any,
    Native,
    Zerocopy,
}

impl Require {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Native => "native",
            Self::Zerocopy => "zerocopy",
        }
    }

    pub const fn is_met_by(self, mode: Mode) -> bool {
        match self {
            Self::Any => true,
            Self::Native => matches!(mode, Mode::NativeZerocopy | Mode::NativeCopy),
            Self::Zerocopy => matches!(mode, Mode::NativeZerocopy),
        }
    }
}

/// Where the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// Native, and where the driver cannot, generic.
    Auto,
    Native,
    Generic,
}

/// Whether the program verifies UDP checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumPolicy {
    /// Except where local senders leave them unfinished.
    Auto,
    Always,
    Never,
}

/// How a queue's packets come in, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    NativeZerocopy,
    NativeCopy,
    GenericCopy,
    /// Through the kernel's own UDP socket.
    Socket,
}

impl Mode {
    /// As the report has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NativeZerocopy => "xdp-native-zerocopy",
            Self::NativeCopy => "xdp-native-copy",
            Self::GenericCopy => "xdp-generic-copy",
            Self::Socket => "socket",
        }
    }
}

/// All that [`open`](super::open::open) needs to know.
#[derive(Clone, Debug)]
pub struct XdpOptions {
    pub interface: String,
    /// Receive queues to serve; none given: all.
    pub queues: Option<Vec<u32>>,
    pub require: Require,
    pub attach: Attach,
    /// 2048 or 4096; the kernel's own limits.
    pub frame_bytes: u32,
    /// Frames in a queue's UMEM, a power of two.
    pub frames: u32,
    /// Entries of the rx ring, a power of two.
    pub rx_ring: u32,
    /// Entries of the fill ring, a power of two of at least 64.
    pub fill_ring: u32,
    /// NUMA node of the UMEMs; none given: the interface's own.
    pub memory_node: Option<u32>,
    pub verify_udp_checksum: ChecksumPolicy,
    pub multicast_groups: Vec<IpAddr>,
    pub udp_ports: Vec<u16>,
    /// Place of the first queue's pool among the engine's `Frames`; the others follow.
    pub first_pool_index: u8,
    /// Another object than the built-in one, usually from [`OBJECT_VARIABLE`].
    pub object: Option<PathBuf>,
}

impl XdpOptions {
    /// The defaults for an interface and a port. Ring and frame counts are those that were fastest on veth: 4096
    /// frames of 2048 bytes stay in the cache, and rings from 512 to 2048 made no difference.
    pub fn new(interface: &str, udp_port: u16) -> Self {
        Self {
            interface: interface.to_owned(),
            queues: None,
            require: Require::Any,
            attach: Attach::Auto,
            frame_bytes: 2048,
            frames: 4096,
            rx_ring: 2048,
            fill_ring: 2048,
            memory_node: None,
            verify_udp_checksum: ChecksumPolicy::Auto,
            multicast_groups: Vec::new(),
            udp_ports: vec![udp_port],
            first_pool_index: 0,
            object: std::env::var_os(OBJECT_VARIABLE).map(PathBuf::from),
        }
    }
}
