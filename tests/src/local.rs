//! Configurations of engines in a test's own process.

use eventstream::config::Config;
use xtask::NO_SHEDDING;

/// Free ports of this machine's own, and a state that changes when the test says so and not when the machine is busy; `more` are
/// whole other sections.
pub fn config(more: &str) -> Config {
    const LOCAL: &str = "listen: {udp_address: 127.0.0.1, udp_port: 0, tcp_address: 127.0.0.1, tcp_port: 0}
admin: {enabled: false}
";
    parse(&format!("{LOCAL}control: {{{NO_SHEDDING}}}\n{more}\n"))
}

pub fn parse(text: &str) -> Config {
    Config::parse(text, "test").unwrap_or_else(|errors| panic!("{errors}"))
}
