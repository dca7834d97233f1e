//! A Kubernetes pod's manifest, and what the pod's runtime is told of it.
//!
//! [`Pod`] is what decides the pod's VM: annotations, limits, GPUs. [`spec`] is what its containers are. Everything else
//! is passed over, as Kubernetes passes over what it does not know. What a cluster adds on admission (limits of a `LimitRange`, a mutating webhook)
//! is not in the manifest; `kubectl get pod -o yaml` shows it, and its output is read as well.

mod limits;
mod quantity;
pub mod spec;
mod written;

use std::collections::BTreeMap;

pub use limits::{Limits, ResourceKind};
pub use quantity::{BadQuantity, Quantity};

/// Largest manifest that is read, in bytes; etcd takes no object above 1.5 MiB.
pub const MAX_MANIFEST: usize = 2 << 20;

/// The pod annotations that reach the runtime: those that its registration in containerd names (`pod_annotations`).
const FOR_THE_RUNTIME: &str = "io.katacontainers.";
/// kubelet's period of a CPU quota, in µs, where it is not configured otherwise (`--cpu-cfs-quota-period`).
const PERIOD: u64 = 100_000;
/// The kernel's least quota, in µs, to which kubelet rounds up.
const MIN_QUOTA: u64 = 1_000;

/// A pod, as far as it decides its VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.name`, or `metadata.generateName`, or empty.
    pub name: String,
    /// `spec.runtimeClassName`.
    pub runtime_class: Option<String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// What the pod may use in all.
    pub limits: Limits,
}

/// A manifest that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Too much to be one.
    #[error("the manifest has {bytes} bytes; at most {MAX_MANIFEST} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not YAML, or a field of another type.
    #[error("no pod's manifest: {0}")]
    Yaml(String),
    /// None, or several.
    #[error("the file has {0} documents; it must have one, the pod's")]
    Documents(usize),
    /// Another object.
    #[error(
        "kind is {0:?}; it must be \"Pod\": of a Deployment or Job take the template as a Pod of its own"
    )]
    Kind(String),
    /// Another version of the API.
    #[error("apiVersion is {0:?}; it must be \"v1\"")]
    ApiVersion(String),
    /// A pod without containers.
    #[error("spec.containers is empty; a pod has at least one")]
    NoContainer,
    /// A quantity that is none.
    #[error("{path} is {value:?}: {source}")]
    Quantity {
        /// The field.
        path: String,
        /// Its value, shortened.
        value: String,
        /// What is wrong.
        source: BadQuantity,
    },
    /// Half a GPU.
    #[error("{path} is {value:?}; it must be a whole number")]
    Fraction {
        /// The field.
        path: String,
        /// Its value.
        value: String,
    },
    /// A part of a GPU.
    #[error(
        "{path} asks for a part of a GPU; a VM gets whole GPUs: ask for nvidia.com/gpu or nvidia.com/pgpu"
    )]
    PartOfGpu {
        /// The field.
        path: String,
    },
    /// The sum over the containers is beyond everything.
    #[error("the pod's limits for {0} add up to more than can be counted")]
    Overflow(ResourceKind),
    /// Devices by name only.
    #[error(
        "spec.resourceClaims names devices of which the manifest does not say how many are GPUs: ask for GPUs by \
         limits, as in nvidia.com/pgpu: \"1\""
    )]
    ResourceClaims,
}

impl Pod {
    /// Reads a manifest: one document of YAML or JSON.
    ///
    /// # Errors
    /// [`ManifestError`]; it names the field.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() > MAX_MANIFEST {
            return Err(ManifestError::TooLarge { bytes: text.len() });
        }
        written::Pod::read(text)?.try_into()
    }

    /// The annotations that containerd's CRI gives the runtime with the pod's sandbox, as far as they decide its VM.
    ///
    /// kubelet computes the limits (`calculateSandboxResources` in `pkg/kubelet/kuberuntime`), containerd writes them
    /// down (`internal/cri/annotations`) and adds the pod's own annotations that the runtime's registration names.
    /// Where kubelet's static CPU manager gives the pod CPUs of its own, newer ones send no quota; that cannot be seen
    /// here.
    pub fn cri_annotations(&self) -> BTreeMap<String, String> {
        let own = self.annotations.iter().filter(|(name, _)| name.starts_with(FOR_THE_RUNTIME));
        let mut all: BTreeMap<_, _> = own.map(|(name, value)| (name.clone(), value.clone())).collect();
        let quota = match self.limits.cpu.milli() {
            0 => 0,
            milli => milli.saturating_mul(u128::from(PERIOD)).div_euclid(1_000).max(MIN_QUOTA.into()),
        };
        for (name, value) in [
            ("container-type", "sandbox".to_owned()),
            ("sandbox-cpu-quota", quota.to_string()),
            ("sandbox-cpu-period", PERIOD.to_string()),
            ("sandbox-memory", self.limits.memory.whole().to_string()),
        ] {
            all.insert(format!("io.kubernetes.cri.{name}"), value);
        }
        all
    }
}

#[cfg(test)]
mod tests;
