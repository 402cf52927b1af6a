//! On which NUMA node memory lies: asking for one, and seeing what came of it.
//!
//! - **Thread**: whoever builds the engine, at start. Where pages are is decided when they are first touched, which the
//!   mappings here do at once (MADV_POPULATE_WRITE, and MAP_POPULATE for a UMEM); so the policy is the thread's, for as long as it maps. Pages that are
//!   registered with the kernel, as a UMEM's are, cannot be moved afterwards.
//! - **Invariant**: the thread's own policy is back when the mapping is made.
//!
//! Binding makes the kernel reclaim what is only cached on the node before it gives up; where there is not enough to reclaim
//! it would end the process. So it is asked for only where there is room, and a node is merely preferred where not.

use std::collections::BTreeMap;
use std::io;

use super::slab::HUGE_PAGE_BYTES;

/// What must be left on a node: others take memory between the look and the mapping.
const MARGIN_BYTES: u64 = 64 << 20;
/// Nodes a mask has room for: what the kernel is built for at most.
const NODE_BITS: usize = 1024;
/// Pages asked about in one call.
const PAGES_A_CALL: usize = 512;

/// How the kernel was asked for the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// There and nowhere else.
    Bound,
    /// There as long as there is room.
    Preferred,
    /// Wherever the kernel likes: no node was asked for, or the reason.
    Anywhere(String),
}

/// Where memory was to lie, and where it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub node: Option<u32>,
    pub policy: Policy,
    /// Pages on each node; empty if the kernel does not say.
    pub pages: BTreeMap<u32, u64>,
}

impl Placement {
    /// False only if pages are known to lie elsewhere.
    pub fn is_as_wanted(&self) -> bool {
        self.node.is_none_or(|wanted| self.pages.keys().all(|node| *node == wanted))
    }
}

impl std::fmt::Display for Placement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pages: Vec<String> =
            self.pages.iter().map(|(node, pages)| format!("{pages} pages on node {node}")).collect();
        let pages = if pages.is_empty() { "place unknown".to_owned() } else { pages.join(", ") };
        match (&self.policy, self.node) {
            (Policy::Bound, Some(node)) => write!(f, "{pages}, bound to node {node}"),
            (Policy::Preferred, Some(node)) => write!(f, "{pages}, node {node} only preferred: it has too little room"),
            (Policy::Anywhere(reason), Some(node)) => write!(f, "{pages}, wanted on node {node}: {reason}"),
            (_, None) => f.write_str(&pages),
        }
    }
}

/// Maps `bytes` on a node. `map` is told whether to try huge pages, and gives the address of what it mapped.
pub fn on_node<T, E>(
    node: Option<u32>,
    bytes: usize,
    map: impl FnOnce(bool) -> Result<(T, usize), E>,
) -> Result<(T, Placement), E> {
    let Some(wanted) = node else {
        let (mapped, address) = map(true)?;
        let policy = Policy::Anywhere(String::new());
        return Ok((mapped, Placement { node, policy, pages: pages_by_node(address, bytes) }));
    };
    let room = Room::of(wanted);
    let is_roomy = room.as_ref().is_some_and(|room| room.bytes >= bytes as u64 + MARGIN_BYTES);
    let mode = if is_roomy { libc::MPOL_BIND } else { libc::MPOL_PREFERRED };
    let (policy, before) = match ThreadPolicy::set(mode, wanted) {
        Ok(before) => (if is_roomy { Policy::Bound } else { Policy::Preferred }, Some(before)),
        Err(error) => (Policy::Anywhere(format!("the memory policy cannot be set: {error}")), None),
    };
    // Small pages near are better than huge ones far away.
    let may_be_huge = before.is_none() || room.is_some_and(|room| room.huge_bytes >= bytes as u64);
    let mapped = map(may_be_huge);
    drop(before);
    let (mapped, address) = mapped?;
    Ok((mapped, Placement { node, policy, pages: pages_by_node(address, bytes) }))
}

/// What can be had on a node.
struct Room {
    /// Free, or cached from files and unused for long.
    bytes: u64,
    huge_bytes: u64,
}

impl Room {
    fn of(node: u32) -> Option<Self> {
        Self::read(&std::fs::read_to_string(format!("/sys/devices/system/node/node{node}/meminfo")).ok()?)
    }

    /// Lines of the form `Node 0 MemFree:  123 kB`; huge pages are counted and not measured.
    fn read(text: &str) -> Option<Self> {
        let number = |key: &str| -> Option<u64> {
            let line = text.lines().find(|line| line.split_whitespace().nth(2) == Some(key))?;
            line.split_whitespace().nth(3)?.parse().ok()
        };
        let bytes = (number("MemFree:")? + number("Inactive(file):").unwrap_or(0)) * 1024;
        Some(Self { bytes, huge_bytes: number("HugePages_Free:").unwrap_or(0) * HUGE_PAGE_BYTES as u64 })
    }
}

