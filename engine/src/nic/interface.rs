//! What there is to know about a network interface before its packets are steered.
//!
//! - **Thread**: control, at start. **In**: an interface's name. **Out**: facts, each asked where it is true in every
//!   network namespace: sysfs shows the namespace it was mounted in, netlink and ethtool the caller's own.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::device::{Device, Interrupt};
use super::netlink::{self, Request, attributes, u32_at};

/// Bytes of `struct ifinfomsg` before its attributes.
const LINK_HEADER_BYTES: usize = 16;

// Nested in IFLA_XDP (linux/if_link.h).
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;

/// Where an XDP program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Native,
    Generic,
    Hardware,
}

/// A program that is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    pub hook: Hook,
    pub program_id: u32,
}

/// Facts on an interface, as of when they were asked.
#[derive(Clone, Debug)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    pub mtu: u32,
    pub is_up: bool,
    /// As ethtool names it; empty if the driver does not say.
    pub driver: String,
    /// Receive queues in use.
    pub queue_count: u32,
    /// Node of the device; none on machines with one node and for devices without hardware.
    pub numa_node: Option<u32>,
    pub attached: Vec<Attached>,
    /// Where it is on its bus, if the driver says so.
    bus: String,
}

impl Interface {
    /// The names of all interfaces of this network namespace.
    pub fn names() -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let skip_statistics = libc::RTEXT_FILTER_SKIP_STATS.to_ne_bytes();
        let request =
            Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP).link(0).attribute(libc::IFLA_EXT_MASK, &skip_statistics);
        netlink::ask(request, |message| {
            let body = message.body.get(LINK_HEADER_BYTES..).unwrap_or_default();
            names.extend(attributes(body).find(|(kind, _)| *kind == libc::IFLA_IFNAME).map(|(_, name)| text(name)));
        })?;
        Ok(names)
    }

    /// Those of its device, by number.
    pub fn interrupts(&self) -> Vec<Interrupt> {
        Device::of(Path::new("/"), &self.name, &self.bus).map_or_else(Vec::new, |device| device.interrupts())
    }

    pub fn named(name: &str) -> io::Result<Self> {
        let mut found = None;
        let mut c_name = name.as_bytes().to_vec();
        c_name.push(0);
        let skip_statistics = libc::RTEXT_FILTER_SKIP_STATS.to_ne_bytes();
        let request = Request::new(libc::RTM_GETLINK, 0)
            .link(0)
            .attribute(libc::IFLA_IFNAME, &c_name)
            .attribute(libc::IFLA_EXT_MASK, &skip_statistics);
        netlink::ask(request, |message| found = found.take().or_else(|| Self::read(name, &message)))?;
        let mut interface = found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        interface.ask_driver()?;
        Ok(interface)
    }

    fn read(name: &str, message: &netlink::Message<'_>) -> Option<Self> {
        if message.kind != libc::RTM_NEWLINK {
            return None;
        }
        let mut interface = Self {
            name: name.to_owned(),
            index: u32_at(message.body, 4)?,
            mtu: 0,
            is_up: u32_at(message.body, 8)? & libc::IFF_UP as u32 != 0,
            driver: String::new(),
            queue_count: 1,
            numa_node: None,
            attached: Vec::new(),
            bus: String::new(),
        };
        for (kind, content) in attributes(message.body.get(LINK_HEADER_BYTES..)?) {
            match kind {
                libc::IFLA_MTU => interface.mtu = u32_at(content, 0)?,
                // Those allocated; how many are in use the driver is asked below.
                libc::IFLA_NUM_RX_QUEUES => interface.queue_count = u32_at(content, 0)?,
                libc::IFLA_XDP => interface.attached = read_attached(content),
                _ => {}
            }
        }
        Some(interface)
    }

    /// Asks the driver what netlink does not say. Drivers without ethtool leave the defaults.
    fn ask_driver(&mut self) -> io::Result<()> {
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let mut information = DriverInformation::default();
        if ethtool(&socket, &self.name, &mut information).is_ok() {
            self.driver = text(&information.driver);
            self.bus = text(&information.bus);
        }
        self.numa_node = Device::of(Path::new("/"), &self.name, &self.bus).and_then(|device| device.numa_node());
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        if ethtool(&socket, &self.name, &mut channels).is_ok() {
            let in_use = channels.receive + channels.combined;
            self.queue_count = if in_use == 0 { self.queue_count } else { in_use };
        }
        Ok(())
    }

    /// Whether packets may come in whose UDP checksum is still to be filled in: those of local senders, which a real
    /// NIC would finish on the way out. Verifying would drop them all.
    pub fn has_partial_checksums(&self) -> bool {
        matches!(self.driver.as_str(), "veth" | "virtio_net" | "tun" | "netkit" | "vif" | "bridge" | "dummy")
    }
}

