//! The guest's memory.

use super::arg::{Arg, Options};
use crate::units::{MemorySize, VmMemory};

/// Id of the backend that the board takes its memory from.
pub(super) const RAM_ID: &str = "ram";

/// Who can map the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryBacking {
    /// QEMU alone: anonymous memory.
    Private,
    /// QEMU and the device processes that get it over a vhost-user socket: a sealed memfd.
    Shared,
}

/// How firmly memory is kept on a node of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePolicy {
    /// There or nowhere.
    Bind,
    /// There as long as there is room.
    Preferred,
}

/// The part of the memory that comes from one NUMA node of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNode {
    /// How much.
    pub size: MemorySize,
    /// The host's number of the node.
    pub host: u32,
    /// How firmly.
    pub policy: NodePolicy,
}

/// The VM's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// How much.
    pub size: VmMemory,
    /// Who can map it.
    pub backing: MemoryBacking,
    /// Its parts. None: it comes from anywhere. Several: the guest has as many nodes.
    pub nodes: Vec<MemoryNode>,
}

impl Memory {
    pub(super) fn args(&self) -> Vec<Arg> {
        let size = Arg::new("-m", Options::new(&format!("{}b", self.size.size().bytes())));
        let backends = match self.nodes.as_slice() {
            [] => vec![self.backend(RAM_ID, self.size.size())],
            [node] => vec![node.place(self.backend(RAM_ID, node.size))],
            nodes => {
                (0..).zip(nodes).map(|(rank, n)| n.place(self.backend(&node_id(rank), n.size))).collect()
            }
        };
        backends.into_iter().map(|backend| Arg::new("-object", backend)).chain([size]).collect()
    }

    fn backend(&self, id: &str, size: MemorySize) -> Options {
        let (kind, shared) = match self.backing {
            MemoryBacking::Private => ("memory-backend-ram", false),
            MemoryBacking::Shared => ("memory-backend-memfd", true),
        };
        Options::new(kind)
            .text("id", id)
            .number("size", size.bytes())
            .flag("share", shared)
            .flag("dump", false)
            .flag("merge", false)
    }
}

impl MemoryNode {
    fn place(&self, backend: Options) -> Options {
        let policy = match self.policy {
            NodePolicy::Bind => "bind",
            NodePolicy::Preferred => "preferred",
        };
        backend.number("host-nodes", self.host).text("policy", policy)
    }
}

/// Id of the backend of the guest's node of this rank.
pub(super) fn node_id(rank: usize) -> String {
    format!("{RAM_ID}{rank}")
}
