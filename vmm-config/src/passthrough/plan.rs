//! Where each device goes.

use shared_types::{Accelerator, NvidiaKind, PciAddress};

use super::numa::GuestNodes;
use super::window::{BarSpace, MmioWindow, WindowError};
use super::{Access, AddressWidth, HostDevices, VerifiedDevice};
use crate::pci::{BusFull, PciSlots, RootBus};
use crate::qemu::{DeviceBackend, Expander, Iommufd, Passthrough, PortBus, RootPort, VfioDevice};
use crate::request::PodRequest;
use crate::spec::QemuFd;

/// Devices that no VM can have together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DevicesError {
    /// Their BARs do not fit.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// They have no slots.
    #[error(
        "{devices} host devices need {devices} root ports{}, and {free} of the root bus's {} slots are free: assign fewer \
         devices or interfaces", expanders(.nodes), PciSlots::CAPACITY
    )]
    Slots {
        /// How many devices.
        devices: usize,
        /// How many root buses for NUMA nodes, which take a slot each.
        nodes: usize,
        /// How many slots there are.
        free: usize,
    },
    /// The same device twice.
    #[error("{0} is assigned twice")]
    Twice(PciAddress),
    /// iommufd and the legacy interface in one VM: QEMU would pin the guest's memory twice.
    #[error(
        "{group} can be had over its VFIO group only, {iommufd} over iommufd: one VM cannot have both; bind both to one \
         driver"
    )]
    Mixed {
        /// One over its group.
        group: PciAddress,
        /// One over iommufd.
        iommufd: PciAddress,
    },
    /// A confidential VM over the legacy interface: it ends at 65,535 mappings, which private memory soon fragments into.
    #[error(
        "{0} can be had over its VFIO group only, and a confidential VM needs iommufd: use a kernel with CONFIG_IOMMUFD and \
         CONFIG_VFIO_DEVICE_CDEV"
    )]
    NeedsIommufd(PciAddress),
}

fn expanders(nodes: &usize) -> String {
    match nodes {
        0 => String::new(),
        nodes => format!(" on {nodes} root buses for NUMA nodes"),
    }
}

/// What of the VM decides where devices go.
#[derive(Debug)]
pub(crate) struct Vm<'a> {
    pub(crate) request: &'a PodRequest,
    pub(crate) accel: Accelerator,
    pub(crate) confidential: bool,
}

/// Gives each device a port, and the ports slots and windows. Also gives the guest's NUMA nodes, and the width of its
/// addresses where it matters.
pub(crate) fn plan(
    host: &HostDevices,
    vm: &Vm<'_>,
    mut take_fd: impl FnMut() -> QemuFd,
    slots: &mut PciSlots,
) -> Result<(Passthrough, GuestNodes), DevicesError> {
    if host.devices.is_empty() {
        return Ok((Passthrough::default(), GuestNodes::default()));
    }
    check(host, vm.confidential)?;
    let facts = || host.devices.iter().map(VerifiedDevice::description);
    let spaces: Vec<(NvidiaKind, BarSpace)> =
        facts().map(|device| (device.kind, BarSpace::of(&device.bars))).collect();
    let width = match vm.accel {
        Accelerator::Kvm => host.address_width,
        Accelerator::Tcg => AddressWidth::EMULATED,
    };
    let window = MmioWindow::of(&spaces, vm.request.memory.size(), width.min(AddressWidth::FIRMWARE))?;
    let nodes = GuestNodes::of(facts().map(|d| d.node), &host.nodes, vm.request.memory, vm.request.vcpus);

    let roots = if nodes.memory.len() > 1 { nodes.memory.len() } else { 0 };
    let on_board = facts().filter(|device| nodes.root_of(device.node).is_none()).count();
    let full = DevicesError::Slots { devices: host.devices.len(), nodes: roots, free: slots.free() };
    if on_board + roots > slots.free() {
        return Err(full);
    }
    let full = |BusFull| full.clone();
    let mut expanders = Vec::new();
    for rank in 0..roots {
        let bus = RootBus::of_node(rank).ok_or(BusFull).map_err(full)?;
        expanders.push((Expander { rank, bus, slot: slots.take().map_err(full)? }, PciSlots::of_node()));
    }

    let iommufd = facts().any(|d| d.access == Access::Iommufd).then(|| Iommufd { fd: take_fd() });
    let mut devices = Vec::new();
    for (index, (device, (kind, space))) in facts().zip(&spaces).enumerate() {
        let (bus, slot) = match nodes.root_of(device.node).and_then(|rank| expanders.get_mut(rank)) {
            Some((expander, slots)) => {
                (PortBus::Node { rank: expander.rank, bus: expander.bus }, slots.take())
            }
            None => (PortBus::Board, slots.take()),
        };
        let backend = match &device.access {
            Access::Iommufd => DeviceBackend::Iommufd { fd: take_fd() },
            Access::Group => DeviceBackend::Group,
            Access::VfioUser { socket } => DeviceBackend::VfioUser { socket: socket.clone() },
        };
        let port = RootPort { index, bus, slot: slot.map_err(full)?, space: *space };
        devices.push(VfioDevice { address: device.address, kind: *kind, id: device.id, port, backend });
    }
    let expanders = expanders.into_iter().map(|(expander, _)| expander).collect();
    Ok((Passthrough { iommufd, expanders, devices, window: Some(window), width: Some(width) }, nodes))
}

fn check(host: &HostDevices, confidential: bool) -> Result<(), DevicesError> {
    let facts = || host.devices.iter().map(VerifiedDevice::description);
    let mut seen = std::collections::BTreeSet::new();
    if let Some(twice) = facts().find(|device| !seen.insert(device.address)) {
        return Err(DevicesError::Twice(twice.address));
    }
    let by = |access: Access| facts().find(|device| device.access == access).map(|device| device.address);
    match (by(Access::Group), by(Access::Iommufd)) {
        (Some(group), _) if confidential => Err(DevicesError::NeedsIommufd(group)),
        (Some(group), Some(iommufd)) => Err(DevicesError::Mixed { group, iommufd }),
        _ => Ok(()),
    }
}