fn read_attached(xdp: &[u8]) -> Vec<Attached> {
    let hook = |kind| match kind {
        IFLA_XDP_DRV_PROG_ID => Some(Hook::Native),
        IFLA_XDP_SKB_PROG_ID => Some(Hook::Generic),
        IFLA_XDP_HW_PROG_ID => Some(Hook::Hardware),
        _ => None,
    };
    attributes(xdp)
        .filter_map(|(kind, content)| Some(Attached { hook: hook(kind)?, program_id: u32_at(content, 0)? }))
        .collect()
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInformation {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rest: [u8; 64],
}

impl Default for DriverInformation {
    fn default() -> Self {
        let (driver, version, firmware, bus) = ([0; 32], [0; 32], [0; 32], [0; 32]);
        Self { command: ETHTOOL_GDRVINFO, driver, version, firmware, bus, rest: [0; 64] }
    }
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    maxima: [u32; 4],
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

const _: () = assert!(size_of::<DriverInformation>() == 196 && size_of::<Channels>() == 36);

/// What ethtool's requests have in common: plain integers that begin with the command.
trait EthtoolRequest {}
impl EthtoolRequest for DriverInformation {}
impl EthtoolRequest for Channels {}

fn ethtool<T: EthtoolRequest>(socket: &impl AsRawFd, interface: &str, request: &mut T) -> io::Result<()> {
    let mut name: [libc::c_char; libc::IFNAMSIZ] = [0; _];
    if interface.len() >= name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    let data = std::ptr::from_mut(request).cast();
    let mut request = libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: data } };
    // SAFETY: for both commands the kernel writes one structure of the type's size (asserted above) to `ifru_data`,
    // which comes from a `&mut` that outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_and_nonsense_is_not() {
        let loopback = Interface::named("lo").unwrap();
        assert_eq!((loopback.index, loopback.queue_count), (1, 1));
        assert!(loopback.mtu >= 1500);
        assert!(Interface::names().unwrap().contains(&"lo".to_owned()));
        assert_eq!((loopback.numa_node, loopback.interrupts()), (None, Vec::new()));
        assert_eq!(Interface::named("no such if").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert!(Interface::named("a name much longer than any interface's").is_err());
    }

    #[test]
    fn attached_programs_are_read_by_hook() {
        let attribute =
            |kind: u16, id: u32| [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &id.to_ne_bytes()].concat();
        let xdp = [attribute(2, 4), attribute(IFLA_XDP_DRV_PROG_ID, 17), attribute(IFLA_XDP_SKB_PROG_ID, 18)].concat();
        let native = Attached { hook: Hook::Native, program_id: 17 };
        let generic = Attached { hook: Hook::Generic, program_id: 18 };
        assert_eq!(read_attached(&xdp), [native, generic]);
        assert_eq!(read_attached(&xdp[..xdp.len() - 1]), [native]);
        assert_eq!(read_attached(&[]), []);
    }
}
