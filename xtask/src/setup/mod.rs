//! Finds out what this machine lacks, says what it is for, and installs it where it may.
//!
//! Whether it may is found out by trying: the user id says nothing about a container's root or a capability. Nobody is
//! asked anything; what is there already is not touched.

mod needs;

use std::process::Command;

use crate::process::{capture, cargo, find_program, rustup, shown, tool, visible};
use crate::{Error, Result, ebpf};

use needs::{NEEDS, Need};
pub use needs::{Purpose, Tool};

/// Families of distributions, by how packages are named and installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    Debian,
    Fedora,
    Arch,
    Unknown,
}

impl Distribution {
    fn of_this_machine() -> Self {
        Self::of_os_release(&std::fs::read_to_string("/etc/os-release").unwrap_or_default())
    }

    /// A derivative names its parents in ID_LIKE.
    fn of_os_release(text: &str) -> Self {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches('"').to_ascii_lowercase()
        };
        let words = format!("{} {}", value("ID"), value("ID_LIKE"));
        for word in words.split_whitespace() {
            match word {
                "debian" | "ubuntu" => return Distribution::Debian,
                "fedora" | "rhel" | "centos" => return Distribution::Fedora,
                "arch" => return Distribution::Arch,
                _ => {}
            }
        }
        Distribution::Unknown
    }

    fn install_command(self, packages: &[&str]) -> Option<String> {
        let packages = packages.join(" ");
        match self {
            // What is there already is not touched: nothing is removed for the sake of something new.
            Distribution::Debian => Some(format!("apt-get install -y --no-install-recommends --no-remove {packages}")),
            Distribution::Fedora => Some(format!("dnf install -y {packages}")),
            Distribution::Arch => Some(format!("pacman -S --needed {packages}")),
            Distribution::Unknown => None,
        }
    }
}

/// Installs what is missing for `purpose`. Quiet when nothing is.
pub fn ensure(purpose: Purpose) -> Result<()> {
    let missing = missing(purpose);
    if missing.is_empty() {
        return Ok(());
    }
    let distribution = Distribution::of_this_machine();
    println!("Missing on this machine:");
    for need in &missing {
        println!("  {:<24} {}", need.package(distribution), need.why);
    }
    let packages: Vec<&str> =
        missing.iter().filter(|need| need.tool == Tool::Package).map(|need| need.package(distribution)).collect();
    // Other distributions have no such packages.
    let is_debians = |need: &&Need| need.purpose == Purpose::Ebpf && need.tool == Tool::Package;
    if distribution != Distribution::Debian && missing.iter().any(is_debians) {
        return Err(Error::Prerequisites(ebpf::HOW_TO_GET.into()));
    }
    if !packages.is_empty() {
        install_packages(distribution, &packages)?;
    }
    for need in &missing {
        install(need)?;
    }
    let still: Vec<&str> = self::missing(purpose).iter().map(|need| need.name).collect();
    if still.is_empty() {
        println!("Everything is installed.");
        Ok(())
    } else {
        Err(Error::Prerequisites(format!("installed, and yet not found: {}", still.join(", "))))
    }
}

/// The same for a check that can be left out: why it has to be, on one line.
pub fn attempt(purpose: Purpose) -> std::result::Result<(), String> {
    ensure(purpose).map_err(|error| {
        let text = error.to_string();
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        println!("Going on without: {text}");
        lines.join(" ")
    })
}

/// `cargo xtask setup`.
pub fn run(purpose: Purpose) -> Result<()> {
    ensure(purpose)?;
    println!("Nothing is missing.");
    Ok(())
}

fn missing(purpose: Purpose) -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| purpose.includes(need.purpose) && !need.is_met()).collect()
}

