//! The command line, and what it is turned into once everything in it has been checked.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use eventstream_steer::blast::{SHARE_ONE, TOPIC_PREFIX};

use crate::guard;
use crate::mix::{Layout, Mix};
use crate::pace::{RATE_MAX, Rate};

/// Longest run: load is bounded in time.
const SECONDS_MAX: f64 = 3_600.0;

/// Sends load to an EventStreamCore engine, and says exactly what it sent.
#[derive(Debug, Parser)]
#[command(name = "blast", version, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub kind: Kind,
}

const AFTER_HELP: &str = "Ends with 0, with 1 when the run ended before its time (the report says why), with 2 when it \
    could not start. SIGINT and SIGTERM end a run early; it reports all the same.";

#[derive(Debug, Subcommand)]
pub enum Kind {
    /// In-kernel: BPF_PROG_TEST_RUN with live frames, on the sender's end of a veth pair. For ceilings; cannot be paced.
    Testrun(TestrunArgs),
    /// AF_XDP transmission, paced or not.
    Afxdp(AfxdpArgs),
    /// A UDP socket with segmentation offload.
    Gso(UdpArgs),
    /// An ordinary UDP client: sendmmsg.
    Udp(UdpArgs),
    /// TCP connections, frames back to back; waits when the engine does not read.
    Tcp(TcpArgs),
}

#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Where to send to.
    #[arg(long, value_name = "IP")]
    pub dst: IpAddr,
    /// Allow destinations outside loopback, 198.18.0.0/15 and fc00::/7.
    #[arg(long)]
    pub i_own_this_network: bool,
    /// How long to send.
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Send at most this many datagrams (for TCP, groups of frames).
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    #[arg(long, value_name = "N", default_value_t = 23)]
    pub events_per_datagram: usize,
    /// Bytes of an event's frame on the wire, its 4-byte length included.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub frame_bytes: usize,
    /// How many topics: the prefix and six digits each.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub topics: u32,
    #[arg(long, value_name = "TEXT", default_value = "load/")]
    pub topic_prefix: String,
    /// One priority, or a range of equally frequent ones.
    #[arg(long, value_name = "P|LOW-HIGH", default_value = "0-4", value_parser = parse_priorities)]
    pub priorities: (u8, u8),
    /// Give events an id: producer number and sequence, 8 bytes each.
    #[arg(long)]
    pub ids: bool,
    /// Producer number of the first queue, connection or CPU; each further one adds 1.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub producer: u64,
    /// Stamp the sent time: paced, the time at which the schedule wanted the datagram sent.
    #[arg(long)]
    pub timestamps: bool,
    /// Share of events that repeat one of the last few, 0 to 1 [default: 0.01 with --ids, else 0].
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub duplicates: Option<u32>,
    /// Run on this CPU only.
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// No progress on standard error.
    #[arg(long)]
    pub quiet: bool,
}

/// For those that send datagrams.
#[derive(Clone, Copy, Debug, Args)]
pub struct MalformedArgs {
    /// Share of datagrams whose last frame has a reserved flag set, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse_share)]
    pub malformed: u32,
}

/// For those that write whole packets.
#[derive(Clone, Debug, Args)]
pub struct RawArgs {
    /// The sender's end of the veth pair.
    #[arg(long, value_name = "IF")]
    pub iface: String,
    /// The engine's hardware address.
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    pub dst_mac: [u8; 6],
    /// [default: the interface's own]
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    pub src_mac: Option<[u8; 6]>,
    #[arg(long, value_name = "IP")]
    pub src: IpAddr,
    #[arg(long, value_name = "PORT", default_value_t = 40_000)]
    pub src_port: u16,
    #[arg(long, value_name = "PORT", default_value_t = 8082)]
    pub port: u16,
}

/// For those that can be paced.
#[derive(Clone, Copy, Debug, Args)]
pub struct RateArgs {
    /// Events a second, such as 500k or 2.5M, or max.
    #[arg(long, value_name = "EVENTS_PER_S|max", default_value = "max", value_parser = parse_rate)]
    pub rate: EventRate,
    /// The same as datagrams a second.
    #[arg(long, value_name = "DATAGRAMS_PER_S", conflicts_with = "rate", value_parser = parse_number)]
    pub datagram_rate: Option<f64>,
    /// Send what is due once in so many milliseconds and sleep in between, as ordinary clients do, instead of waiting for
    /// each datagram's time with a core in use.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub tick: Option<u64>,
}

