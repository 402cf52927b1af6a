//! A network of our own to show and test the engine on: a veth pair, of which the engine's end stays in the caller's
//! network namespace, so that one's own clients reach the engine as ever, and the senders' end lives in a namespace of
//! its own, so that what it sends really crosses the link.
//!
//! Everything goes away when the [`Testbed`] is dropped, and what a killed owner left is removed by the next one to
//! build. Names are numbered and claimed under a lock, so testbeds of several processes do not collide.

mod address;
mod counters;
mod record;

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use address::{Addresses, PREFIX_V4, PREFIX_V6};
pub use counters::LinkCounters;
use record::{Record, Turn};

use crate::process::{capture, own_group, tool};
use crate::{Error, Result};

/// More than anybody runs at a time; keeps the search for a free name finite.
const MAX_TESTBEDS: u32 = 100;

/// What a testbed is for; part of its names, so that someone who sees one knows whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Demo,
    Test,
    Bench,
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub purpose: Purpose,
    /// Queues of each end. One number for both: an XDP program cannot be attached to an end whose peer has more transmit
    /// queues than it has receive queues.
    pub queue_count: u32,
    /// At most 3500, unless the XDP program handles frames in fragments.
    pub mtu: u32,
    /// Off: the link carries not one packet that nobody sent. On, the kernel reports the multicast groups of the
    /// addresses, for which there is no switch.
    pub ipv6: bool,
}

impl Options {
    pub fn demo() -> Self {
        Options { purpose: Purpose::Demo, queue_count: 2, mtu: 1500, ipv6: false }
    }

    /// One queue: whichever flow a load chooses, it goes where the only receiver is.
    pub fn bench() -> Self {
        Options { purpose: Purpose::Bench, queue_count: 1, ..Self::demo() }
    }

    pub fn test() -> Self {
        Options { purpose: Purpose::Test, queue_count: 2, mtu: 1500, ipv6: true }
    }
}

/// Names and addresses of a link; enough to send over it from any process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The engine's end, in the caller's namespace.
    pub iface: String,
    /// The senders' end, in `namespace`.
    pub peer: String,
    pub namespace: String,
    pub engine_mac: String,
    pub peer_mac: String,
    pub engine_ip: Ipv4Addr,
    pub peer_ip: Ipv4Addr,
    /// Reachable only when the testbed was built with IPv6.
    pub engine_ip6: Ipv6Addr,
    pub peer_ip6: Ipv6Addr,
}

/// A [`Link`] that exists as long as this does.
#[derive(Debug)]
pub struct Testbed {
    link: Link,
    record: Option<Record>,
}

impl Testbed {
    pub fn create(options: &Options) -> Result<Self> {
        let turn = Turn::wait_for(Path::new(record::FOLDER))?;
        remove_leftovers(&turn)?;
        let present = json(tool("ip").args(["-json", "address", "show"]))?;
        let (number, mut record) = claim(&turn, options.purpose, &present)?;
        let routes = Value::Array(
            ["-4", "-6"]
                .into_iter()
                .map(|family| json(tool("ip").args(["-json", family, "route", "show", "table", "all"])))
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .flat_map(|routes| routes.as_array().cloned().unwrap_or_default())
                .collect(),
        );
        let Some(addresses) = address::choose(number, &address::prefixes(&present, &routes)) else {
            record.remove();
            return Err(Error::failed("no free subnet in 198.18.0.0/15: this host has addresses or routes there"));
        };
        let link = Link::named(options.purpose, number, &addresses);
        let written = record.write(&link.to_json());
        // From here on, dropping removes whatever has been built.
        let testbed = Testbed { link, record: Some(record) };
        match written.and_then(|()| testbed.build(options)) {
            Ok(()) => Ok(testbed),
            Err(error) => {
                // Removing waits for the turn that is still ours.
                drop(turn);
                drop(testbed);
                Err(error)
            }
        }
    }

