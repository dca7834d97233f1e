//! The guest's NUMA nodes, each with its part of the memory and of the processors.

use super::arg::{Arg, Options};
use super::memory::{Memory, node_id};
use crate::units::Vcpus;

/// One for each part of the memory, if there are several.
pub(super) fn args(memory: &Memory, vcpus: Vcpus) -> Vec<Arg> {
    let count = memory.nodes.len();
    if count < 2 {
        return Vec::new();
    }
    let each = usize::from(vcpus.get()) / count;
    let node = |rank: usize| {
        let first = rank * each;
        let node = Options::new("node")
            .number("nodeid", rank)
            .text("cpus", &format!("{first}-{}", first + each - 1))
            .text("memdev", &node_id(rank));
        Arg::new("-numa", node)
    };
    (0..count).map(node).collect()
}
