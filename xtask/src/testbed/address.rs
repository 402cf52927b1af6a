//! Which addresses a testbed takes: a /30 of 198.18.0.0/15, which is set aside for benchmarks, and a /64 of a unique
//! local prefix, neither overlapping anything this host has or routes to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

/// First address of 198.18.0.0/15 and the number of /30 in it.
const BENCHMARK_V4: u32 = 0xC612_0000;
const SUBNET_COUNT: u32 = 1 << 15;
/// fd45:5343::/32, of which a testbed takes the /64 with its subnet's number.
const LOCAL_V6: u128 = 0xfd45_5343_u128 << 96;
pub const PREFIX_V4: u8 = 30;
pub const PREFIX_V6: u8 = 64;

/// IPv4 prefixes are kept as IPv4-mapped IPv6 ones, so that there is one kind of overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    bits: u128,
    length: u8,
}

impl Prefix {
    pub fn new(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(address) => Prefix { bits: address.to_ipv6_mapped().to_bits(), length: length.min(32) + 96 },
            IpAddr::V6(address) => Prefix { bits: address.to_bits(), length: length.min(128) },
        }
    }

    /// `198.18.0.0/30`, or an address alone.
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        Some(Prefix::new(address, length.unwrap_or(128)))
    }

    fn overlaps(self, other: Prefix) -> bool {
        let length = self.length.min(other.length);
        let mask = if length == 0 { 0 } else { u128::MAX << (128 - u32::from(length)) };
        (self.bits ^ other.bits) & mask == 0
    }

    /// A default route, or one of the halves and quarters VPNs split it into: it covers everything and reserves nothing.
    fn is_default(self) -> bool {
        let mapped = self.bits >> 32 == 0xffff;
        if mapped { self.length < 96 + 8 } else { self.length < 8 }
    }
}

/// The addresses of one testbed: the engine's end has the first of each subnet, the senders' end the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub engine_v4: Ipv4Addr,
    pub peer_v4: Ipv4Addr,
    pub engine_v6: Ipv6Addr,
    pub peer_v6: Ipv6Addr,
}

impl Addresses {
    fn of_subnet(number: u32) -> Self {
        let v4 = BENCHMARK_V4 + number * 4;
        let v6 = LOCAL_V6 | u128::from(number) << 64;
        Addresses {
            engine_v4: Ipv4Addr::from_bits(v4 + 1),
            peer_v4: Ipv4Addr::from_bits(v4 + 2),
            engine_v6: Ipv6Addr::from_bits(v6 + 1),
            peer_v6: Ipv6Addr::from_bits(v6 + 2),
        }
    }
}

/// The first free subnet at or after `start`.
pub fn choose(start: u32, taken: &[Prefix]) -> Option<Addresses> {
    let taken: Vec<Prefix> = taken.iter().copied().filter(|prefix| !prefix.is_default()).collect();
    (0..SUBNET_COUNT).map(|step| Addresses::of_subnet((start + step) % SUBNET_COUNT)).find(|candidate| {
        let v4 = Prefix::new(candidate.engine_v4.into(), PREFIX_V4);
        let v6 = Prefix::new(candidate.engine_v6.into(), PREFIX_V6);
        !taken.iter().any(|prefix| prefix.overlaps(v4) || prefix.overlaps(v6))
    })
}

/// Prefixes in what `ip -json address` and `ip -json route` print.
pub fn prefixes(addresses: &Value, routes: &Value) -> Vec<Prefix> {
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for interface in items(addresses) {
        for entry in items(&interface["addr_info"]) {
            let address = entry["local"].as_str().and_then(|text| text.parse().ok());
            let length = entry["prefixlen"].as_u64().and_then(|length| u8::try_from(length).ok());
            if let (Some(address), Some(length)) = (address, length) {
                found.push(Prefix::new(address, length));
            }
        }
    }
    for route in items(routes) {
        // "default" does not parse, and reserves nothing.
        found.extend(route["dst"].as_str().and_then(Prefix::parse));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn taken(list: &[&str]) -> Vec<Prefix> {
        list.iter().map(|text| Prefix::parse(text).unwrap()).collect()
    }

    #[test]
    fn the_first_subnet_on_an_unused_host() {
        let chosen = choose(0, &taken(&["10.0.0.0/8", "192.168.1.7", "fe80::/64"])).unwrap();
        assert_eq!(chosen.engine_v4, Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!(chosen.peer_v4, Ipv4Addr::new(198, 18, 0, 2));
        assert_eq!(chosen.engine_v6, "fd45:5343::1".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn taken_subnets_are_passed_over() {
        let chosen = choose(0, &taken(&["198.18.0.0/29", "198.18.0.9/32"])).unwrap();
        assert_eq!(chosen.engine_v4, Ipv4Addr::new(198, 18, 0, 13));
        let chosen = choose(0, &taken(&["fd45:5343::/64"])).unwrap();
        assert_eq!(chosen.engine_v4, Ipv4Addr::new(198, 18, 0, 5));
        assert_eq!(chosen.engine_v6, "fd45:5343:0:1::1".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn a_host_that_uses_the_whole_range_is_left_alone() {
        assert_eq!(choose(0, &taken(&["198.18.0.0/15"])), None);
        assert_eq!(choose(0, &taken(&["198.0.0.0/8"])), None);
    }

    #[test]
    fn default_routes_reserve_nothing() {
        assert!(choose(0, &taken(&["0.0.0.0/0", "128.0.0.0/1", "::/0", "::/1"])).is_some());
    }

    #[test]
    fn counting_wraps_at_the_end_of_the_range() {
        let last = choose(SUBNET_COUNT - 1, &[]).unwrap();
        assert_eq!(last.engine_v4, Ipv4Addr::new(198, 19, 255, 253));
        let wrapped = choose(SUBNET_COUNT - 1, &taken(&["198.19.255.252/30"])).unwrap();
        assert_eq!(wrapped.engine_v4, Ipv4Addr::new(198, 18, 0, 1));
    }

    #[test]
    fn what_ip_prints_is_understood() {
        let addresses = json!([{"ifname": "lo", "addr_info": [{"family": "inet", "local": "127.0.0.1", "prefixlen": 8}]},
            {"ifname": "x", "addr_info": [{"family": "inet6", "local": "fe80::1", "prefixlen": 64}, {}]}]);
        let routes = json!([{"dst": "default", "dev": "x"}, {"dst": "198.18.0.0/30"}, {"dst": "10.1.2.3"}]);
        let found = prefixes(&addresses, &routes);
        assert_eq!(found, taken(&["127.0.0.1/8", "fe80::1/64", "198.18.0.0/30", "10.1.2.3/32"]));
        assert_eq!(prefixes(&Value::Null, &Value::Null), vec![]);
    }
}
