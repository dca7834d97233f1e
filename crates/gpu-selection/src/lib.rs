//! Which GPUs a pod gets, and who says so.
//!
//! In this order: kubelet's PodResources ([`kubelet`]), CDI annotations ([`cdi`]), the bundle's devices. For a
//! pod of Kubernetes kubelet is the only one who can give: annotations and devices must name what kubelet
//! gave, or less. Elsewhere the engine's caller is the operator, and annotations and devices give.
//!
//! What is found are addresses, checked against the host's sysfs: each exists, is NVIDIA's, and shares its
//! IOMMU group with nothing that is not the pod's. Nothing is opened, bound or changed.

pub mod cdi;
mod checkpoint;
mod error;
mod find;
pub mod group;
pub mod grpc;
pub mod kubelet;
mod node;
mod pod;
mod proto;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use gpu::{Kind, PciAddress};

pub use error::Error;
pub use find::Finder;
pub use kubelet::NoKubelet;
pub use pod::{Facts, Pod};

/// Where things are on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Holds `bus/pci/devices`.
    pub sysfs: PathBuf,
    /// Directories that kubelet's root may be; the first that has its socket is.
    pub kubelet: Vec<PathBuf>,
    /// Folders of CDI specs; a later one wins.
    pub cdi: Vec<PathBuf>,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            sysfs: "/sys".into(),
            kubelet: kubelet::ROOTS.map(PathBuf::from).into(),
            cdi: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
        }
    }
}

/// Whether a pod is known to want GPUs before anybody is asked: a sandbox's request does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wish {
    /// Kubelet knows.
    #[default]
    Unknown,
    /// The runtime class or the configuration says that its pods have GPUs; one without is an error.
    Gpus,
}

/// How long kubelet may take altogether; it starts up beside us after a node's restart.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Who says that the pod gets a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Kubelet, for a device plugin.
    Plugin {
        /// The container that it is for.
        container: String,
        /// As in `nvidia.com/pgpu`.
        resource: String,
        /// The plugin's id of it.
        id: String,
    },
    /// Kubelet, for dynamic resource allocation.
    Claim {
        /// The container that it is for.
        container: String,
        /// The CDI device.
        name: String,
    },
    /// A CDI annotation.
    Annotation {
        /// Its key.
        key: String,
        /// The CDI device.
        name: cdi::Name,
    },
    /// `linux.devices` of the bundle.
    Device(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plugin { container, resource, id } => {
                write!(f, "kubelet's {resource} {id:?} for container {container:?}")
            }
            Self::Claim { container, name } => {
                write!(f, "kubelet's claim {name} for container {container:?}")
            }
            Self::Annotation { key, name } => write!(f, "annotation {key}={name}"),
            Self::Device(path) => write!(f, "device {}", path.display()),
        }
    }
}

/// A GPU or NVSwitch that the pod gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// Where it is.
    pub address: PciAddress,
    /// GPU or switch.
    pub kind: Kind,
    /// Who says so first.
    pub source: Source,
}

/// Something for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A device that is no GPU; it does not go to the VM.
    Ignored(Source),
    /// Kubelet was not asked, its socket is missing; nothing asks for GPUs.
    NoKubelet(NoKubelet),
    /// Kubelet's record of the pods' UIDs was not there to check its answer with.
    UidUnchecked,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ignored(source) => write!(f, "ignored, it is no GPU for a VM: {source}"),
            Self::NoKubelet(missing) => {
                write!(f, "{missing}; the pod starts without GPUs, none are asked for")
            }
            Self::UidUnchecked => {
                f.write_str("kubelet's checkpoint cannot be read; the pod's UID was not checked")
            }
        }
    }
}

/// What a pod gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// GPUs and NVSwitches, in the order of their addresses.
    pub assigned: Vec<Assigned>,
    /// Other functions of the same GPUs in their IOMMU groups, such as audio: without a driver or under VFIO's.
    /// They need not be in the VM, but nobody else may have them.
    pub companions: Vec<PciAddress>,
    /// For the log.
    pub notes: Vec<Note>,
}
