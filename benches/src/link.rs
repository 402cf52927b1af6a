//! What the kernel says about the sender's interface: its number, address, driver, and what it dropped.
//!
//! Set-up and end of a run only. A load generator counts what it handed over; what the link then lost is only known here.

use std::os::fd::AsRawFd;
use std::{fs, io, mem};

use rustix::net::{AddressFamily, SocketType, netdevice, socket};

/// An interface of the namespace the process runs in.
#[derive(Clone, Debug)]
pub struct Link {
    name: String,
    index: u32,
}

/// Packets an interface has sent and dropped since it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    pub sent: u64,
    /// On veth this holds what the peer's full ring refused as well (`tx_queue_*_xdp_xmit_errors` of `ethtool -S`), so
    /// adding those would count them twice.
    pub dropped: u64,
}

impl Link {
    pub fn find(name: &str) -> io::Result<Self> {
        let control = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let index = netdevice::name_to_index(&control, name)?;
        Ok(Self { name: name.to_owned(), index })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn index(&self) -> u32 {
        self.index
    }

    /// The interface's hardware address.
    pub fn mac(&self) -> io::Result<[u8; 6]> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFHWADDR as libc::Ioctl, &mut request)?;
        // SAFETY: after SIOCGIFHWADDR succeeded the kernel has filled in this member; any bytes are a valid `sockaddr`.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        let mut mac = [0; 6];
        for (byte, raw) in mac.iter_mut().zip(address.sa_data) {
            *byte = raw as u8;
        }
        Ok(mac)
    }

    /// Bytes an Ethernet frame may carry.
    pub fn mtu(&self) -> io::Result<usize> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFMTU as libc::Ioctl, &mut request)?;
        // SAFETY: after SIOCGIFMTU succeeded the kernel has filled in this member; any bytes are a valid number.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(usize::try_from(mtu).unwrap_or(0))
    }

    /// The name of the driver, such as `veth`.
    pub fn driver(&self) -> io::Result<String> {
        let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 160], counts: [0; 8] };
        let mut request = self.request();
        request.ifr_ifru.ifru_data = (&raw mut info).cast();
        self.ioctl(SIOCETHTOOL as libc::Ioctl, &mut request)?;
        let name = &info.driver[..32];
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        Ok(String::from_utf8_lossy(&name[..end]).into_owned())
    }

    /// Read from `/proc/thread-self/net/dev`, which, unlike `/sys/class/net`, always shows the reader's own namespace.
    pub fn counters(&self) -> io::Result<LinkCounters> {
        let table = fs::read_to_string("/proc/thread-self/net/dev")?;
        parse_counters(&table, &self.name)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("interface {} is gone", self.name)))
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: all zeros is a valid `ifreq`: it consists of bytes, numbers and a null pointer.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        // The last byte stays zero: `name_to_index` has refused names that do not fit.
        for (target, byte) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(self.name.bytes()) {
            *target = byte as libc::c_char;
        }
        request
    }

    fn ioctl(&self, command: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        let control = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        // SAFETY: all commands used here take an `ifreq`; its data pointer, where one is read, is to a `DriverInfo` of
        // the caller's that lives on its stack until this returns.
        let result = unsafe { libc::ioctl(control.as_raw_fd(), command, &raw mut *request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

const SIOCETHTOOL: u32 = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 3;

/// `struct ethtool_drvinfo` of `linux/ethtool.h`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    /// Driver (32 bytes), version (32), firmware (32), bus (32) and expansion ROM (32), one after the other.
    driver: [u8; 160],
    /// Reserved (12 bytes) and five numbers.
    counts: [u32; 8],
}

const _: () = assert!(mem::size_of::<DriverInfo>() == 196);

/// Columns after the colon: eight of reception, then bytes, packets, errors and drops of transmission.
fn parse_counters(table: &str, name: &str) -> Option<LinkCounters> {
    let columns = table.lines().find_map(|line| {
        let (interface, columns) = line.split_once(':')?;
        (interface.trim() == name).then_some(columns)
    })?;
    let column = |index: usize| columns.split_ascii_whitespace().nth(index)?.parse().ok();
    Some(LinkCounters { sent: column(9)?, dropped: column(11)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transmission_is_read_from_the_right_line_and_columns() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop\n    \
                     lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n \
                     lo2:101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116\n";
        assert_eq!(parse_counters(table, "lo"), Some(LinkCounters { sent: 10, dropped: 12 }));
        assert_eq!(parse_counters(table, "lo2"), Some(LinkCounters { sent: 110, dropped: 112 }));
        assert_eq!(parse_counters(table, "l"), None);
    }

    #[test]
    fn loopback_is_found_and_counted() {
        let link = Link::find("lo").unwrap();
        assert!(link.index() > 0);
        assert_eq!(link.mac().unwrap(), [0; 6]);
        link.counters().unwrap();
        assert!(Link::find("no-such-link").is_err());
    }
}
