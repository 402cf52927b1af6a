//! Where events come in: addresses and ports, the kernel UDP socket, XDP, TCP, and the limits of a frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::millis;
use super::words::{ChecksumPolicy, Gro, Priority, XdpMode, XdpRequire};

/// Bytes of one slot of a socket backend's frame pool. Fixed: it is what the largest UDP datagram needs.
pub const SOCKET_SLOT_BYTES: u32 = 64 * 1024;

/// The bounds of `limits.frame_bytes`. The lower one leaves room for the header of a frame and a short topic.
pub const FRAME_BYTES_MAX: u32 = 16 << 20;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listen {
    pub udp_address: IpAddr,
    pub udp_port: u16,
    pub tcp_address: IpAddr,
    pub tcp_port: u16,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            udp_address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            udp_port: 8082,
            tcp_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            tcp_port: 8081,
        }
    }
}

/// The kernel socket that stands behind XDP, and is all of UDP ingest where XDP cannot be had.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Udp {
    /// Sockets on the port, each with an agent of its own, by SO_REUSEPORT.
    pub sockets: u32,
    /// Datagrams taken by one `recvmmsg`.
    pub batch: u32,
    pub gro: Gro,
    /// SO_RCVBUF of each socket.
    pub receive_buffer_bytes: u32,
    /// Slots of [`SOCKET_SLOT_BYTES`] in each socket's frame pool.
    pub slots: u32,
    pub max_priority: Priority,
}

impl Default for Udp {
    fn default() -> Self {
        Self {
            sockets: 1,
            batch: 64,
            gro: Gro::Auto,
            receive_buffer_bytes: 8 << 20,
            slots: 256,
            max_priority: Priority::Critical,
        }
    }
}

/// Which receive queues of the interface get an AF_XDP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XdpQueues {
    All,
    These(Vec<u32>),
}

impl Serialize for XdpQueues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::These(queues) => queues.serialize(serializer),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Xdp {
    /// No interface: no XDP, the kernel socket serves the port alone.
    pub interface: Option<String>,
    pub queues: XdpQueues,
    pub require: XdpRequire,
    pub mode: XdpMode,
    /// Bytes of one UMEM frame, the driver's headroom included.
    pub frame_bytes: u32,
    /// Frames in the UMEM of each queue.
    pub frames: u32,
    /// Descriptors in the rx ring of each queue. The fill ring is as deep as the UMEM has frames.
    pub rx_ring: u32,
    pub verify_udp_checksum: ChecksumPolicy,
    /// Multicast destinations that are steered besides the host's own addresses.
    pub multicast_groups: Vec<IpAddr>,
    pub max_priority: Priority,
}

impl Default for Xdp {
    fn default() -> Self {
        Self {
            interface: None,
            queues: XdpQueues::All,
            require: XdpRequire::Any,
            mode: XdpMode::Auto,
            // 4096 frames of 2048 bytes are a UMEM of 8 MiB. Larger ones were slower: with 16384 frames and deeper
            // rings a queue ran at 2.7 M packets/s instead of 4.0 to 4.2 M, because the memory no longer stayed in cache.
            frame_bytes: 2048,
            frames: 4096,
            rx_ring: 2048,
            verify_udp_checksum: ChecksumPolicy::Auto,
            multicast_groups: Vec::new(),
            max_priority: Priority::Critical,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tcp {
    pub enabled: bool,
    pub agents: u32,
    /// Connections open at once, over all agents together.
    pub max_connections: u32,
    /// Bytes read from one connection before the next one gets its turn.
    pub connection_budget_bytes: u32,
    /// Slots of [`SOCKET_SLOT_BYTES`] in each agent's frame pool.
    pub slots: u32,
    /// Slots of `limits.frame_bytes` in each agent, for frames above [`SOCKET_SLOT_BYTES`].
    pub large_slots: u32,
    /// How long a connection waits for a large slot before it is closed with an error.
    #[serde(rename = "large_wait_ms", serialize_with = "millis")]
    pub large_wait: Duration,
    /// Bytes of unfinished frames kept between reads, over all connections of an agent.
    pub carry_bytes: u64,
    /// Closes a connection that sent nothing for so long; `None`: never.
    #[serde(rename = "idle_timeout_ms", serialize_with = "super::optional_millis")]
    pub idle_timeout: Option<Duration>,
    pub max_priority: Priority,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            enabled: true,
            agents: 1,
            max_connections: 16_384,
            connection_budget_bytes: SOCKET_SLOT_BYTES,
            slots: 256,
            large_slots: 8,
            large_wait: Duration::from_millis(1000),
            carry_bytes: 16 << 20,
            idle_timeout: None,
            max_priority: Priority::Critical,
        }
    }
}

/// What a frame may be at most; anything above is malformed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// The largest value a frame's length field may have.
    pub frame_bytes: u32,
    pub topic_bytes: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: 1 << 20,
            topic_bytes: 255,
        }
    }
}
