//! The pod's VM with what its containers need to know of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use guest_spec::VmSize;
use jail::UserId;
use model_volumes::Volumes;
use slog::Logger;
use vmm::Vm;
use vmm::state::{ROOT, StateDir};

use super::gpus::GuestDevice;
use super::oom_score::OomScore;
use super::own::PodFiles;
use super::pinned::Pinned;
use super::volumes::Volumes as Copies;
use crate::api::{ContainerId, Namespace, RuntimeOptions};

/// What a sandbox is told when its shim starts.
#[derive(Debug)]
pub struct Context {
    /// containerd's namespace.
    pub namespace: Namespace,
    /// The sandbox that this shim serves.
    pub id: ContainerId,
    /// Runtime options that came with the shim's start; those of a request come before them.
    pub options: RuntimeOptions,
    /// containerd's socket; empty for an engine that has none.
    pub engine: String,
    /// The shim's log.
    pub log: Logger,
}

impl Context {
    /// The sandbox's state directory.
    pub fn state_dir(&self) -> PathBuf {
        StateDir::path_of(Path::new(ROOT), self.namespace.as_str(), self.id.as_str())
    }
}

/// Who answers the guest's agent as confidential data hub: opens sealed secrets, and pulls images if it is the components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataHub {
    /// The guest components of the Confidential Containers project, in the image.
    Components,
    /// Coffer's own attestation service, which says a line for each.
    Service,
    /// Nobody: a container would get the sealed text as if it were the secret.
    Nobody,
}

/// A pod's VM.
#[derive(Debug, Clone)]
pub struct PodVm {
    /// The VM.
    pub vm: Vm,
    /// As whom images are built for its containers.
    pub builder: UserId,
    /// Whether the guest's agent filters system calls.
    pub seccomp: bool,
    /// Who is the agent's data hub.
    pub data_hub: DataHub,
    /// Whether the VM has a scratch disk.
    pub scratch: bool,
    /// The guest image's name.
    pub image: Arc<str>,
    /// The layers that the pod's policy demands.
    pub pinned: Arc<Pinned>,
    /// Whether the pod's containers share process ids, as the first one of them has it.
    pub shares_pids: Arc<OnceLock<bool>>,
    /// Whom the node's kernel ends before it, and whom after.
    pub oom_score: Arc<OomScore>,
    /// Model volumes that the pod's initdata declares.
    pub volumes: Arc<Volumes>,
    /// What is copied into the guest for its containers.
    pub copies: Copies,
    /// Files that the pod has of the shim's, where the engine makes none.
    pub files: Option<PodFiles>,
    /// The VM's GPUs and NVSwitches.
    pub devices: Arc<[GuestDevice]>,
    /// How much it has.
    pub size: VmSize,
    /// When the sandbox was up.
    pub since: SystemTime,
    /// The pod.
    pub context: Arc<Context>,
}
