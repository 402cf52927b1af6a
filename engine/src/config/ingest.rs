//! Where events come in: addresses and ports, the kernel UDP socket, XDP, TCP, and the limits of a frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::document::{Value, shown};
use super::limit::{Limit, power_of_two, range};
use super::millis;
use super::reader::{Section, ip_address};
use super::words::{ChecksumPolicy, Gro, Priority, XdpMode, XdpRequire};

/// Bytes of one slot of a socket backend's frame pool. Fixed: it is what the largest UDP datagram needs.
pub const SOCKET_SLOT_BYTES: u32 = 64 * 1024;

/// The most that `limits.frame_bytes` may be.
pub const FRAME_BYTES_MAX: u32 = 16 << 20;

/// 0 takes any free port; the engine says which at start.
const PORT: Limit = range(0, 65_535, "port, 0: any free one");
/// From what one full batch needs twice over, to 1 GiB of address space.
const SOCKET_SLOTS: Limit = power_of_two(16, 16_384, "slots of 64 KiB");
/// The kernel's own bound of a device's queues is far above what any NIC has.
const NIC_QUEUE: Limit = range(0, 1023, "receive queue");
const NIC_QUEUES_MAX: usize = 256;
const MULTICAST_GROUPS_MAX: usize = 256;
/// IFNAMSIZ less the closing NUL.
const INTERFACE_BYTES_MAX: usize = 15;

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

impl Listen {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        Self {
            udp_address: s.address("udp_address", d.udp_address),
            udp_port: s.integer("udp_port", PORT, d.udp_port),
            tcp_address: s.address("tcp_address", d.tcp_address),
            tcp_port: s.integer("tcp_port", PORT, d.tcp_port),
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

impl Udp {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        Self {
            sockets: s.integer("sockets", range(1, 64, "sockets"), d.sockets),
            // The kernel takes no more than UIO_MAXIOV messages in one call.
            batch: s.integer("batch", range(1, 1024, "datagrams"), d.batch),
            gro: s.word("gro", d.gro),
            receive_buffer_bytes: s.integer(
                "receive_buffer_bytes",
                range(4096, 1 << 30, "bytes"),
                d.receive_buffer_bytes,
            ),
            slots: s.integer("slots", SOCKET_SLOTS, d.slots),
            max_priority: s.word("max_priority", d.max_priority),
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
            rx_ring: 4096,
            verify_udp_checksum: ChecksumPolicy::Auto,
            multicast_groups: Vec::new(),
            max_priority: Priority::Critical,
        }
    }
}

impl Xdp {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        Self {
            interface: s.optional_text("interface", "the name of a network interface", interface_name),
            queues: read_queues(s, d.queues),
            require: s.word("require", d.require),
            mode: s.word("mode", d.mode),
            frame_bytes: s.integer("frame_bytes", power_of_two(2048, 4096, "bytes"), d.frame_bytes),
            frames: s.integer("frames", power_of_two(64, 1 << 20, "frames"), d.frames),
            rx_ring: s.integer("rx_ring", power_of_two(64, 65_536, "descriptors"), d.rx_ring),
            verify_udp_checksum: s.word("verify_udp_checksum", d.verify_udp_checksum),
            multicast_groups: read_multicast_groups(s).unwrap_or_default(),
            max_priority: s.word("max_priority", d.max_priority),
        }
    }
}

