//! The disk with the pod's initdata: a few sectors, read once by the guest's first programs.

use super::arg::{Arg, Options};
use super::virtio_device;
use crate::pci::PciSlot;

/// Node name of the disk.
const NODE: &str = "initdata";
/// Its file, in the VM's state directory.
pub const INITDATA_FILE: &str = "initdata.img";
/// Its serial number, by which the guest can tell it from others.
pub(crate) const INITDATA_SERIAL: &str = "coffer-initdata";

/// The initdata disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitdataDisk {
    /// The disk's slot.
    pub slot: PciSlot,
}

impl InitdataDisk {
    pub(super) fn args(&self) -> [Arg; 2] {
        let node = Options::new("file")
            .text("node-name", NODE)
            .text("filename", INITDATA_FILE)
            .flag("read-only", true)
            .flag("auto-read-only", false);
        let disk = virtio_device("virtio-blk-pci", self.slot)
            .text("drive", NODE)
            .text("serial", INITDATA_SERIAL)
            .number("num-queues", 1);
        [Arg::new("-blockdev", node), Arg::new("-device", disk)]
    }
}
