//! Boards for the tests of the whole, and what is refused.

use shared_types::{Accelerator, NvidiaKind};

use super::*;

use crate::config::{AutoOr, NodeConfig};
use crate::pci::PciSlots;
use crate::plan::tests::{image, nic, request, vhost};
use crate::plan::{HostFacts, PlanError, plan};
use crate::spec::{FdRole, VmSpec};
use crate::units::MemorySize;

const MIB: u64 = 1 << 20;

/// GPUs of one product and their switches, shared out over the host's NUMA nodes as a server does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Board {
    pub(crate) gpus: usize,
    pub(crate) switches: usize,
    pub(crate) nodes: u32,
    pub(crate) access: fn(usize) -> Access,
    pub(crate) device: u16,
    pub(crate) memory: u64,
}

impl Board {
    pub(crate) fn h100(gpus: usize) -> Self {
        let memory = 128 * 1024 * MIB;
        Self { gpus, switches: 0, nodes: 1, access: |_| Access::Iommufd, device: 0x2330, memory }
    }

    pub(crate) fn b200(gpus: usize) -> Self {
        Self { device: 0x2901, memory: 256 * 1024 * MIB, ..Self::h100(gpus) }
    }
}

pub(crate) fn devices(board: &Board) -> HostDevices {
    let bar = |index, size, prefetchable| Bar { index, size, wide: true, prefetchable };
    let gpu = vec![bar(0, 16 * MIB, true), bar(2, board.memory, true), bar(4, 32 * MIB, true)];
    let switch = vec![bar(0, 32 * MIB, false)];
    let device = |rank: usize| {
        let (kind, bars, device) = match rank < board.gpus {
            true => (NvidiaKind::Gpu, gpu.clone(), board.device),
            false => (NvidiaKind::NvSwitch, switch.clone(), 0x22a3),
        };
        let node = u64::from(board.nodes) * rank as u64 / (board.gpus + board.switches) as u64;
        VerifiedDevice::declare(Description {
            address: format!("0000:{:02x}:00.0", 0x41 + rank).parse().unwrap(),
            kind,
            id: PciId { vendor: 0x10de, device },
            bars,
            node: (board.nodes > 1).then(|| u32::try_from(node).unwrap()),
            access: (board.access)(rank),
        })
    };
    HostDevices {
        devices: (0..board.gpus + board.switches).map(device).collect(),
        address_width: AddressWidth::new(52).unwrap(),
        nodes: (0..board.nodes).map(|id| HostNode { id, memory: MemorySize::from_mib(1 << 20) }).collect(),
    }
}

fn try_plan(passthrough: HostDevices, nics: usize) -> Result<VmSpec, PlanError> {
    let host = HostFacts { passthrough, ..vhost(vec![nic(1, false); nics]) };
    plan(&NodeConfig::default(), &image(), &request(4), &host)
}

fn refusal(passthrough: HostDevices, nics: usize) -> String {
    try_plan(passthrough, nics).unwrap_err().to_string()
}

#[test]
fn each_device_knows_its_place_and_its_descriptor() {
    let spec = try_plan(devices(&Board { switches: 1, ..Board::h100(2) }), 1).unwrap();
    let paths: Vec<_> = spec.passthrough().iter().map(|device| device.guest_path().to_string()).collect();
    assert_eq!(paths, ["07/00", "08/00", "09/00"]);
    let fds: Vec<_> = spec.fds().into_iter().map(|(fd, role)| (fd.number(), role)).collect();
    let vfio = |address: &str| FdRole::Vfio { address: address.parse().unwrap() };
    assert_eq!(
        fds[4..],
        [
            (7, FdRole::Iommu),
            (8, vfio("0000:41:00.0")),
            (9, vfio("0000:42:00.0")),
            (10, vfio("0000:43:00.0"))
        ]
    );
    assert_eq!(spec.passthrough()[1].qemu_name(), "VFIO_FD9");
    assert!(spec.locks_memory() && !try_plan(HostDevices::default(), 0).unwrap().locks_memory());
}

#[test]
fn devices_of_a_node_are_on_its_root_bus() {
    let mut host = devices(&Board { nodes: 2, ..Board::h100(4) });
    let mut description = host.devices[3].description().clone();
    description.node = None;
    host.devices[3] = VerifiedDevice::declare(description);
    let spec = try_plan(host, 0).unwrap();
    let paths: Vec<_> = spec.passthrough().iter().map(|device| device.guest_path().to_string()).collect();
    assert_eq!(paths, ["20/00/00", "20/01/00", "40/00/00", "08/00"]);
}

#[test]
fn more_devices_than_slots_are_refused_with_the_arithmetic() {
    let board = Board { switches: 4, ..Board::h100(8) };
    let nics = PciSlots::CAPACITY - 5 - 12;
    try_plan(devices(&board), nics).unwrap();
    let text = refusal(devices(&board), nics + 1);
    assert!(text.contains("12 host devices need 12 root ports, and 11 of the root bus's 30"), "{text}");
}

#[test]
fn a_window_beyond_the_hosts_addresses_is_refused_and_under_tcg_the_hosts_do_not_count() {
    let mut host = devices(&Board::h100(8));
    host.address_width = AddressWidth::new(39).unwrap();
    let text = refusal(host.clone(), 0);
    assert!(text.contains("8 x 256 GiB") && text.contains("39 bits end at 512 GiB"), "{text}");
    let tcg = NodeConfig { accel: AutoOr::Is(Accelerator::Tcg), ..NodeConfig::default() };
    let host = HostFacts { passthrough: host, ..vhost(vec![]) };
    plan(&tcg, &image(), &request(1), &host).unwrap();
}

#[test]
fn sets_that_no_vm_can_have_are_refused() {
    let mut twice = devices(&Board::h100(1));
    twice.devices.push(twice.devices[0].clone());
    assert!(refusal(twice, 0).contains("0000:41:00.0 is assigned twice"));
    let mixed = |rank| if rank == 0 { Access::Group } else { Access::Iommufd };
    let text = refusal(devices(&Board { access: mixed, ..Board::h100(2) }), 0);
    assert!(text.contains("0000:41:00.0 can be had over its VFIO group only, 0000:42:00.0"), "{text}");
}

#[test]
fn a_confidential_vm_needs_iommufd() {
    let host = devices(&Board { access: |_| Access::Group, ..Board::h100(1) });
    let request = request(1);
    let vm = Vm { request: &request, accel: Accelerator::Kvm, confidential: true };
    let mut fd = crate::spec::QemuFd::FIRST;
    let take = || {
        fd = fd.next();
        fd
    };
    let error = super::plan(&host, &vm, take, &mut PciSlots::new()).unwrap_err();
    assert!(matches!(error, DevicesError::NeedsIommufd(_)), "{error}");
}