#[derive(Debug, Args)]
pub struct TestrunArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub raw: RawArgs,
    #[command(flatten)]
    pub malformed: MalformedArgs,
}

#[derive(Debug, Args)]
pub struct AfxdpArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub raw: RawArgs,
    #[command(flatten)]
    pub rate: RateArgs,
    #[command(flatten)]
    pub malformed: MalformedArgs,
    /// Transmit queues and their shares of the datagrams, such as 1 or 0:95,1:5.
    #[arg(long, visible_alias = "queue", value_name = "N[:SHARE],..", default_value = "0", value_parser = parse_queues)]
    pub queues: QueueShares,
    /// Most datagrams between two wake-ups of the kernel.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub batch: u16,
}

#[derive(Debug, Args)]
pub struct SocketArgs {
    /// Interface whose drops are reported.
    #[arg(long, value_name = "IF")]
    pub iface: Option<String>,
    /// Address to send from.
    #[arg(long, value_name = "IP")]
    pub src: Option<IpAddr>,
}

#[derive(Debug, Args)]
pub struct UdpArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub socket: SocketArgs,
    #[command(flatten)]
    pub rate: RateArgs,
    #[command(flatten)]
    pub malformed: MalformedArgs,
    #[arg(long, value_name = "PORT", default_value_t = 8082)]
    pub port: u16,
    /// [default: any]
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    pub src_port: u16,
    /// Most datagrams a system call.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub batch: u16,
}

#[derive(Debug, Args)]
pub struct TcpArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub socket: SocketArgs,
    #[command(flatten)]
    pub rate: RateArgs,
    #[arg(long, value_name = "PORT", default_value_t = 8081)]
    pub port: u16,
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
}

/// Events a second; `None` for as many as go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EventRate(pub Option<f64>);

/// Queues with the share of datagrams each gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueShares(pub Vec<(u32, u32)>);

impl CommonArgs {
    /// The mix, checked; `Err` names the option.
    pub fn layout(&self, malformed: u32) -> Result<Layout, String> {
        let mix = Mix {
            events_per_datagram: self.events_per_datagram,
            frame_bytes: self.frame_bytes,
            topics: self.topics,
            topic_prefix: self.topic_prefix.clone(),
            priorities: self.priorities,
            ids: self.ids,
            timestamps: self.timestamps,
            duplicates: self.duplicates.unwrap_or(if self.ids { SHARE_ONE / 100 } else { 0 }),
            malformed,
            producer: self.producer,
        };
        mix.layout().map_err(|error| error.to_string())
    }

    /// The destination, if load may go there.
    pub fn destination(&self, port: u16) -> Result<SocketAddr, String> {
        if !self.i_own_this_network {
            guard::check_destination(self.dst).map_err(|refused| refused.to_string())?;
        }
        if port == 0 {
            return Err("--port 0: must be 1 to 65535".to_owned());
        }
        Ok(SocketAddr::new(self.dst, port))
    }

    pub fn limit(&self) -> u64 {
        self.count.unwrap_or(u64::MAX)
    }
}

impl RateArgs {
    pub fn rate(&self, events_per_datagram: usize) -> Result<Rate, String> {
        let EventRate(events) = self.rate;
        let by_events = events.map(|rate| rate / events_per_datagram as f64);
        match (self.datagram_rate.or(by_events), self.tick) {
            (None, None) => Ok(Rate::Max),
            (None, Some(_)) => Err("--tick: a load as fast as it goes has none; give it a --rate".to_owned()),
            (Some(rate), None) if rate > 0.0 && rate <= RATE_MAX => Ok(Rate::DatagramsPerS(rate)),
            (Some(datagrams_per_s), Some(tick)) if datagrams_per_s > 0.0 && datagrams_per_s <= RATE_MAX => {
                Ok(Rate::InTicks { datagrams_per_s, tick: Duration::from_millis(tick) })
            }
            (Some(rate), _) => Err(format!("--rate: {rate} datagrams a second is not within 0 and {RATE_MAX:e}")),
        }
    }
}

