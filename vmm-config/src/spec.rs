//! The VM, typed. [`crate::plan`] makes it; nothing else can, so it is consistent by construction.

use std::fmt;

use measurement::ovmf::Acceptance;
use shared_types::{Accelerator, PciAddress};

pub use crate::path::SocketPath;
use crate::qemu::{
    ConfidentialGuest, Console, Cpu, DeviceBackend, InitdataDisk, Kernel, Machine, Memory, Nic, Passthrough,
    Pvpanic, Qmp, Rng, RootDisk, ScratchDisk, ScsiController, VfioDevice, Vsock, VsockBackend,
};
use crate::units::{Vcpus, VmMemory, VmName};

/// Number of a file descriptor in the QEMU process; Coffer puts the file there when it starts QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QemuFd(u32);

impl QemuFd {
    /// The first after standard input, output and error.
    pub(crate) const FIRST: Self = Self(3);

    /// The descriptor after this one.
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for QemuFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a descriptor that QEMU gets is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FdRole {
    /// QEMU's end of the control socket pair.
    Qmp,
    /// The end of the console's pipe that QEMU writes.
    Console,
    /// The vhost-vsock device with the claimed context id.
    Vsock,
    /// One queue of a tap device.
    Tap {
        /// Rank of the interface.
        nic: usize,
        /// Rank of the queue.
        queue: usize,
    },
    /// vhost-net for one queue of an interface.
    VhostNet {
        /// Rank of the interface.
        nic: usize,
        /// Rank of the queue.
        queue: usize,
    },
    /// The file behind the scratch disk.
    Scratch,
    /// `/dev/iommu`, one for all devices.
    Iommu,
    /// The node in `/dev/vfio/devices` of a host device.
    Vfio {
        /// The device on the host.
        address: PciAddress,
    },
}

/// One VM, completely described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    pub(crate) name: VmName,
    pub(crate) machine: Machine,
    pub(crate) cpu: Cpu,
    pub(crate) memory: Memory,
    pub(crate) kernel: Kernel,
    pub(crate) qmp: Qmp,
    pub(crate) console: Option<Console>,
    pub(crate) acceptance: Acceptance,
    pub(crate) confidential: Option<ConfidentialGuest>,
    pub(crate) initdata: Option<InitdataDisk>,
    pub(crate) root: RootDisk,
    pub(crate) scratch: Option<ScratchDisk>,
    pub(crate) scsi: ScsiController,
    pub(crate) vsock: Vsock,
    pub(crate) pvpanic: Pvpanic,
    pub(crate) rng: Option<Rng>,
    pub(crate) nics: Vec<Nic>,
    pub(crate) passthrough: Passthrough,
}

impl VmSpec {
    /// The VM's name.
    pub const fn name(&self) -> &VmName {
        &self.name
    }

    /// What executes it.
    pub const fn accelerator(&self) -> Accelerator {
        self.machine.accel
    }

    /// Its memory.
    pub const fn memory(&self) -> VmMemory {
        self.memory.size
    }

    /// Its CPUs.
    pub const fn vcpus(&self) -> Vcpus {
        self.cpu.vcpus
    }

    /// What makes it a confidential VM, if it is one.
    pub const fn confidential(&self) -> Option<&ConfidentialGuest> {
        self.confidential.as_ref()
    }

    /// Who accepts the memory of a confidential VM, where that is known.
    pub const fn acceptance(&self) -> Acceptance {
        self.acceptance
    }

    /// How the agent is reached.
    pub const fn vsock(&self) -> &VsockBackend {
        &self.vsock.backend
    }

    /// Its scratch disk.
    pub const fn scratch(&self) -> Option<&ScratchDisk> {
        self.scratch.as_ref()
    }

    /// Its network interfaces, in the order in which they were planned.
    pub fn nics(&self) -> &[Nic] {
        &self.nics
    }

    /// The host's devices that it has, in the order in which they were planned; each knows its place in the guest.
    pub fn passthrough(&self) -> &[VfioDevice] {
        &self.passthrough.devices
    }

    /// Whether the kernel locks the guest's memory, since devices reach it over the IOMMU.
    pub fn locks_memory(&self) -> bool {
        let by_socket = |device: &VfioDevice| matches!(device.backend, DeviceBackend::VfioUser { .. });
        !self.passthrough().iter().all(by_socket)
    }

    /// Every descriptor that QEMU must be started with, by number.
    pub fn fds(&self) -> Vec<(QemuFd, FdRole)> {
        let mut fds = vec![(self.qmp.fd, FdRole::Qmp)];
        fds.extend(self.console.map(|console| (console.fd, FdRole::Console)));
        if let VsockBackend::Vhost { fd, .. } = self.vsock.backend {
            fds.push((fd, FdRole::Vsock));
        }
        fds.extend(self.scratch.map(|scratch| (scratch.fd, FdRole::Scratch)));
        for nic in &self.nics {
            for (queue, pair) in nic.queues.iter().enumerate() {
                fds.push((pair.tap, FdRole::Tap { nic: nic.index, queue }));
                fds.extend(pair.vhost.map(|fd| (fd, FdRole::VhostNet { nic: nic.index, queue })));
            }
        }
        fds.extend(self.passthrough.iommufd.map(|iommufd| (iommufd.fd, FdRole::Iommu)));
        for device in self.passthrough() {
            if let DeviceBackend::Iommufd { fd } = device.backend {
                fds.push((fd, FdRole::Vfio { address: device.address }));
            }
        }
        fds.sort_unstable_by_key(|(fd, _)| *fd);
        fds
    }
}
