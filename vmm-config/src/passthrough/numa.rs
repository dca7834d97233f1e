//! Which NUMA nodes the guest gets, so that its memory is near its devices.

use std::collections::BTreeSet;

use crate::qemu::{MemoryNode, NodePolicy};
use crate::units::{MemorySize, Vcpus, VmMemory};

/// A NUMA node of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostNode {
    /// Its number.
    pub id: u32,
    /// Its memory.
    pub memory: MemorySize,
}

/// The guest's nodes: none, so that memory comes from wherever the host likes; one, so that all of it comes from there;
/// or several, each with its share of memory and processors and a root bus for its devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GuestNodes {
    /// By rank, in the order of the host's numbers.
    pub(crate) memory: Vec<MemoryNode>,
}

impl GuestNodes {
    /// One for each of the host's nodes that has a device, if the host has several. A guest whose processors cannot be
    /// shared out evenly gets no nodes of its own.
    pub(super) fn of(
        devices: impl Iterator<Item = Option<u32>>,
        host: &[HostNode],
        memory: VmMemory,
        vcpus: Vcpus,
    ) -> Self {
        if host.len() < 2 {
            return Self::default();
        }
        let with_devices: BTreeSet<u32> = devices.flatten().collect();
        let nodes: Vec<&HostNode> = host.iter().filter(|node| with_devices.contains(&node.id)).collect();
        let count = nodes.len();
        if count == 0
            || !usize::from(vcpus.get()).is_multiple_of(count)
            || count > crate::pci::RootBus::MOST_NODES
        {
            return Self::default();
        }
        let shares = shares(memory, count);
        let node = |(node, size): (&HostNode, MemorySize)| {
            // A node that is too small would end the VM at the first page that it does not have.
            let policy = if size <= node.memory { NodePolicy::Bind } else { NodePolicy::Preferred };
            MemoryNode { size, host: node.id, policy }
        };
        Self { memory: nodes.into_iter().zip(shares).map(node).collect() }
    }

    /// How many sockets the processors are in.
    pub(crate) fn sockets(&self) -> u8 {
        u8::try_from(self.memory.len().max(1)).unwrap_or(1)
    }

    /// The rank of the guest's root bus for a device on this node of the host; `None` for the board's.
    pub(super) fn root_of(&self, host: Option<u32>) -> Option<usize> {
        if self.memory.len() < 2 {
            return None;
        }
        self.memory.iter().position(|node| Some(node.host) == host)
    }
}

/// Equal parts of whole huge pages; the first has what is left over.
fn shares(memory: VmMemory, count: usize) -> Vec<MemorySize> {
    const PAGE: u64 = 2 << 20;
    let bytes = memory.size().bytes();
    let count = count as u64;
    let each = bytes / count / PAGE * PAGE;
    (0..count)
        .map(|rank| MemorySize::from_bytes(if rank == 0 { bytes - each * (count - 1) } else { each }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(devices: &[Option<u32>], host: usize, vcpus: u64) -> Vec<(u32, u64, NodePolicy)> {
        let host: Vec<_> =
            (0..).take(host).map(|id| HostNode { id, memory: MemorySize::from_mib(1024) }).collect();
        let memory = VmMemory::new(MemorySize::from_mib(2050)).unwrap();
        let nodes = GuestNodes::of(devices.iter().copied(), &host, memory, Vcpus::new(vcpus).unwrap());
        nodes.memory.into_iter().map(|node| (node.host, node.size.mib(), node.policy)).collect()
    }

    #[test]
    fn memory_is_shared_out_over_the_nodes_that_have_devices() {
        let two = nodes(&[Some(2), Some(0), Some(2)], 4, 8);
        assert_eq!(two, [(0, 1026, NodePolicy::Preferred), (2, 1024, NodePolicy::Bind)]);
        assert_eq!(nodes(&[Some(1)], 2, 3), [(1, 2050, NodePolicy::Preferred)]);
    }

    #[test]
    fn there_is_nothing_to_place_without_nodes_or_even_shares() {
        assert_eq!(nodes(&[Some(0), None], 1, 8), []);
        assert_eq!(nodes(&[None], 2, 8), []);
        assert_eq!(nodes(&[Some(0), Some(1)], 2, 3), []);
        assert_eq!(nodes(&[Some(7)], 2, 2), []);
    }
}
