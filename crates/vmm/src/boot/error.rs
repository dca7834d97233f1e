//! Why a boot failed, and how far it came.

use std::path::PathBuf;

use agent_client::AgentError;
use measurement::ovmf::Acceptance;
use shared_types::{PciAddress, one_line};
use vmm_config::plan::PlanError;
use vmm_config::qemu::OLDEST;

use super::confidential::ConfidentialError;
use crate::devices::DevicesError;
use crate::ended::LastWords;
use crate::lost::Loss;
use crate::progress::Stall;
use crate::qemu::{Exit, SpawnError};
use crate::qmp::{Misplaced, QmpError, VersionTriple};
use crate::state::StateError;

/// The stages' names, as they stand in logs and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The VM is described.
    Planned,
    /// The host's resources are taken.
    Claimed,
    /// QEMU runs.
    Spawned,
    /// QEMU's monitor answers.
    Qmp,
    /// The guest's agent answers.
    Agent,
    /// The sandbox is set up in the guest.
    Running,
}

impl Phase {
    /// The name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Claimed => "claimed",
            Self::Spawned => "spawned",
            Self::Qmp => "qmp",
            Self::Agent => "agent",
            Self::Running => "running",
        }
    }
}

/// A boot that failed; everything it had taken is released. Its text is whole, causes and last words included: the
/// cause has to stand before what was said last, which can be long.
#[derive(Debug, thiserror::Error)]
#[error("the VM of sandbox {sandbox} did not reach phase \"{}\": {}{last_words}", .phase.name(), one_line(.cause))]
pub struct BootError {
    /// The sandbox.
    pub sandbox: String,
    /// The phase that was not reached.
    pub phase: Phase,
    /// What QEMU and the guest said.
    pub last_words: LastWords,
    /// Why.
    pub cause: Failure,
}

/// Why a phase was not reached.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The VM cannot be described, or does not fit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The pod's GPUs.
    #[error(transparent)]
    Devices(#[from] DevicesError),
    /// A device is not where the VM's description has it.
    #[error(transparent)]
    Misplaced(#[from] Misplaced),
    /// The VM cannot be a confidential one.
    #[error(transparent)]
    Confidential(#[from] ConfidentialError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The pod's network.
    #[error("cannot take the pod's network")]
    Network(#[from] host_claims::net::Error),
    /// The agent's transport.
    #[error("cannot set up vsock")]
    Vsock(#[from] host_claims::vsock::Error),
    /// The pod's scratch disk.
    #[error(transparent)]
    Scratch(#[from] host_claims::scratch::Error),
    /// The pod's cgroup.
    #[error("cannot use the pod's cgroup")]
    Cgroup(#[from] host_claims::cgroup::Error),
    /// A process cannot be looked up.
    #[error(transparent)]
    Process(#[from] host_claims::process::Error),
    /// A socket pair cannot be made.
    #[error("cannot make a socket pair for QEMU")]
    Socket(#[from] std::io::Error),
    /// QEMU's jail cannot be described.
    #[error("cannot prepare QEMU's jail")]
    Jail(#[from] jail::Error),
    /// QEMU cannot be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// QEMU's monitor.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// The installed QEMU is older than Coffer needs.
    #[error(
        "{} is version {}.{}.{}, and Coffer needs {OLDEST} or newer; set `qemu` in the node's configuration",
        .program.display(), .found.major, .found.minor, .found.micro
    )]
    QemuTooOld {
        /// The program.
        program: PathBuf,
        /// What it says it is.
        found: VersionTriple,
    },
    /// The agent is not one.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A device is gone, and what QEMU still does with it may take for ever.
    #[error("GPU {0} {1}")]
    DeviceLost(PciAddress, Loss),
    /// PID 1 of the guest has checked what it was given, and powers off.
    #[error("the guest gave up: {0}")]
    Refused(String),
    /// QEMU ended.
    #[error("QEMU ended with {0}")]
    Died(Exit),
    /// The phase's time ran out.
    #[error(
        "{stall}{}{}", accepting(*.acceptance),
        .last.as_ref().map(|last| format!("; the last try said: {last}")).unwrap_or_default()
    )]
    Stalled {
        /// Which limit.
        stall: Stall,
        /// Who accepts the VM's memory.
        acceptance: Acceptance,
        /// What the last try to reach the agent said.
        last: Option<String>,
    },
    /// Something of the host is not what a VM can have.
    #[error("{0}")]
    Host(String),
    /// Setting up the sandbox in the guest failed.
    #[error("cannot set up the sandbox in the guest")]
    Guest(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What a firmware has to do with a boot that takes too long.
const fn accepting(acceptance: Acceptance) -> &'static str {
    match acceptance {
        Acceptance::Eager => {
            "; the firmware (key `firmware`) accepts all of the VM's memory before the guest's kernel starts: take a newer \
             build, which leaves that to the kernel"
        }
        Acceptance::Lazy | Acceptance::Unknown => "",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_boot_that_stalls_under_a_firmware_that_accepts_all_memory_names_it() {
        let said = |acceptance| {
            let stall = Stall::Silent(Duration::from_secs(90));
            Failure::Stalled { stall, acceptance, last: Some("refused".to_owned()) }.to_string()
        };
        let eager = said(Acceptance::Eager);
        assert!(
            eager.contains("for 90 s; the firmware (key `firmware`)") && eager.ends_with(": refused"),
            "{eager}"
        );
        assert!(
            !said(Acceptance::Lazy).contains("firmware") && !said(Acceptance::Unknown).contains("firmware")
        );
    }
}
