//! The device behind an interface, or a disk: its NUMA node and the interrupts of its queues, as sysfs and procfs show them.
//!
//! - **Thread**: control, at start. Devices without hardware (veth, loopback) have none of this.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// An interrupt of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interrupt {
    pub number: u32,
    /// What its driver calls it.
    pub name: String,
    /// The receive queue, where the name tells it.
    pub queue: Option<u32>,
    /// CPUs it may be delivered to, and those it is delivered to; as `0-3,8`.
    pub allowed: String,
    pub effective: String,
    /// How often it has come since the machine's start.
    pub count: u64,
}

/// A device's folder in sysfs, below the root of a file system.
pub struct Device {
    root: PathBuf,
    folder: PathBuf,
}

impl Device {
    /// By its folder, or one below that.
    pub fn at(root: &Path, folder: PathBuf) -> Self {
        Self { root: root.to_owned(), folder }
    }

    /// By the interface where sysfs shows it, by its address on the PCI bus where it shows another network namespace.
    pub fn of(root: &Path, interface: &str, bus: &str) -> Option<Self> {
        let places = [format!("sys/class/net/{interface}/device"), format!("sys/bus/pci/devices/{bus}")];
        let known = places.iter().zip([interface, bus]).filter(|(_, name)| !name.is_empty());
        let folder = known.into_iter().find_map(|(place, _)| fs::canonicalize(root.join(place)).ok())?;
        Some(Self::at(root, folder))
    }

    /// The device's own folder and those above it: what hangs on a bus of its own, as virtio does, has its place in the
    /// machine in the folder of the device that carries the bus.
    fn with_parents(&self) -> impl Iterator<Item = &Path> {
        let devices = fs::canonicalize(self.root.join("sys/devices")).unwrap_or_default();
        self.folder.ancestors().take_while(move |folder| **folder != *devices && folder.starts_with(&devices))
    }

    /// None where the firmware does not say, which reads -1.
    pub fn numa_node(&self) -> Option<u32> {
        self.with_parents().find_map(|folder| text(&folder.join("numa_node")))?.parse().ok()
    }

    pub fn interrupts(&self) -> Vec<Interrupt> {
        let Some(listing) = self.with_parents().find_map(|folder| fs::read_dir(folder.join("msi_irqs")).ok()) else {
            return Vec::new();
        };
        let numbers = listing.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut interrupts: Vec<Interrupt> = numbers.filter_map(|number| self.interrupt(number)).collect();
        interrupts.sort_by_key(|interrupt| interrupt.number);
        interrupts
    }

    /// None for a vector that nothing uses.
    fn interrupt(&self, number: u32) -> Option<Interrupt> {
        let name = text(&self.root.join(format!("sys/kernel/irq/{number}/actions"))).filter(|name| !name.is_empty())?;
        let counts = text(&self.root.join(format!("sys/kernel/irq/{number}/per_cpu_count"))).unwrap_or_default();
        let affinity = |which: &str| text(&self.root.join(format!("proc/irq/{number}/{which}"))).unwrap_or_default();
        Some(Interrupt {
            number,
            queue: receive_queue(&name),
            name,
            allowed: affinity("smp_affinity_list"),
            effective: affinity("effective_affinity_list"),
            count: counts.split(',').filter_map(|count| count.parse::<u64>().ok()).sum(),
        })
    }
}

fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// `eth0-TxRx-3`, `virtio0-input.0` and `mlx5_comp7@pci:0000:3b:00.0` are of a queue; `virtio0-config` and
/// `virtio0-output.0` are not of one that receives.
fn receive_queue(name: &str) -> Option<u32> {
    let name = name.split('@').next().unwrap_or(name).to_ascii_lowercase();
    let receives = ["rx", "input", "comp"].iter().any(|word| name.contains(word));
    let digits = name.len() - name.trim_end_matches(|letter: char| letter.is_ascii_digit()).len();
    name[name.len() - digits..].parse().ok().filter(|_| receives)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("eventstream-device-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            Self(root)
        }

        fn file(&self, path: &str, content: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn device(&self, interface: &str, folder: &str) -> Device {
            let class = self.0.join("sys/class/net").join(interface);
            fs::create_dir_all(&class).unwrap();
            std::os::unix::fs::symlink(self.0.join(folder), class.join("device")).unwrap();
            Device::of(&self.0, interface, "").unwrap()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_card_has_its_node_and_virtio_that_of_the_device_above() {
        let root = Root::new("node");
        root.file("sys/devices/pci0000:00/0000:00:03.0/numa_node", "1\n");
        root.file("sys/devices/pci0000:00/0000:00:03.0/virtio0/features", "0\n");
        root.file("sys/devices/pci0000:00/0000:00:04.0/numa_node", "-1\n");
        // Above the devices there is nothing that counts.
        root.file("sys/numa_node", "7\n");
        root.file("sys/devices/virtual/thing/x", "");
        assert_eq!(root.device("eth0", "sys/devices/pci0000:00/0000:00:03.0").numa_node(), Some(1));
        assert_eq!(root.device("eth1", "sys/devices/pci0000:00/0000:00:03.0/virtio0").numa_node(), Some(1));
        assert_eq!(root.device("eth2", "sys/devices/pci0000:00/0000:00:04.0").numa_node(), None);
        assert_eq!(root.device("eth3", "sys/devices/virtual/thing").numa_node(), None);
        assert!(Device::of(&root.0, "veth0", "").is_none());
    }

    #[test]
    fn interrupts_name_their_queues_and_cpus() {
        let root = Root::new("interrupts");
        let names = [(24, "virtio0-config"), (25, "virtio0-input.0"), (26, "virtio0-output.0"), (27, "")];
        for (number, name) in names {
            root.file(&format!("sys/devices/pci0000:00/0000:00:03.0/msi_irqs/{number}"), "msix\n");
            root.file(&format!("sys/kernel/irq/{number}/actions"), &format!("{name}\n"));
        }
        root.file("proc/irq/25/smp_affinity_list", "0-3\n");
        root.file("proc/irq/25/effective_affinity_list", "2\n");
        fs::create_dir_all(root.0.join("sys/devices/pci0000:00/0000:00:03.0/virtio0")).unwrap();
        let interrupts = root.device("eth0", "sys/devices/pci0000:00/0000:00:03.0/virtio0").interrupts();
        let queues: Vec<_> = interrupts.iter().map(|interrupt| (interrupt.number, interrupt.queue)).collect();
        assert_eq!(queues, [(24, None), (25, Some(0)), (26, None)]);
        assert_eq!((interrupts[1].allowed.as_str(), interrupts[1].effective.as_str()), ("0-3", "2"));
        assert_eq!(receive_queue("i40e-eth0-TxRx-13"), Some(13));
        assert_eq!(receive_queue("mlx5_comp7@pci:0000:3b:00.0"), Some(7));
        assert_eq!(receive_queue("mlx5_async0@pci:0000:3b:00.0"), None);
    }
}
