//! A Kubernetes pod's manifest, and what the pod's runtime is told of it.
//!
//! [`documents`] reads every document of a text, [`Template`] finds the pods in each. [`Pod`] is what decides a pod's VM:
//! annotations, limits, GPUs. [`spec`] is what its containers are. Everything else is passed over, as Kubernetes passes over
//! what it does not know. What a cluster adds on admission (limits of a `LimitRange`, a mutating webhook) is not in the
//! manifest; `kubectl get pod -o yaml` shows it, and its output is read as well.

mod claims;
mod documents;
mod gpus;
mod limits;
mod names;
mod quantity;
pub mod spec;
mod template;
mod written;
pub mod yaml;

use std::collections::BTreeMap;

use shared_types::cri::{CRI_CPU_PERIOD, CRI_CPU_QUOTA, CRI_MEMORY, Engine};

pub use claims::Claims;
pub use documents::{Document, Found, MAX_FILE, documents};
pub use limits::{Limits, ResourceKind};
pub use names::{Names, escape};
pub use quantity::{BadQuantity, Quantity};
pub use template::{Owner, Template};

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
    /// Not YAML.
    #[error(transparent)]
    Syntax(#[from] yaml::SyntaxError),
    /// Not one pod.
    #[error("{0}")]
    Pods(String),
    /// Something in a document.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What is wrong in a document, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, {path}: {problem}")]
pub struct Fault {
    /// The line, from 1 on.
    pub line: usize,
    /// The field, from the document on.
    pub path: yaml::Path,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Of another type than the API's.
    #[error("{0}")]
    Type(String),
    /// Another version of the API.
    #[error("{0:?} is no version of this kind: it must be \"v1\"")]
    ApiVersion(String),
    /// A pod without containers.
    #[error("it is empty; a pod has at least one container")]
    NoContainer,
    /// A quantity that is none.
    #[error("{value:?}: {source}")]
    Quantity {
        /// Its value, shortened.
        value: String,
        /// What is wrong.
        source: BadQuantity,
    },
    /// Half a GPU.
    #[error("{0:?} must be a whole number")]
    Fraction(String),
    /// A device that no VM can have.
    #[error("{0}")]
    Resource(&'static str),
    /// The sum over the containers is beyond everything.
    #[error("the pod's limits for {0} add up to more than can be counted")]
    Overflow(ResourceKind),
    /// A claim of devices whose GPUs cannot be counted.
    #[error("{0}")]
    ResourceClaims(String),
    /// A namespace of the host.
    #[error("it is a namespace of the host, which no VM can have: remove it")]
    HostNamespace,
}

impl Pod {
    /// Reads the only pod of a manifest, YAML or JSON: a Pod, or the template of a Deployment and the like.
    ///
    /// # Errors
    /// [`ManifestError`]; it names the field.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        only(text).and_then(|(document, template)| Ok(template.pod(&document)?))
    }

    /// The annotations that containerd's CRI gives the runtime with the pod's sandbox, as far as they decide its VM.
    ///
    /// kubelet computes the limits (`calculateSandboxResources` in `pkg/kubelet/kuberuntime`), containerd writes them
    /// down (`internal/cri/annotations`) and adds the pod's own annotations that the runtime's registration names.
    /// Where kubelet's static CPU manager gives the pod CPUs of its own, newer ones send no quota, and the shares say the
    /// same number: such a pod requests what its limits are.
    pub fn cri_annotations(&self) -> BTreeMap<String, String> {
        let own = self.annotations.iter().filter(|(name, _)| name.starts_with(FOR_THE_RUNTIME));
        let mut all: BTreeMap<_, _> = own.map(|(name, value)| (name.clone(), value.clone())).collect();
        let quota = match self.limits.cpu.milli() {
            0 => 0,
            milli => milli.saturating_mul(u128::from(PERIOD)).div_euclid(1_000).max(MIN_QUOTA.into()),
        };
        for (name, value) in [
            (Engine::Containerd.names().kind, "sandbox".to_owned()),
            (CRI_CPU_QUOTA, quota.to_string()),
            (CRI_CPU_PERIOD, PERIOD.to_string()),
            (CRI_MEMORY, self.limits.memory.whole().to_string()),
        ] {
            all.insert(name.to_owned(), value);
        }
        all
    }
}

/// The only pod of a text, with its document.
pub(crate) fn only(text: &str) -> Result<(Document, Template), ManifestError> {
    if text.len() > MAX_MANIFEST {
        return Err(ManifestError::TooLarge { bytes: text.len() });
    }
    let mut pods = Vec::new();
    let mut others = Vec::new();
    for found in documents(text) {
        let document = found?;
        others.push(document.kind.clone());
        let templates = document.templates();
        pods.extend(templates.into_iter().map(|template| (document.clone(), template)));
    }
    match (pods.len(), pods.pop()) {
        (1, Some(pod)) => Ok(pod),
        (0, _) if others.is_empty() => Err(ManifestError::Pods("there is no document in it".to_owned())),
        (0, _) => Err(ManifestError::Pods(format!(
            "there is no pod in it: its kinds are {}, and {CAN}",
            others.join(", ")
        ))),
        (count, _) => Err(ManifestError::Pods(format!(
            "there are {count} pods in it; this takes one: `coffer bind` takes them all"
        ))),
    }
}

/// What a pod is found in.
pub const CAN: &str = "a pod is found in a Pod, a Deployment, ReplicaSet, ReplicationController, StatefulSet, DaemonSet, Job, \
                       CronJob, a List of them, and wherever else there is a pod template (`spec.containers` in a field \
                       called template, as in a LeaderWorkerSet or RayCluster)";

#[cfg(test)]
mod tests;
