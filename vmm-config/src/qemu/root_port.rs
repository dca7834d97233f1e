//! The port that a host device sits behind, alone.

use super::arg::{Arg, Options};
use super::expander::Expander;
use crate::passthrough::BarSpace;
use crate::pci::{GuestPciPath, PciSlot, RootBus};

/// The root bus that a port is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortBus {
    /// The board's own.
    Board,
    /// A NUMA node's.
    Node {
        /// The guest's number of the node.
        rank: usize,
        /// The bus's number.
        bus: RootBus,
    },
}

/// The port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootPort {
    /// Rank among the VM's ports, from 0.
    pub index: usize,
    /// The bus it is on.
    pub bus: PortBus,
    /// Its slot there.
    pub slot: PciSlot,
    /// What its device's BARs take.
    pub space: BarSpace,
}

impl RootPort {
    /// Id of the bus behind it.
    pub(super) fn id(&self) -> String {
        format!("port{}", self.index)
    }

    /// Where the guest finds the device behind it.
    pub fn device_path(&self) -> GuestPciPath {
        let root = match self.bus {
            PortBus::Board => RootBus::BOARD,
            PortBus::Node { bus, .. } => bus,
        };
        GuestPciPath::behind_port(root, self.slot)
    }

    pub(super) fn args(&self) -> [Arg; 1] {
        let bus = match self.bus {
            PortBus::Board => "pcie.0".to_owned(),
            PortBus::Node { rank, .. } => Expander::id(rank),
        };
        // The windows are the device's and no larger. Without I/O ports there is room for any number of ports: each
        // would take 4 KiB of the 64 KiB. Nothing is plugged into a running VM.
        let port = Options::new("pcie-root-port")
            .text("id", &self.id())
            .text("bus", &bus)
            .text("addr", &format!("0x{}", self.slot))
            .number("port", self.index)
            .number("chassis", self.index + 1)
            .flag("hotplug", false)
            .number("io-reserve", 0)
            .number("mem-reserve", self.space.low)
            .number("pref64-reserve", self.space.high);
        [Arg::new("-device", port)]
    }
}
