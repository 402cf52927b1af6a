//! Where load may go: loopback and the address ranges set aside for benchmarks and private networks.
//!
//! A load generator pointed at a wrong address is an attack. So every kind asks here first, and whoever tests a network of
//! their own says so on the command line.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// A destination that was not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub IpAddr);

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "--dst {}: load goes only to loopback, 198.18.0.0/15 and fc00::/7; for a network of your own, \
             add --i-own-this-network",
            self.0
        )
    }
}

impl std::error::Error for Refused {}

/// Lets loopback, 198.18.0.0/15 (benchmarks, RFC 2544) and fc00::/7 (private, RFC 4193) pass.
pub fn check_destination(address: IpAddr) -> Result<(), Refused> {
    // An IPv4 address in IPv6 clothes reaches the IPv4 host.
    let is_allowed = match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || is_benchmark(v4),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local(),
    };
    if is_allowed { Ok(()) } else { Err(Refused(address)) }
}

fn is_benchmark(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 198 && second & 0xfe == 18
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_test_networks_pass() {
        let allowed = [
            "127.0.0.1",
            "127.255.0.9",
            "198.18.0.0",
            "198.19.255.255",
            "::1",
            "fc00::1",
            "fdff::1",
            "::ffff:127.0.0.1",
            "::ffff:198.18.1.1",
        ];
        let refused = [
            "126.0.0.1",
            "198.17.255.255",
            "198.20.0.0",
            "10.0.0.1",
            "192.168.1.1",
            "8.8.8.8",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::",
            "fe80::1",
            "2001:db8::1",
            "ff02::1",
            "::ffff:8.8.8.8",
            "fb00::1",
        ];
        for address in allowed {
            assert_eq!(check_destination(address.parse().unwrap()), Ok(()), "{address}");
        }
        for address in refused {
            let address = address.parse().unwrap();
            assert_eq!(check_destination(address), Err(Refused(address)));
        }
    }
}
