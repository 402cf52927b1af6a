//! Builds the XDP programs into the objects committed under `ebpf/object`, or checks that those are what a build gives.
//!
//! The objects must come out the same from any folder, so paths are mapped away, debug data is stripped (BTF stays), and
//! the versions of what wrote the bytes are recorded beside them. `--check` compares bytes only where those versions
//! match: other versions give other bytes, which prove nothing by themselves, and then the verifier and the packet tests
//! must judge the rebuilt objects.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::process::cargo_home;

const TARGET: &str = "bpfel-unknown-none";
const PROGRAMS: [&str; 2] = ["steer", "blast"];
/// A `rustc` to use instead of the ones looked for.
const RUSTC_VARIABLE: &str = "EVENTSTREAM_BPF_RUSTC";
/// Makes the packet tests take objects from a folder instead of the committed ones.
pub const OBJECT_VARIABLE: &str = "EVENTSTREAM_STEER_OBJECT";

pub const HOW_TO_GET: &str = "\
Building the XDP programs (not needed to run the engine: the objects are committed) takes
  - a rustc with the standard library for bpfel-unknown-none. Debian 12: apt install rustc-web libstd-rust-web-dev-bpf
    llvm-22-dev. Elsewhere a nightly with rust-src, named by EVENTSTREAM_BPF_RUSTC;
  - bpf-linker for the same LLVM: LLVM_PREFIX=/usr/lib/llvm-22 LLVM_SYS_221_PREFIX=/usr/lib/llvm-22
    cargo install bpf-linker --version 0.13.0 --locked --no-default-features --features llvm-22;
  - llvm-strip of the same LLVM.";

/// Builds the objects and writes them, with their record, to `ebpf/object`; with `check`, compares instead of writing.
pub fn build(workspace_root: &Path, check: bool) -> Result<(), String> {
    let committed = workspace_root.join("ebpf/object");
    let sources = source_hash(workspace_root)?;
    let recorded = fs::read_to_string(committed.join("BUILD")).unwrap_or_default();
    if check && !recorded.lines().any(|line| line == format!("sources {sources}")) {
        return Err(
            "ebpf/object was built from other sources than these: run `cargo xtask ebpf` and commit the result".into(),
        );
    }
    let toolchain = Toolchain::find()?;
    let record = format!("{}sources {sources}\n", toolchain.versions);
    let rebuilt = rebuilt_directory(workspace_root);
    fs::create_dir_all(&rebuilt).map_err(|error| at(&rebuilt, &error))?;
    for program in PROGRAMS {
        println!("building {program} for {TARGET}");
        toolchain.build(workspace_root, program, &rebuilt.join(file_name(program)))?;
    }
    if !check {
        for program in PROGRAMS {
            let (from, to) = (rebuilt.join(file_name(program)), committed.join(file_name(program)));
            fs::copy(&from, &to).map_err(|error| at(&to, &error))?;
            println!("wrote {}", to.display());
        }
        let to = committed.join("BUILD");
        return fs::write(&to, record).map_err(|error| at(&to, &error));
    }
    if record == recorded {
        return compare(&committed, &rebuilt);
    }
    println!(
        "The committed objects were built by\n{}and here there is\n{}so their bytes are not compared. What was rebuilt \
         must pass the verifier and the packet tests:\n  {OBJECT_VARIABLE}={} cargo test -p eventstream-tests --test \
         steer_program",
        indented(&recorded),
        indented(&toolchain.versions),
        rebuilt.display(),
    );
    Ok(())
}

/// Where a build leaves its objects before they are copied or compared.
pub fn rebuilt_directory(workspace_root: &Path) -> PathBuf {
    target_directory(workspace_root).join("object")
}

/// A target folder of its own: the programs are built by another rustc than the workspace.
fn target_directory(workspace_root: &Path) -> PathBuf {
    let base = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    workspace_root.join(base).join("ebpf")
}

fn file_name(program: &str) -> String {
    format!("{program}.bpf.o")
}

