//! From the command line to the report: checks everything that can be checked before the first packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::link::Link;
use crate::mix::Layout;
use crate::options::{AfxdpArgs, Cli, CommonArgs, Kind, RawArgs, SocketArgs, TcpArgs, TestrunArgs, UdpArgs};
use crate::pace::{Rate, Schedule};
use crate::packet::{Endpoints, Headers};
use crate::report::{Circumstances, Outcome, Report};
use crate::send::{self, TcpFlows, UdpFlow};
use crate::stop;

/// Drivers whose packets stay on this machine.
const LOCAL_DRIVERS: [&str; 2] = ["veth", "dummy"];

/// Runs what the command line asks for. `Err`: nothing was sent, and the text names the input to blame.
pub fn run(cli: &Cli) -> Result<Report, String> {
    stop::on_signals().map_err(|error| format!("installing signal handlers: {error}"))?;
    match &cli.kind {
        Kind::Testrun(args) => testrun(args),
        Kind::Afxdp(args) => afxdp(args),
        Kind::Gso(args) => udp("gso", args),
        Kind::Udp(args) => udp("udp", args),
        Kind::Tcp(args) => tcp(args),
    }
}

fn testrun(args: &TestrunArgs) -> Result<Report, String> {
    args.check()?;
    let layout = args.common.layout(args.malformed.malformed)?;
    let link = raw_link(&args.raw, &args.common)?;
    let endpoints = endpoints(&args.raw, &args.common, &link)?;
    headers(&endpoints, &layout, &link)?;
    // The counters are per CPU and a call stays on its own: without pinning the sequences would be spread at random.
    pin(args.common.cpu.or(Some(0)))?;
    measured("testrun", Some(&link), &layout, || {
        send::testrun(&endpoints, &link, layout.mix(), || schedule(&args.common, Rate::Max))
    })
}

fn afxdp(args: &AfxdpArgs) -> Result<Report, String> {
    let layout = args.common.layout(args.malformed.malformed)?;
    let rate = args.rate.rate(args.common.events_per_datagram)?;
    let link = raw_link(&args.raw, &args.common)?;
    let headers = headers(&endpoints(&args.raw, &args.common, &link)?, &layout, &link)?;
    pin(args.common.cpu)?;
    measured("afxdp", Some(&link), &layout, || {
        let (queues, batch) = (&args.queues.0, usize::from(args.batch));
        send::afxdp(&link, queues, batch, &headers, &layout, || schedule(&args.common, rate))
    })
}

fn udp(kind: &'static str, args: &UdpArgs) -> Result<Report, String> {
    let layout = args.common.layout(args.malformed.malformed)?;
    let rate = args.rate.rate(args.common.events_per_datagram)?;
    let remote = args.common.destination(args.port)?;
    let link = socket_link(&args.socket)?;
    let local = local_address(&args.socket, remote, args.src_port)?;
    let flow = UdpFlow { local, remote, batch: usize::from(args.batch) };
    pin(args.common.cpu)?;
    measured(kind, link.as_ref(), &layout, || {
        let schedule = || schedule(&args.common, rate);
        if kind == "gso" { send::gso(flow, &layout, schedule) } else { send::udp(flow, &layout, schedule) }
    })
}

fn tcp(args: &TcpArgs) -> Result<Report, String> {
    let layout = args.common.layout(0)?;
    let rate = args.rate.rate(args.common.events_per_datagram)?;
    let remote = args.common.destination(args.port)?;
    let link = socket_link(&args.socket)?;
    let local = args.socket.src.map(|_| local_address(&args.socket, remote, 0)).transpose()?;
    let flows = TcpFlows { local, remote, connections: args.connections as usize };
    pin(args.common.cpu)?;
    measured("tcp", link.as_ref(), &layout, || send::tcp(flows, &layout, || schedule(&args.common, rate)))
}

