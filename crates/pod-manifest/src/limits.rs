//! What a pod may use in all: the sum of its containers' limits, or an init container's where that is more.

use std::fmt;

use crate::Problem;
use crate::quantity::Quantity;

/// The resources that decide a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceKind {
    /// `cpu`.
    Cpu,
    /// `memory`.
    Memory,
    /// Those of `nvidia.com` that are GPUs.
    Gpus,
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Gpus => "GPUs",
        })
    }
}

/// Limits of a container or a pod; zero where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPUs.
    pub cpu: Quantity,
    /// Bytes.
    pub memory: Quantity,
    /// GPUs; a whole number.
    pub gpus: Quantity,
}

/// One container's place in the pod's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Runs before the others, and ends.
    Init,
    /// An init container that stays (`restartPolicy: Always`).
    Sidecar,
    /// One of the pod's own.
    Main,
}

impl Stage {
    /// Of an init container with this `restartPolicy`.
    pub(crate) fn of_init(restart_policy: Option<&str>) -> Self {
        if restart_policy == Some("Always") { Self::Sidecar } else { Self::Init }
    }
}

impl Limits {
    /// The pod's limits from its containers', in the order of the manifest, init containers first.
    ///
    /// As `PodLimits` of Kubernetes' `component-helpers/resource`: a container without a limit adds nothing, so a pod
    /// has the limit of those that have one.
    pub(crate) fn of_pod(containers: &[(Stage, Self)]) -> Result<Self, Problem> {
        let (mut running, mut peak) = (Self::default(), Self::default());
        for (stage, limits) in containers {
            let now = running.plus(limits)?;
            peak = peak.max(&now);
            if *stage != Stage::Init {
                running = now;
            }
        }
        Ok(peak)
    }

    fn plus(&self, other: &Self) -> Result<Self, Problem> {
        let sum = |kind, a: Quantity, b| a.checked_add(b).ok_or(Problem::Overflow(kind));
        Ok(Self {
            cpu: sum(ResourceKind::Cpu, self.cpu, other.cpu)?,
            memory: sum(ResourceKind::Memory, self.memory, other.memory)?,
            gpus: sum(ResourceKind::Gpus, self.gpus, other.gpus)?,
        })
    }

    fn max(&self, other: &Self) -> Self {
        Self {
            cpu: self.cpu.max(other.cpu),
            memory: self.memory.max(other.memory),
            gpus: self.gpus.max(other.gpus),
        }
    }
}