    fn build(&self, options: &Options) -> Result<()> {
        let Link { iface, peer, namespace, engine_mac, peer_mac, .. } = &self.link;
        let queues = options.queue_count.to_string();
        let mtu = options.mtu.to_string();
        ip(&["netns", "add", namespace])?;
        let own = ["link", "add", iface, "address", engine_mac, "mtu", &mtu];
        let own_queues = ["numrxqueues", &queues, "numtxqueues", &queues, "type", "veth"];
        let peers = ["peer", "name", peer, "netns", namespace, "address", peer_mac, "mtu", &mtu];
        let peers_queues = ["numrxqueues", &queues, "numtxqueues", &queues];
        ip(&[&own[..], &own_queues, &peers, &peers_queues].concat())?;
        configure_ipv6(iface, options.ipv6)?;
        self.link.in_namespace(|| configure_ipv6(peer, options.ipv6)).and_then(|done| done)?;
        ip(&["-netns", namespace, "link", "set", "lo", "up"])?;
        let ends = [
            (None, iface, self.engine_ip, self.engine_ip6, self.peer_ip, self.peer_ip6, peer_mac),
            (Some(namespace), peer, self.peer_ip, self.peer_ip6, self.engine_ip, self.engine_ip6, engine_mac),
        ];
        for (namespace, device, own, own6, other, other6, other_mac) in ends {
            let ip = |arguments: &[&str]| match namespace {
                Some(namespace) => ip(&[&["-netns", namespace.as_str()], arguments].concat()),
                None => ip(arguments),
            };
            ip(&["address", "add", &format!("{own}/{PREFIX_V4}"), "dev", device])?;
            if options.ipv6 {
                ip(&["address", "add", &format!("{own6}/{PREFIX_V6}"), "dev", device, "nodad"])?;
            }
            ip(&["link", "set", device, "up"])?;
            // A generator that writes its own headers answers no ARP, and a flooded link must not lose one.
            let mut others = vec![IpAddr::V4(other)];
            others.extend(options.ipv6.then_some(IpAddr::V6(other6)));
            for other in others {
                let other = other.to_string();
                ip(&["neighbour", "replace", &other, "lladdr", other_mac, "dev", device, "nud", "permanent"])?;
            }
        }
        Ok(())
    }

    pub fn link(&self) -> &Link {
        &self.link
    }
}

impl Deref for Testbed {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        // Under the lock, so that nobody takes the name while half of it is still there. Without the lock the record
        // stays, and the next one to build removes everything.
        let Some(record) = self.record.take() else {
            return;
        };
        if Turn::wait_for(Path::new(record::FOLDER)).is_ok_and(|_turn| remove(&self.link)) {
            record.remove();
        }
    }
}

impl Link {
    fn named(purpose: Purpose, number: u32, addresses: &Addresses) -> Self {
        let (iface, peer, namespace) = names(purpose, number);
        Link {
            iface,
            peer,
            namespace,
            // Locally administered: 02, then "esc".
            engine_mac: format!("02:65:73:63:{number:02x}:01"),
            peer_mac: format!("02:65:73:63:{number:02x}:02"),
            engine_ip: addresses.engine_v4,
            peer_ip: addresses.peer_v4,
            engine_ip6: addresses.engine_v6,
            peer_ip6: addresses.peer_v6,
        }
    }

    /// The links of testbeds whose owners live, this process's included.
    pub fn living() -> Vec<Link> {
        record::living(Path::new(record::FOLDER)).iter().filter_map(Link::from_json).collect()
    }

