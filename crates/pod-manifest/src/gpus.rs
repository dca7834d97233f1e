//! Which resources are GPUs: a closed list, and none is counted by accident.

/// What a resource's name in limits means for the pod's VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    /// A whole GPU.
    Gpu,
    /// A switch of a board of eight GPUs.
    Switch,
    /// Something that no VM can have, and why.
    Refused(&'static str),
    /// Nothing that decides the VM's devices.
    Other,
}

const PART: &str = "a part of a GPU, or a GPU that others have as well; a VM gets whole GPUs: ask for nvidia.com/pgpu or nvidia.com/gpu";
const VIRTUAL: &str =
    "a vGPU, which has no confidential-computing mode: ask for nvidia.com/pgpu or nvidia.com/gpu";
const NETWORK: &str = "a network device of the host, which does not reach the VM: leave it out";
const FOREIGN: &str = "a GPU of another vendor; only NVIDIA's reach the VM: ask for nvidia.com/pgpu";
const UNKNOWN: &str = "not known to be a whole GPU: ask for nvidia.com/pgpu, nvidia.com/gpu or a model's name, as \
                       nvidia.com/GH100_H100_SXM5_80GB";
const NVIDIA: &str = "nvidia.com/";

impl Resource {
    /// By its name: those of NVIDIA's device plugins (its `k8s-device-plugin`, and `sandbox-device-plugin`, which names
    /// models after `pci.ids`), of its network operator, of AMD's and Intel's plugins, and of HAMi.
    pub(crate) fn of(name: &str) -> Self {
        let Some(name) = name.strip_prefix(NVIDIA) else {
            return match name.split('/').next().unwrap_or_default() {
                "amd.com" | "gpu.intel.com" | "habana.ai" => Self::Refused(FOREIGN),
                "rdma" | "openshift.io" => Self::Refused(NETWORK),
                _ => Self::Other,
            };
        };
        let lower = name.to_ascii_lowercase();
        if matches!(name, "gpu" | "pgpu") {
            Self::Gpu
        } else if lower.contains("nvswitch") {
            Self::Switch
        } else if name.starts_with("mig-")
            || name.ends_with(".shared")
            || name.starts_with("gpumem")
            || name == "gpucores"
        {
            Self::Refused(PART)
        } else if ["hostdev", "sriov", "rdma", "roce"].iter().any(|word| lower.starts_with(word)) {
            Self::Refused(NETWORK)
        } else if is_virtual(name) {
            Self::Refused(VIRTUAL)
        } else if is_model(name) {
            Self::Gpu
        } else {
            Self::Refused(UNKNOWN)
        }
    }
}

/// `GRID_T4-2A`, `NVIDIA_A40-8Q`: a profile's number and letter at the end.
fn is_virtual(name: &str) -> bool {
    let profile = name.rsplit_once('-').map(|(_, profile)| profile);
    let ends = profile.is_some_and(|profile| {
        profile.starts_with(|c: char| c.is_ascii_digit()) && profile.ends_with(['A', 'B', 'C', 'Q'])
    });
    ends || name.starts_with("GRID_")
}

/// `GH100_H100_SXM5_80GB`: a chip, two letters and three digits, and the rest of its name in capitals.
fn is_model(name: &str) -> bool {
    let bytes = name.as_bytes();
    let chip = bytes.len() > 5 && bytes[..2].iter().all(u8::is_ascii_uppercase);
    let number = chip && bytes[2..5].iter().all(u8::is_ascii_digit);
    number && bytes.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_right_answer() {
        for name in
            ["gpu", "pgpu", "GH100_H100_SXM5_80GB", "GA100_A100_PCIE_80GB", "GB100_B200", "AD102GL_L40S"]
        {
            assert_eq!(Resource::of(&format!("nvidia.com/{name}")), Resource::Gpu, "{name}");
        }
        assert_eq!(Resource::of("nvidia.com/GH100_H100_NVSWITCH"), Resource::Switch);
        for (name, reason) in [
            ("nvidia.com/mig-1g.10gb", PART),
            ("nvidia.com/gpu.shared", PART),
            ("nvidia.com/pgpu.shared", PART),
            ("nvidia.com/mig-1g.5gb.shared", PART),
            ("nvidia.com/gpumem", PART),
            ("nvidia.com/gpumem-percentage", PART),
            ("nvidia.com/gpucores", PART),
            ("nvidia.com/NVIDIA_A40-8Q", VIRTUAL),
            ("nvidia.com/GRID_T4-2A", VIRTUAL),
            ("nvidia.com/hostdev", NETWORK),
            ("nvidia.com/sriovlegacy", NETWORK),
            ("rdma/hca_shared_devices_a", NETWORK),
            ("amd.com/gpu", FOREIGN),
            ("gpu.intel.com/i915", FOREIGN),
            ("nvidia.com/GPU", UNKNOWN),
            ("nvidia.com/something", UNKNOWN),
        ] {
            assert_eq!(Resource::of(name), Resource::Refused(reason), "{name}");
        }
        for name in
            ["cpu", "hugepages-2Mi", "ephemeral-storage", "nvidia.com.evil.org/gpu", "example.com/gpu"]
        {
            assert_eq!(Resource::of(name), Resource::Other, "{name}");
        }
    }
}
