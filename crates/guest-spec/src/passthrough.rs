//! Host devices of the pod's VM that a container gets, as kata-agent is told of them.

use agent_client::proto::agent::Device;

/// The agent's word for a device that is used by its own driver in the guest, not by VFIO there.
const GUEST_KERNEL: &str = "vfio-pci-gk";
/// Where VFIO's nodes are on a host; in the guest only the name counts.
const NODES: &str = "/dev/vfio/devices";
/// The kind of device that NVIDIA's tools in the guest give the GPUs.
const KIND: &str = "nvidia.com/gpu";

/// A device of the VM.
///
/// CoCo's policies pin the strings that are made of it: the id is the last part of the container's path, and the
/// annotation's key ends in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedDevice {
    /// The number of its VFIO node on the host, or of its IOMMU group where it has none.
    pub number: u32,
    /// Its PCI address on the host.
    pub host: String,
    /// Where the guest finds it: the slots on the way, as in `07/00`.
    pub guest: String,
    /// Of a GPU: its rank among all GPUs of the VM, in the guest's order. NVSwitches have none, and need none.
    pub gpu: Option<usize>,
}

impl PassedDevice {
    fn id(&self) -> String {
        format!("vfio{}", self.number)
    }

    pub(crate) fn device(&self) -> Device {
        let id = self.id();
        Device {
            container_path: format!("{NODES}/{id}"),
            id,
            type_: GUEST_KERNEL.to_owned(),
            options: vec![format!("{}={}", self.host, self.guest)],
            ..Default::default()
        }
    }

    /// Key and value; by it the agent gives the container what the guest's CDI specification says of the GPU.
    pub(crate) fn annotation(&self, prefix: &str) -> Option<(String, String)> {
        self.gpu.map(|rank| (format!("{prefix}{}", self.id()), format!("{KIND}={rank}")))
    }
}
