//! The steering program of one interface: loaded, its maps filled, attached, switched, read, detached.
//!
//! - **Thread**: control. **In**: ports, addresses, sockets, the switch. **Out**: per-queue counters.
//! - **Invariant**: a map entry exists before the program that reads it is attached, and the program is detached before
//!   a socket it steers into is closed.
//!
//! Where the kernel has XDP links nothing of ours outlives the process; what a killed run leaves behind on others is
//! recognised at the next start and taken away ([`clear_way`]).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{Array, HashMap, MapData, MapInfo, PerCpuArray, XskMap};
use aya::programs::{Xdp, loaded_programs};
use aya::{Ebpf, EbpfError};
use eventstream_steer::Verdict;
use eventstream_steer::maps::{self, AddressKey, MODE_REFUSE, MODE_STEER, SteerConfig};

use super::attach::{Attachment, detach_over_netlink};
use super::error::describe;
use super::interface::{Hook, Interface};
use super::options::XdpOptions;
use super::xsk::XskRings;

/// What the kernel keeps of each frame for itself (linux/bpf.h).
const XDP_PACKET_HEADROOM: u32 = 256;

/// What the program does with packets that are the engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    Steer,
    /// Drops and counts them; for PAUSED and DRAINING.
    Refuse,
}

/// What the program did with the packets of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueVerdicts {
    pub runs: u64,
    /// By [`Verdict`].
    pub verdicts: [u64; Verdict::COUNT],
}

impl QueueVerdicts {
    pub fn count(&self, verdict: Verdict) -> u64 {
        self.verdicts[verdict as usize]
    }

    pub fn steered(&self) -> u64 {
        self.count(Verdict::Steered)
    }

    pub fn refused(&self) -> u64 {
        self.count(Verdict::Refused)
    }

    pub fn filtered(&self) -> u64 {
        self.count(Verdict::Filtered)
    }

    pub fn passed(&self) -> u64 {
        Verdict::PASSED.iter().map(|verdict| self.count(*verdict)).sum()
    }
}

/// What a new set of addresses changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressChange {
    pub added: usize,
    pub removed: usize,
    /// Addresses the map has no room for: their packets go to the kernel socket.
    pub without_room: usize,
}

/// The program and its maps.
pub struct SteerProgram {
    // Goes first, then the program, then the maps.
    attachment: Option<Attachment>,
    ebpf: Ebpf,
    interface_index: u32,
    settings: SteerConfig,
    installed: BTreeSet<AddressKey>,
    groups: BTreeSet<AddressKey>,
    config: Array<MapData, [u32; 4]>,
    addresses: HashMap<MapData, AddressKey, u32>,
    sockets: XskMap<MapData>,
    verdicts: PerCpuArray<MapData, u64>,
    runs: PerCpuArray<MapData, u64>,
}

impl SteerProgram {
    /// Loads the program and fills the maps that do not depend on sockets. The reason on failure is for the operator.
    pub fn load(options: &XdpOptions, interface: &Interface, verify_checksum: bool) -> Result<Self, String> {
        let loaded: Result<Ebpf, EbpfError> = match &options.object {
            Some(path) => Ebpf::load_file(path),
            None => Ebpf::load(eventstream_steer::STEER_OBJECT),
        };
        let mut ebpf = loaded.map_err(|error| format!("steering program: {}", describe(&error)))?;
        steer(&mut ebpf)?.load().map_err(|error| format!("steering program: {}", describe(&error)))?;
        let mut take = |name: &'static str| ebpf.take_map(name).ok_or(format!("steering object has no map {name}"));
        let text = |error: aya::maps::MapError| format!("steering map: {}", describe(&error));
        let mut ports = Array::<_, u64>::try_from(take(maps::PORTS)?).map_err(text)?;
        for (word, bits) in port_words(&options.udp_ports) {
            ports.set(word, bits, 0).map_err(text)?;
        }
        let config = Array::try_from(take(maps::CONFIG)?).map_err(text)?;
        let addresses = HashMap::try_from(take(maps::ADDRESSES)?).map_err(text)?;
        let sockets = XskMap::try_from(take(maps::SOCKETS)?).map_err(text)?;
        let verdicts = PerCpuArray::try_from(take(maps::VERDICTS)?).map_err(text)?;
        let runs = PerCpuArray::try_from(take(maps::RUNS)?).map_err(text)?;
        let settings = SteerConfig {
            mode: MODE_STEER,
            verify_checksum: verify_checksum.into(),
            frame_room: options.frame_bytes.saturating_sub(XDP_PACKET_HEADROOM),
            reserved: 0,
        };
        let mut program = Self {
            attachment: None,
            ebpf,
            interface_index: interface.index,
            settings,
            installed: BTreeSet::new(),
            groups: options.multicast_groups.iter().map(key).collect(),
            config,
            addresses,
            sockets,
            verdicts,
            runs,
        };
        program.set_switch(Switch::Steer)?;
        Ok(program)
    }

