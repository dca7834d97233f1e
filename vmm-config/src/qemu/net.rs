//! Network interfaces: virtio-net on a tap device that Coffer opened.

use shared_types::NicMac;

use super::arg::{Arg, Options};
use super::virtio_device;
use crate::pci::{GuestPciPath, PciSlot};
use crate::spec::QemuFd;

/// One queue pair of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NicQueue {
    /// The tap device's queue.
    pub tap: QemuFd,
    /// `/dev/vhost-net`, where packets go past QEMU.
    pub vhost: Option<QemuFd>,
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Rank among the VM's interfaces, from 0.
    pub index: usize,
    /// The guest's address: the pod interface's own.
    pub mac: NicMac,
    /// Largest packet in bytes.
    pub mtu: u16,
    /// Its queue pairs, at least one; either all have vhost or none.
    pub queues: Vec<NicQueue>,
    /// Its slot.
    pub slot: PciSlot,
}

impl Nic {
    /// Where the guest finds the interface.
    pub fn guest_path(&self) -> GuestPciPath {
        self.slot.guest_path()
    }

    pub(super) fn args(&self) -> [Arg; 2] {
        let id = format!("net{}", self.index);
        let mut netdev =
            Options::new("tap").text("id", &id).text("fds", &list(self.queues.iter().map(|q| q.tap)));
        let vhost: Vec<QemuFd> = self.queues.iter().filter_map(|q| q.vhost).collect();
        netdev = netdev.flag("vhost", !vhost.is_empty());
        if !vhost.is_empty() {
            netdev = netdev.text("vhostfds", &list(vhost.into_iter()));
        }
        // No boot ROM: the VM never boots from the network.
        let mut device = virtio_device("virtio-net-pci", self.slot)
            .text("netdev", &id)
            .number("mac", self.mac)
            .number("host_mtu", self.mtu)
            .text("romfile", "");
        if self.queues.len() > 1 {
            // An interrupt for each direction of each queue, one for control, one for configuration.
            device = device.flag("mq", true).number("vectors", 2 * self.queues.len() + 2);
        }
        [Arg::new("-netdev", netdev), Arg::new("-device", device)]
    }
}

fn list(fds: impl Iterator<Item = QemuFd>) -> String {
    fds.map(|fd| fd.to_string()).collect::<Vec<_>>().join(":")
}
