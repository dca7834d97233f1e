//! The guest's memory.

use super::arg::{Arg, Options};
use crate::units::VmMemory;

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

/// The VM's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// How much.
    pub size: VmMemory,
    /// Who can map it.
    pub backing: MemoryBacking,
}

impl Memory {
    pub(super) fn args(&self) -> [Arg; 2] {
        let bytes = self.size.size().bytes();
        let (kind, shared) = match self.backing {
            MemoryBacking::Private => ("memory-backend-ram", false),
            MemoryBacking::Shared => ("memory-backend-memfd", true),
        };
        let backend = Options::new(kind)
            .text("id", RAM_ID)
            .number("size", bytes)
            .flag("share", shared)
            .flag("dump", false)
            .flag("merge", false);
        [Arg::new("-object", backend), Arg::new("-m", Options::new(&format!("{bytes}b")))]
    }
}
