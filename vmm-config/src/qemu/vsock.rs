//! The socket device between the shim and the guest's agent.

use shared_types::Cid;

use super::arg::{Arg, Options};
use super::virtio_device;
use crate::path::SocketPath;
use crate::pci::PciSlot;
use crate::spec::QemuFd;

/// Id of the character device that leads to the vhost-user process.
const CHARDEV: &str = "vsock";

/// Who moves the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VsockBackend {
    /// The host's kernel, with a context id that Coffer claimed on this descriptor of `/dev/vhost-vsock`.
    Vhost {
        /// The descriptor in QEMU.
        fd: QemuFd,
        /// The claimed id.
        cid: Cid,
    },
    /// A vhost-device-vsock process, where the host's kernel has no vhost-vsock.
    VhostUser {
        /// The socket that the process listens on.
        socket: SocketPath,
    },
}

/// The vsock device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vsock {
    /// Who moves the data.
    pub backend: VsockBackend,
    /// Its slot.
    pub slot: PciSlot,
}

impl Vsock {
    pub(super) fn args(&self) -> Vec<Arg> {
        match &self.backend {
            VsockBackend::Vhost { fd, cid } => {
                let device = virtio_device("vhost-vsock-pci", self.slot)
                    .number("vhostfd", fd)
                    .number("guest-cid", cid.get());
                vec![Arg::new("-device", device)]
            }
            VsockBackend::VhostUser { socket } => {
                let chardev = Options::new("socket").text("id", CHARDEV).text("path", socket.as_str());
                let device = virtio_device("vhost-user-vsock-pci", self.slot).text("chardev", CHARDEV);
                vec![Arg::new("-chardev", chardev), Arg::new("-device", device)]
            }
        }
    }
}
