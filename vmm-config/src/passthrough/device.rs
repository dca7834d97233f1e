//! A host device, as facts.

use std::fmt;

use shared_types::{NvidiaKind, PciAddress};

use super::{AddressWidth, HostNode};
use crate::path::SocketPath;

/// Vendor and device id, as in `10de:2330`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PciId {
    /// The vendor.
    pub vendor: u16,
    /// The device.
    pub device: u16,
}

impl fmt::Display for PciId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

/// One memory BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bar {
    /// 0 to 5; of a 64-bit BAR the lower.
    pub index: u8,
    /// Bytes.
    pub size: u64,
    /// 64-bit address.
    pub wide: bool,
    /// Prefetchable.
    pub prefetchable: bool,
}

impl Bar {
    /// Whether it goes above 4 GiB: a bridge has a 64-bit window for prefetchable memory only.
    pub(super) const fn is_high(&self) -> bool {
        self.wide && self.prefetchable
    }
}

/// How QEMU gets the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Over its node in `/dev/vfio/devices`, which Coffer opens for it, and the VM's one iommufd.
    Iommufd,
    /// Over its group in `/dev/vfio`, which QEMU opens by itself: there is no way to hand it over.
    Group,
    /// Over the socket of a program that plays the device.
    VfioUser {
        /// The socket.
        socket: SocketPath,
    },
}

/// What is known of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Where it is on the host.
    pub address: PciAddress,
    /// What it is.
    pub kind: NvidiaKind,
    /// Its ids.
    pub id: PciId,
    /// Its memory BARs.
    pub bars: Vec<Bar>,
    /// The host's NUMA node it hangs on, where there are several.
    pub node: Option<u32>,
    /// How QEMU gets it.
    pub access: Access,
}

/// A device whose confidential-computing mode was verified, so that it may go to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedDevice(Description);

impl VerifiedDevice {
    /// Says so. The one caller is `vmm`'s conversion of crate `gpu`'s `Assignable`, which only comes from reading the
    /// device's active mode; this crate does no I/O and cannot check it.
    pub const fn declare(description: Description) -> Self {
        Self(description)
    }

    /// What is known of it.
    pub const fn description(&self) -> &Description {
        &self.0
    }
}

/// The devices that go to one VM, and what of the host decides where they go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostDevices {
    /// In the order in which the guest shall see them.
    pub devices: Vec<VerifiedDevice>,
    /// How far the host's physical addresses reach; under KVM the guest's reach no further.
    pub address_width: AddressWidth,
    /// The host's NUMA nodes with memory; one or none: there is nothing to place.
    pub nodes: Vec<HostNode>,
}
