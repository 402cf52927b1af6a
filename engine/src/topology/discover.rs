//! Asking hwloc what the machine is made of.
//!
//! What hwloc is told by HWLOC_SYNTHETIC or HWLOC_XMLFILE it describes instead: layouts for machines that are not at hand can
//! be looked at that way.

use std::collections::HashMap;

use hwlocality::Topology;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::distance::DistancesKind;
use hwlocality::object::types::ObjectType;
use hwlocality::topology::builder::BuildFlags;

use super::machine::{Cache, Cpu, Machine, Node};

impl Machine {
    /// What there is, and what of it this process may use. Without an answer of hwloc only the process's CPUs are known.
    pub fn discover() -> Self {
        let described = Topology::builder()
            .with_flags(BuildFlags::INCLUDE_DISALLOWED)
            .map_err(|error| error.to_string())
            .and_then(|builder| builder.build().map_err(|error| error.to_string()));
        match described {
            Ok(topology) => Self::from_hwloc(&topology),
            Err(error) => {
                tracing::warn!(%error, "hwloc does not know this machine: every CPU is taken for a core of its own");
                Self::flat(affine_cpus().unwrap_or_else(|| vec![0]))
            }
        }
    }

    pub(super) fn from_hwloc(topology: &Topology) -> Self {
        let is_this_system = topology.is_this_system();
        // hwloc knows of control groups and not of what taskset or isolcpus did.
        let affine = if is_this_system { affine_cpus() } else { None };
        let in_group = topology.allowed_cpuset();
        let cpus = topology.objects_with_type(ObjectType::PU).filter_map(|unit| {
            let number = os_index(unit)?;
            let is_allowed = in_group.is_set(number as usize);
            let is_usable = is_allowed && affine.as_ref().is_none_or(|set| set.contains(&number));
            Some(Cpu { is_allowed, is_usable, ..cpu(unit, number) })
        });
        Self {
            is_this_system,
            cpus: cpus.collect(),
            nodes: nodes(topology),
            caches: topology.objects().filter_map(cache).collect(),
            disk_cpu: None,
        }
    }
}

/// The CPUs this thread runs on, ascending.
fn affine_cpus() -> Option<Vec<u32>> {
    let set = rustix::thread::sched_getaffinity(None).ok()?;
    Some((0..rustix::thread::CpuSet::MAX_CPU as u32).filter(|cpu| set.is_set(*cpu as usize)).collect())
}

fn os_index(object: &TopologyObject) -> Option<u32> {
    u32::try_from(object.os_index()?).ok()
}

fn cpu(unit: &TopologyObject, number: u32) -> Cpu {
    // By hwloc's own count: the operating system's numbers of cores repeat in each package.
    let logical = |kind| unit.first_ancestor_with_type(kind).map(|object| object.logical_index() as u32);
    let node = unit.nodeset().and_then(|nodes| nodes.first_set()).map(|node| usize::from(node) as u32);
    Cpu {
        number,
        package: logical(ObjectType::Package).unwrap_or(0),
        core: logical(ObjectType::Core).unwrap_or(unit.logical_index() as u32),
        thread: logical(ObjectType::Core).map_or(0, |_| unit.sibling_rank() as u32),
        node,
        is_allowed: false,
        is_usable: false,
    }
}

fn cpus_of(object: &TopologyObject) -> Vec<u32> {
    object.cpuset().map_or_else(Vec::new, |set| set.iter_set().map(|cpu| usize::from(cpu) as u32).collect())
}

fn cache(object: &TopologyObject) -> Option<Cache> {
    let Some(ObjectAttributes::Cache(attributes)) = object.attributes() else { return None };
    let bytes = attributes.size().map_or(0, std::num::NonZeroU64::get);
    Some(Cache { name: format!("L{}", attributes.depth()), bytes, cpus: cpus_of(object) })
}

fn nodes(topology: &Topology) -> Vec<Node> {
    let allowed = topology.allowed_nodeset();
    let mut nodes: Vec<Node> = topology
        .objects_with_type(ObjectType::NUMANode)
        .filter_map(|object| {
            let number = os_index(object)?;
            let memory = match object.attributes() {
                Some(ObjectAttributes::NUMANode(attributes)) => {
                    attributes.local_memory().map_or(0, |bytes| bytes.get())
                }
                _ => 0,
            };
            let memory_bytes = if allowed.is_set(number as usize) { memory } else { 0 };
            Some(Node { number, memory_bytes, cpus: cpus_of(object), distances: Vec::new() })
        })
        .collect();
    nodes.sort_by_key(|node| node.number);
    let distances = distances(topology);
    let numbers: Vec<u32> = nodes.iter().map(|node| node.number).collect();
    for node in &mut nodes {
        let row = numbers.iter().map(|to| distances.get(&(node.number, *to)).copied());
        node.distances = row.collect::<Option<_>>().unwrap_or_default();
    }
    nodes
}

/// Between nodes, by their numbers; empty where nothing is known.
fn distances(topology: &Topology) -> HashMap<(u32, u32), u64> {
    let matrices = topology.distances(Some(DistancesKind::MEANS_LATENCY)).unwrap_or_default();
    let of_nodes = matrices.iter().find(|matrix| {
        matrix.objects().all(|object| object.is_some_and(|object| object.object_type() == ObjectType::NUMANode))
    });
    let mut between = HashMap::new();
    let Some(matrix) = of_nodes else { return between };
    let numbers: Vec<Option<u32>> = matrix.objects().map(|object| os_index(object?)).collect();
    for (from, row) in numbers.iter().zip(matrix.distances().chunks(numbers.len().max(1))) {
        for (to, distance) in numbers.iter().zip(row) {
            if let (Some(from), Some(to)) = (from, to) {
                between.insert((*from, *to), *distance);
            }
        }
    }
    between
}
