//! Which CPU hears from the disk of the data directory.
//!
//! A disk that has a queue for each CPU, as NVMe does, answers where it was asked. One with a single queue, as virtual machines
//! often have, interrupts one CPU for everybody: time that a data thread there lacks, while whoever waits for a sync on another CPU is
//! woken later.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Machine;
use crate::nic::Device;

impl Machine {
    /// The machine with what is known of the disk of a directory, which need not be there yet.
    pub fn with_disk_of(self, directory: Option<&Path>) -> Self {
        // Of one that was only described nothing is known.
        let there = directory
            .filter(|_| self.is_this_system)
            .and_then(|directory| directory.ancestors().find_map(|place| fs::metadata(place).ok()));
        let number = there.map(|there| (rustix::fs::major(there.dev()), rustix::fs::minor(there.dev())));
        Self { disk_cpu: number.and_then(|number| interrupted_cpu(Path::new("/"), number)), ..self }
    }
}

/// Of the block device with this number, or the disk that it is a part of; `None` for one with several queues, and for one that is made
/// of others.
fn interrupted_cpu(root: &Path, (major, minor): (u32, u32)) -> Option<u32> {
    let folder = fs::canonicalize(root.join(format!("sys/dev/block/{major}:{minor}"))).ok()?;
    let queues = folder.ancestors().find_map(|folder| fs::read_dir(folder.join("mq")).ok())?.count();
    let interrupts = Device::at(root, folder).interrupts();
    let busiest = interrupts.iter().max_by_key(|interrupt| interrupt.count).filter(|_| queues == 1)?;
    busiest.effective.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::scratch::Scratch;

    /// A disk on the PCI bus with so many queues, whose second interrupt comes to this CPU.
    fn disk(queues: u32, effective: &str) -> Option<u32> {
        let scratch = Scratch::new("disk");
        let root = scratch.path();
        let file = |path: &str, content: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), content).unwrap();
        };
        let device = "sys/devices/pci0000:00/0000:00:02.0";
        (0..queues).for_each(|queue| file(&format!("{device}/virtio1/block/vda/mq/{queue}/nr_tags"), "256"));
        file(&format!("{device}/virtio1/block/vda/vda1/partition"), "1");
        for (number, name, counts, cpus) in
            [(35, "virtio1-config", "0,3", "0"), (36, "virtio1-req.0", "7,9", effective)]
        {
            file(&format!("{device}/msi_irqs/{number}"), "msix");
            file(&format!("sys/kernel/irq/{number}/actions"), name);
            file(&format!("sys/kernel/irq/{number}/per_cpu_count"), counts);
            file(&format!("proc/irq/{number}/effective_affinity_list"), cpus);
        }
        fs::create_dir_all(root.join("sys/dev/block")).unwrap();
        std::os::unix::fs::symlink(root.join(device).join("virtio1/block/vda/vda1"), root.join("sys/dev/block/254:1"))
            .unwrap();
        assert_eq!(interrupted_cpu(root, (254, 2)), None);
        interrupted_cpu(root, (254, 1))
    }

    #[test]
    fn a_disk_with_one_queue_interrupts_one_cpu() {
        assert_eq!(disk(1, "1\n"), Some(1));
        assert_eq!(disk(2, "1\n"), None, "each where it was asked");
        assert_eq!(disk(1, "0-3\n"), None, "any");
    }
}