fn page_bytes() -> usize {
    // SAFETY: asks for a constant of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// How many pages of a mapping lie on each node; empty where the kernel does not say.
fn pages_by_node(address: usize, bytes: usize) -> BTreeMap<u32, u64> {
    let page_bytes = page_bytes();
    let mut nodes = BTreeMap::new();
    let mut addresses = (address..address + bytes).step_by(page_bytes).peekable();
    while addresses.peek().is_some() {
        let pages: Vec<usize> = addresses.by_ref().take(PAGES_A_CALL).collect();
        let mut status = [0 as libc::c_int; PAGES_A_CALL];
        let (this_process, count, no_targets, flags) = (0, pages.len(), std::ptr::null::<libc::c_int>(), 0);
        // SAFETY: the kernel reads `pages.len()` addresses, looks them up without touching them, and writes as many
        // integers, for which `status` has room. Without target nodes it moves nothing.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                this_process,
                count,
                pages.as_ptr(),
                no_targets,
                status.as_mut_ptr(),
                flags,
            )
        };
        if result != 0 {
            return BTreeMap::new();
        }
        // Negative for a page that is not there.
        for node in status[..pages.len()].iter().filter_map(|status| u32::try_from(*status).ok()) {
            *nodes.entry(node).or_insert(0) += 1;
        }
    }
    nodes
}

/// A thread's memory policy; dropping it makes it the thread's again.
struct ThreadPolicy {
    mode: libc::c_int,
    nodes: [u64; NODE_BITS / 64],
}

impl ThreadPolicy {
    /// Sets this thread's policy; what it was comes back with the drop of the result. A container may forbid the call.
    fn set(mode: libc::c_int, node: u32) -> io::Result<Self> {
        let before = Self::current()?;
        let mut nodes = [0; NODE_BITS / 64];
        *nodes.get_mut(node as usize / 64).ok_or(io::ErrorKind::InvalidInput)? |= 1 << (node % 64);
        Self::apply(mode, &nodes)?;
        Ok(before)
    }

    fn current() -> io::Result<Self> {
        let (mut mode, mut nodes) = (0, [0_u64; NODE_BITS / 64]);
        let (none, flags) = (0_usize, 0_usize);
        // SAFETY: the kernel writes one integer to `mode` and `NODE_BITS` bits to `nodes`.
        let result = unsafe {
            libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, nodes.as_mut_ptr(), NODE_BITS, none, flags)
        };
        if result == 0 { Ok(Self { mode, nodes }) } else { Err(io::Error::last_os_error()) }
    }

    fn apply(mode: libc::c_int, nodes: &[u64; NODE_BITS / 64]) -> io::Result<()> {
        // SAFETY: the kernel reads `NODE_BITS` bits from `nodes`.
        let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes.as_ptr(), NODE_BITS) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for ThreadPolicy {
    fn drop(&mut self) {
        let _ = Self::apply(self.mode, &self.nodes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Region;

    fn map(bytes: usize, may_be_huge: bool) -> io::Result<(Region, usize)> {
        let region = Region::map_with(bytes, may_be_huge)?;
        let address = region.address();
        Ok((region, address))
    }

    fn policy() -> Option<(libc::c_int, [u64; NODE_BITS / 64])> {
        let current = std::mem::ManuallyDrop::new(ThreadPolicy::current().ok()?);
        Some((current.mode, current.nodes))
    }

    #[test]
    fn memory_lies_on_the_node_it_was_asked_for_and_the_threads_policy_comes_back() {
        let Some(before) = policy() else { return };
        let mut during = None;
        let bytes = 3 << 20;
        let (region, placement) = on_node(Some(0), bytes, |huge| {
            during = policy();
            map(bytes, huge)
        })
        .unwrap();
        assert_eq!(policy(), Some(before), "the thread's own policy is back");
        let (mode, nodes) = during.unwrap();
        let expected = if placement.policy == Policy::Bound { libc::MPOL_BIND } else { libc::MPOL_PREFERRED };
        assert_eq!((mode, nodes[0]), (expected, 1));
        let pages = (region.bytes() / page_bytes()) as u64;
        if !placement.pages.is_empty() {
            assert_eq!(placement.pages.values().sum::<u64>(), pages, "every page was touched");
            assert!(placement.is_as_wanted(), "{placement}");
        }
    }

    #[test]
    fn a_node_that_is_not_there_leaves_the_policy_as_it_was() {
        let Some(before) = policy() else { return };
        for node in [1000, 100_000] {
            let (_, placement) = on_node(Some(node), 4096, |huge| map(4096, huge)).unwrap();
            assert!(matches!(placement.policy, Policy::Anywhere(_)), "{placement}");
            assert_eq!(policy(), Some(before));
        }
    }

    #[test]
    fn a_failed_mapping_leaves_the_policy_as_it_was() {
        let before = policy();
        assert_eq!(on_node(Some(0), 4096, |_| Err::<((), usize), _>("no")), Err("no"));
        assert_eq!(policy(), before);
    }

    #[test]
    fn the_room_on_a_node_is_what_is_free_or_cached() {
        let text = "Node 3 MemTotal:  400 kB\nNode 3 MemFree:   100 kB\nNode 3 Inactive(file):  50 kB\n\
                    Node 3 HugePages_Total:     9\nNode 3 HugePages_Free:      4\n";
        let room = Room::read(text).unwrap();
        assert_eq!((room.bytes, room.huge_bytes), (150 * 1024, 8 << 20));
        assert!(Room::read("").is_none());
    }

    #[test]
    fn what_lies_elsewhere_is_told() {
        let placement = Placement { node: Some(1), policy: Policy::Preferred, pages: BTreeMap::from([(0, 3), (1, 5)]) };
        assert!(!placement.is_as_wanted());
        let expected = "3 pages on node 0, 5 pages on node 1, node 1 only preferred: it has too little room";
        assert_eq!(placement.to_string(), expected);
        let unknown = Placement { pages: BTreeMap::new(), ..placement };
        assert!(unknown.is_as_wanted());
    }
}
