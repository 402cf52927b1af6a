//! `cargo xtask blast`: one load at an engine.
//!
//! Arguments that name a destination are the load generator's business alone. Without one, the load goes to the engine
//! that `cargo xtask run` keeps in another terminal, on its testbed or on loopback, and when there is none, to an engine
//! started for it.

use crate::process::{capture, visible};
use crate::run::load::{self, Slot, Target, arguments};
use crate::run::phase::{Kind, Load, Path, Rate};
use crate::run::{self, Binaries, build, run_one_load};
use crate::testbed::Link;
use crate::{Error, Result, setup};

const SECONDS: f64 = 10.0;

pub fn blast(kind: &str, rest: &[String]) -> Result<()> {
    if rest.iter().any(|argument| ["--dst", "--iface", "--help", "-h"].contains(&key(argument))) {
        setup::ensure(setup::Purpose::Run)?;
        let binaries = build()?;
        return visible(std::process::Command::new(binaries.blast).arg(kind).args(rest));
    }
    let kind = Kind::of_name(kind)
        .ok_or_else(|| Error::failed(format!("there is no load `{kind}`: testrun, afxdp, gso, udp or tcp")))?;
    let seconds = match value_of(rest, "--seconds") {
        Some(text) => text.parse().map_err(|_| Error::failed("--seconds wants a number"))?,
        None => SECONDS,
    };
    setup::ensure(setup::Purpose::Run)?;
    let binaries = build()?;
    // The demonstration's link by its name: a test's testbed is nobody else's to load.
    let link = Link::living().into_iter().find(|link| link.namespace.starts_with("esc-demo-"));
    if link.is_some() || answers(&binaries.eventstream) {
        at_running_engine(&binaries, kind, rest, seconds, link)
    } else {
        run_one_load(&binaries, kind, rest, seconds)
    }
}

/// Whether an engine with the default configuration runs here.
fn answers(eventstream: &std::path::Path) -> bool {
    capture(std::process::Command::new(eventstream).args(["state", "get"])).is_ok()
}

fn at_running_engine(binaries: &Binaries, kind: Kind, rest: &[String], seconds: f64, link: Option<Link>) -> Result<()> {
    match &link {
        Some(link) => println!("To the engine on {} ({}).", link.iface, link.engine_ip),
        None => println!("To the engine on loopback."),
    }
    let target = Target { link, udp_port: run::UDP_PORT, tcp_port: run::TCP_PORT };
    let load = load_of(kind);
    check_reach(kind, &target)?;
    let slot = Slot { seconds, rate: None, producer: run::producer(0, 0), cpu: run::allowed_cpus()[0] };
    let mut defaults = arguments(&load, &target, &slot);
    // Nobody but a person reads what it says.
    defaults.retain(|argument| !["--json", "--quiet"].contains(&argument.as_str()));
    let mut command = load::command(&binaries.blast, &target, load.path);
    visible(command.args(merged(defaults, rest)))
}

/// Packets written past the kernel's sockets need a device to be written to.
pub fn check_reach(kind: Kind, target: &Target) -> Result<()> {
    match kind {
        Kind::TestRun | Kind::AfXdp if target.link.is_none() => Err(Error::failed(format!(
            "load `{}` goes over a network device, and the engine is on loopback: gso, udp and tcp can reach it there",
            kind.name()
        ))),
        _ => Ok(()),
    }
}

/// What a kind of load does unless told otherwise: the demonstration's mix.
pub fn load_of(kind: Kind) -> Load {
    let path = if kind == Kind::Tcp { Path::Loopback } else { Path::Link };
    Load { kind, path, queues: "0", rate: Rate::Max, events_per_datagram: 23, duplicates: 0.01, tick_ms: None }
}

/// Defaults with the caller's own arguments in their place.
pub fn merged(defaults: Vec<String>, own: &[String]) -> Vec<String> {
    let mut list = Vec::new();
    let mut defaults = defaults.into_iter().peekable();
    while let Some(argument) = defaults.next() {
        let value = if argument.starts_with("--") { defaults.next_if(|next| !next.starts_with("--")) } else { None };
        if !argument.starts_with("--") || !own.iter().any(|own| key(own) == argument) {
            list.push(argument);
            list.extend(value);
        }
    }
    list.extend_from_slice(own);
    list
}

fn key(argument: &str) -> &str {
    argument.split('=').next().unwrap_or(argument)
}

/// `--key value` or `--key=value`.
fn value_of<'a>(arguments: &'a [String], key: &str) -> Option<&'a str> {
    let position = arguments.iter().position(|argument| self::key(argument) == key)?;
    match arguments[position].split_once('=') {
        Some((_, value)) => Some(value),
        None => arguments.get(position + 1).map(String::as_str),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_callers_arguments_take_the_defaults_place() {
        let result = merged(list("udp --json --rate max --queue 0 --ids"), &list("--rate 100 --queue=1"));
        assert_eq!(result, list("udp --json --ids --rate 100 --queue=1"));
        assert_eq!(merged(list("udp --json --ids"), &[]), list("udp --json --ids"));
    }

    #[test]
    fn only_sockets_reach_loopback() {
        let target = Target { link: None, udp_port: 1, tcp_port: 2 };
        for kind in [Kind::Gso, Kind::Udp, Kind::Tcp] {
            assert!(check_reach(kind, &target).is_ok());
        }
        for kind in [Kind::TestRun, Kind::AfXdp] {
            assert!(check_reach(kind, &target).unwrap_err().to_string().contains("loopback"));
        }
    }

    #[test]
    fn values_are_found_in_both_spellings() {
        assert_eq!(value_of(&list("--rate 1 --seconds 5"), "--seconds"), Some("5"));
        assert_eq!(value_of(&list("--seconds=7"), "--seconds"), Some("7"));
        assert_eq!(value_of(&list("--seconds"), "--seconds"), None);
        assert_eq!(value_of(&[], "--seconds"), None);
    }
}
