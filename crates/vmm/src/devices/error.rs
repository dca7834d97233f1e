//! Why a VM does not get its devices.

use std::path::PathBuf;

use shared_types::PciAddress;
use vmm_config::units::MemorySize;

/// What went wrong. Nothing is left held.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// What the kernel says of a device.
    #[error(transparent)]
    Sysfs(#[from] gpu::sysfs::Error),
    /// Not a device for a VM.
    #[error("PCI device {0} is no GPU or NVSwitch of NVIDIA's")]
    NotNvidia(PciAddress),
    /// The node by which QEMU opens it.
    #[error("the IOMMU group of GPU {gpu} cannot be looked up in sysfs; is it still there?")]
    Group {
        /// The GPU.
        gpu: PciAddress,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No driver of VFIO's has it.
    #[error("GPU {gpu} is {state}; QEMU takes it from vfio-pci only: bind it (`coffer gpu bind {gpu}`)")]
    NotVfio {
        /// The GPU.
        gpu: PciAddress,
        /// Who has it.
        state: String,
    },
    /// Somebody else has it.
    #[error(transparent)]
    Lock(#[from] gpu::lock::Error),
    /// Somebody else has it, or it did not come back some time ago.
    #[error(transparent)]
    Claim(#[from] gpu::claim::Error),
    /// It cannot be kept awake.
    #[error(transparent)]
    Power(#[from] gpu::power::Error),
    /// No way to its registers.
    #[error(transparent)]
    Open(#[from] gpu::open::Error),
    /// No way to the registers of one that is played.
    #[error("cannot reach the emulated GPU at {}", .socket.display())]
    Emulated {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not well.
    #[error(transparent)]
    Gpu(#[from] gpu::Failure),
    /// Setting the mode, or a reset, failed.
    #[error(transparent)]
    Set(#[from] gpu::set::Error),
    /// It is in another mode, and the mode is not ours to set.
    #[error("the GPUs are not in the mode that the pod needs, and Coffer may not set it ({owner})")]
    NotOurs {
        /// Who may.
        owner: &'static str,
        /// Which GPU, and in which mode it is.
        #[source]
        source: gpu::set::Error,
    },
    /// They cannot go to one VM.
    #[error("these GPUs cannot go to one VM")]
    Together(#[from] gpu::set::BadSet),
    /// What is known of the board they are on cannot be read.
    #[error(transparent)]
    Fabric(#[from] gpu::fabric::Error),
    /// They are on a board that does not join them.
    #[error(transparent)]
    Partition(#[from] gpu::fabric::NoPartition),
    /// What is known of it makes no device of QEMU's.
    #[error("GPU {gpu} cannot be described to QEMU: {reason}")]
    Description {
        /// The GPU.
        gpu: PciAddress,
        /// Why.
        reason: String,
    },
    /// A node for QEMU cannot be opened.
    #[error("cannot open {} for QEMU", .path.display())]
    Node {
        /// The node.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Devices write to the guest's memory, so all of it is locked.
    #[error(
        "QEMU may lock {limit} of memory, and a VM with GPUs locks all of its {needed}: set LimitMEMLOCK=infinity in \
         containerd's unit"
    )]
    MemoryLock {
        /// The limit.
        limit: MemorySize,
        /// The VM's need.
        needed: MemorySize,
        /// Why the limit cannot be raised.
        #[source]
        source: std::io::Error,
    },
    /// It was not given back, and that could not even be written down.
    #[error("GPU {gpu} did not come back from its VM, and its quarantine could not be recorded")]
    Unrecorded {
        /// The GPU.
        gpu: PciAddress,
        /// Why not.
        #[source]
        source: gpu::quarantine::Error,
    },
}
