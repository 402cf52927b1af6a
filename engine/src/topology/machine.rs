//! The machine as the plan sees it: CPUs, which of them share a core, nodes and how far they are from each other.
//!
//! Plain values, so that a plan can be made for machines that are not at hand.

use serde::Serialize;

/// A hardware thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// As the operating system counts.
    pub number: u32,
    pub package: u32,
    /// Its core; CPUs of one core share it.
    pub core: u32,
    /// Its place among the CPUs of its core, from 0.
    pub thread: u32,
    pub node: Option<u32>,
    /// Whether the process's control group has it: a thread can be pinned there.
    pub is_allowed: bool,
    /// Whether threads run there that are not pinned. Not so on a CPU that was isolated at boot, or left out by taskset:
    /// nothing is put there unless it is named.
    pub is_usable: bool,
}

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    pub number: u32,
    /// What this process may use of it; 0 for a node without memory.
    pub memory_bytes: u64,
    pub cpus: Vec<u32>,
    /// To each node, in the order of [`Machine::nodes`], 10 being the node itself; empty where the firmware does not say.
    pub distances: Vec<u64>,
}

/// A cache and who shares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cache {
    pub name: String,
    pub bytes: u64,
    pub cpus: Vec<u32>,
}

/// Facts about the host, read once at start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// False for a machine that was only described, by HWLOC_SYNTHETIC or HWLOC_XMLFILE.
    pub is_this_system: bool,
    /// Those next to each other share most.
    pub cpus: Vec<Cpu>,
    /// Ascending.
    pub nodes: Vec<Node>,
    pub caches: Vec<Cache>,
    /// The one that the disk of the data directory interrupts, if it is always the same.
    pub disk_cpu: Option<u32>,
}

/// What the distance to another node is taken for where the firmware does not say, as Linux does.
const REMOTE_DISTANCE: u64 = 20;
const LOCAL_DISTANCE: u64 = 10;

impl Machine {
    /// Only numbers of CPUs are known: each is a core of its own, and there are no nodes.
    pub fn flat(cpus: impl IntoIterator<Item = u32>) -> Self {
        let cpu =
            |number| Cpu { number, package: 0, core: number, thread: 0, node: None, is_allowed: true, is_usable: true };
        Self { is_this_system: true, cpus: cpus.into_iter().map(cpu).collect(), ..Self::default() }
    }

    pub fn cpu(&self, number: u32) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.number == number)
    }

    pub fn node(&self, number: u32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.number == number)
    }

    /// Numbers of the CPUs that are used without being named, ascending.
    pub fn usable(&self) -> Vec<u32> {
        self.numbers(|cpu| cpu.is_usable)
    }

    /// Numbers of the CPUs that can be used at all, ascending.
    pub fn allowed(&self) -> Vec<u32> {
        self.numbers(|cpu| cpu.is_allowed)
    }

    fn numbers(&self, wanted: impl Fn(&Cpu) -> bool) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.cpus.iter().filter(|cpu| wanted(cpu)).map(|cpu| cpu.number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Whether two CPUs share a core. A CPU does with itself.
    pub fn share_core(&self, one: u32, other: u32) -> bool {
        one == other || self.cpu(one).zip(self.cpu(other)).is_some_and(|(one, other)| one.core == other.core)
    }

    pub fn distance(&self, from: Option<u32>, to: Option<u32>) -> u64 {
        let (Some(from), Some(to)) = (from, to) else { return LOCAL_DISTANCE };
        let place = self.nodes.iter().position(|node| node.number == to);
        let known = self.node(from).zip(place).and_then(|(node, place)| node.distances.get(place));
        known.copied().unwrap_or(if from == to { LOCAL_DISTANCE } else { REMOTE_DISTANCE })
    }

    /// The node itself if it has memory, else the nearest that has.
    pub fn memory_near(&self, node: u32) -> Option<u32> {
        let with_memory = self.nodes.iter().filter(|node| node.memory_bytes > 0).map(|node| node.number);
        with_memory.min_by_key(|candidate| (*candidate != node, self.distance(Some(node), Some(*candidate))))
    }

    /// Whether the CPU's node is known to have no memory for this process.
    pub fn lacks_memory(&self, cpu: u32) -> bool {
        let node = self.cpu(cpu).and_then(|cpu| self.node(cpu.node?));
        // Where no node shows any, nothing is known.
        node.is_some_and(|node| node.memory_bytes == 0 && self.memory_near(node.number).is_some())
    }
}