fn install_packages(distribution: Distribution, packages: &[&str]) -> Result<()> {
    let Some(command) = distribution.install_command(packages) else {
        return Err(Error::Prerequisites(format!(
            "this distribution is not known here. Install what corresponds to these Debian packages: {}",
            packages.join(" ")
        )));
    };
    let by_hand = |reason: &str| {
        Error::Prerequisites(format!("missing: {}\n{reason}\nAs root, run:\n\n    {command}\n", packages.join(" ")))
    };
    if distribution != Distribution::Debian {
        return Err(by_hand("On this distribution they have to be installed by hand."));
    }
    if find_program("apt-get").is_none() {
        return Err(by_hand("There is no apt-get."));
    }
    println!("Installing them: {command}");
    // Old package lists name files that mirrors no longer have. Without a network, or from a local source, the
    // installation may work all the same, so this one's failure alone stops nothing.
    let updated = capture(&mut apt(&["update"]));
    if let Err(Error::NotPermitted(reason)) = &updated {
        return Err(by_hand(&format!("They cannot be installed from here: {reason}")));
    }
    let arguments: Vec<&str> = command.split_whitespace().skip(1).collect();
    let Err(error) = visible(&mut apt(&arguments)) else {
        return Ok(());
    };
    let mut reason = format!("They cannot be installed from here: {error}");
    if let Err(error) = updated {
        reason.push_str(&format!("\nBefore that: {error}"));
    }
    Err(by_hand(&reason))
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = tool("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(std::process::Stdio::null());
    command
}

/// What no package manager installs.
fn install(need: &Need) -> Result<()> {
    let mut command = match need.tool {
        Tool::Package => return Ok(()),
        Tool::Rustup(arguments) => {
            let mut command = rustup();
            command.args(arguments);
            command
        }
        Tool::Cargo(arguments) => {
            let mut command = cargo();
            command.arg("install").args(arguments);
            // The linker has to be built against the LLVM of the compiler it serves.
            command.env("LLVM_PREFIX", needs::LLVM).env("LLVM_SYS_221_PREFIX", needs::LLVM);
            command
        }
    };
    println!("Installing it: {}", shown(&command));
    visible(&mut command).map_err(|error| Error::Prerequisites(format!("missing: {}\n{error}", need.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_told_by_themselves_or_their_parents() {
        let of = Distribution::of_os_release;
        assert_eq!(of("NAME=\"Debian GNU/Linux\"\nID=debian\n"), Distribution::Debian);
        assert_eq!(of("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"), Distribution::Debian);
        assert_eq!(of("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"), Distribution::Fedora);
        assert_eq!(of("ID=manjaro\nID_LIKE=arch\n"), Distribution::Arch);
        assert_eq!(of("ID=nixos\n"), Distribution::Unknown);
        assert_eq!(of(""), Distribution::Unknown);
    }

    #[test]
    fn every_need_has_a_name_everywhere_and_a_reason() {
        for need in NEEDS {
            for distribution in [Distribution::Debian, Distribution::Fedora, Distribution::Arch] {
                assert!(!need.package(distribution).is_empty());
            }
            assert!(need.why.len() > 10, "{}", need.name);
        }
    }

    #[test]
    fn running_needs_less_than_each_check_of_its_own() {
        let names = |purpose: Purpose| -> Vec<&str> {
            NEEDS.iter().filter(|need| purpose.includes(need.purpose)).map(|need| need.name).collect()
        };
        let (run, ebpf, fuzz) = (names(Purpose::Run), names(Purpose::Ebpf), names(Purpose::Fuzz));
        assert!(run.iter().all(|name| ebpf.contains(name) && fuzz.contains(name)));
        assert!(ebpf.contains(&"bpf-linker") && fuzz.contains(&"cargo-fuzz"));
        assert!(!run.contains(&"bpf-linker") && !fuzz.contains(&"bpf-linker") && !ebpf.contains(&"cargo-fuzz"));
    }

    #[test]
    fn where_nothing_may_be_installed_the_command_for_it_is_said() {
        for (distribution, command) in [(Distribution::Fedora, "dnf install -y a b"), (Distribution::Unknown, "a b")] {
            let error = install_packages(distribution, &["a", "b"]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(command), "{error}");
        }
    }

    #[test]
    fn the_command_names_the_packages() {
        let command = Distribution::Debian.install_command(&["clang", "llvm"]).unwrap();
        assert_eq!(command, "apt-get install -y --no-install-recommends --no-remove clang llvm");
        assert_eq!(Distribution::Unknown.install_command(&[]), None);
    }
}
