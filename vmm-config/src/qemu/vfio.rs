//! A device of the host in the VM.

use serde_json::json;
use shared_types::{NvidiaKind, PciAddress};

use super::arg::{Arg, Options};
use super::iommufd;
use super::root_port::RootPort;
use crate::passthrough::PciId;
use crate::path::SocketPath;
use crate::pci::GuestPciPath;
use crate::spec::QemuFd;

/// How QEMU gets the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceBackend {
    /// Over its node in `/dev/vfio/devices`.
    Iommufd {
        /// The open node.
        fd: QemuFd,
    },
    /// Over its group, which QEMU opens.
    Group,
    /// Over a vfio-user socket.
    VfioUser {
        /// The socket.
        socket: SocketPath,
    },
}

/// The device and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VfioDevice {
    /// Where it is on the host.
    pub address: PciAddress,
    /// What it is.
    pub kind: NvidiaKind,
    /// Its ids.
    pub id: PciId,
    /// Its port.
    pub port: RootPort,
    /// How QEMU gets it.
    pub backend: DeviceBackend,
}

impl VfioDevice {
    /// QEMU's id of it, as `query-pci` tells it.
    pub fn qemu_id(&self) -> String {
        format!("host{}", self.port.index)
    }

    /// QEMU's name of it, as its messages tell it.
    pub fn qemu_name(&self) -> String {
        match &self.backend {
            DeviceBackend::Iommufd { fd } => format!("VFIO_FD{fd}"),
            DeviceBackend::Group => self.address.to_string(),
            DeviceBackend::VfioUser { socket } => format!("vfio-user:{}", socket.as_str()),
        }
    }

    /// Where the guest finds it.
    pub fn guest_path(&self) -> GuestPciPath {
        self.port.device_path()
    }

    pub(super) fn args(&self) -> Vec<Arg> {
        let mut args = Vec::from(self.port.args());
        let (id, bus) = (self.qemu_id(), self.port.id());
        let vfio = || Options::new("vfio-pci").text("id", &id).text("bus", &bus).text("addr", "0x00");
        args.push(match &self.backend {
            DeviceBackend::Iommufd { fd } => {
                Arg::new("-device", vfio().text("iommufd", iommufd::ID).number("fd", fd))
            }
            DeviceBackend::Group => Arg::new("-device", vfio().number("host", self.address)),
            DeviceBackend::VfioUser { socket } => Arg::json(
                "-device",
                &json!({
                    "driver": "vfio-user-pci",
                    "id": id,
                    "bus": bus,
                    "addr": "0x00",
                    "socket": { "type": "unix", "path": socket.as_str() },
                }),
            ),
        });
        args
    }
}
