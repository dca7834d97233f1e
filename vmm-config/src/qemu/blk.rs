//! The guest's root disk: virtio-blk, read-only, the same file for every VM of the node.

use super::arg::{Arg, Options};
use super::virtio_device;
use crate::path::AbsolutePath;
use crate::pci::PciSlot;

/// Node name of the root image.
const NODE: &str = "root";

/// The guest's root disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootDisk {
    /// The root image.
    pub path: AbsolutePath,
    /// The disk's slot.
    pub slot: PciSlot,
}

impl RootDisk {
    pub(super) fn args(&self) -> [Arg; 2] {
        // The host's page cache is what lets all VMs share the image, so no O_DIRECT. A read-only node
        // takes a shared lock: a writer elsewhere is refused, another VM is not.
        let node = Options::new("file")
            .text("node-name", NODE)
            .text("filename", self.path.as_str())
            .flag("read-only", true)
            .flag("auto-read-only", false);
        // One queue: the guest reads its root in the first seconds and from its own cache then.
        let disk = virtio_device("virtio-blk-pci", self.slot).text("drive", NODE).number("num-queues", 1);
        [Arg::new("-blockdev", node), Arg::new("-device", disk)]
    }
}