impl TestrunArgs {
    /// What the in-kernel program cannot stamp.
    pub fn check(&self) -> Result<(), String> {
        let common = &self.common;
        if common.topic_prefix.as_bytes() != TOPIC_PREFIX {
            return Err(format!("--topic-prefix {}: in-kernel topics start with load/", common.topic_prefix));
        }
        if common.timestamps {
            return Err("--timestamps: in-kernel load carries no times".to_owned());
        }
        match common.priorities {
            (0, 4) => {}
            (low, high) if low == high => {}
            (low, high) => return Err(format!("--priorities {low}-{high}: in-kernel load has 0-4 or a single one")),
        }
        Ok(())
    }
}

pub(crate) fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if seconds > 0.0 && seconds <= SECONDS_MAX {
        Ok(seconds)
    } else {
        Err(format!("must be above 0 and at most {SECONDS_MAX}"))
    }
}

fn parse_priorities(text: &str) -> Result<(u8, u8), String> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let parse = |text: &str| text.parse::<u8>().ok().filter(|priority| *priority <= 4);
    match (parse(low), parse(high)) {
        (Some(low), Some(high)) if low <= high => Ok((low, high)),
        _ => Err("must be a priority from 0 to 4, or a range such as 0-4".to_owned()),
    }
}

fn parse_share(text: &str) -> Result<u32, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if !(0.0..=1.0).contains(&share) {
        return Err("must be 0 to 1".to_owned());
    }
    let ten_thousandths = (share * f64::from(SHARE_ONE)).round() as u32;
    if ten_thousandths == 0 && share > 0.0 {
        return Err("the smallest share is 0.0001".to_owned());
    }
    Ok(ten_thousandths)
}

pub(crate) fn parse_rate(text: &str) -> Result<EventRate, String> {
    if text == "max" { Ok(EventRate(None)) } else { parse_number(text).map(|rate| EventRate(Some(rate))) }
}

fn parse_number(text: &str) -> Result<f64, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'M', 'G']) {
        Some(digits) if text.ends_with('k') => (digits, 1e3),
        Some(digits) if text.ends_with('M') => (digits, 1e6),
        Some(digits) => (digits, 1e9),
        None => (text, 1.0),
    };
    let number: f64 = digits.parse().map_err(|_| "must be a number, such as 20000, 500k or 2.5M".to_owned())?;
    if number > 0.0 && number.is_finite() { Ok(number * unit) } else { Err("must be above 0".to_owned()) }
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|byte| if byte.len() == 2 { u8::from_str_radix(byte, 16).ok() } else { None }).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| "must be like 02:00:00:00:00:01".to_owned())
}

