//! What can go wrong in a sandbox, and the status code that containerd and the kubelet see for it.

use std::error::Error as StdError;

use agent_client::AgentError;
use host_claims::scratch;
use shared_types::cri::TwoEngines;
pub use shared_types::one_line;
use ttrpc::Code;
use verity::RootHash;
use vmm::boot::{BootError, Failure};
use vmm::state::StateError;
use vmm_config::plan::PlanError;

use super::{ContainerId, ProcessId};

/// A failed operation on a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such container.
    #[error("container {0} does not exist in this sandbox")]
    NoContainer(ContainerId),
    /// No such process.
    #[error("{0} does not exist")]
    NoProcess(ProcessId),
    /// No such sandbox.
    #[error("sandbox {id} is not the one this shim serves ({served})")]
    NoSandbox {
        /// The one asked for.
        id: ContainerId,
        /// The one served.
        served: ContainerId,
    },
    /// A container of another pod.
    #[error("container {container} is of {of}, and this shim serves {served}: the pod has to be made anew")]
    OtherPod {
        /// Its id.
        container: ContainerId,
        /// Whose it is.
        of: String,
        /// The sandbox's id or the pod's UID.
        served: String,
    },
    /// The name is taken.
    #[error("{0} already exists")]
    Exists(ProcessId),
    /// The object is in a state that does not allow the operation.
    #[error("cannot {action} {what}: it is {state}")]
    WrongState {
        /// The operation, a verb.
        action: &'static str,
        /// The object.
        what: String,
        /// Its state.
        state: &'static str,
    },
    /// A field of a request breaks the rules.
    #[error("invalid {field}: {reason}")]
    InvalidRequest {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Coffer does not do this.
    #[error("{0} not supported")]
    Unsupported(String),
    /// The image would have to be pulled by the guest, and the guest has nobody who does that.
    #[error(
        "image {image} is to be pulled inside the guest, and the guest image {guest} has no components that do that: install one \
         that was built with GUEST_COMPONENTS, or let the node pull it (no `runtime_pull_image` in CRI-O, another snapshotter \
         than nydus in containerd)"
    )]
    GuestPull {
        /// The container's image.
        image: String,
        /// The guest image.
        guest: String,
    },
    /// This node made other layers of the image than the pod's policy demands.
    #[error("{}", other_layers(.container, .wanted, .made))]
    OtherLayers {
        /// The container's id.
        container: String,
        /// The layers that the policy demands, the topmost first.
        wanted: Vec<RootHash>,
        /// Those that were made.
        made: Vec<RootHash>,
    },
    /// The VM is gone.
    #[error("the sandbox's VM is not running: {0}")]
    VmGone(String),
    /// The VM ended while something was asked of it: first what was not done, then why.
    #[error("{what}; the sandbox's VM has ended meanwhile: {why}")]
    CutOff {
        /// What failed, as it was told.
        what: String,
        /// How the VM ended.
        why: String,
    },
    /// The agent did not do what it was asked for; its text names the call.
    #[error(transparent)]
    Guest(#[from] AgentError),
    /// Which GPUs the pod or container gets cannot be told, or may not be.
    #[error("cannot give it its GPUs")]
    Gpus(#[from] Box<gpu_selection::Error>),
    /// A container wants a GPU that its VM was not started with.
    #[error(
        "the container asks for {gpu} ({source_of}), which its pod's VM was not started with{}; a confidential VM gets all its \
         GPUs at its start: they must be named where the pod's are (kubelet, or the first container)",
        .no_kubelet.as_ref().map(|missing| format!(": {missing}")).unwrap_or_default()
    )]
    LateGpu {
        /// The GPU.
        gpu: gpu::PciAddress,
        /// Who names it.
        source_of: String,
        /// Where kubelet's socket is missing, which should have told.
        no_kubelet: Option<gpu_selection::NoKubelet>,
    },
    /// The host cannot start such VMs; the text names the check that failed and what to do.
    #[error(transparent)]
    Host(#[from] readiness::Failed),
    /// The VM did not come up; the text names the phase and what was said last.
    #[error(transparent)]
    Boot(#[from] Box<BootError>),
    /// Anything that the caller cannot help.
    #[error("cannot {action}")]
    Failed {
        /// The operation, a verb with its object.
        action: String,
        /// Why.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl From<TwoEngines> for Error {
    fn from(error: TwoEngines) -> Self {
        Self::InvalidRequest { field: "spec", reason: error.to_string() }
    }
}

impl From<BootError> for Error {
    fn from(error: BootError) -> Self {
        Self::Boot(Box::new(error))
    }
}

impl Error {
    /// [`Error::Failed`] for `action`, a verb with its object.
    pub fn failed(action: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Failed { action: action.into(), source: source.into() }
    }

    /// The status code on the wire. The kubelet decides by it whether to try again.
    pub fn code(&self) -> Code {
        match self {
            Self::NoContainer(_) | Self::NoProcess(_) | Self::NoSandbox { .. } => Code::NOT_FOUND,
            Self::Exists(_) => Code::ALREADY_EXISTS,
            Self::WrongState { .. }
            | Self::OtherLayers { .. }
            | Self::OtherPod { .. }
            | Self::Host(_)
            | Self::Gpus(_)
            | Self::LateGpu { .. } => Code::FAILED_PRECONDITION,
            Self::InvalidRequest { .. } => Code::INVALID_ARGUMENT,
            Self::Unsupported(_) | Self::GuestPull { .. } => Code::UNIMPLEMENTED,
            Self::VmGone(_) | Self::CutOff { .. } => Code::UNAVAILABLE,
            Self::Guest(error) => guest_code(error),
            Self::Boot(error) => boot_code(&error.cause),
            Self::Failed { .. } => Code::INTERNAL,
        }
    }
}

/// Names the first layer that differs.
fn other_layers(container: &str, wanted: &[RootHash], made: &[RootHash]) -> String {
    if wanted.len() != made.len() {
        return format!(
            "container {container}: its root file system has {} layers on this node, and the pod's policy is for one of {}; \
             the policy is for another image, or the image's layers were not converted one by one",
            made.len(),
            wanted.len()
        );
    }
    let differ = wanted.iter().zip(made).position(|(wanted, made)| wanted != made).unwrap_or_default();
    format!(
        "container {container}: layer {} of {} has root hash {} on this node, and the pod's policy wants {}; the policy is \
         for another image, or containerd's erofs-utils make other bytes than those that the policy was generated with",
        differ + 1,
        made.len(),
        made[differ],
        wanted[differ]
    )
}

fn guest_code(error: &AgentError) -> Code {
    match error {
        AgentError::Denied { .. } => Code::PERMISSION_DENIED,
        AgentError::Timeout { .. } | AgentError::ConnectTimeout { .. } => Code::DEADLINE_EXCEEDED,
        AgentError::Unreachable { .. }
        | AgentError::Handshake { .. }
        | AgentError::Unhealthy { .. }
        | AgentError::NotServing
        | AgentError::Disconnected { .. }
        | AgentError::Violation { .. } => Code::UNAVAILABLE,
        AgentError::Refused { .. } | AgentError::Undecodable { .. } | AgentError::TooLarge { .. } => {
            Code::INTERNAL
        }
    }
}

fn boot_code(cause: &Failure) -> Code {
    match cause {
        Failure::Plan(PlanError::MemoryBudget { .. })
        | Failure::Scratch(scratch::Error::Limit { .. } | scratch::Error::Full { .. }) => {
            Code::RESOURCE_EXHAUSTED
        }
        Failure::State(StateError::Taken { .. }) => Code::ALREADY_EXISTS,
        Failure::Stalled { .. } => Code::DEADLINE_EXCEEDED,
        Failure::Plan(_)
        | Failure::Confidential(_)
        | Failure::Devices(_)
        | Failure::QemuTooOld { .. }
        | Failure::Jail(_)
        | Failure::Scratch(scratch::Error::Make { .. })
        | Failure::Spawn(_) => Code::FAILED_PRECONDITION,
        Failure::State(_)
        | Failure::Misplaced(_)
        | Failure::Network(_)
        | Failure::Vsock(_)
        | Failure::Cgroup(_)
        | Failure::Process(_)
        | Failure::Socket(_)
        | Failure::Qmp(_)
        | Failure::Agent(_)
        | Failure::DeviceLost(..)
        | Failure::Refused(_)
        | Failure::Died(_)
        | Failure::Host(_)
        | Failure::Guest(_) => Code::INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_config::config::NodeConfig;

    #[test]
    fn every_error_has_the_code_that_the_kubelet_acts_on() {
        let id = || ContainerId::new("a").unwrap();
        let cases = [
            (Error::NoContainer(id()), Code::NOT_FOUND),
            (Error::NoProcess(ProcessId::init(id())), Code::NOT_FOUND),
            (Error::NoSandbox { id: id(), served: id() }, Code::NOT_FOUND),
            (Error::Exists(ProcessId::init(id())), Code::ALREADY_EXISTS),
            (
                Error::OtherPod { container: id(), of: "sandbox b".into(), served: "c".into() },
                Code::FAILED_PRECONDITION,
            ),
            (
                Error::WrongState { action: "start", what: "a".into(), state: "running" },
                Code::FAILED_PRECONDITION,
            ),
            (Error::InvalidRequest { field: "id", reason: "empty".into() }, Code::INVALID_ARGUMENT),
            (Error::Unsupported("checkpoint is".into()), Code::UNIMPLEMENTED),
            (Error::GuestPull { image: "a/b:1".into(), guest: "coffer-release".into() }, Code::UNIMPLEMENTED),
            (Error::VmGone("QEMU ended".into()), Code::UNAVAILABLE),
            (Error::Guest(AgentError::NotServing), Code::UNAVAILABLE),
            (Error::Host(not_ready()), Code::FAILED_PRECONDITION),
            (Error::failed("read", "disk"), Code::INTERNAL),
        ];
        for (error, code) in cases {
            assert_eq!(error.code(), code, "{error}");
        }
    }

    #[test]
    fn the_first_other_layer_is_named() {
        let roots = |digits: &[&str]| digits.iter().map(|digit| digit.repeat(64).parse().unwrap()).collect();
        let error = |wanted: &[&str], made: &[&str]| Error::OtherLayers {
            container: "web".into(),
            wanted: roots(wanted),
            made: roots(made),
        };
        let text = error(&["a", "b"], &["a", "c"]).to_string();
        for part in ["layer 2 of 2", &"c".repeat(64), "wants bbb"] {
            assert!(text.contains(part), "{text}");
        }
        let text = error(&["a", "b"], &["a"]).to_string();
        assert!(text.contains("has 1 layers") && text.contains("one of 2"), "{text}");
        assert_eq!(error(&["a"], &["b"]).code(), Code::FAILED_PRECONDITION);
    }

    fn not_ready() -> readiness::Failed {
        let root = readiness::Root::new("/nonexistent".as_ref());
        readiness::preflight(&root, &NodeConfig::default(), readiness::Class::Tdx).unwrap_err()
    }

    #[test]
    fn a_host_that_is_not_ready_says_what_is_missing() {
        let text = one_line(&Error::Host(not_ready()));
        assert!(text.starts_with("this host cannot start coffer-tdx VMs: Intel TDX: CPU: "), "{text}");
    }

    #[test]
    fn causes_stand_on_one_line() {
        let inner = Error::failed("open /dev/kvm", "no\nsuch file");
        assert_eq!(
            one_line(&Error::failed("boot the VM", inner)),
            "cannot boot the VM: cannot open /dev/kvm: no such file"
        );
    }
}
