//! Who sent something, in a form of fixed size.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Where the bytes of a slot came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// IPv4 as its IPv6-mapped form.
    pub address: [u8; 16],
    pub port: u16,
}

impl Peer {
    pub const NONE: Self = Self { address: [0; 16], port: 0 };
    /// Size of the form in which a copied event carries its peer.
    pub const BYTES: usize = 18;

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.address);
        bytes[16..].copy_from_slice(&self.port.to_be_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let [address @ .., high, low] = *bytes;
        Self { address, port: u16::from_be_bytes([high, low]) }
    }

    pub fn socket_address(&self) -> SocketAddr {
        let address = Ipv6Addr::from(self.address);
        let address = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
        SocketAddr::new(address, self.port)
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        let octets = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        Self { address: octets, port: address.port() }
    }
}