fn parse_queues(text: &str) -> Result<QueueShares, String> {
    let mut queues: Vec<(u32, u32)> = Vec::new();
    for part in text.split(',') {
        let (queue, share) = part.split_once(':').unwrap_or((part, "1"));
        let queue: u32 = queue.parse().map_err(|_| format!("{queue:?} is not a queue number"))?;
        let share: u32 = share.parse().map_err(|_| format!("{share:?} is not a whole number"))?;
        if share == 0 || share > 1_000_000 {
            return Err(format!("share {share} of queue {queue} must be 1 to 1000000"));
        }
        if queues.iter().any(|(earlier, _)| *earlier == queue) {
            return Err(format!("queue {queue} is there twice"));
        }
        queues.push((queue, share));
    }
    Ok(QueueShares(queues))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("blast").chain(arguments.split_ascii_whitespace()))
    }

    const RAW: &str = "--iface veth0 --dst 198.18.0.1 --src 198.18.0.2 --dst-mac 02:00:00:00:00:01";

    #[test]
    fn the_definition_of_the_command_line_holds() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn queues_rates_and_shares_are_understood() {
        let cli = parse(&format!("afxdp {RAW} --queues 0:95,1:5 --rate 2.5M --ids --malformed 0.001")).unwrap();
        let Kind::Afxdp(args) = cli.kind else { panic!("another kind") };
        assert_eq!(args.queues, QueueShares(vec![(0, 95), (1, 5)]));
        assert_eq!(args.rate.rate(25).unwrap(), Rate::DatagramsPerS(100_000.0));
        assert_eq!(args.raw.dst_mac, [2, 0, 0, 0, 0, 1]);
        let layout = args.common.layout(args.malformed.malformed).unwrap();
        assert_eq!((layout.mix().duplicates, layout.mix().malformed), (100, 10), "1 % duplicates with ids");
        assert_eq!(layout.mix().priorities, (0, 4));
        let Kind::Udp(args) = parse("udp --dst 127.0.0.1 --datagram-rate 20k --priorities 3").unwrap().kind else {
            panic!("another kind")
        };
        assert_eq!(args.rate.rate(23).unwrap(), Rate::DatagramsPerS(20_000.0));
        assert_eq!(args.common.priorities, (3, 3));
        assert_eq!(args.common.layout(0).unwrap().mix().duplicates, 0, "none without ids");
        let Kind::Tcp(args) = parse("tcp --dst ::1 --rate max").unwrap().kind else { panic!("another kind") };
        assert_eq!(args.rate.rate(23).unwrap(), Rate::Max);
        let Kind::Tcp(args) = parse("tcp --dst ::1 --rate 46 --tick 5").unwrap().kind else { panic!("another kind") };
        let rate = Rate::InTicks { datagrams_per_s: 2.0, tick: Duration::from_millis(5) };
        assert_eq!(args.rate.rate(23).unwrap(), rate);
        let Kind::Udp(args) = parse("udp --dst ::1 --tick 5").unwrap().kind else { panic!("another kind") };
        assert!(args.rate.rate(23).unwrap_err().contains("--tick"));
    }

    #[test]
    fn mistakes_are_named() {
        let mistakes = [
            ("udp", "--dst"),
            ("udp --dst nowhere", "nowhere"),
            ("udp --dst 127.0.0.1 --rate 0", "--rate"),
            ("udp --dst 127.0.0.1 --rate 5x", "5x"),
            ("udp --dst 127.0.0.1 --rate 5 --datagram-rate 5", "--datagram-rate"),
            ("udp --dst 127.0.0.1 --seconds 0", "--seconds"),
            ("udp --dst 127.0.0.1 --seconds 1e9", "--seconds"),
            ("udp --dst 127.0.0.1 --priorities 4-2", "4-2"),
            ("udp --dst 127.0.0.1 --duplicates 1.5", "1.5"),
            ("udp --dst 127.0.0.1 --malformed 0.00001", "0.00001"),
            ("tcp --dst 127.0.0.1 --malformed 0.1", "--malformed"),
            ("tcp --dst 127.0.0.1 --connections 0", "--connections"),
            (&format!("afxdp {RAW} --queues 0,0"), "twice"),
            (&format!("afxdp {RAW} --queues 0:0"), "share 0"),
            (&format!("afxdp {RAW} --src-mac 2:0:0:0:0:1"), "--src-mac"),
            (&format!("testrun {RAW} --rate max"), "--rate"),
        ];
        for (arguments, named) in mistakes {
            let error = parse(arguments).expect_err(arguments);
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(named), "{arguments}: {error}");
        }
    }

    #[test]
    fn the_guard_is_asked_unless_the_network_is_ones_own() {
        let destination = |arguments: &str| {
            let Kind::Udp(args) = parse(arguments).unwrap().kind else { panic!("another kind") };
            args.common.destination(args.port)
        };
        assert!(destination("udp --dst 198.18.0.1").is_ok());
        assert!(destination("udp --dst 10.0.0.1").unwrap_err().contains("--i-own-this-network"));
        assert!(destination("udp --dst 10.0.0.1 --i-own-this-network").is_ok());
        assert!(destination("udp --dst 127.0.0.1 --port 0").unwrap_err().contains("--port"));
    }

    #[test]
    fn in_kernel_load_refuses_what_it_cannot_stamp() {
        for (option, named) in
            [("--timestamps", "--timestamps"), ("--priorities 1-3", "1-3"), ("--topic-prefix a/", "--topic-prefix")]
        {
            let Kind::Testrun(args) = parse(&format!("testrun {RAW} {option}")).unwrap().kind else {
                panic!("another kind")
            };
            assert!(args.check().unwrap_err().contains(named));
        }
    }
}