    /// A command that runs at the senders' end and is killed when this process is gone.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = tool("ip");
        command.args(["netns", "exec", &self.namespace]);
        let bound = crate::process::bound_to_us(program);
        command.arg(bound.get_program()).args(bound.get_args());
        own_group(&mut command);
        command.stdin(std::process::Stdio::null());
        command
    }

    /// Runs `work` on a thread that is in the senders' namespace: sockets it opens stay there.
    pub fn in_namespace<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R> {
        let path = PathBuf::from("/run/netns").join(&self.namespace);
        let enter = || -> io::Result<R> {
            let namespace = File::open(&path)?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        let result = thread::scope(|scope| scope.spawn(enter).join());
        match result {
            Ok(result) => result.map_err(|error| Error::of_io(&path.display().to_string(), &error)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    pub fn counters(&self) -> Result<LinkCounters> {
        let peer_link =
            json(tool("ip").args(["-netns", &self.namespace, "-json", "-statistics", "link", "show", &self.peer]))?;
        let ethtool = tool("ethtool");
        let mut peer = tool("ip");
        peer.args(["netns", "exec", &self.namespace]).arg(ethtool.get_program()).args(["-S", &self.peer]);
        let peer = capture(&mut peer)?;
        let engine = capture(tool("ethtool").args(["-S", &self.iface]))?;
        Ok(counters::read(&peer_link, &peer, &engine))
    }

    fn to_json(&self) -> Value {
        json!({
            "iface": self.iface, "peer": self.peer, "namespace": self.namespace,
            "engine_mac": self.engine_mac, "peer_mac": self.peer_mac,
            "engine_ip": self.engine_ip.to_string(), "peer_ip": self.peer_ip.to_string(),
            "engine_ip6": self.engine_ip6.to_string(), "peer_ip6": self.peer_ip6.to_string(),
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let text = |key: &str| Some(value[key].as_str()?.to_owned());
        Some(Link {
            iface: text("iface")?,
            peer: text("peer")?,
            namespace: text("namespace")?,
            engine_mac: text("engine_mac")?,
            peer_mac: text("peer_mac")?,
            engine_ip: text("engine_ip")?.parse().ok()?,
            peer_ip: text("peer_ip")?.parse().ok()?,
            engine_ip6: text("engine_ip6")?.parse().ok()?,
            peer_ip6: text("peer_ip6")?.parse().ok()?,
        })
    }
}

/// `esc-d0`, `esc-d1` and `esc-demo-0` for the first demonstration.
fn names(purpose: Purpose, number: u32) -> (String, String, String) {
    let (letter, word) = match purpose {
        Purpose::Demo => ('d', "demo"),
        Purpose::Test => ('t', "test"),
        Purpose::Bench => ('b', "bench"),
    };
    (format!("esc-{letter}{}", 2 * number), format!("esc-{letter}{}", 2 * number + 1), format!("esc-{word}-{number}"))
}

/// The first number whose names nothing and nobody uses. The record is named by the number alone: it is part of the
/// addresses as well.
fn claim(turn: &Turn, purpose: Purpose, present: &Value) -> Result<(u32, Record)> {
    let exists = |name: &str| present.as_array().is_some_and(|list| list.iter().any(|item| item["ifname"] == name));
    for number in 0..MAX_TESTBEDS {
        let (iface, peer, namespace) = names(purpose, number);
        if exists(&iface) || exists(&peer) || Path::new("/run/netns").join(namespace).exists() {
            continue;
        }
        if let Some(record) = turn.claim(&number.to_string())? {
            return Ok((number, record));
        }
    }
    Err(Error::failed(format!("{MAX_TESTBEDS} testbeds exist already")))
}

fn remove_leftovers(turn: &Turn) -> Result<()> {
    for (record, content) in turn.leftovers()? {
        // An empty record was claimed, and nothing built.
        let Some(link) = Link::from_json(&content) else {
            record.remove();
            continue;
        };
        println!("Removing what a killed run left: {} and namespace {}.", link.iface, link.namespace);
        if !remove(&link) {
            return Err(Error::NotPermitted(format!("{} is left over and cannot be removed", link.iface)));
        }
        record.remove();
    }
    Ok(())
}

/// Removes both ends and the namespace; says whether all are gone. The pair goes by its own name and not with the
/// namespace, which lives on as long as any process is in it.
fn remove(link: &Link) -> bool {
    let namespace = Path::new("/run/netns").join(&link.namespace);
    let device = Path::new("/sys/class/net").join(&link.iface);
    if device.exists() {
        let _ = ip(&["link", "delete", &link.iface]);
    }
    if namespace.exists() {
        end_processes_in(&link.namespace);
        let _ = ip(&["netns", "delete", &link.namespace]);
    }
    !device.exists() && !namespace.exists()
}

/// Whoever is still in a namespace of ours was put there by us.
fn end_processes_in(namespace: &str) {
    let text = capture(tool("ip").args(["netns", "pids", namespace])).unwrap_or_default();
    for process in text.lines().filter_map(|line| rustix::process::Pid::from_raw(line.trim().parse().ok()?)) {
        let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
    }
}

/// Keeps the kernel from sending anything of its own over the link. Sees the calling thread's namespace.
fn configure_ipv6(device: &str, wanted: bool) -> Result<()> {
    let folder = Path::new("/proc/sys/net/ipv6/conf").join(device);
    if !folder.exists() {
        // The kernel has no IPv6: nothing to be quiet about.
        return if wanted { Err(Error::failed("this kernel has no IPv6")) } else { Ok(()) };
    }
    let disable = if wanted { "0" } else { "1" };
    // addr_gen_mode 1: no link-local address, hence no duplicate detection and no router solicitation.
    let settings = [
        ("addr_gen_mode", "1"),
        ("accept_dad", "0"),
        ("accept_ra", "0"),
        ("autoconf", "0"),
        ("router_solicitations", "0"),
        ("disable_ipv6", disable),
    ];
    for (key, value) in settings {
        let file = folder.join(key);
        fs::write(&file, value).map_err(|error| Error::of_io(&file.display().to_string(), &error))?;
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    capture(tool("ip").args(arguments)).map(drop)
}

fn json(command: &mut Command) -> Result<Value> {
    let text = capture(command)?;
    // Asked for an empty list, some versions print nothing at all.
    if text.trim().is_empty() {
        return Ok(Value::Array(Vec::new()));
    }
    serde_json::from_str(&text).map_err(|error| Error::failed(format!("`{}`: {error}", crate::process::shown(command))))
}

#[cfg(test)]
mod tests;
