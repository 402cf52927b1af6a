//! What the link itself lost between the senders and the engine's XDP program.
//!
//! A packet can be refused on its way into a veth in two places: senders that hand over frames (in-kernel generators,
//! redirects) are counted by the sending device as `tx_queue_*_xdp_xmit_errors`, senders that hand over socket buffers
//! (sockets, AF_XDP TX in copy mode) in its `tx_dropped`. The kernel adds the first into the second when it is asked for
//! the device's statistics (50 frames above the receiver's MTU, redirected: both counters showed 50), so they are never
//! summed here. The receiving end drops a buffer it cannot turn into a frame before the program sees it, but counts in the
//! same place what its program redirected to a socket in vain (of 7 million frames both counters showed the 6,205,111
//! that found no room in the socket); the engine's ledger has those, and they have to be taken off.

use std::collections::BTreeMap;

use serde_json::Value;

/// Counters of both ends at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    pub peer_tx_packets: u64,
    pub peer_tx_bytes: u64,
    /// All packets the senders' end could not hand over; holds `peer_xdp_xmit_errors`.
    pub peer_tx_dropped: u64,
    pub peer_xdp_xmit_errors: u64,
    /// Packets the engine's end took over and dropped: before its XDP program ran, or because a redirect failed.
    pub engine_rx_drops: u64,
}

impl LinkCounters {
    /// What was lost before the engine's XDP program ran since `earlier`, of whose redirects `redirects_failed` failed in
    /// that time: the socket's `rx_dropped`, `rx_ring_full` and what the program itself saw fail.
    pub fn dropped_since(&self, earlier: &LinkCounters, redirects_failed: u64) -> u64 {
        let engine = self.engine_rx_drops.saturating_sub(earlier.engine_rx_drops);
        self.peer_tx_dropped.saturating_sub(earlier.peer_tx_dropped) + engine.saturating_sub(redirects_failed)
    }
}

/// Reads both ends' statistics from what `ip -json -statistics link` and `ethtool -S` print.
pub fn read(peer_link: &Value, peer_ethtool: &str, engine_ethtool: &str) -> LinkCounters {
    let tx = &peer_link[0]["stats64"]["tx"];
    let peer = statistics(peer_ethtool);
    let engine = statistics(engine_ethtool);
    LinkCounters {
        peer_tx_packets: tx["packets"].as_u64().unwrap_or(0),
        peer_tx_bytes: tx["bytes"].as_u64().unwrap_or(0),
        peer_tx_dropped: tx["dropped"].as_u64().unwrap_or(0),
        peer_xdp_xmit_errors: sum(&peer, "tx_queue_", "_xdp_xmit_errors"),
        engine_rx_drops: sum(&engine, "rx_queue_", "_drops"),
    }
}

/// `     rx_queue_0_drops: 5` lines of `ethtool -S`.
pub fn statistics(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (name, value) = line.trim().rsplit_once(':')?;
        Some((name.trim().to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// Sums a per-queue counter: `prefix`, the queue's number, `suffix`, and nothing else between them.
fn sum(statistics: &BTreeMap<String, u64>, prefix: &str, suffix: &str) -> u64 {
    let of_queue = |name: &str| {
        let number = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    statistics.iter().filter(|(name, _)| of_queue(name)).map(|(_, value)| value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PEER: &str = "NIC statistics:\n     peer_ifindex: 3\n     tx_queue_0_xdp_xmit: 90\n     \
        tx_queue_0_xdp_xmit_errors: 7\n     tx_queue_1_xdp_xmit_errors: 2\n";
    const ENGINE: &str = "NIC statistics:\n     rx_queue_0_drops: 1\n     rx_queue_0_xdp_drops: 50\n     \
        rx_queue_1_drops: 3\n";

    #[test]
    fn queues_are_summed_and_other_counters_left_out() {
        let link = json!([{"stats64": {"tx": {"packets": 100, "bytes": 6400, "dropped": 12}}}]);
        let read = read(&link, PEER, ENGINE);
        assert_eq!(read.peer_xdp_xmit_errors, 9);
        assert_eq!(read.engine_rx_drops, 4);
        assert_eq!(read.peer_tx_dropped, 12);
        assert_eq!(read.dropped_since(&LinkCounters::default(), 0), 16);
        assert_eq!(read.dropped_since(&LinkCounters::default(), 3), 13);
        assert_eq!(read.dropped_since(&read, 0), 0);
    }

    #[test]
    fn a_device_without_statistics_has_lost_nothing() {
        assert_eq!(read(&Value::Null, "no stats available\n", ""), LinkCounters::default());
    }
}