    /// Steers a queue's packets into a socket, once the program is attached.
    pub(super) fn set_socket(&mut self, queue: u32, socket: &XskRings) -> Result<(), String> {
        if queue as usize >= maps::QUEUE_COUNT {
            return Err(format!("the program knows {} queues", maps::QUEUE_COUNT));
        }
        self.sockets.set(queue, socket.as_raw_fd(), 0).map_err(|error| format!("socket map: {}", describe(&error)))
    }

    /// Attaches the program. The reason on failure is for the operator.
    pub(super) fn attach(&mut self, hook: Hook) -> Result<(), String> {
        let failed =
            |error: &(dyn std::error::Error + 'static)| format!("attach {}: {}", hook_name(hook), describe(error));
        let program = steer(&mut self.ebpf)?.fd().map_err(|error| failed(&error))?;
        let attachment =
            Attachment::new(program.as_fd(), self.interface_index, hook).map_err(|error| failed(&error))?;
        self.attachment = Some(attachment);
        Ok(())
    }

    /// Detaches it: when this returns, no packet is steered any more. Also happens, without waiting, on drop.
    pub fn detach(&mut self) {
        if self.attachment.take().is_some() {
            self.wait_for_runs();
        }
    }

    pub fn is_attached(&self) -> bool {
        self.attachment.is_some()
    }

    /// Steers or refuses from the next packet on.
    pub fn set_switch(&mut self, switch: Switch) -> Result<(), String> {
        self.settings.mode = match switch {
            Switch::Steer => MODE_STEER,
            Switch::Refuse => MODE_REFUSE,
        };
        let SteerConfig { mode, verify_checksum, frame_room, reserved } = self.settings;
        let words = [mode, verify_checksum, frame_room, reserved];
        self.config.set(0, words, 0).map_err(|error| format!("steering switch: {}", describe(&error)))
    }

    /// Waits until every run of the program that began before has ended and its packets are in the rx rings.
    ///
    /// The program runs with softirqs off, which is an RCU read-side section up to the flush of its redirects, and the
    /// global barrier waits for all of those. Takes some milliseconds; the control thread's to call, after the switch.
    pub fn wait_for_runs(&self) {
        if rustix::thread::membarrier(rustix::thread::MembarrierCommand::Global).is_err() {
            // Refused with nohz_full: then a time no NAPI pass comes near.
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Makes `own` and the multicast groups the addresses that are steered.
    pub fn set_addresses(&mut self, own: &BTreeSet<IpAddr>) -> Result<AddressChange, String> {
        let wanted: BTreeSet<AddressKey> = own.iter().map(key).chain(self.groups.iter().copied()).collect();
        let failed = |error| format!("address map: {}", describe(&error));
        let mut change = AddressChange::default();
        for gone in self.installed.difference(&wanted).copied().collect::<Vec<_>>() {
            self.addresses.remove(&gone).map_err(failed)?;
            self.installed.remove(&gone);
            change.removed += 1;
        }
        for new in wanted.difference(&self.installed).copied().collect::<Vec<_>>() {
            if self.installed.len() == maps::ADDRESS_COUNT {
                change.without_room += 1;
                continue;
            }
            self.addresses.insert(new, 1, 0).map_err(failed)?;
            self.installed.insert(new);
            change.added += 1;
        }
        Ok(change)
    }

    /// What became of a queue's packets so far. Verdicts are read before runs, so live there may be more runs than
    /// verdicts, never fewer.
    pub fn verdicts(&self, queue: u32) -> Result<QueueVerdicts, String> {
        let failed = |error| format!("steering counters: {}", describe(&error));
        let row = maps::row(queue);
        let mut found = QueueVerdicts::default();
        for verdict in Verdict::ALL {
            let index = maps::verdict_index(row, verdict);
            found.verdicts[verdict as usize] = self.verdicts.get(&index, 0).map_err(failed)?.iter().sum();
        }
        found.runs = self.runs.get(&row, 0).map_err(failed)?.iter().sum();
        Ok(found)
    }

    /// The kernel's number of the program.
    pub fn id(&mut self) -> Option<u32> {
        steer(&mut self.ebpf).ok()?.info().ok().map(|info| info.id())
    }
}

fn steer(ebpf: &mut Ebpf) -> Result<&mut Xdp, String> {
    let program = ebpf.program_mut(maps::STEER_PROGRAM);
    let program = program.ok_or_else(|| format!("steering object has no program {}", maps::STEER_PROGRAM))?;
    program.try_into().map_err(|error| format!("steering program: {}", describe(&error)))
}

fn key(address: &IpAddr) -> AddressKey {
    match address {
        IpAddr::V4(v4) => maps::v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The entries of the ports map with a bit in them.
fn port_words(ports: &[u16]) -> std::collections::BTreeMap<u32, u64> {
    let mut words = std::collections::BTreeMap::new();
    for port in ports {
        let (word, bit) = maps::port_bit(*port);
        *words.entry(word).or_default() |= bit;
    }
    words
}

fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Native => "native",
        Hook::Generic => "generic",
        Hook::Hardware => "hardware",
    }
}

/// Takes away a program that a killed run of ours left on the interface. Anybody else's is named and left alone.
/// Returns what was taken away.
pub(super) fn clear_way(interface: &Interface) -> Result<Vec<u32>, String> {
    let mut removed = Vec::new();
    for attached in &interface.attached {
        let id = attached.program_id;
        let info = loaded_programs()
            .find_map(|info| info.ok().filter(|info| info.id() == id))
            .ok_or_else(|| format!("{} has XDP program {id}, which cannot be looked at", interface.name))?;
        let name = info.name_as_str().unwrap_or_default().to_owned();
        let named = format!("XDP program {name:?} (id {id}, {})", hook_name(attached.hook));
        if name != maps::STEER_PROGRAM || !has_our_maps(&info) {
            return Err(format!("{} has somebody else's {named}: left alone", interface.name));
        }
        let fd = info.fd().map_err(|error| format!("{named}: {}", describe(&error)))?;
        detach_over_netlink(interface.index, attached.hook, fd.as_fd()).map_err(|error| {
            // A link cannot be taken away over netlink; links end with their process, so that one is alive.
            if error.raw_os_error() == Some(libc::EBUSY) {
                format!("{}: {named} belongs to an engine that is running", interface.name)
            } else {
                format!("{}: stale {named} cannot be detached: {}", interface.name, describe(&error))
            }
        })?;
        removed.push(id);
    }
    Ok(removed)
}

/// Other people may call a program `steer`; nobody else's has these maps.
fn has_our_maps(info: &aya::programs::ProgramInfo) -> bool {
    let ids = info.map_ids().ok().flatten().unwrap_or_default();
    let names: BTreeSet<String> =
        ids.iter().filter_map(|id| Some(MapInfo::from_id(*id).ok()?.name_as_str()?.to_owned())).collect();
    [maps::ADDRESSES, maps::PORTS, maps::SOCKETS, maps::VERDICTS].iter().all(|name| names.contains(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_share_words() {
        let words = port_words(&[0, 63, 64, 8082, 65535]);
        let expected = [(0, 1 | 1 << 63), (1, 1), (126, 1 << 18), (1023, 1 << 63)];
        assert_eq!(words.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_settings_are_written_in_the_programs_order() {
        use std::mem::offset_of;
        assert_eq!(size_of::<SteerConfig>(), size_of::<[u32; 4]>());
        let offsets = [
            offset_of!(SteerConfig, mode),
            offset_of!(SteerConfig, verify_checksum),
            offset_of!(SteerConfig, frame_room),
        ];
        assert_eq!(offsets, [0, 4, 8]);
    }

    #[test]
    fn every_passed_verdict_is_in_the_sum() {
        let counted = QueueVerdicts { runs: 15, verdicts: [1; Verdict::COUNT] };
        assert_eq!(counted.steered() + counted.refused() + counted.filtered() + counted.passed(), counted.runs);
    }
}
