//! What can go wrong while a pod's GPUs are found.

use std::path::PathBuf;

use gpu::PciAddress;
use shared_types::cri::TwoEngines;

use crate::{NoKubelet, Pod, Source, cdi, group, kubelet};

/// Why it is not known which GPUs a pod gets. The pod must not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host's devices cannot be read.
    #[error("cannot find the host's GPUs")]
    Sysfs(#[from] gpu::sysfs::Error),
    /// Annotations of two engines.
    #[error("cannot tell which pod it is")]
    Engines(#[from] TwoEngines),
    /// Kubelet's socket is missing.
    #[error(
        "pod {pod} asks for GPUs, but {missing}; start kubelet with the PodResources API, or link the first of them to where \
         kubelet has it"
    )]
    NoSocket {
        /// The pod.
        pod: Box<Pod>,
        /// Where it was looked for.
        missing: NoKubelet,
    },
    /// Kubelet's answer is missing.
    #[error("cannot ask kubelet at {socket} which GPUs pod {pod} has")]
    Kubelet {
        /// The pod.
        pod: Box<Pod>,
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: Box<kubelet::Error>,
    },
    /// Kubelet answered about an earlier pod of the same name.
    #[error(
        "kubelet gave {resource} {id:?} to pod UID {owner}, not to pod {pod}; try again when the earlier pod is gone"
    )]
    OtherPod {
        /// The pod.
        pod: Box<Pod>,
        /// The resource.
        resource: String,
        /// The device's id.
        id: String,
        /// Whose it is.
        owner: String,
    },
    /// A device that kubelet did not allocate.
    #[error("{gpu}, named by {by}, is not among the GPUs that kubelet gave to pod {pod}")]
    NotAllocated {
        /// The GPU.
        gpu: PciAddress,
        /// By what.
        by: Box<Source>,
        /// The pod.
        pod: Box<Pod>,
    },
    /// Something is called a GPU, and GPUs were expected, but there is none.
    #[error(
        "the pod's runtime class or configuration asks for GPUs, but nothing gives it any; does it have nvidia.com/pgpu in its limits?"
    )]
    None,
    /// An annotation's value is no list of CDI devices.
    #[error("annotation {key} is wrong")]
    Annotation {
        /// The annotation.
        key: String,
        /// Why.
        #[source]
        source: cdi::BadName,
    },
    /// A name that no CDI spec explains.
    #[error("cannot find the device of {by}")]
    Cdi {
        /// What names it.
        by: Box<Source>,
        /// Why.
        #[source]
        source: Box<cdi::Error>,
    },
    /// A GPU for containers on the host.
    #[error(
        "{by} stands for {nodes:?}, which is no VFIO device: a GPU of the host's driver cannot go to a VM; use nvidia.com/pgpu, \
         or the device class vfio.gpu.nvidia.com"
    )]
    NotPassthrough {
        /// What names it.
        by: Box<Source>,
        /// Its nodes.
        nodes: Vec<PathBuf>,
    },
    /// A node without a device.
    #[error("{by} stands for {node}, but no such device is on the host; is it bound to vfio-pci?")]
    Absent {
        /// What names it.
        by: Box<Source>,
        /// The node.
        node: PathBuf,
    },
    /// A node without protection.
    #[error("{by} stands for {node}: without an IOMMU no GPU goes to a VM")]
    NoIommu {
        /// What names it.
        by: Box<Source>,
        /// The node.
        node: PathBuf,
    },
    /// Two meanings of a device plugin's id.
    #[error(
        "{by} may be {first:?} (by its CDI spec) or {second:?} (by its number in sysfs); restart the device plugin, and \
         kubelet if that does not help"
    )]
    Ambiguous {
        /// What names it.
        by: Box<Source>,
        /// By the CDI spec.
        first: Vec<PciAddress>,
        /// By number.
        second: Vec<PciAddress>,
    },
    /// A group that cannot go to a VM.
    #[error("the IOMMU groups of the pod's GPUs cannot go to a VM")]
    Group(#[from] group::Error),
}
