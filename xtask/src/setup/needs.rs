//! What is needed, what for, how to see whether it is there, and what it is called where.
//!
//! Looked for are the things themselves and not packages: what somebody has installed another way counts.

use std::path::Path;

use super::Distribution;
use crate::process::{capture, cargo, cargo_home, find_program, rustup, tool};

/// Where Debian puts the LLVM that bpf-linker is built against.
pub const LLVM: &str = "/usr/lib/llvm-22";

/// What something is needed for. Everything needs what running needs, and nothing else of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Building and running the project, and its tests.
    Run,
    /// The checks of format and lints.
    Style,
    /// Rebuilding the compiled XDP programs that are committed.
    Ebpf,
    /// Fuzzing the parser, and sanitizers.
    Fuzz,
}

impl Purpose {
    pub fn includes(self, other: Purpose) -> bool {
        other == Purpose::Run || other == self
    }
}

/// What installs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Package,
    /// `rustup` with these arguments.
    Rustup(&'static [&'static str]),
    /// Built from source, in the version that is known to work.
    Cargo(&'static [&'static str]),
}

enum Probe {
    Program(&'static str),
    PkgConfig(&'static str),
    LibClang,
    File(&'static str),
    /// What cargo runs by this name.
    Subcommand(&'static str),
    /// A toolchain that rustup knows by this name.
    Toolchain(&'static str),
    /// What `cargo install` has put where it puts things.
    Cargo(&'static str),
}

pub struct Need {
    pub name: &'static str,
    pub why: &'static str,
    pub purpose: Purpose,
    pub tool: Tool,
    probe: Probe,
    fedora: &'static str,
    arch: &'static str,
}

const fn need(name: &'static str, probe: Probe, fedora: &'static str, arch: &'static str, why: &'static str) -> Need {
    Need { name, why, purpose: Purpose::Run, tool: Tool::Package, probe, fedora, arch }
}

const fn check(purpose: Purpose, name: &'static str, tool: Tool, probe: Probe, why: &'static str) -> Need {
    Need { name, why, purpose, tool, probe, fedora: name, arch: name }
}

/// The version that wrote the committed objects: another one's are not compared byte for byte.
const BPF_LINKER: &[&str] =
    &["bpf-linker", "--version", "0.13.0", "--locked", "--no-default-features", "--features", "llvm-22"];
const CARGO_FUZZ: &[&str] = &["cargo-fuzz", "--version", "0.13.1", "--locked"];

/// By their names on Debian. pkg-config stands before the libraries it is asked about.
pub const NEEDS: &[Need] = &[
    need("gcc", Probe::Program("gcc"), "gcc", "gcc", "compiles and links the C parts of libbpf and libxdp"),
    need("libc6-dev", Probe::File("/usr/include/stdio.h"), "glibc-devel", "glibc", "headers of the C library"),
    need("make", Probe::Program("make"), "make", "make", "builds libbpf and libxdp"),
    need("m4", Probe::Program("m4"), "m4", "m4", "libxdp's build generates code with it"),
    need("pkg-config", Probe::Program("pkg-config"), "pkgconf-pkg-config", "pkgconf", "finds the libraries below"),
    need("clang", Probe::Program("clang"), "clang", "clang", "compiles libxdp's own small BPF programs"),
    need("llvm", Probe::Program("llvm-strip"), "llvm", "llvm", "strips debug data from BPF objects"),
    need("libclang-dev", Probe::LibClang, "clang-devel", "clang", "generates the Rust bindings of libxdp"),
    need(
        "libelf-dev",
        Probe::PkgConfig("libelf"),
        "elfutils-libelf-devel",
        "libelf",
        "libbpf reads BPF objects with it",
    ),
    need("zlib1g-dev", Probe::PkgConfig("zlib"), "zlib-devel", "zlib", "libbpf and libelf are linked with it"),
    need(
        "libhwloc-dev",
        Probe::PkgConfig("hwloc"),
        "hwloc-devel",
        "hwloc",
        "tells the engine what the machine is made of",
    ),
    need("libudev-dev", Probe::PkgConfig("libudev"), "systemd-devel", "systemd-libs", "hwloc is linked with it"),
    need("libpcap-dev", Probe::PkgConfig("libpcap"), "libpcap-devel", "libpcap", "libxdp's configure demands it"),
    need(
        "iproute2",
        Probe::Program("ip"),
        "iproute",
        "iproute2",
        "builds the veth pair and namespace of demo and tests",
    ),
    need("ethtool", Probe::Program("ethtool"), "ethtool", "ethtool", "reads what a link has dropped, per queue"),
    need("python3", Probe::Program("python3"), "python3", "python", "runs the Python client and its tests"),
    check(
        Purpose::Style,
        "rustfmt",
        Tool::Rustup(&["component", "add", "rustfmt"]),
        Probe::Subcommand("fmt"),
        "checks the source's format",
    ),
    check(
        Purpose::Style,
        "clippy",
        Tool::Rustup(&["component", "add", "clippy"]),
        Probe::Subcommand("clippy"),
        "finds what a compiler does not mind",
    ),
    check(
        Purpose::Ebpf,
        "rustc-web",
        Tool::Package,
        Probe::File("/usr/bin/rustc"),
        "compiles for BPF without a nightly toolchain",
    ),
    check(
        Purpose::Ebpf,
        "libstd-rust-web-dev-bpf",
        Tool::Package,
        Probe::File("/usr/lib/rustlib/bpfel-unknown-none"),
        "the Rust core library for BPF",
    ),
    check(
        Purpose::Ebpf,
        "llvm-22-dev",
        Tool::Package,
        Probe::File("/usr/lib/llvm-22/include/llvm-c"),
        "bpf-linker is built against it",
    ),
    check(
        Purpose::Ebpf,
        "bpf-linker",
        Tool::Cargo(BPF_LINKER),
        Probe::Cargo("bpf-linker"),
        "links the XDP programs; built with cargo install",
    ),
    check(
        Purpose::Fuzz,
        "nightly",
        Tool::Rustup(&["toolchain", "install", "nightly", "--profile", "minimal", "--no-self-update"]),
        Probe::Toolchain("nightly"),
        "a toolchain with sanitizers, for the lock-free parts and the fuzzer",
    ),
    check(
        Purpose::Fuzz,
        "cargo-fuzz",
        Tool::Cargo(CARGO_FUZZ),
        Probe::Cargo("cargo-fuzz"),
        "feeds the parser bytes nobody chose; built with cargo install",
    ),
];

impl Need {
    pub fn package(&self, distribution: Distribution) -> &'static str {
        match distribution {
            Distribution::Debian | Distribution::Unknown => self.name,
            Distribution::Fedora => self.fedora,
            Distribution::Arch => self.arch,
        }
    }

    pub fn is_met(&self) -> bool {
        match self.probe {
            Probe::Program(name) => find_program(name).is_some(),
            Probe::PkgConfig(library) => {
                find_program("pkg-config").is_some() && capture(tool("pkg-config").args(["--exists", library])).is_ok()
            }
            Probe::LibClang => libclang_present(),
            Probe::File(path) => Path::new(path).exists(),
            Probe::Subcommand(name) => capture(cargo().args([name, "--version"])).is_ok(),
            Probe::Toolchain(name) => capture(rustup().args(["run", name, "rustc", "--version"])).is_ok(),
            Probe::Cargo(name) => find_program(name).is_some() || in_cargo_home(name),
        }
    }
}

/// bindgen loads libclang while it runs, from wherever the distribution or `LIBCLANG_PATH` has it.
fn libclang_present() -> bool {
    let named = std::env::var_os("LIBCLANG_PATH").map(std::path::PathBuf::from);
    if named.is_some_and(|path| path.is_file() || holds_libclang(&path)) {
        return true;
    }
    let versions = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let llvms = versions.map(|entry| entry.path().join("lib")).filter(|path| path.to_string_lossy().contains("llvm"));
    let fixed = ["/usr/lib64", "/usr/lib", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
    llvms.chain(fixed.map(Into::into)).any(|folder| holds_libclang(&folder))
}

/// `libclang.so`, `libclang.so.14`, `libclang-14.so`; not `libclang-cpp`, which is another library.
fn holds_libclang(folder: &Path) -> bool {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .any(|name| name.starts_with("libclang") && !name.starts_with("libclang-cpp") && name.contains(".so"))
}

fn in_cargo_home(name: &str) -> bool {
    cargo_home().join("bin").join(name).is_file()
}