fn interface_name(name: &str) -> Result<String, String> {
    // What the kernel's dev_valid_name refuses.
    let is_valid = (1..=INTERFACE_BYTES_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.chars().any(|c| c == '/' || c == ':' || c == '\0' || c.is_whitespace());
    if is_valid {
        Ok(name.to_owned())
    } else {
        let bound = format!("1..={INTERFACE_BYTES_MAX} bytes without `/`, `:` or blanks");
        Err(format!("value `{}` is not the name of an interface: {bound}", shown(name)))
    }
}

fn read_queues(s: &mut Section<'_, '_>, default: XdpQueues) -> XdpQueues {
    let Some(count) = s.list_len("queues") else {
        let allowed = || format!("all | [queue, ...], each {NIC_QUEUE}");
        return s.value("queues", default, allowed, |value| match value {
            Value::Text(text) if text == "all" => Ok(XdpQueues::All),
            other => Err(format!("expected all or a list of queues, each {NIC_QUEUE}, found {other}")),
        });
    };
    let mut queues = Vec::new();
    s.list("queues", NIC_QUEUES_MAX, "queues", |item| {
        let queue: u32 = item.integer(NIC_QUEUE)?;
        if queues.contains(&queue) {
            item.error(format!("queue {queue} is listed twice"));
        }
        queues.push(queue);
        Some(())
    });
    if count == 0 {
        s.error("queues", "the list is empty: name at least one queue, or `all`");
    }
    XdpQueues::These(queues)
}

fn read_multicast_groups(s: &mut Section<'_, '_>) -> Option<Vec<IpAddr>> {
    let mut groups = Vec::new();
    s.list("multicast_groups", MULTICAST_GROUPS_MAX, "multicast addresses", |item| {
        match ip_address(item.text()?) {
            Err(message) => item.error(message),
            Ok(group) if !group.is_multicast() => item.error(format!("value {group} is not a multicast address")),
            Ok(group) if groups.contains(&group) => item.error(format!("{group} is listed twice")),
            Ok(group) => groups.push(group),
        }
        Some(())
    })?;
    Some(groups)
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tcp {
    pub enabled: bool,
    pub agents: u32,
    /// Connections open at once, over all agents together.
    pub max_connections: u32,
    /// Bytes read from one connection before the next one gets its turn.
    pub connection_budget_bytes: u32,
    /// Slots of [`SOCKET_SLOT_BYTES`] in each agent's frame pool. A class has a quarter of them, shared by its workers.
    pub slots: u32,
    /// Slots of `limits.frame_bytes` in each agent, for frames above [`SOCKET_SLOT_BYTES`]; one is kept for each class.
    pub large_slots: u32,
    /// How long a connection waits for a large slot before it is closed with an error.
    #[serde(rename = "large_wait_ms", serialize_with = "millis")]
    pub large_wait: Duration,
    /// How long a connection that has a large slot may take for every 64 KiB of the frame.
    #[serde(rename = "large_fill_ms", serialize_with = "millis")]
    pub large_fill: Duration,
    /// How long a client may leave its acknowledgements unread before its connection is closed with an error.
    #[serde(rename = "ack_wait_ms", serialize_with = "millis")]
    pub ack_wait: Duration,
    /// Memory of each agent for unfinished frames, and for frames that wait, between reads.
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
            // Longer than a stalled one may keep its slot, or a few of those would turn everybody else away.
            large_wait: Duration::from_millis(10_000),
            // An honest sender is faster than 13 kB/s, and loses no more than some seconds to retransmissions.
            large_fill: Duration::from_millis(5000),
            // Longer than a client that is stopped for a moment, by its own disk or a debugger's glance, stays away.
            ack_wait: Duration::from_millis(10_000),
            carry_bytes: 16 << 20,
            idle_timeout: None,
            max_priority: Priority::Critical,
        }
    }
}

impl Tcp {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        Self {
            enabled: s.boolean("enabled", d.enabled),
            agents: s.integer("agents", range(1, 16, "agents"), d.agents),
            max_connections: s.integer("max_connections", range(1, 1_000_000, "connections"), d.max_connections),
            connection_budget_bytes: s.integer(
                "connection_budget_bytes",
                range(4096, 16 << 20, "bytes"),
                d.connection_budget_bytes,
            ),
            slots: s.integer("slots", SOCKET_SLOTS, d.slots),
            large_slots: s.integer("large_slots", range(0, 1024, "slots"), d.large_slots),
            large_wait: s.millis("large_wait_ms", range(1, 60_000, "ms"), d.large_wait),
            large_fill: s.millis("large_fill_ms", range(10, 600_000, "ms"), d.large_fill),
            ack_wait: s.millis("ack_wait_ms", range(1, 600_000, "ms"), d.ack_wait),
            carry_bytes: s.integer("carry_bytes", range(64 << 10, 4 << 30, "bytes"), d.carry_bytes),
            idle_timeout: Some(s.millis(
                "idle_timeout_ms",
                range(0, 86_400_000, "ms, 0: never"),
                d.idle_timeout.unwrap_or_default(),
            ))
            .filter(|timeout| !timeout.is_zero()),
            max_priority: s.word("max_priority", d.max_priority),
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
        Self { frame_bytes: 1 << 20, topic_bytes: 255 }
    }
}

impl Limits {
    pub(super) fn read(s: &mut Section<'_, '_>) -> Self {
        let d = Self::default();
        Self {
            frame_bytes: s.integer("frame_bytes", range(64, FRAME_BYTES_MAX as u64, "bytes"), d.frame_bytes),
            topic_bytes: s.integer("topic_bytes", range(1, 65_535, "bytes"), d.topic_bytes),
        }
    }
}