/// Surrounds a run with the link's counters and makes its report.
fn measured(
    kind: &'static str,
    link: Option<&Link>,
    layout: &Layout,
    send: impl FnOnce() -> Result<(Outcome, Schedule), String>,
) -> Result<Report, String> {
    let dropped = || link.map(|link| link.counters().map(|counters| counters.dropped)).transpose();
    let before = dropped().map_err(|error| error.to_string())?;
    let (mut outcome, schedule) = send()?;
    let link_dropped = match dropped() {
        Ok(after) => after.zip(before).map(|(after, before)| after.saturating_sub(before)),
        // The run is over and what it sent is known: say so, and that this one number is not.
        Err(error) => {
            outcome.failure = outcome.failure.or(Some(error.to_string()));
            None
        }
    };
    Ok(Report::new(
        outcome,
        Circumstances {
            kind,
            elapsed: schedule.elapsed(),
            bytes_per_datagram: layout.datagram_bytes(),
            behind_datagrams: schedule.behind(),
            link_dropped,
            interrupted: stop::is_requested(),
        },
    ))
}

fn schedule(common: &CommonArgs, rate: Rate) -> Schedule {
    Schedule::start(rate, common.seconds, common.limit(), !common.quiet)
}

/// The interface for whole packets. Those go out whatever the routing table says, so the guard looks at the driver too.
fn raw_link(raw: &RawArgs, common: &CommonArgs) -> Result<Link, String> {
    let link = find_link(&raw.iface)?;
    let driver = link.driver().map_err(|error| format!("--iface {}: asking for its driver: {error}", raw.iface))?;
    if !common.i_own_this_network && !LOCAL_DRIVERS.contains(&driver.as_str()) {
        return Err(format!(
            "--iface {}: its driver {driver} may reach other machines; if they are yours, add --i-own-this-network",
            raw.iface
        ));
    }
    Ok(link)
}

fn socket_link(socket: &SocketArgs) -> Result<Option<Link>, String> {
    socket.iface.as_deref().map(find_link).transpose()
}

fn find_link(name: &str) -> Result<Link, String> {
    Link::find(name).map_err(|error| format!("--iface {name}: {error}"))
}

fn endpoints(raw: &RawArgs, common: &CommonArgs, link: &Link) -> Result<Endpoints, String> {
    let destination = common.destination(raw.port)?;
    let source_mac = match raw.src_mac {
        Some(mac) => mac,
        None => link.mac().map_err(|error| format!("--iface {}: its hardware address: {error}", raw.iface))?,
    };
    Ok(Endpoints {
        source_mac,
        destination_mac: raw.dst_mac,
        source: raw.src,
        destination: destination.ip(),
        source_port: raw.src_port,
        destination_port: destination.port(),
    })
}

fn headers(endpoints: &Endpoints, layout: &Layout, link: &Link) -> Result<Headers, String> {
    let (source, destination) = (endpoints.source, endpoints.destination);
    let headers = Headers::new(endpoints, layout.datagram_bytes())
        .ok_or_else(|| format!("--src {source} --dst {destination}: not of one family"))?;
    let mtu = link.mtu().map_err(|error| format!("--iface {}: its MTU: {error}", link.name()))?;
    let ip_bytes = headers.bytes().len() - 14 + layout.datagram_bytes();
    if ip_bytes > mtu {
        return Err(format!(
            "--iface {}: packets of {ip_bytes} bytes do not fit its MTU of {mtu}; \
             fewer --events-per-datagram or --frame-bytes do",
            link.name()
        ));
    }
    Ok(headers)
}

fn local_address(socket: &SocketArgs, remote: SocketAddr, port: u16) -> Result<SocketAddr, String> {
    let any = if remote.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let address = socket.src.unwrap_or(any);
    if address.is_ipv4() != remote.is_ipv4() {
        return Err(format!("--src {address} --dst {}: not of one family", remote.ip()));
    }
    Ok(SocketAddr::new(address, port))
}

pub(crate) fn pin(cpu: Option<usize>) -> Result<(), String> {
    let Some(cpu) = cpu else { return Ok(()) };
    if cpu >= CpuSet::MAX_CPU {
        return Err(format!("--cpu {cpu}: must be below {}", CpuSet::MAX_CPU));
    }
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).map_err(|error| format!("--cpu {cpu}: {error}"))
}
