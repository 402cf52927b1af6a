//! What the steering program costs a packet: the kernel runs it a million times on one packet and says the mean.
//!
//! No socket is in its map, so that nothing but the decision and its counters is measured: the packet of a queue without
//! a socket goes the whole way and passes at its end. Run as root:
//!
//! ```text
//! cargo run --release --package eventstream-benches --example steer_cost
//! ```

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use eventstream_benches::packet::{Endpoints, Headers};
use eventstream_steer::STEER_OBJECT;
use eventstream_steer::maps::{self, AddressKey, MODE_STEER, port_bit, v4_mapped};

const PORT: u16 = 8_082;
const RUNS: u32 = 1_000_000;
/// Longer than any packet here.
const FRAME_ROOM: u32 = 1_792;
const XDP_PASS: u32 = 2;

struct Steer {
    object: Ebpf,
    config: Array<MapData, [u32; 4]>,
}

impl Steer {
    /// Loaded, for [`PORT`] at these addresses.
    fn load(addresses: &[IpAddr]) -> Result<Self, Box<dyn Error>> {
        let mut object = Ebpf::load(STEER_OBJECT)?;
        let mut take = |name: &str| object.take_map(name).ok_or(format!("the object has no map {name}"));
        let mut ports = Array::<_, u64>::try_from(take(maps::PORTS)?)?;
        let (word, bit) = port_bit(PORT);
        ports.set(word, bit, 0)?;
        let mut own = HashMap::<_, AddressKey, u32>::try_from(take(maps::ADDRESSES)?)?;
        for address in addresses {
            own.insert(key(address), 1, 0)?;
        }
        let config = Array::try_from(take(maps::CONFIG)?)?;
        let program: &mut Xdp = object.program_mut(maps::STEER_PROGRAM).ok_or("no program")?.try_into()?;
        program.load()?;
        Ok(Self { object, config })
    }

    fn cost(&mut self, packet: &[u8], verify_checksum: bool) -> Result<Duration, Box<dyn Error>> {
        self.config.set(0, [MODE_STEER, verify_checksum.into(), FRAME_ROOM, 0], 0)?;
        let program: &Xdp = self.object.program(maps::STEER_PROGRAM).ok_or("no program")?.try_into()?;
        let options = TestRunOptions { data_in: Some(packet), repeat: RUNS, ..TestRunOptions::new() };
        let result = program.test_run(options)?;
        if result.return_value != XDP_PASS {
            return Err(format!("the program answered {} and not XDP_PASS", result.return_value).into());
        }
        Ok(result.duration)
    }
}

fn key(address: &IpAddr) -> AddressKey {
    match address {
        IpAddr::V4(address) => v4_mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

fn packet(own: IpAddr, port: u16, payload_bytes: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let source = if own.is_ipv4() { "198.18.0.2" } else { "fd00::2" }.parse()?;
    let endpoints = Endpoints {
        source_mac: [2, 0, 0, 0, 0, 2],
        destination_mac: [2, 0, 0, 0, 0, 1],
        source,
        destination: own,
        source_port: 40_000,
        destination_port: port,
    };
    let headers = Headers::new(&endpoints, payload_bytes).ok_or("no such packet")?;
    let mut packet = headers.bytes().to_vec();
    packet.resize(packet.len() + payload_bytes, 0x5a);
    headers.finish(&mut packet);
    Ok(packet)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (v4, v6): (IpAddr, IpAddr) = ("198.18.0.1".parse()?, "fd00::1".parse()?);
    let mut steer = Steer::load(&[v4, v6])?;
    // Over IPv4 these packets say that they have no checksum, so there is nothing to verify.
    for (what, own, port, payload_bytes, verify_checksum) in [
        ("another port, IPv4, 64 bytes", v4, PORT + 1, 64, false),
        ("ours, IPv4, 64 bytes", v4, PORT, 64, false),
        ("ours, IPv4, 1472 bytes", v4, PORT, 1_472, false),
        ("ours, IPv6, 64 bytes", v6, PORT, 64, false),
        ("ours, IPv6, 64 bytes, verified", v6, PORT, 64, true),
        ("ours, IPv6, 1452 bytes, verified", v6, PORT, 1_452, true),
    ] {
        let cost = steer.cost(&packet(own, port, payload_bytes)?, verify_checksum)?;
        println!("{what:<34} {:>6} ns a packet", cost.as_nanos());
    }
    Ok(())
}
