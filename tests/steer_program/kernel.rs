//! The XDP programs in the kernel: loaded through libbpf, run by `BPF_PROG_TEST_RUN`, their maps read and written.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use eventstream_steer::maps::{self, AddressKey, SteerConfig};
use eventstream_steer::{BLAST_OBJECT, STEER_OBJECT, Verdict, blast};
use libbpf_rs::libbpf_sys;
use libbpf_rs::{MapCore, MapFlags, MapMut, Object, ObjectBuilder, ProgramInput, ProgramMut};

pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
pub const XDP_TX: u32 = 3;
pub const XDP_REDIRECT: u32 = 4;

/// Names the folder of a rebuilt `steer.bpf.o` and `blast.bpf.o`, or a steering object, to test instead of the
/// committed ones.
const OBJECT_VARIABLE: &str = "EVENTSTREAM_STEER_OBJECT";

/// Why no XDP program can be loaded here, found by loading the smallest there is. A rejected program of ours then is a
/// failure and never taken for missing rights.
pub fn missing_rights() -> Option<String> {
    let bpf_insn = |code, imm| {
        // SAFETY: an instruction is plain integers, for which all zeroes is a value.
        let mut insn: libbpf_sys::bpf_insn = unsafe { std::mem::zeroed() };
        insn.code = code;
        insn.imm = imm;
        insn
    };
    let insns = [bpf_insn(0xb7, XDP_PASS as i32), bpf_insn(0x95, 0)]; // r0 = XDP_PASS; exit
    // SAFETY: name, licence and instructions live through the call, the count is theirs, and no options is allowed.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_XDP,
            c"probe".as_ptr(),
            c"MIT".as_ptr(),
            insns.as_ptr(),
            insns.len() as u64,
            std::ptr::null_mut(),
        )
    };
    if fd < 0 {
        return Some(format!("XDP programs cannot be loaded: {}", io::Error::from_raw_os_error(-fd)));
    }
    // SAFETY: the descriptor was just made and nobody else has it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    None
}

fn load(committed: &[u8], file_name: &str) -> Object {
    let bytes = match std::env::var_os(OBJECT_VARIABLE) {
        Some(path) if std::path::Path::new(&path).is_dir() => {
            std::fs::read(std::path::Path::new(&path).join(file_name)).expect("object in the folder")
        }
        Some(path) if file_name == "steer.bpf.o" => std::fs::read(path).expect("steering object"),
        _ => committed.to_vec(),
    };
    ObjectBuilder::default()
        .open_memory(&bytes)
        .and_then(libbpf_rs::OpenObject::load)
        .unwrap_or_else(|error| panic!("the kernel refuses {file_name}: {error:?}"))
}

fn map<'obj>(object: &'obj mut Object, name: &str) -> MapMut<'obj> {
    object.maps_mut().find(|map| map.name() == name).unwrap_or_else(|| panic!("no map {name} in the object"))
}

fn program<'obj>(object: &'obj Object, name: &str) -> ProgramMut<'obj> {
    object
        .progs_mut()
        .find(|program| program.name() == name)
        .unwrap_or_else(|| panic!("no program {name} in the object"))
}

/// Where a test packet is said to come from.
#[derive(Clone, Copy, Default)]
pub struct Receiver {
    /// Zero: the loopback device, which has one queue.
    pub interface_index: u32,
    pub queue: u32,
}

fn run(program: &ProgramMut<'_>, packet: &[u8], from: Receiver, out: Option<&mut [u8]>) -> u32 {
    run_to(program, packet, from, out).0
}

/// The action, and how many bytes of metadata and packet came out.
fn run_to(program: &ProgramMut<'_>, packet: &[u8], from: Receiver, out: Option<&mut [u8]>) -> (u32, usize) {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let words = [0, packet.len() as u32, 0, from.interface_index, from.queue, 0];
    let mut context: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let input = ProgramInput {
        context_in: Some(&mut context),
        data_in: Some(packet),
        data_out: out,
        ..ProgramInput::default()
    };
    let output = program.test_run(input).expect("test run");
    (output.return_value, output.data.map_or(0, |data| data.len()))
}

/// What the steering program counted in one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    pub runs: u64,
    pub verdicts: [u64; Verdict::COUNT],
}

impl Counts {
    pub fn plus(&self, verdict: Verdict) -> Self {
        let mut sum = self.clone();
        sum.runs += 1;
        sum.verdicts[verdict as usize] += 1;
        sum
    }
}

pub struct Steer(Object);