fn at(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn compare(committed: &Path, rebuilt: &Path) -> Result<(), String> {
    for program in PROGRAMS {
        let name = file_name(program);
        let read = |folder: &Path| fs::read(folder.join(&name)).map_err(|error| at(folder, &error));
        if read(committed)? != read(rebuilt)? {
            return Err(format!(
                "{name} as committed is not what its sources and the recorded versions give: {} differs",
                rebuilt.join(&name).display()
            ));
        }
        println!("{name} is what its sources give, byte for byte");
    }
    Ok(())
}

/// Whether the objects could be built here; if not, what is missing for it.
pub fn find_toolchain() -> Result<(), String> {
    Toolchain::find().map(drop)
}

struct Toolchain {
    rustc: PathBuf,
    linker: PathBuf,
    strip: PathBuf,
    /// No prebuilt core for the target: cargo builds it from the compiler's own source.
    builds_core: bool,
    /// What decides about the bytes, as recorded beside the objects.
    versions: String,
}

impl Toolchain {
    fn find() -> Result<Self, String> {
        let (rustc, builds_core) = find_rustc()?;
        let about_rustc = output(Command::new(&rustc).arg("-vV"))?;
        let field = |name: &str| {
            let value = about_rustc.lines().find_map(|line| line.strip_prefix(name));
            value.unwrap_or("unknown").trim().to_owned()
        };
        let llvm = field("LLVM version:");
        let llvm_major = llvm.split('.').next().unwrap_or_default();
        let linker = find_tool("bpf-linker", ["bpf-linker".into()])?;
        let strip = find_tool(
            "llvm-strip",
            [
                format!("/usr/lib/llvm-{llvm_major}/bin/llvm-strip"),
                format!("llvm-strip-{llvm_major}"),
                "llvm-strip".into(),
            ],
        )?;
        let mut versions = String::new();
        let about_linker = output(Command::new(&linker).arg("--version"))?;
        let about_strip = output(Command::new(&strip).arg("--version"))?;
        let strip_version = about_strip
            .split_once("version ")
            .map_or("unknown", |(_, rest)| rest.split_whitespace().next().unwrap_or("unknown"));
        let (release, commit) = (field("release:"), field("commit-hash:"));
        let _ = writeln!(versions, "rustc {release} ({commit})");
        let _ = writeln!(versions, "LLVM {llvm}");
        let _ = writeln!(versions, "{}", about_linker.trim());
        let _ = writeln!(versions, "llvm-strip {strip_version}");
        Ok(Self { rustc, linker, strip, builds_core, versions })
    }

    fn build(&self, workspace_root: &Path, program: &str, object: &Path) -> Result<(), String> {
        let target = target_directory(workspace_root);
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .current_dir(workspace_root.join("ebpf/program"))
            .args(["build", "--release", "--locked", "--target", TARGET, "--bin", program])
            .arg("--target-dir")
            .arg(&target)
            .env("RUSTC", &self.rustc)
            // The target's built-in specification and the inline assembly are unstable.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags(workspace_root, &target))
            .env_remove("RUSTFLAGS");
        if self.builds_core {
            cargo.arg("-Zbuild-std=core");
        }
        output(&mut cargo)?;
        let built = target.join(TARGET).join("release").join(program);
        // Debug sections hold paths and compiler whims; what the kernel reads of them is in BTF already.
        output(Command::new(&self.strip).arg("-g").arg("-o").arg(object).arg(&built))?;
        Ok(())
    }

    fn flags(&self, workspace_root: &Path, target: &Path) -> String {
        let mut flags = vec![
            format!("-Clinker={}", self.linker.display()),
            "-Clink-arg=--btf".to_owned(),
            // 32-bit operations and jumps: kernels since 5.1.
            "-Ctarget-cpu=v3".to_owned(),
            // Packet fields are where they are: without it each is read and written byte by byte.
            "-Ctarget-feature=+allows-misaligned-mem-access".to_owned(),
        ];
        let mut remap = |from: &Path, to: &str| {
            flags.push(format!("--remap-path-prefix={}={to}", from.display()));
        };
        // The last one that matches wins.
        remap(workspace_root, "/eventstream");
        remap(target, "/target");
        let registries = cargo_home().join("registry/src");
        for registry in fs::read_dir(&registries).into_iter().flatten().flatten() {
            remap(&registry.path(), "/registry");
        }
        flags.join("\x1f")
    }
}

/// A compiler that has core for the target or its source, and whether it must build core first.
fn find_rustc() -> Result<(PathBuf, bool), String> {
    let candidates = match env::var_os(RUSTC_VARIABLE) {
        Some(named) => vec![PathBuf::from(named)],
        None => vec!["/usr/bin/rustc".into(), "rustc".into()],
    };
    let print = |rustc: &Path, what: &str| {
        let mut command = Command::new(rustc);
        command.env("RUSTC_BOOTSTRAP", "1").args(["--target", TARGET, "--print", what]);
        output(&mut command).ok().map(|path| PathBuf::from(path.trim()))
    };
    let has_core = |rustc: &Path| {
        let files = print(rustc, "target-libdir").and_then(|folder| fs::read_dir(folder).ok());
        files.into_iter().flatten().flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
    };
    let has_source = |rustc: &Path| {
        print(rustc, "sysroot").is_some_and(|root| root.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists())
    };
    let prebuilt = candidates.iter().find(|rustc| has_core(rustc)).map(|rustc| (rustc, false));
    prebuilt
        .or_else(|| candidates.iter().find(|rustc| has_source(rustc)).map(|rustc| (rustc, true)))
        .map(|(rustc, builds_core)| (rustc.clone(), builds_core))
        .ok_or_else(|| format!("no rustc here can compile for {TARGET}.\n{HOW_TO_GET}"))
}

/// The first of the names that runs: on the search path, or where cargo installs.
fn find_tool<const N: usize>(what: &str, names: [String; N]) -> Result<PathBuf, String> {
    let installed = cargo_home().join("bin");
    names
        .iter()
        .flat_map(|name| [PathBuf::from(name), installed.join(name)])
        .find(|path| output(Command::new(path).arg("--version")).is_ok())
        .ok_or_else(|| format!("{what} is not here.\n{HOW_TO_GET}"))
}

/// What the command printed; if it failed, an error that holds what it complained about.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

/// A number over everything the objects are built from: FNV-1a, 64 bits, over names and contents. It finds a forgotten
/// rebuild, not a forgery: that is what comparing bytes is for.
fn source_hash(workspace_root: &Path) -> Result<String, String> {
    let ebpf = workspace_root.join("ebpf");
    let mut files: Vec<PathBuf> = ["Cargo.toml", "program/Cargo.toml", "program/Cargo.lock"].map(PathBuf::from).into();
    for folder in ["src", "program/src", "program/src/bin"] {
        let entries = fs::read_dir(ebpf.join(folder)).map_err(|error| at(&ebpf.join(folder), &error))?;
        for entry in entries.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "rs") {
                files.push(Path::new(folder).join(entry.file_name()));
            }
        }
    }
    files.sort();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for file in files {
        add(file.to_string_lossy().as_bytes());
        let contents = fs::read(ebpf.join(&file)).map_err(|error| at(&file, &error))?;
        add(&(contents.len() as u64).to_le_bytes());
        add(&contents);
    }
    Ok(format!("{hash:016x}"))
}
