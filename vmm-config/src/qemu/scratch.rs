//! The scratch disk: a file of the host's without a name, which the guest encrypts with a key of its own.

use shared_types::ScratchSize;

use super::arg::{Arg, Options};
use super::virtio_device;
use crate::hotplug::Lun;
use crate::pci::PciSlot;
use crate::spec::QemuFd;
use crate::units::Vcpus;

/// Node name of the disk.
const NODE: &str = "scratch";
/// Its set of descriptors in QEMU; layers have those up to the largest LUN.
const SET: u16 = Lun::MAX + 1;

/// The scratch disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScratchDisk {
    /// The file.
    pub fd: QemuFd,
    /// The disk's slot.
    pub slot: PciSlot,
    /// Its size.
    pub size: ScratchSize,
    /// Request queues: one per CPU, at most [`Self::MAX_QUEUES`].
    queues: u8,
}

impl ScratchDisk {
    /// A bound, so that a large VM does not have a queue for each CPU.
    const MAX_QUEUES: u8 = 4;

    /// A disk for a VM with this many CPUs.
    pub(crate) fn new(fd: QemuFd, slot: PciSlot, size: ScratchSize, vcpus: Vcpus) -> Self {
        Self { fd, slot, size, queues: vcpus.get().min(Self::MAX_QUEUES) }
    }

    pub(super) fn args(&self) -> [Arg; 3] {
        let file = Options::new(&format!("fd={}", self.fd)).number("set", SET).text("opaque", NODE);
        // What the guest frees is given back. Nothing is read of it after the VM's end, so no write has to last.
        let node = Options::new("file")
            .text("node-name", NODE)
            .text("filename", &format!("/dev/fdset/{SET}"))
            .flag("read-only", false)
            .flag("auto-read-only", false)
            .text("locking", "off")
            .text("discard", "unmap")
            .flag("cache.no-flush", true);
        [Arg::new("-add-fd", file), Arg::new("-blockdev", node), self.device()]
    }

    /// The same disk with nothing behind it.
    pub(super) fn rehearsal(&self) -> [Arg; 2] {
        let node = Options::new("null-co").text("node-name", NODE).number("size", self.size.bytes());
        [Arg::new("-blockdev", node), self.device()]
    }

    fn device(&self) -> Arg {
        // A node's disk that is full or broken is the guest's I/O error; QEMU's own way is to stop the VM.
        let disk = virtio_device("virtio-blk-pci", self.slot)
            .text("drive", NODE)
            .text("serial", ScratchSize::SERIAL)
            .number("num-queues", self.queues)
            .text("werror", "report")
            .text("rerror", "report");
        Arg::new("-device", disk)
    }
}