impl Steer {
    pub fn load() -> Self {
        Self(load(STEER_OBJECT, "steer.bpf.o"))
    }

    pub fn configure(&mut self, config: SteerConfig) {
        self.update(maps::CONFIG, &0_u32.to_ne_bytes(), &config.to_bytes());
    }

    pub fn add_port(&mut self, port: u16) {
        let (word, bit) = maps::port_bit(port);
        self.update(maps::PORTS, &word.to_ne_bytes(), &bit.to_ne_bytes());
    }

    pub fn add_address(&mut self, address: &AddressKey) {
        self.update(maps::ADDRESSES, address, &1_u32.to_ne_bytes());
    }

    pub fn add_socket(&mut self, queue: u32, socket: &impl AsRawFd) {
        let value = socket.as_raw_fd().to_ne_bytes();
        self.update(maps::SOCKETS, &queue.to_ne_bytes(), &value);
    }

    fn update(&mut self, name: &str, key: &[u8], value: &[u8]) {
        map(&mut self.0, name).update(key, value, MapFlags::ANY).expect(name);
    }

    pub fn run(&self, packet: &[u8], from: Receiver) -> u32 {
        run(&program(&self.0, maps::STEER_PROGRAM), packet, from, None)
    }

    /// The action, and what the program laid before the packet; the packet itself must be as it was.
    pub fn run_with_metadata(&self, packet: &[u8]) -> (u32, Vec<u8>) {
        let mut out = vec![0; packet.len() + 256];
        let program = program(&self.0, maps::STEER_PROGRAM);
        let (action, length) = run_to(&program, packet, Receiver::default(), Some(&mut out));
        out.truncate(length);
        let unchanged = out.split_off(length - packet.len());
        assert_eq!(unchanged, packet);
        (action, out)
    }

    pub fn attach(&self, interface_index: u32) {
        attach(&program(&self.0, maps::STEER_PROGRAM), interface_index);
    }

    pub fn counts(&mut self, row: u32) -> Counts {
        let runs = self.sum(maps::RUNS, row);
        let verdicts = Verdict::ALL.map(|verdict| self.sum(maps::VERDICTS, maps::verdict_index(row, verdict)));
        Counts { runs, verdicts }
    }

    fn sum(&mut self, name: &str, index: u32) -> u64 {
        let values = map(&mut self.0, name)
            .lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY)
            .expect(name)
            .unwrap_or_else(|| panic!("{name} has no entry {index}"));
        values.iter().map(|value| u64::from_ne_bytes(value[..8].try_into().unwrap())).sum()
    }
}

pub struct Blast(Object);

impl Blast {
    pub fn load() -> Self {
        Self(load(BLAST_OBJECT, "blast.bpf.o"))
    }

    pub fn configure(&mut self, config: &blast::BlastConfig) {
        map(&mut self.0, blast::BLAST_CONFIG)
            .update(&0_u32.to_ne_bytes(), &config.to_bytes(), MapFlags::ANY)
            .expect("configure");
    }

    /// The states of all CPUs.
    pub fn states(&mut self) -> Vec<blast::BlastState> {
        map(&mut self.0, blast::BLAST_STATE)
            .lookup_percpu(&0_u32.to_ne_bytes(), MapFlags::ANY)
            .expect("states")
            .expect("one entry")
            .iter()
            .map(|value| blast::BlastState::from_bytes(value).expect("a state's size"))
            .collect()
    }

    /// Stamps one copy of the template and gives it back.
    pub fn run(&self, template: &[u8]) -> (u32, Vec<u8>) {
        let mut out = vec![0; template.len()];
        let program = program(&self.0, blast::BLAST_PROGRAM);
        let action = run(&program, template, Receiver::default(), Some(&mut out));
        (action, out)
    }

    /// Sends `count` stamped copies out of the interface.
    pub fn send(&self, template: &[u8], interface_index: u32, count: u32) {
        const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
        let words = [0, template.len() as u32, 0, interface_index, 0, 0];
        let mut context: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let input = ProgramInput {
            context_in: Some(&mut context),
            data_in: Some(template),
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            repeat: count,
            ..ProgramInput::default()
        };
        program(&self.0, blast::BLAST_PROGRAM).test_run(input).expect("live frames");
    }
}

fn attach(program: &ProgramMut<'_>, interface_index: u32) {
    libbpf_rs::Xdp::new(program.as_fd())
        .attach(interface_index as i32, libbpf_rs::XdpFlags::DRV_MODE)
        .expect("attach in native mode");
}
